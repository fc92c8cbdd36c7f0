//! Running `git`: found in the agent's PATH, started without a shell, with an environment of its own, and stopped when
//! it takes too long or too much.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use deputy_process::{ChildCommand, Domain, Exit, OutputSink, Stop, StreamKind};
use deputy_task::outcome::Failure;
use tokio::sync::Notify;

use super::access::Access;
use super::git_words;
use super::limits::SourceLimits;
use crate::context::StepContext;
use crate::failure::{Halt, StepError};
use crate::proxies;

/// One command of git, fetching included. The step's own time may end it earlier.
const LONGEST: Duration = Duration::from_secs(15 * 60);
/// The command that lists a commit's files. Of a few KiB it can make endless work.
const LISTING: &str = "ls-tree";
/// For it: it reads what has been fetched and writes nothing.
const LONGEST_LISTING: Duration = Duration::from_secs(20);
/// Between SIGTERM and SIGKILL: git removes its temporary files.
const GRACE: Duration = Duration::from_secs(2);
/// Between two looks at what has been received.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Of standard output: the list of a tree's files.
const MAX_STDOUT_BYTES: usize = 32 * 1024 * 1024;
/// Of standard error, its end.
const MAX_STDERR_BYTES: usize = 8 * 1024;

/// What to do about a commit that has too much.
const NARROWER: &str = "name a `subfolder` that has what the steps need";

/// Handed on to git: how it gets out, and whom it trusts.
const INHERITED: [&str; 8] = [
    "PATH",
    "ALL_PROXY",
    "all_proxy",
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
    limits: SourceLimits,
}

enum Stopped {
    Halted(Halt),
    TooLarge(u64),
    /// What it says is more than is taken; the sink knows of what.
    Full,
    TooLong(Duration),
}

impl<'a> Git<'a> {
    pub(super) fn new(
        (ctx, name): (&'a StepContext, &'a str),
        folder: &Path,
        access: Access,
        (domain, limits): (Option<Domain>, SourceLimits),
    ) -> Result<Self, Failure> {
        let path = std::env::var_os("PATH");
        let program = which::which_in("git", path, "/").map_err(|_| {
            Failure::new(
                "source.noGit",
                format!("source {name} needs git, and there is none in the agent's PATH"),
            )
            .hint("install git on the agent")
        })?;
        proxies::hide(ctx, |name| std::env::var_os(name))?;
        Ok(Self {
            ctx,
            name,
            program,
            folder: folder.to_owned(),
            environment: environment(folder, access),
            domain,
            limits,
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
        let mut sink = Sink::new(self.limits.entries);
        let longest = if arguments.first() == Some(&LISTING) {
            LONGEST_LISTING
        } else {
            LONGEST
        };
        let stop = self.stop(most_bytes, longest, Arc::clone(&sink.is_full));
        let ended = child.run(&mut sink, stop).await;
        match (ended.stopped, &sink.full) {
            (Some(Stopped::Halted(halt)), _) => Err(halt.into()),
            (_, Some(full)) => Err(self.refused(full, NARROWER).into()),
            (None, None) => Ok(Said {
                exit: ended.exit,
                stderr: String::from_utf8_lossy(sink.whole_lines()).into_owned(),
                stdout: sink.stdout,
            }),
            (Some(stopped), None) => Err(self.too_much(&stopped, arguments).into()),
        }
    }

    fn too_much(&self, stopped: &Stopped, arguments: &[&str]) -> Failure {
        match stopped {
            Stopped::TooLarge(limit) => self.refused(
                &format!("the server sent more than {limit} bytes for one commit"),
                "sources are for scripts and manifests; put large files where the step can fetch them",
            ),
            Stopped::TooLong(longest) if arguments.first() == Some(&LISTING) => self.refused(
                &format!("to list its files took git longer than {} seconds", longest.as_secs()),
                NARROWER,
            ),
            Stopped::TooLong(longest) => Failure::new(
                "source.unreachable",
                format!(
                    "source {}: git took longer than {} minutes",
                    self.name,
                    longest.as_secs() / 60
                ),
            )
            .hint("check the way from the agent to the server"),
            Stopped::Full | Stopped::Halted(_) => self.refused("git was stopped", NARROWER),
        }
    }

    fn refused(&self, why: &str, hint: &str) -> Failure {
        Failure::new("source.refused", format!("source {}: {why}", self.name)).hint(hint)
    }

    async fn stop(&self, most_bytes: Option<u64>, longest: Duration, is_full: Arc<Notify>) -> Stop<Stopped> {
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
            () = is_full.notified() => Stopped::Full,
            () = tokio::time::sleep(longest) => Stopped::TooLong(longest),
        };
        Stop { reason, grace: GRACE }
    }
}

fn environment(folder: &Path, access: Access) -> Vec<(OsString, OsString)> {
    let inherited = INHERITED
        .into_iter()
        .filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?)));
    let mut environment: Vec<(OsString, OsString)> = inherited.collect();
    environment.extend(proxies::as_for_the_agent(|name| std::env::var_os(name)));
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

