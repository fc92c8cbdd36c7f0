//! Running `git`: found in the agent's PATH, started without a shell, with an environment of its own, and stopped when
//! it takes too long or too much.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use deputy_process::{ChildCommand, Domain, Exit, OutputSink, Stop, StreamKind};
use deputy_task::outcome::Failure;

use super::access::Access;
use super::git_words;
use crate::context::StepContext;
use crate::failure::{Halt, StepError};

/// One command of git, fetching included. The step's own time may end it earlier.
const LONGEST: Duration = Duration::from_secs(15 * 60);
/// Between SIGTERM and SIGKILL: git removes its temporary files.
const GRACE: Duration = Duration::from_secs(2);
/// Between two looks at what has been received.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Of standard output: the list of a tree's files.
const MAX_STDOUT_BYTES: usize = 32 * 1024 * 1024;
/// Of standard error, its end.
const MAX_STDERR_BYTES: usize = 8 * 1024;

/// Handed on to git: how it gets out, and whom it trusts.
const INHERITED: [&str; 12] = [
    "PATH",
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "TZ",
];

/// What git is told whatever the machine's configuration says, which is not read.
const CONFIG: [(&str, &str); 14] = [
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.autocrlf", "false"),
    ("core.symlinks", "true"),
    ("credential.helper", ""),
    ("fetch.fsckObjects", "true"),
    ("gc.auto", "0"),
    // Another host must not get the header, nor be asked at all.
    ("http.followRedirects", "false"),
    ("http.lowSpeedLimit", "1000"),
    ("http.lowSpeedTime", "60"),
    ("init.defaultBranch", "source"),
    ("maintenance.auto", "false"),
    ("protocol.version", "2"),
    ("submodule.recurse", "false"),
];

/// How a command ended, and what it said.
pub(super) struct Said {
    pub(super) exit: Exit,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: String,
}

/// Git for one source.
pub(super) struct Git<'a> {
    ctx: &'a StepContext,
    name: &'a str,
    program: PathBuf,
    folder: PathBuf,
    environment: Vec<(OsString, OsString)>,
    domain: Option<Domain>,
}

enum Stopped {
    Halted(Halt),
    TooLarge(u64),
    TooLong,
}

impl<'a> Git<'a> {
    pub(super) fn new(
        (ctx, name): (&'a StepContext, &'a str),
        folder: &Path,
        access: Access,
        domain: Option<Domain>,
    ) -> Result<Self, Failure> {
        let path = std::env::var_os("PATH");
        let program = which::which_in("git", path, "/").map_err(|_| {
            Failure::new(
                "source.noGit",
                format!("source {name} needs git, and there is none in the agent's PATH"),
            )
            .hint("install git on the agent")
        })?;
        Ok(Self {
            ctx,
            name,
            program,
            folder: folder.to_owned(),
            environment: environment(folder, access),
            domain,
        })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn narrate(&self, line: &str) {
        self.ctx.narrate(format_args!("source {}: {line}", self.name));
    }

    /// Runs a command that asks no server and must succeed; its standard output.
    pub(super) async fn said(&self, arguments: &[&str]) -> Result<String, StepError> {
        let said = self.run(arguments, None).await?;
        if !said.exit.succeeded() {
            return Err(git_words::failed(self.name, arguments, &said.stderr).into());
        }
        Ok(String::from_utf8_lossy(&said.stdout).into_owned())
    }

    /// Runs a command, whatever comes of it; it is ended when the folder has more than so many bytes.
    pub(super) async fn run(&self, arguments: &[&str], most_bytes: Option<u64>) -> Result<Said, StepError> {
        let repository = self.folder.join("repository");
        let within = if repository.exists() {
            repository
        } else {
            self.folder.clone()
        };
        let command = ChildCommand::new(&self.program)
            .args(arguments.iter().copied())
            .envs(self.environment.iter().cloned())
            .confined(self.domain.clone())
            .current_dir(within);
        let child = command.spawn().map_err(|error| {
            Failure::new(
                "source.noGit",
                format!("git cannot be started for source {}", self.name),
            )
            .caused_by(&error)
        })?;
        let mut sink = Sink::default();
        let ended = child.run(&mut sink, self.stop(most_bytes)).await;
        match ended.stopped {
            None if sink.dropped => Err(Failure::new(
                "source.refused",
                format!("source {}: it has too many files to be listed", self.name),
            )
            .hint("name a `subfolder` that has what the steps need")
            .into()),
            None => Ok(Said {
                exit: ended.exit,
                stderr: String::from_utf8_lossy(sink.whole_lines()).into_owned(),
                stdout: sink.stdout,
            }),
            Some(Stopped::Halted(halt)) => Err(halt.into()),
            Some(Stopped::TooLarge(limit)) => Err(Failure::new(
                "source.refused",
                format!(
                    "source {}: the server sent more than {limit} bytes for one commit",
                    self.name
                ),
            )
            .hint("sources are for scripts and manifests; put large files where the step can fetch them")
            .into()),
            Some(Stopped::TooLong) => Err(Failure::new(
                "source.unreachable",
                format!(
                    "source {}: git took longer than {} minutes",
                    self.name,
                    LONGEST.as_secs() / 60
                ),
            )
            .hint("check the way from the agent to the server")
            .into()),
        }
    }

    async fn stop(&self, most_bytes: Option<u64>) -> Stop<Stopped> {
        let watch = async {
            let Some(limit) = most_bytes else {
                return std::future::pending().await;
            };
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                let folder = self.folder.clone();
                let found = tokio::task::spawn_blocking(move || bytes_below(&folder)).await;
                if found.is_ok_and(|bytes| bytes > limit) {
                    return limit;
                }
            }
        };
        let reason = tokio::select! {
            halt = self.ctx.halted() => Stopped::Halted(halt),
            limit = watch => Stopped::TooLarge(limit),
            () = tokio::time::sleep(LONGEST) => Stopped::TooLong,
        };
        Stop { reason, grace: GRACE }
    }
}

