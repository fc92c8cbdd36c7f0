//! Podman's socket, for ECS tasks that are real containers: its own configuration, storage and image, all in
//! a temporary folder. No Docker daemon, no registry.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::child::{Child, Output};

/// The one image there is: busybox, with `/bin/sh` and everything it links to.
pub const IMAGE: &str = "localhost/deputy-test:1";

const READY_WITHIN: Duration = Duration::from_secs(30);

const CONTAINERS_CONF: &str = r#"[containers]
netns = "host"
default_ulimits = ["nofile=1024:20000", "nproc=1000:1000"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"#;

/// A podman service. It ends when it is dropped.
#[derive(Debug)]
pub struct Service {
    folder: TempDir,
    child: std::sync::Mutex<Child>,
}

/// Why containers cannot be used on this machine; `None` if they can. With `CI=true` nothing may be missing.
#[must_use]
pub fn missing() -> Option<String> {
    let absent: Vec<&str> = ["podman", "runc", "busybox"]
        .into_iter()
        .filter(|program| !on_path(program))
        .collect();
    if !absent.is_empty() {
        return Some(format!("{} not installed", absent.join(", ")));
    }
    (!rustix::process::geteuid().is_root()).then(|| "podman with a vfs storage of its own needs root here".to_owned())
}

impl Service {
    /// The one of this process.
    pub async fn shared() -> Result<Arc<Self>> {
        static SHARED: OnceCell<Arc<Service>> = OnceCell::const_new();
        SHARED.get_or_try_init(Self::start).await.cloned()
    }

    async fn start() -> Result<Arc<Self>> {
        let folder = tempfile::Builder::new().prefix("deputy-podman-").tempdir()?;
        let root = folder.path();
        std::fs::write(root.join("containers.conf"), CONTAINERS_CONF)?;
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = \"{0}/storage\"\nrunroot = \"{0}/run\"\n",
            root.display()
        );
        std::fs::write(root.join("storage.conf"), storage)?;
        let policy = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;
        std::fs::write(root.join("policy.json"), policy)?;
        import_image(root)?;
        let mut command = podman(root);
        let socket = format!("unix://{}", root.join("podman.sock").display());
        command.args(["system", "service", "--time=0", &socket]);
        let mut child = Child::spawn("podman", command, &root.join("podman.log"), Output::ToLog)?;
        let deadline = tokio::time::Instant::now() + READY_WITHIN;
        while !root.join("podman.sock").exists() {
            if !child.is_running() || tokio::time::Instant::now() > deadline {
                bail!("podman's service did not start\n{}", child.tail());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Arc::new(Self {
            folder,
            child: std::sync::Mutex::new(child),
        }))
    }

    /// `unix://…`
    #[must_use]
    pub fn socket(&self) -> String {
        format!("unix://{}", self.folder.path().join("podman.sock").display())
    }

    /// The end of its log.
    #[must_use]
    pub fn tail(&self) -> String {
        self.child
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .tail()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Containers are not children of the service: it would leave them running.
        let _removed = podman(self.folder.path())
            .args(["rm", "--all", "--force", "--time", "0"])
            .output();
    }
}

fn podman(root: &Path) -> Command {
    let mut command = Command::new("podman");
    command.env("CONTAINERS_CONF", root.join("containers.conf"));
    command.env("CONTAINERS_STORAGE_CONF", root.join("storage.conf"));
    command.env_remove("DOCKER_HOST").env_remove("CONTAINER_HOST");
    command
}

fn import_image(root: &Path) -> Result<()> {
    let busybox = find("busybox").context("busybox")?;
    let tree = root.join("tree");
    for folder in ["bin", "tmp", "etc", "proc", "sys", "dev"] {
        std::fs::create_dir_all(tree.join(folder))?;
    }
    std::fs::copy(&busybox, tree.join("bin/busybox"))?;
    for applet in ["sh", "sleep", "echo", "cat", "true", "false", "env", "date"] {
        std::os::unix::fs::symlink("busybox", tree.join("bin").join(applet))?;
    }
    let archive = root.join("tree.tar");
    run(Command::new("tar")
        .arg("-C")
        .arg(&tree)
        .arg("-cf")
        .arg(&archive)
        .arg("."))?;
    run(podman(root)
        .arg("import")
        .arg("--change")
        .arg("ENV PATH=/bin")
        .arg(&archive)
        .arg(IMAGE))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("starting {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

fn on_path(program: &str) -> bool {
    find(program).is_some()
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(sbin)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}
