//! The files that tidy looks at: what git knows or would add, read once.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// One text file.
#[derive(Debug)]
pub(crate) struct Source {
    /// From the workspace's root.
    pub(crate) path: PathBuf,
    /// Its content.
    pub(crate) text: String,
}

impl Source {
    /// Written by hand, in Rust.
    pub(crate) fn is_rust(&self) -> bool {
        self.path.extension().is_some_and(|extension| extension == "rs") && !self.is_generated()
    }

    /// Written by `cargo xtask gen`.
    pub(crate) fn is_generated(&self) -> bool {
        self.path.components().any(|part| part.as_os_str() == "gen")
    }

    /// Tests have more freedom.
    pub(crate) fn is_test(&self) -> bool {
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy();
        self.path.starts_with("tests/it")
            || stem == "tests"
            || stem.ends_with("_tests")
            || stem == "conformance"
            || self
                .path
                .components()
                .any(|part| part.as_os_str() == "tests" && !self.path.starts_with("tests/src"))
    }
}

/// What is before the unit tests of a file.
pub(crate) fn code(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or(text)
}

/// All text files.
pub(crate) fn read(root: &Path) -> Result<Vec<Source>> {
    let output = Command::new("git")
        .current_dir(root)
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
        .output()
        .context("running git ls-files")?;
    if !output.status.success() {
        bail!("git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    }
    let names = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut sources = Vec::new();
    for name in names.split('\0').filter(|name| !name.is_empty()) {
        // Deleted but not yet committed, or binary: neither is text.
        if let Ok(text) = std::fs::read_to_string(root.join(name)) {
            sources.push(Source {
                path: name.into(),
                text,
            });
        }
    }
    Ok(sources)
}
