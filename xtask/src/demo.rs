//! `cargo xtask demo`: gets the tools, builds, and runs the demonstration program of `tests/`.
//!
//! The AWS half starts while the Kubernetes programs are still being built: the program waits for them
//! where it needs them.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use crate::program::{self, Profile};
use crate::tools::ensure;
use crate::tools::recipe::Half;

/// What the demonstration is told.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Leave the world running until Ctrl-C
    #[arg(long)]
    keep: bool,
}

/// Runs it.
pub(crate) fn run(root: &Path, options: &Options) -> Result<ExitCode> {
    ensure::ensure(root, &[Half::Aws])?;
    let kubernetes = ensure::ensure_in_background(root, &[Half::Kubernetes]);
    let demo = program::build(root, "deputy-demo", Profile::Dev)?;
    let mut arguments = Vec::new();
    if options.keep {
        arguments.push("--keep");
    }
    let code = program::run_beside(&demo, &arguments, || {
        // A build that has failed ends the wait for it.
        !kubernetes.has_failed()
    })?;
    kubernetes.wait()?;
    Ok(code)
}