fn environment(folder: &Path, access: Access) -> Vec<(OsString, OsString)> {
    let inherited = INHERITED
        .into_iter()
        .filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?)));
    let mut environment: Vec<(OsString, OsString)> = inherited.collect();
    let mut set = |name: &str, value: OsString| environment.push((name.into(), value));
    set("HOME", folder.into());
    for (name, value) in [
        ("LC_ALL", "C"),
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_ATTR_NOSYSTEM", "1"),
        ("GIT_TERMINAL_PROMPT", "0"),
        ("GIT_ASKPASS", "true"),
        ("SSH_ASKPASS", "true"),
        ("GIT_ALLOW_PROTOCOL", "https:ssh"),
        ("GIT_LITERAL_PATHSPECS", "1"),
    ] {
        set(name, value.into());
    }
    let config = CONFIG
        .iter()
        .map(|(key, value)| ((*key).to_owned(), OsString::from(value)));
    let config: Vec<(String, OsString)> = config.chain(access.config).collect();
    set("GIT_CONFIG_COUNT", config.len().to_string().into());
    for (index, (key, value)) in config.into_iter().enumerate() {
        set(&format!("GIT_CONFIG_KEY_{index}"), key.into());
        set(&format!("GIT_CONFIG_VALUE_{index}"), value);
    }
    access
        .environment
        .into_iter()
        .for_each(|(name, value)| set(name, value));
    environment
}

/// Of files only; what vanishes meanwhile does not count. One folder after the other: depth costs no handles.
fn bytes_below(folder: &Path) -> u64 {
    let mut folders = vec![folder.to_owned()];
    let mut bytes = 0_u64;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => folders.push(entry.path()),
                Ok(metadata) => bytes = bytes.saturating_add(metadata.len()),
                Err(_) => {}
            }
        }
    }
    bytes
}

#[derive(Default)]
struct Sink {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    cut: bool,
    dropped: bool,
}

impl OutputSink for Sink {
    fn write(&mut self, stream: StreamKind, bytes: &[u8]) {
        match stream {
            StreamKind::Stdout if self.stdout.len() + bytes.len() > MAX_STDOUT_BYTES => self.dropped = true,
            StreamKind::Stdout => self.stdout.extend_from_slice(bytes),
            StreamKind::Stderr => {
                self.stderr.extend_from_slice(bytes);
                let excess = self.stderr.len().saturating_sub(MAX_STDERR_BYTES);
                self.stderr.drain(..excess);
                self.cut |= excess > 0;
            }
        }
    }
}

impl Sink {
    /// What is kept of standard error, without a line of which the front is gone: nobody would find half a secret.
    fn whole_lines(&self) -> &[u8] {
        if !self.cut {
            return &self.stderr;
        }
        let end = self.stderr.iter().position(|byte| *byte == b'\n');
        end.and_then(|end| self.stderr.get(end + 1..)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards that no half of a secret is left where standard error was cut: the redactor would not know it.
    #[test]
    fn of_a_long_complaint_no_half_line_is_kept() {
        let mut sink = Sink::default();
        sink.write(StreamKind::Stderr, b"fatal: no\n");
        assert_eq!(sink.whole_lines(), b"fatal: no\n");
        let secret = "s".repeat(MAX_STDERR_BYTES - 4);
        sink.write(StreamKind::Stderr, format!("{secret}\nend\n").as_bytes());
        assert_eq!(sink.whole_lines(), b"end\n");
        sink.write(StreamKind::Stderr, "s".repeat(MAX_STDERR_BYTES + 1).as_bytes());
        assert_eq!(sink.whole_lines(), b"");
    }
}
