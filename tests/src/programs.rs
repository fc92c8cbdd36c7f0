//! Where the programs are: those that `cargo xtask tools` made, and those under test.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// What `cargo xtask tools` made.
#[derive(Debug, Clone)]
pub struct Tools {
    programs: BTreeMap<String, PathBuf>,
    manifest: PathBuf,
}

/// The programs under test, built beside the program that runs this.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// `deputy-agent`, with failpoints.
    pub agent: PathBuf,
    /// `deputy-manager`.
    pub manager: PathBuf,
    /// `deputy`.
    pub cli: PathBuf,
}

impl Tools {
    /// Reads the manifest in the cache.
    pub fn load() -> Result<Self> {
        Self::of_manifest(cache()?.join("tools/manifest.json"))
    }

    /// Reads a manifest somewhere else.
    pub fn of_manifest(manifest: PathBuf) -> Result<Self> {
        let bytes = std::fs::read(&manifest)
            .with_context(|| format!("{} is missing; hint: cargo xtask tools", manifest.display()))?;
        let programs = serde_json::from_slice(&bytes).with_context(|| manifest.display().to_string())?;
        Ok(Self { programs, manifest })
    }

    /// Waits until the Kubernetes programs are there too, while somebody else builds them.
    pub async fn load_with_kubernetes(within: Duration) -> Result<Self> {
        let deadline = tokio::time::Instant::now() + within;
        loop {
            // kwok's stages come last.
            match Self::load() {
                Ok(tools) if tools.programs.contains_key("kwok-stages") => return Ok(tools),
                _ if tokio::time::Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(200)).await,
                _ => bail!("the Kubernetes programs were not built within {within:?}; hint: cargo xtask tools"),
            }
        }
    }

    /// The path of a program.
    pub fn get(&self, name: &str) -> Result<&Path> {
        self.programs
            .get(name)
            .map(PathBuf::as_path)
            .with_context(|| format!("no {name}; hint: cargo xtask tools"))
    }

    /// The manifest file.
    #[must_use]
    pub fn manifest(&self) -> &Path {
        &self.manifest
    }
}

impl Binaries {
    /// The product itself, in the folder of this program: what `cargo xtask bench` measures.
    pub fn as_released() -> Result<Self> {
        let this = std::env::current_exe().context("the path of this program")?;
        let folder = this.parent().context("the folder of this program")?;
        Ok(Self {
            agent: folder.join("deputy-agent"),
            manager: folder.join("deputy-manager"),
            cli: folder.join("deputy"),
        })
    }

    /// The ones that Cargo built together with this program.
    pub fn beside_this() -> Result<Self> {
        let this = std::env::current_exe().context("the path of this program")?;
        let find = |name: &str| {
            let found = this
                .ancestors()
                .skip(1)
                .take(2)
                .map(|folder| folder.join(name))
                .find(|path| path.is_file());
            found.with_context(|| {
                format!(
                    "{name} is not beside {}; hint: cargo build -p deputy-tests",
                    this.display()
                )
            })
        };
        Ok(Self {
            agent: find("deputy-agent-under-test")?,
            manager: find("deputy-manager-under-test")?,
            cli: find("deputy-under-test")?,
        })
    }
}

/// PATH with the Kubernetes programs in front, where they have been built.
pub(crate) fn path_with_tools() -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let tools = Tools::load().ok();
    let folder = |name: &str| tools.as_ref()?.get(name).ok()?.parent().map(Path::to_owned);
    let mut folders: Vec<PathBuf> = ["aws-iam-authenticator", "kubectl"]
        .into_iter()
        .filter_map(folder)
        .collect();
    folders.extend(std::env::split_paths(&path));
    std::env::join_paths(folders).unwrap_or(path)
}

fn cache() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("DEPUTY_CACHE") {
        return Ok(folder.into());
    }
    if let Some(folder) = std::env::var_os("XDG_CACHE_HOME") {
        return Ok(PathBuf::from(folder).join("deputy"));
    }
    let home = std::env::var_os("HOME").context("neither DEPUTY_CACHE nor HOME says where tools are kept")?;
    Ok(PathBuf::from(home).join(".cache/deputy"))
}

/// The workspace's root, where examples and the test bed are.
#[must_use]
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}
