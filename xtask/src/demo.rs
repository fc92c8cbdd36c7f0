//! `cargo xtask demo`: gets the tools, builds, and runs the demonstration program of `tests/`.
//!
//! The AWS half starts while the Kubernetes programs are still being built.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};

/// What the demonstration is told.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Leave the world running until Ctrl-C
    #[arg(long)]
    keep: bool,
}

/// Runs it.
pub(crate) fn run(_root: &Path, options: &Options) -> Result<ExitCode> {
    let keep = if options.keep { " --keep" } else { "" };
    bail!("`demo{keep}` is not built yet: the demonstration program is missing from tests/src/bin");
}
