//! `cargo xtask images`: builds the agent for release, makes its image on a Debian of debootstrap's, and shows that it
//! starts without privileges. The image is left as an archive; tests build their own (`tests/src/image.rs`).

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use crate::program::{self, Profile};
use crate::tools::ensure;
use crate::tools::recipe::Half;

/// Runs it, by the program `deputy-image` of `tests/`.
pub(crate) fn run(root: &Path) -> Result<ExitCode> {
    ensure::ensure(root, &[Half::Image])?;
    let image = program::build(root, "deputy-image", Profile::Release)?;
    program::run(&image, &[])
}
