//! `cargo xtask chart`: everything about `helm/deputy-agent` that can fail, by the tests of that name.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use crate::test::run::{self, Options};

/// The integration tests whose path has this.
const TESTS: &str = "chart::";

/// Runs them.
pub(crate) fn run(root: &Path) -> Result<ExitCode> {
    run::run(
        root,
        &Options {
            filter: Some(TESTS.into()),
        },
    )
}
