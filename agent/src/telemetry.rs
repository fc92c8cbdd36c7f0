//! The agent's own log, on standard error. Task output never goes here.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::checked::{LogConfig, LogFormat};

/// Installs the log for the whole process. A second call changes nothing: tests run several agents.
pub(crate) fn install(config: &LogConfig) {
    // Checked with the configuration.
    let filter = EnvFilter::builder().parse_lossy(&config.filter);
    let base = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let installed = match config.format {
        LogFormat::Text => base.with_target(false).try_init(),
        LogFormat::Json => base.json().flatten_event(true).try_init(),
    };
    drop(installed);
}
