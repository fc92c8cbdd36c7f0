//! An agent as a process: behind a wire that can be cut, with the surroundings of an ECS task.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::child::{Child, Output};
use crate::leaks::canary::note;
use crate::link::Link;
use crate::programs::{Binaries, path_with_tools};

/// A metadata service that nobody runs: the machine's own is beyond this world.
pub(crate) const NO_METADATA: [(&str, &str); 2] = [
    ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1"),
    ("AWS_EC2_METADATA_DISABLED", "true"),
];

/// Variables of every SDK whose values are secret.
const SECRETS_OF_AWS: [&str; 2] = ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];

/// How an agent is started.
#[derive(Debug, Clone, Default)]
pub struct AgentOptions {
    /// Its id; default `agent-1`, `agent-2`, …
    pub id: Option<String>,
    /// `key=value`.
    pub labels: Vec<String>,
    /// Tasks at the same time; default 4.
    pub slots: Option<u32>,
    /// `DEPUTY_FAILPOINT`: `<point>@<key glob>:<kill|stop>[:<n>]`.
    pub failpoint: Option<String>,
    /// Another join token than the world's.
    pub join_token_file: Option<PathBuf>,
    /// Another file of authorities than the world's.
    pub ca_file: Option<PathBuf>,
    /// The Cedar policy that it is started with; without one it is started with `--allow-all`.
    pub policy: Policy,
    /// Another folder than the one that the world has for this id.
    pub folder: Option<PathBuf>,
    /// It is started without a state folder: a restart brings nothing of before.
    pub keeps_nothing: bool,
    /// `--join`; with `aws` it is given no token.
    pub join: Option<&'static str>,
    /// More environment; wins over what the harness sets.
    pub environment: Vec<(String, String)>,
    /// More arguments.
    pub flags: Vec<String>,
    /// A program and its arguments that run the agent, for example `strace`.
    pub before: Vec<OsString>,
}

/// What an agent lets tasks do.
#[derive(Debug, Clone, Default)]
pub enum Policy {
    /// Everything.
    #[default]
    AllowAll,
    /// What the rules in this file permit.
    File(PathBuf),
    /// It is started without a policy.
    Missing,
}

/// An agent. Killed when it is dropped.
#[derive(Debug)]
pub struct AgentProcess {
    /// Its id.
    pub id: String,
    /// Its wire to the manager.
    pub link: Link,
    /// The process.
    pub child: Child,
    start: Start,
}

/// What stays the same over restarts of one agent.
#[derive(Debug, Clone)]
pub(crate) struct Start {
    pub(crate) program: PathBuf,
    pub(crate) folder: PathBuf,
    pub(crate) environment: Vec<(String, OsString)>,
    pub(crate) ca_file: PathBuf,
    pub(crate) join_token: PathBuf,
    pub(crate) options: AgentOptions,
}

impl AgentOptions {
    /// With this id.
    #[must_use]
    pub fn named(id: &str) -> Self {
        Self {
            id: Some(id.into()),
            ..Self::default()
        }
    }

    /// With a label, `key=value`.
    #[must_use]
    pub fn label(mut self, label: &str) -> Self {
        self.labels.push(label.into());
        self
    }

    /// With this many slots.
    #[must_use]
    pub fn slots(mut self, slots: u32) -> Self {
        self.slots = Some(slots);
        self
    }

    /// With a failpoint, for example `after-act@deploy/*:kill`.
    #[must_use]
    pub fn failpoint(mut self, failpoint: &str) -> Self {
        self.failpoint = Some(failpoint.into());
        self
    }

    /// With another join token than the world's.
    #[must_use]
    pub fn join_token_file(mut self, path: &str) -> Self {
        self.join_token_file = Some(path.into());
        self
    }

    /// With an argument and its value, for example `("--drain-timeout", "5s")`.
    #[must_use]
    pub fn flag(mut self, name: &str, value: &str) -> Self {
        self.flags.extend([name.to_owned(), value.to_owned()]);
        self
    }

    /// With the keys of its pool.
    #[must_use]
    pub fn pool_key(self, file: &Path) -> Self {
        self.flag("--pool-key-file", &file.to_string_lossy())
    }

    /// With another policy than everything.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// With an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }
}

