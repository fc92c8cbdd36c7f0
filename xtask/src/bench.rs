//! `cargo xtask bench`: builds for release and measures on this machine, by the program `deputy-bench` of `tests/`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use crate::program::{self, Profile};

/// What the measurement is told.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only these figures: dispatch, throughput, logs, footprint
    figures: Vec<String>,
}

/// Runs it. The programs that it measures lie beside it, as users get them.
pub(crate) fn run(root: &Path, options: &Options) -> Result<ExitCode> {
    let bench = program::build(root, "deputy-bench", Profile::Release)?;
    let figures: Vec<&str> = options.figures.iter().map(String::as_str).collect();
    program::run(&bench, &figures)
}
