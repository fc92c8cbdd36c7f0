//! `cargo xtask leaks`: runs every kind of step forward, back and into a refusal in a world whose every secret is a canary, and
//! looks for the canaries, in every form, in every byte that reached the manager, in every file, and in every program that
//! was started. Then plants a leak of each kind and fails if one of them is not found.
//!
//! A kind of step that has no scenario here, or none that is refused, fails the run. The places where a secret may be are in `documented`,
//! and in docs/threat-model.md.

mod run;
mod suite;
mod identity;
mod scenario;
mod shell;
mod ecs;
mod kubernetes;
mod planted;
mod documented;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

/// Looks for secrets in everything that leaves an agent or is written.
#[derive(Parser)]
struct Arguments {
    /// The program of the integration tests: runs them all under record too
    #[arg(long, value_name = "PROGRAM")]
    suite: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let suite = arguments.suite.as_deref().map(suite::run).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let found = runtime.block_on(run::everything(suite.unwrap_or_default()))?;
    run::say(&found.to_string());
    Ok(if found.is_good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