impl Start {
    pub(crate) fn new(binaries: &Binaries, folder: &Path, options: AgentOptions) -> Self {
        Self {
            program: binaries.agent.clone(),
            folder: folder.into(),
            environment: Vec::new(),
            ca_file: PathBuf::new(),
            join_token: PathBuf::new(),
            options,
        }
    }

    fn surround(&self, command: &mut Command) {
        // Looked up at each start: tools may have been built since the one before.
        command.env("PATH", path_with_tools());
        command.env("HOME", &self.folder).env("TMPDIR", &self.folder);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let more = &self.options.environment;
        command.envs(more.iter().map(|(name, value)| (name, value)));
        command.current_dir(&self.folder);
    }

    /// Where the manager is, who the agent is there, and what it may do.
    fn tell(&self, command: &mut Command, id: &str, link: &Link) {
        let options = &self.options;
        command
            .arg("--manager")
            .arg(format!("https://{}", link.address()))
            .arg("--ca-file")
            .arg(options.ca_file.as_ref().unwrap_or(&self.ca_file));
        if !options.keeps_nothing {
            command.arg("--state-folder").arg(self.folder.join("state"));
        }
        if let Some(join) = options.join {
            command.args(["--join", join]);
        }
        if options.join != Some("aws") {
            command.arg("--join-token-file");
            command.arg(options.join_token_file.as_ref().unwrap_or(&self.join_token));
        }
        command.args(["--agent-id", id]);
        command.arg("--work-folder").arg(self.folder.join("work"));
        for label in &options.labels {
            command.args(["--label", label]);
        }
        match &options.policy {
            Policy::AllowAll => drop(command.arg("--allow-all")),
            Policy::File(path) => drop(command.arg("--policy-file").arg(path)),
            Policy::Missing => {}
        }
    }
}

impl AgentProcess {
    pub(crate) fn start(id: &str, link: Link, start: Start) -> Result<Self> {
        std::fs::create_dir_all(&start.folder)?;
        let child = spawn(id, &link, &start)?;
        Ok(Self {
            id: id.into(),
            link,
            child,
            start,
        })
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()
    }

    /// A new process with the same id, folder and wire, without the failpoint of the first.
    pub fn start_again(&mut self) -> Result<()> {
        self.child.kill()?;
        self.start.options.failpoint = None;
        self.child = spawn(&self.id, &self.link, &self.start)?;
        Ok(())
    }

    /// `deputy-agent doctor` with its arguments and its surroundings.
    #[must_use]
    pub fn doctor(&self) -> Command {
        let mut command = Command::new(&self.start.program);
        command.env_clear().envs(NO_METADATA);
        self.start.surround(&mut command);
        command.arg("doctor");
        self.start.tell(&mut command, &self.id, &self.link);
        command
    }

    /// Where its certificate is kept.
    #[must_use]
    pub fn state_folder(&self) -> PathBuf {
        self.start.folder.join("state")
    }

    /// Where its workspaces and its spool are.
    #[must_use]
    pub fn work_folder(&self) -> PathBuf {
        self.start.folder.join("work")
    }
}

fn spawn(id: &str, link: &Link, start: &Start) -> Result<Child> {
    let options = &start.options;
    let mut words = options
        .before
        .iter()
        .map(OsString::as_os_str)
        .chain([start.program.as_os_str()]);
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).env_clear().env("RUST_BACKTRACE", "1");
    if let Some(failpoint) = &options.failpoint {
        command.env("DEPUTY_FAILPOINT", failpoint);
    }
    start.surround(&mut command);
    for (name, value) in &options.environment {
        if name.starts_with("DEPUTY_SECRET_") || SECRETS_OF_AWS.contains(&name.as_str()) {
            note(name, value);
        }
    }
    command.arg("run");
    start.tell(&mut command, id, link);
    command.args(["--reconnect-base", "100ms", "--reconnect-max", "1s"]);
    command.args([
        "--log-level",
        "info,deputy_session=debug,deputy_executor=debug,deputy_credentials=debug",
    ]);
    if let Some(slots) = options.slots {
        command.args(["--slots", &slots.to_string()]);
    }
    command.args(&options.flags);
    Child::spawn(id, command, &start.folder.join(format!("{id}.log")), Output::ToLog)
}