struct Sink {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    cut: bool,
    /// Entries that have been listed, each with a NUL at its end, and most of them.
    entries: u64,
    most_entries: u64,
    /// Why no more of standard output is taken.
    full: Option<String>,
    is_full: Arc<Notify>,
}

impl OutputSink for Sink {
    fn write(&mut self, stream: StreamKind, bytes: &[u8]) {
        match stream {
            StreamKind::Stdout => self.take(bytes),
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
    fn new(most_entries: u64) -> Self {
        Self {
            stdout: Vec::new(),
            stderr: Vec::new(),
            cut: false,
            entries: 0,
            most_entries,
            full: None,
            is_full: Arc::default(),
        }
    }

    /// Takes of standard output what may be had; what is too much decides what is told, so nobody waits for the rest.
    fn take(&mut self, bytes: &[u8]) {
        if self.full.is_some() {
            return;
        }
        let ends = bytes.iter().filter(|byte| **byte == 0).count();
        self.entries = self.entries.saturating_add(u64::try_from(ends).unwrap_or(u64::MAX));
        let why = if self.entries > self.most_entries {
            format!("it has more than {} files", self.most_entries)
        } else if self.stdout.len() + bytes.len() > MAX_STDOUT_BYTES {
            format!("the list of its files has more than {MAX_STDOUT_BYTES} bytes")
        } else {
            return self.stdout.extend_from_slice(bytes);
        };
        self.full = Some(why);
        self.is_full.notify_one();
    }

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

    #[test]
    fn a_list_is_taken_up_to_its_limits() {
        let mut sink = Sink::new(2);
        sink.write(StreamKind::Stdout, b"a\0b\0");
        assert!(sink.full.is_none());
        sink.write(StreamKind::Stdout, b"c\0");
        assert_eq!(sink.full.as_deref(), Some("it has more than 2 files"));
        assert_eq!(sink.stdout, b"a\0b\0");
        let mut sink = Sink::new(2);
        sink.write(StreamKind::Stdout, &vec![b'a'; MAX_STDOUT_BYTES]);
        assert!(sink.full.is_none());
        sink.write(StreamKind::Stdout, b"a");
        assert!(sink.full.is_some_and(|why| why.contains("33554432 bytes")));
    }

    /// Guards that no half of a secret is left where standard error was cut: the redactor would not know it.
    #[test]
    fn of_a_long_complaint_no_half_line_is_kept() {
        let mut sink = Sink::new(1);
        sink.write(StreamKind::Stderr, b"fatal: no\n");
        assert_eq!(sink.whole_lines(), b"fatal: no\n");
        let secret = "s".repeat(MAX_STDERR_BYTES - 4);
        sink.write(StreamKind::Stderr, format!("{secret}\nend\n").as_bytes());
        assert_eq!(sink.whole_lines(), b"end\n");
        sink.write(StreamKind::Stderr, "s".repeat(MAX_STDERR_BYTES + 1).as_bytes());
        assert_eq!(sink.whole_lines(), b"");
    }
}
