//! Carries out one recipe. Every command's output goes to a log that is kept when it fails.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::prerequisite;
use super::progress::Progress;
use super::recipe::{OnPath, Recipe, Tool};

/// The marker's name: its content is the hash of the recipe that made the folder.
pub(crate) const MARKER: &str = ".recipe";

/// Stages of kwok's own that the clusters use, relative to its module.
const STAGES: [&str; 5] = [
    "kustomize/stage/node/fast/node-initialize.yaml",
    "kustomize/stage/node/heartbeat/node-heartbeat.yaml",
    "kustomize/stage/pod/fast/pod-ready.yaml",
    "kustomize/stage/pod/fast/pod-complete.yaml",
    "kustomize/stage/pod/fast/pod-delete.yaml",
];

/// One tool's installation.
pub(crate) struct Install<'a> {
    /// The workspace.
    pub(crate) root: &'a Path,
    /// The cache.
    pub(crate) cache: &'a Path,
    /// What is installed.
    pub(crate) tool: &'a Tool,
    /// Told while commands run.
    pub(crate) progress: &'a dyn Progress,
}

impl Install<'_> {
    /// Makes the tool's folder, whole or not at all, and says how.
    pub(crate) fn run(&self) -> Result<&'static str> {
        let folder = self.tool.folder(self.cache);
        let hash = self.tool.recipe_hash(self.root)?;
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(folder.join("bin")).with_context(|| format!("making {}", folder.display()))?;
        let how = match self.tool.recipe {
            Recipe::PythonEnvironment { .. } => self.python(&folder)?,
            Recipe::GoBuild {
                module,
                package,
                ldflags,
                on_path,
            } => {
                if self.take_from_path(&folder, on_path)? {
                    "found on PATH"
                } else {
                    self.go_build(&folder, module, package, ldflags)?
                }
            }
            Recipe::GoInstall { package, on_path } => {
                if self.take_from_path(&folder, on_path)? {
                    "found on PATH"
                } else {
                    self.go_install(&folder, package)?
                }
            }
            Recipe::CargoInstall => self.cargo_install(&folder)?,
            Recipe::DebianTree { release, packages } => self.debian(&folder, release, packages)?,
            Recipe::KwokStages { module } => self.kwok_stages(&folder, module)?,
        };
        std::fs::write(folder.join(MARKER), hash)?;
        Ok(how)
    }

    fn python(&self, folder: &Path) -> Result<&'static str> {
        let python = prerequisite::python()?;
        let requirements = self.root.join(self.tool.requirements());
        self.command(Command::new(python).args(["-m", "venv"]).arg(folder))?;
        let pip = folder.join("bin/python");
        self.command(
            Command::new(pip)
                .args([
                    "-m",
                    "pip",
                    "install",
                    "--disable-pip-version-check",
                    "--no-input",
                    "-r",
                ])
                .arg(requirements),
        )?;
        Ok("installed")
    }

    fn go_build(&self, folder: &Path, module: &str, package: &str, ldflags: &str) -> Result<&'static str> {
        let mut go = Command::new(prerequisite::go()?);
        go.args(["build", "-trimpath", "-ldflags", ldflags, "-o"]);
        go.arg(folder.join("bin").join(self.tool.name)).arg(package);
        self.command(go.current_dir(self.root.join(module)))?;
        Ok("built")
    }

    fn go_install(&self, folder: &Path, package: &str) -> Result<&'static str> {
        let mut go = Command::new(prerequisite::go()?);
        go.arg("install")
            .arg(format!("{package}@v{}", self.tool.version))
            .env("GOBIN", folder.join("bin"));
        self.command(&mut go)?;
        Ok("built")
    }

    fn cargo_install(&self, folder: &Path) -> Result<&'static str> {
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .args(["install", "--locked", "--root"])
            .arg(folder)
            .arg(format!("{}@{}", self.tool.name, self.tool.version));
        self.command(&mut cargo)?;
        Ok("built")
    }

    /// From the mirror that this machine's own packages come from.
    fn debian(&self, folder: &Path, release: &str, packages: &str) -> Result<&'static str> {
        let debootstrap = prerequisite::debootstrap()?;
        let mirror = prerequisite::debian_mirror(release)?;
        let tree = folder.join("tree");
        self.command(
            Command::new(debootstrap)
                .arg("--variant=minbase")
                .arg(format!("--include={packages}"))
                .arg(release)
                .arg(&tree)
                .arg(mirror),
        )?;
        let archive = folder.join("base.tar");
        let mut tar = Command::new("tar");
        tar.arg("--create")
            .arg("--file")
            .arg(&archive)
            .arg("--directory")
            .arg(&tree);
        // Packages that were installed are not needed again, and devices are the container's own.
        tar.args([
            "--exclude=./var/cache/apt/archives/*.deb",
            "--exclude=./var/lib/apt/lists/*",
            "--exclude=./dev/*",
            ".",
        ]);
        self.command(&mut tar)?;
        std::fs::remove_dir_all(&tree)?;
        Ok("made")
    }

    fn kwok_stages(&self, folder: &Path, module: &str) -> Result<&'static str> {
        let output = Command::new(prerequisite::go()?)
            .args(["mod", "download", "-json", module])
            .output()?;
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let Some(source) = answer["Dir"].as_str() else {
            bail!(
                "go mod download {module} did not say where it is: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        };
        let mut all = String::new();
        for stage in STAGES {
            let file = Path::new(source).join(stage);
            all.push_str("---\n");
            all.push_str(&std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?);
        }
        std::fs::write(folder.join("stages.yaml"), all)?;
        Ok("copied from its module")
    }

    /// Uses a program of the pinned version that is there already.
    fn take_from_path(&self, folder: &Path, on_path: OnPath) -> Result<bool> {
        let Some(found) = on_path_of(self.tool.name) else {
            return Ok(false);
        };
        let answer = prerequisite::ask(&found.to_string_lossy(), on_path.arguments);
        if !answer.is_some_and(|answer| answer.contains(on_path.answer)) {
            return Ok(false);
        }
        std::os::unix::fs::symlink(&found, folder.join("bin").join(self.tool.name))?;
        Ok(true)
    }

    fn command(&self, command: &mut Command) -> Result<()> {
        let logs = self.cache.join("logs");
        std::fs::create_dir_all(&logs)?;
        let path = logs.join(format!("{}-{}.log", self.tool.name, self.tool.version));
        let log = File::create(&path).with_context(|| format!("writing {}", path.display()))?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().to_string_lossy()))?;
        loop {
            self.progress.tick();
            let Some(status) = child.try_wait()? else {
                std::thread::sleep(Duration::from_millis(120));
                continue;
            };
            if status.success() {
                return Ok(());
            }
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(12)..].join("\n    ");
            bail!(
                "{} {} could not be made: {} ended with {status}\n    {tail}\nthe whole log is {}",
                self.tool.name,
                self.tool.version,
                command.get_program().to_string_lossy(),
                path.display()
            );
        }
    }
}

fn on_path_of(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}
