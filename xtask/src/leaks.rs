//! `cargo xtask leaks`: every step forward and back over canaries, everything that leaves or is written looked through,
//! by the program `deputy-leaks` of `tests/`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use crate::program::{self, Profile};
use crate::tools::ensure;
use crate::tools::recipe::Half;

/// Runs it.
pub(crate) fn run(root: &Path) -> Result<ExitCode> {
    ensure::ensure(root, &[Half::Aws, Half::Kubernetes])?;
    let leaks = program::build(root, "deputy-leaks", Profile::Dev)?;
    program::run(&leaks, &[])
}
