//! The agent's image: built by buildah on a Debian that `cargo xtask tools` made, run by podman. No registry, no daemon.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::podman;
use crate::programs::{Tools, workspace};

/// What the image is called in its storage.
pub const NAME: &str = "localhost/deputy-agent:test";
const BASE: &str = "localhost/deputy-base:test";

/// Podman as root without systemd: its own network, no limits that an unprivileged machine refuses.
const CONTAINERS_CONF: &str = r#"[containers]
netns = "host"
default_ulimits = ["nofile=1024:20000", "nproc=1000:1000"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"#;

/// The image in a storage of its own. Its containers and the storage end with it.
#[derive(Debug)]
pub struct Image {
    folder: PathBuf,
    _kept: TempDir,
}

/// What is missing to build the image; `None`: nothing. For [`crate::skip::skips`].
#[must_use]
pub fn missing() -> Option<String> {
    if let Some(missing) = podman::missing() {
        return Some(missing);
    }
    if !podman::on_path("buildah") {
        return Some("buildah not installed".into());
    }
    let base = Tools::load().and_then(|tools| tools.get("debian-base").map(Path::to_owned));
    base.err().map(|error| format!("no base image: {error:#}"))
}

impl Image {
    /// Builds it with this program as the agent.
    pub fn build(program: &Path) -> Result<Self> {
        let kept = tempfile::Builder::new().prefix("deputy-image-").tempdir()?;
        let image = Self {
            folder: kept.path().to_owned(),
            _kept: kept,
        };
        let folder = &image.folder;
        std::fs::write(folder.join("containers.conf"), CONTAINERS_CONF)?;
        std::fs::write(
            folder.join("storage.conf"),
            format!(
                "[storage]\ndriver = \"vfs\"\ngraphroot = \"{folder}/storage\"\nrunroot = \"{folder}/run\"\n",
                folder = folder.display()
            ),
        )?;
        let context = folder.join("context");
        std::fs::create_dir(&context)?;
        strip(program, &context.join("deputy-agent"))?;
        let tools = Tools::load()?;
        image.podman(&[
            "import",
            "--quiet",
            &tools.get("debian-base")?.display().to_string(),
            BASE,
        ])?;
        let mut buildah = image.command("buildah");
        buildah
            .args([
                "bud",
                "--quiet",
                "--isolation",
                "chroot",
                "--build-arg",
                &format!("BASE={BASE}"),
                "--tag",
                NAME,
            ])
            .arg("--file")
            .arg(workspace().join("docker/Dockerfile"))
            .arg(&context);
        good(buildah.output().context("starting buildah")?, "buildah bud")?;
        Ok(image)
    }

    /// `podman` with the storage of this image.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
        let mut command = Command::new(program);
        command
            .env("PATH", std::env::join_paths(folders).unwrap_or(path.clone()))
            .env("CONTAINERS_CONF", self.folder.join("containers.conf"))
            .env("CONTAINERS_STORAGE_CONF", self.folder.join("storage.conf"))
            .env_remove("DOCKER_HOST")
            .env_remove("CONTAINER_HOST")
            .stdin(Stdio::null());
        command
    }

    /// Runs podman to its end; what it printed.
    pub fn podman(&self, arguments: &[&str]) -> Result<String> {
        let output = self
            .command("podman")
            .args(arguments)
            .output()
            .context("starting podman")?;
        good(output, &format!("podman {}", arguments.join(" ")))
    }

    /// `podman run` as the image is meant to be run: root read-only, no privileges, no capabilities.
    #[must_use]
    pub fn run(&self, name: &str) -> Command {
        let mut podman = self.command("podman");
        podman.args(["run", "--rm", "--name", name, "--read-only", "--cap-drop=ALL"]);
        podman.args(["--security-opt=no-new-privileges", "--network=host"]);
        podman
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // Containers are not our children, and go on without us.
        let _ended = self.podman(&["rm", "--all", "--force", "--time", "0"]);
    }
}

/// A copy without debugging information, which is most of a program that is tested.
fn strip(program: &Path, to: &Path) -> Result<()> {
    let stripped = Command::new("strip").arg("-o").arg(to).arg(program).output();
    if !stripped.is_ok_and(|output| output.status.success()) {
        std::fs::copy(program, to).with_context(|| format!("copying {}", program.display()))?;
    }
    Ok(())
}

fn good(output: Output, what: &str) -> Result<String> {
    if !output.status.success() {
        bail!(
            "{what} ended with {}:\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
