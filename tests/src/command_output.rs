//! What `deputy` or `deputy-agent` printed, and how it ended. For programs that a test runs to their end.

use std::process::Command;

use anyhow::{Context, Result};

/// What a run gave.
#[derive(Debug, Clone)]
pub struct CommandOutput {
    /// The exit code; `None` after a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl CommandOutput {
    /// Runs it to its end.
    pub(crate) async fn of(mut command: Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let output = tokio::task::spawn_blocking(move || command.output())
            .await?
            .with_context(|| format!("running {name}"))?;
        Ok(Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}
