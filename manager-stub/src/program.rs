//! The program: flags, tracing, one manager, signals, exit code.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use deputy_dial::proxy::ProxyRule;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat, RawConfig};
use crate::fetch::Fetcher;
use crate::server::{Manager, StartError, Transport};
use crate::vital::Death;
use crate::witness::Witness;

/// Bad flags or an impossible combination of them.
const EXIT_USAGE: u8 = 2;
/// It could not start.
const EXIT_START: u8 = 10;
/// A fault of ours ended a thread that it cannot do without.
const EXIT_BROKEN: u8 = 11;

/// Why a manager that was up ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It was told to.
    Signal(&'static str),
    /// It is broken.
    Broken(Death),
}

impl End {
    fn exit(self) -> u8 {
        match self {
            Self::Signal(_) => 0,
            Self::Broken(_) => EXIT_BROKEN,
        }
    }
}

/// Runs the manager until SIGTERM or SIGINT; the whole of `main`.
#[must_use]
pub fn main_impl() -> ExitCode {
    main_with(None)
}

/// The same, and somebody sees every request.
#[must_use]
pub fn main_with(witness: Option<Arc<dyn Witness>>) -> ExitCode {
    let mut config = match RawConfig::parse().check() {
        Ok(config) => config,
        Err(error) => {
            complain(&error, "deputy-manager --help lists the flags and their defaults");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    config.settings.witness = witness;
    match ProxyRule::of(&|name| std::env::var(name).ok()) {
        Ok(rule) => config.settings.security.fetcher = Fetcher::through(rule),
        Err(error) => {
            complain(
                &error,
                "HTTPS_PROXY names the proxy for asking AWS and clusters, NO_PROXY what is asked without it",
            );
            return ExitCode::from(EXIT_USAGE);
        }
    }
    init_tracing(config.log_format);
    let (files, wished) = (open_files(), config.settings.security.connections);
    let connections = wished.within(files);
    if connections != wished {
        tracing::warn!(
            files,
            ?connections,
            "the limit of open files allows fewer connections than were asked for; raise it"
        );
    }
    config.settings.security.connections = connections;
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(
                &format!("cannot start the runtime: {error}"),
                "look at the limits of this user's processes and threads",
            );
            return ExitCode::from(EXIT_START);
        }
    };
    runtime.block_on(run(config))
}

/// As many open files as this user may have; a soft limit of 1024 is common and made for other programs.
fn open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, most) {
        Ok(()) => limit.maximum.unwrap_or(u64::MAX),
        Err(error) => {
            tracing::warn!(%error, "the limit of open files could not be raised");
            limit.current.unwrap_or(u64::MAX)
        }
    }
}

fn init_tracing(format: LogFormat) {
    let filter = EnvFilter::try_from_env("DEPUTY_MANAGER_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt()
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().init(),
    }
}

async fn run(config: Config) -> ExitCode {
    let data = config.settings.data.clone();
    let is_insecure = config.settings.security.transport == Transport::InsecureLoopback;
    let mut manager = match Manager::start(config.settings).await {
        Ok(manager) => manager,
        Err(error) => {
            complain(&explained(&error), error.hint());
            return ExitCode::from(match error {
                StartError::NotLoopback(_) => EXIT_USAGE,
                StartError::Data(_)
                | StartError::Store(_)
                | StartError::Authority(_)
                | StartError::Tls(_)
                | StartError::AdminToken { .. }
                | StartError::Oidc(_)
                | StartError::OidcListen(_)
                | StartError::Listen { .. }
                | StartError::Reflection(_) => EXIT_START,
            });
        }
    };
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        complain(
            &"cannot listen for signals",
            "look at the limits of this user's open files",
        );
        return ExitCode::from(EXIT_START);
    };
    let address = manager.address();
    if let Some(path) = &config.ready_file
        && let Err(error) = write_ready_file(path, &address.to_string())
    {
        complain(
            &format!("cannot write the ready file {}: {error}", path.display()),
            "choose with --ready-file a path in a folder that this user can write to",
        );
        return ExitCode::from(EXIT_START);
    }
    let authority = manager.authority();
    tracing::info!(
        data = %data.display(),
        ca.file = %authority.path().display(),
        ca.sha256 = authority.fingerprint(),
        trust.domain = authority.trust_domain(),
        "manager is up"
    );
    if is_insecure {
        tracing::warn!(
            "--insecure-loopback: nothing is encrypted and nobody is asked who he is; for this machine only"
        );
    }
    say(&format!("ready {address}"));
    let end = tokio::select! {
        _ = terminate.recv() => End::Signal("SIGTERM"),
        _ = interrupt.recv() => End::Signal("SIGINT"),
        death = manager.broken() => End::Broken(death),
    };
    match end {
        End::Signal(signal) => tracing::info!(signal, "shutting down"),
        End::Broken(death) => tracing::error!(%death, "the manager is broken and ends; nothing acknowledged is lost"),
    }
    manager.shutdown().await;
    if let End::Broken(death) = end {
        complain(
            &death,
            "this is a fault of Deputy: report it with the manager's log; a restart is safe, tasks go on",
        );
    }
    tracing::info!("goodbye");
    ExitCode::from(end.exit())
}

/// Written whole or not at all: a reader never sees half an address.
fn write_ready_file(path: &Path, address: &str) -> std::io::Result<()> {
    let partial = path.with_extension("partial");
    std::fs::write(&partial, format!("{address}\n"))?;
    std::fs::rename(&partial, path)
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody may be reading; the ready file and the log say the same.
    drop(writeln!(out, "{line}").and_then(|()| out.flush()));
}

/// An error with those of its causes that it does not name itself.
fn explained(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

fn complain(error: &dyn std::fmt::Display, hint: &str) {
    drop(writeln!(std::io::stderr().lock(), "error: {error}\nhint: {hint}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_that_is_broken_does_not_end_as_one_that_was_told_to() {
        assert_eq!(End::Signal("SIGTERM").exit(), 0);
        assert_eq!(End::Broken(Death::Panicked("dispatcher")).exit(), EXIT_BROKEN);
        assert_eq!(End::Broken(Death::Ended("log-writer")).exit(), EXIT_BROKEN);
    }
}
