//! `tools/manifest.json` in the cache: where each program is. The test harness and the emulated cloud
//! read it, so that neither has to know how a program was had.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Program name → path.
pub(crate) type Programs = BTreeMap<String, PathBuf>;

/// The cache folder: `DEPUTY_CACHE`, or `~/.cache/deputy`.
pub(crate) fn cache() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("DEPUTY_CACHE") {
        return Ok(PathBuf::from(folder));
    }
    if let Some(folder) = std::env::var_os("XDG_CACHE_HOME") {
        return Ok(PathBuf::from(folder).join("deputy"));
    }
    let home = std::env::var_os("HOME").context("neither DEPUTY_CACHE nor HOME says where tools are kept")?;
    Ok(PathBuf::from(home).join(".cache/deputy"))
}

/// Where the manifest is.
pub(crate) fn path(cache: &Path) -> PathBuf {
    cache.join("tools/manifest.json")
}

/// What the manifest says; empty before the first run.
pub(crate) fn read(cache: &Path) -> Programs {
    std::fs::read(path(cache))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default()
}

/// Adds programs; readers see the old or the new whole.
pub(crate) fn add(cache: &Path, programs: Programs) -> Result<()> {
    let mut all = read(cache);
    if programs.iter().all(|(name, path)| all.get(name) == Some(path)) {
        return Ok(());
    }
    all.extend(programs);
    let file = path(cache);
    let partial = file.with_extension("json.partial");
    std::fs::write(&partial, serde_json::to_vec_pretty(&all)?)
        .with_context(|| format!("writing {}", partial.display()))?;
    std::fs::rename(&partial, &file).with_context(|| format!("replacing {}", file.display()))
}
