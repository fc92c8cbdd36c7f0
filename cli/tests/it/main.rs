//! The `deputy` binary as people run it, without a manager: help, validation, exit codes.

mod bad_documents;
mod help;
mod without_manager;

use std::process::{Command, Output};

/// Runs `deputy` in the root of the repository with a clean environment.
fn deputy(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_deputy"))
        .args(arguments)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .env_clear()
        .env("NO_COLOR", "1")
        .output()
        .expect("the binary runs")
}

/// Everything it printed, and its exit code.
fn transcript(arguments: &[&str]) -> String {
    let output = deputy(arguments);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code().map_or("none".to_owned(), |code| code.to_string());
    format!("{}{}exit code {code}\n", text(&output.stdout), text(&output.stderr))
}
