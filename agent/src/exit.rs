//! Exit codes, and how a start that failed is explained. The numbers are documented in
//! `docs/configuration.md` and are the command line's own where both have the case.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use deputy_session::session::SessionError;
use deputy_task::outcome::{Failure, Outcome, World};

use crate::config::raw::Mistake;

/// Why the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The task succeeded, or the agent left in order.
    Success,
    /// A local task failed.
    TaskFailed,
    /// The examination found something that stops the agent from working.
    Unfit,
    /// The configuration, the task file or an input is wrong.
    BadInput,
    /// A local task was cancelled or timed out.
    Interrupted,
    /// A local task was refused.
    Rejected,
    /// A local task's rollback failed, or its world is unknown.
    WorldUnknown,
    /// Another process with the same agent id is alive, or took over.
    IdInUse,
    /// The agent left while it still held work: the drain timeout was over.
    LeftWorkBehind,
    /// Something the agent needs could not be had: a folder, a port, a credential.
    CannotStart,
    /// A fault of ours.
    Broken,
}

impl Exit {
    /// The number.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::TaskFailed | Self::Unfit => 1,
            Self::BadInput => 2,
            Self::Interrupted => 4,
            Self::Rejected => 5,
            Self::WorldUnknown => 7,
            Self::IdInUse => 8,
            Self::LeftWorkBehind => 9,
            Self::CannotStart => 10,
            Self::Broken => 11,
        }
    }

    /// Of a local task.
    pub(crate) const fn of(outcome: Outcome, world: World) -> Self {
        match (outcome, world) {
            (Outcome::Succeeded, _) => Self::Success,
            (_, World::RollbackFailed | World::Unknown) => Self::WorldUnknown,
            (Outcome::Failed, _) => Self::TaskFailed,
            (Outcome::Cancelled | Outcome::TimedOut | Outcome::Expired, _) => Self::Interrupted,
            (Outcome::Rejected, _) => Self::Rejected,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.number())
    }
}

