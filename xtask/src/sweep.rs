//! `cargo xtask sweep <step kind>`: kills the agent at every point of every effect of a step.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::test::summary::Summary;

/// What the sweep is told.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The step kind, for example ecsRollingDeploy
    kind: String,
}

/// Runs it.
pub(crate) fn run(_root: &Path, options: &Options) -> Result<ExitCode> {
    bail!(
        "`sweep {}` is not built yet: the sweep program is missing from tests/src/bin",
        options.kind
    );
}

/// The short form that `cargo xtask test` runs: each survived point is a passed test.
pub(crate) fn short(_root: &Path) -> Result<Summary> {
    println!("  - the sweep program is missing from tests/src/bin");
    Ok(Summary::one(false))
}
