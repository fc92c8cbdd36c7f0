//! Building the targets: by cargo-fuzz, with the project's own compiler, into a folder of the cache that checkouts and
//! runs share.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::tools::recipe::Half;
use crate::tools::{ensure, manifest};

/// Builds all targets and says where they are.
pub(crate) fn build(root: &Path) -> Result<PathBuf> {
    let programs = ensure::ensure(root, &[Half::Fuzzing])?;
    let cargo_fuzz = programs
        .get("cargo-fuzz")
        .context("cargo-fuzz is not in the manifest")?;
    let folder = manifest::cache()?.join("fuzz/target");
    let mut command = Command::new(cargo_fuzz);
    // Without a sanitizer it builds with the stable compiler; there is no unsafe code of ours for one to watch.
    command
        .current_dir(root)
        .env("CARGO", env!("CARGO"))
        .env("CARGO_INCREMENTAL", "0")
        .args([
            "fuzz",
            "build",
            "--sanitizer",
            "none",
            "--fuzz-dir",
            "tests/fuzz",
            "--target-dir",
        ])
        .arg(&folder);
    if !command.status().context("running cargo fuzz build")?.success() {
        bail!("the fuzz targets do not build; see above");
    }
    Ok(folder.join("x86_64-unknown-linux-gnu/release"))
}
