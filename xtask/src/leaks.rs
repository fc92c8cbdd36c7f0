//! `cargo xtask leaks`: every step forward and back over canaries, everything that leaves or is written looked through,
//! by the program `deputy-leaks` of `tests/`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::program::{self, Profile};
use crate::test::binaries;
use crate::test::summary::Summary;
use crate::tools::ensure;

/// What the search is told.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only every step and every identity over canaries, without the integration tests
    #[arg(long)]
    pub(crate) steps_only: bool,
}

/// Runs it.
pub(crate) fn run(root: &Path, options: &Options) -> Result<ExitCode> {
    ensure::ensure(root, ensure::everything())?;
    // Building them builds the programs of `tests/` too, with the same features.
    let tests = binaries::build(root)?;
    let leaks = program::built(root, "deputy-leaks", Profile::Dev)?;
    if options.steps_only {
        return program::run(&leaks, &[]);
    }
    let folder = root.join("tests");
    let suite = tests
        .iter()
        .find(|binary| binary.name == "it (test)" && binary.folder == folder);
    let suite = suite.context("the integration tests were not built")?;
    let suite = suite.executable.to_str().context("a path that is text")?;
    program::run(&leaks, &["--suite", suite])
}

/// Every step and every identity, as part of `cargo xtask test`: its output only if something is found.
pub(crate) fn short(root: &Path) -> Result<Summary> {
    let output = program::output(&program::built(root, "deputy-leaks", Profile::Dev)?, &[])?;
    let found = output.contains(" canaries, 0 found") && !output.contains("MISSED");
    if !found {
        println!("{output}");
    }
    println!("  {} every step and every identity", if found { "✓" } else { "✗" });
    Ok(Summary::one(found))
}