/// Why the agent could not do its job.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartupError {
    #[error("the configuration has {} mistake{}", .0.len(), if .0.len() == 1 { "" } else { "s" })]
    Config(Vec<Mistake>),
    #[error("cannot read {}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{0}")]
    BadTask(String),
    #[error("cannot use {} as {what}", path.display())]
    Folder {
        what: &'static str,
        path: PathBuf,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("cannot use {} as this agent's id: {why}", path.display())]
    AgentId { path: PathBuf, why: String },
    #[error("cannot listen on {address} for health checks")]
    Listen {
        address: std::net::SocketAddr,
        source: std::io::Error,
    },
    #[error("cannot start the agent's threads")]
    Threads(#[source] std::io::Error),
    #[error("cannot close this process to others of its user")]
    Unprotected(#[source] std::io::Error),
    #[error("confinement is required, and this kernel has no Landlock or does not let the agent use it")]
    NoLandlock,
    #[error("{}", .0.summary)]
    Credentials(Box<Failure>),
    #[error("the policy cannot be used: {0}")]
    Policy(String),
    #[error("cannot use {} as the pool key file: {why}", path.display())]
    PoolKey {
        path: PathBuf,
        why: String,
        /// Empty: how such a file is made.
        hint: String,
        /// Somebody else's own words; empty if there are none.
        detail: String,
    },
    #[error("{0}")]
    Journal(String),
    #[error(
        "the script of step {step} was begun and its end was never recorded, so it may have run in part, in whole, or not at all; nothing was run now"
    )]
    Undecided {
        step: String,
        /// The command that runs it again.
        again: String,
    },
    #[error("the script of step {step} cannot be run again: {why}")]
    NothingToRedo { step: String, why: String },
    #[error("the agent's {0} broke; this is a fault of Deputy")]
    Broken(&'static str),
    #[error(transparent)]
    Session(#[from] SessionError),
}

impl StartupError {
    pub(crate) const fn exit(&self) -> Exit {
        match self {
            Self::Config(_)
            | Self::Unreadable { .. }
            | Self::BadTask(_)
            | Self::Policy(_)
            | Self::NothingToRedo { .. } => Exit::BadInput,
            Self::Undecided { .. } => Exit::WorldUnknown,
            Self::Folder { .. }
            | Self::AgentId { .. }
            | Self::Listen { .. }
            | Self::Threads(_)
            | Self::Unprotected(_)
            | Self::NoLandlock
            | Self::Credentials(_)
            | Self::PoolKey { .. }
            | Self::Journal(_) => Exit::CannotStart,
            Self::Broken(_) => Exit::Broken,
            Self::Session(SessionError::Superseded(_) | SessionError::IdInUse(_)) => Exit::IdInUse,
        }
    }

    /// What to do next; empty if there is nothing to say.
    pub(crate) fn hint(&self) -> String {
        match self {
            Self::Config(_) => "`deputy-agent run --help` lists every key".into(),
            Self::Unreadable { .. } => "check the path and who may read it".into(),
            Self::BadTask(_) => String::new(),
            Self::Folder { path, .. } => {
                let own = path.join("deputy-agent");
                format!(
                    "choose a folder that belongs to this user and that nobody else can write to; of a volume that others share, \
                     one inside it, for example {}",
                    own.display()
                )
            }
            Self::AgentId { .. } => {
                "it holds the id that the agent generated, on one line: put that back (the fleet list has it), or give the id with --agent-id; without the file the agent generates a new id at its next start, and joins under it as another agent".into()
            }
            Self::Listen { .. } => "choose another address with --health-listen, or leave it away".into(),
            Self::Threads(_) => "the process limit of this user or container is probably reached".into(),
            Self::Unprotected(_) => "a seccomp filter that refuses prctl(PR_SET_DUMPABLE) is the likely reason".into(),
            Self::NoLandlock => "run the agent on Linux 5.13 or newer with `landlock` among its security modules and in no seccomp filter that refuses it, or set confinement to auto".into(),
            Self::Credentials(failure) => failure.hint.clone(),
            Self::Policy(_) => "`deputy-agent policy check FILE` tells every mistake".into(),
            Self::PoolKey { hint, .. } if !hint.is_empty() => hint.clone(),
            Self::PoolKey { .. } => {
                "`deputy-agent pool-key new FILE` makes such a file: this user's or root's, mode 0600 or 0400 (0440 for a mounted secret), in a folder that others cannot write to".into()
            }
            Self::Journal(_) => "take another --journal file; to remove this one is to forget what was done".into(),
            Self::Undecided { again, .. } => {
                format!("look at what it did and put it right; to run it again from its beginning: {again}")
            }
            Self::NothingToRedo { .. } => "start it without --redo to see how it stands".into(),
            Self::Broken(_) => {
                "report it with the agent's log; a restart is safe: tasks go on from their journals".into()
            }
            Self::Session(SessionError::Superseded(_) | SessionError::IdInUse(_)) => {
                "give every agent its own --agent-id, or none, so that it generates one".into()
            }
        }
    }

    /// What led to it, a line each.
    pub(crate) fn causes(&self) -> Vec<String> {
        let mut causes = match self {
            Self::Config(mistakes) => mistakes.iter().map(ToString::to_string).collect(),
            Self::Credentials(failure) if !failure.detail.is_empty() => vec![failure.detail.clone()],
            Self::PoolKey { detail, .. } if !detail.is_empty() => vec![detail.clone()],
            _ => Vec::new(),
        };
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            causes.push(format!("caused by: {error}"));
            cause = error.source();
        }
        causes
    }

    /// `error: …`, causes indented, `hint: …`.
    pub(crate) fn explained(&self) -> String {
        let mut text = String::new();
        match self {
            // Carries its own places and excerpts.
            Self::BadTask(diagnostics) => text.push_str(diagnostics),
            other => {
                let _ = write!(text, "error: {other}");
            }
        }
        for cause in self.causes() {
            let _ = write!(text, "\n  {cause}");
        }
        let hint = self.hint();
        if !hint.is_empty() {
            let _ = write!(text, "\nhint: {hint}");
        }
        text
    }
}

/// Prints the explanation on standard error and gives the exit code.
pub(crate) fn explain(error: &StartupError) -> Exit {
    let mut stderr = std::io::stderr().lock();
    // Nobody is left to tell if standard error is closed.
    let _ = writeln!(stderr, "{}", error.explained().trim_end());
    error.exit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_rollback_and_an_unknown_world_have_their_own_code() {
        assert_eq!(Exit::of(Outcome::Failed, World::Unknown).number(), 7);
        assert_eq!(Exit::of(Outcome::Cancelled, World::RollbackFailed).number(), 7);
        assert_eq!(Exit::of(Outcome::Cancelled, World::RolledBack).number(), 4);
        assert_eq!(Exit::of(Outcome::Failed, World::Changed).number(), 1);
        assert_eq!(Exit::of(Outcome::Rejected, World::Unchanged).number(), 5);
        assert_eq!(Exit::of(Outcome::Succeeded, World::Changed).number(), 0);
    }

    #[test]
    fn an_explanation_has_the_error_its_causes_and_a_hint() {
        let error = StartupError::Folder {
            what: "the work folder",
            path: "/proc/nowhere".into(),
            source: Box::new(std::io::Error::from(std::io::ErrorKind::PermissionDenied)),
        };
        insta::assert_snapshot!(error.explained(), @r"
        error: cannot use /proc/nowhere as the work folder
          caused by: permission denied
        hint: choose a folder that belongs to this user and that nobody else can write to; of a volume that others share, one inside it, for example /proc/nowhere/deputy-agent
        ");
        let superseded = StartupError::Session(SessionError::Superseded("instance 7 has come".into()));
        insta::assert_snapshot!(superseded.explained(), @r"
        error: another process with the same agent id has taken over: instance 7 has come
        hint: give every agent its own --agent-id, or none, so that it generates one
        ");
    }
}
