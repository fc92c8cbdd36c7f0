//! `cargo xtask bench`: builds for release and measures on this machine.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};

/// What the measurement is told.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only these figures: dispatch, throughput, logs, footprint
    figures: Vec<String>,
}

/// Runs it.
pub(crate) fn run(_root: &Path, options: &Options) -> Result<ExitCode> {
    bail!(
        "`bench {}` is not built yet: the measuring program is missing from tests/src/bin",
        options.figures.join(" ")
    );
}
