//! What to run, and starting it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::child::Child;
use crate::confinement::Domain;
use crate::output::OutputPipes;
use crate::{descendants, guardian, memory};

/// A program, its arguments and its whole environment: nothing is inherited.
#[derive(Clone)]
pub struct ChildCommand {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    folder: Option<PathBuf>,
    domain: Option<Domain>,
}

/// The program could not be started. `source` tells the cases apart: not found, not executable,
/// made for another kind of CPU (`ENOEXEC`), no more processes.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {}", Path::new(program).display())]
pub struct SpawnError {
    /// What was to be started.
    pub program: OsString,
    /// Why it was not.
    #[source]
    pub source: io::Error,
}

impl ChildCommand {
    /// A program by path, or by name in the PATH that [`Self::env`] gives it.
    #[must_use]
    pub fn new(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            folder: None,
            domain: None,
        }
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// One environment variable; the last of one name counts.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Environment variables.
    #[must_use]
    pub fn envs<N: Into<OsString>, V: Into<OsString>>(mut self, envs: impl IntoIterator<Item = (N, V)>) -> Self {
        self.env
            .extend(envs.into_iter().map(|(name, value)| (name.into(), value.into())));
        self
    }

    /// The working directory; without it the agent's own.
    #[must_use]
    pub fn current_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Inside this domain, it and all that it starts; without one it can do what the agent's user can.
    #[must_use]
    pub fn confined(mut self, domain: Option<Domain>) -> Self {
        self.domain = domain;
        self
    }

    /// What will be run.
    #[must_use]
    pub fn program(&self) -> &OsStr {
        &self.program
    }

    /// Starts it in a process group of its own, with nothing on its standard input. Needs a tokio
    /// runtime.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(self) -> Result<Child, SpawnError> {
        let program = self.program.clone();
        self.try_spawn().map_err(|source| SpawnError { program, source })
    }

    fn try_spawn(self) -> io::Result<Child> {
        let (output, stdout, stderr) = OutputPipes::new()?;
        let mark = descendants::Mark::new();
        let mut command = tokio::process::Command::new(self.program);
        command
            .args(self.args)
            .env_clear()
            .envs(self.env)
            .env(descendants::MARK_VARIABLE, mark.as_str())
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .process_group(0)
            .kill_on_drop(true);
        if let Some(folder) = self.folder {
            command.current_dir(folder);
        }
        guardian::ensure_started();
        let oom_kills = memory::oom_kills();
        let leader = match &self.domain {
            None => command.spawn()?,
            Some(domain) => {
                let runtime = tokio::runtime::Handle::current();
                domain.start(move || {
                    let _entered = runtime.enter();
                    command.spawn()
                })?
            }
        };
        Child::started(leader, output, mark, oom_kills)
    }
}
