//! What ends a command early, and the exit codes of every command. Printed by [`crate::run`] as
//! `error: …`, the causes, and `hint: …`.

use std::error::Error;
use std::fmt::Write as _;

use deputy_proto::v1;
use tonic::{Code, Status};

/// How the process ends. The numbers are documented in `--help` and stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The command did what it should; a followed task succeeded.
    Succeeded = 0,
    /// The deployment failed.
    Failed = 1,
    /// The document, an argument or a name is wrong.
    BadInput = 2,
    /// The manager cannot be reached, or could not answer.
    Unreachable = 3,
    /// The task was cancelled or its time was over.
    Stopped = 4,
    /// The task was refused.
    Rejected = 5,
    /// The task waited in the queue longer than it may.
    Expired = 6,
    /// A rollback failed, or nobody knows what the world looks like.
    WorldUnknown = 7,
    /// Interrupted by the user; the task goes on.
    Interrupted = 130,
}

impl Exit {
    /// The exit code of a command that waited for this result.
    pub(crate) fn of(result: &v1::Result) -> Self {
        match (result.world(), result.state()) {
            (v1::World::RollbackFailed | v1::World::Unknown, _) => Self::WorldUnknown,
            (_, v1::TaskState::Succeeded) => Self::Succeeded,
            (_, v1::TaskState::Cancelled | v1::TaskState::TimedOut) => Self::Stopped,
            (_, v1::TaskState::Rejected) => Self::Rejected,
            (_, v1::TaskState::Expired) => Self::Expired,
            (_, v1::TaskState::Failed) => Self::Failed,
            (
                _,
                v1::TaskState::Unspecified
                | v1::TaskState::Queued
                | v1::TaskState::Assigned
                | v1::TaskState::Running
                | v1::TaskState::Lost,
            ) => Self::Failed,
        }
    }
}

/// What ends a command early.
#[derive(Debug)]
pub(crate) struct CliError {
    pub(crate) exit: Exit,
    message: String,
    causes: Vec<String>,
    hint: String,
}

impl CliError {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            causes: Vec::new(),
            hint: String::new(),
        }
    }

    pub(crate) fn bad_input(message: impl Into<String>) -> Self {
        Self::new(Exit::BadInput, message)
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// The chain of causes, outermost first; one that only repeats what was said is left out.
    pub(crate) fn caused_by(mut self, error: &(dyn Error + 'static)) -> Self {
        let mut cause = Some(error);
        while let Some(error) = cause {
            let text = error.to_string();
            // The transport's own first words say nothing.
            if text != "transport error"
                && !self.causes.last().is_some_and(|last| last.contains(&text))
                && !self.message.contains(&text)
            {
                self.causes.push(text);
            }
            cause = error.source();
        }
        self
    }

    /// What the manager answered to `doing`, in words.
    pub(crate) fn from_status(status: &Status, manager: &str, doing: &str) -> Self {
        let said = status.message();
        match status.code() {
            Code::InvalidArgument | Code::NotFound | Code::AlreadyExists | Code::FailedPrecondition | Code::OutOfRange | Code::PermissionDenied => {
                Self::bad_input(if said.is_empty() { format!("cannot {doing}: {}", status.code()) } else { said.to_owned() })
            }
            Code::ResourceExhausted => Self::bad_input(format!("cannot {doing}: {said}")),
            Code::Unimplemented => Self::new(Exit::Unreachable, format!("the manager at {manager} cannot {doing}: it does not know this call"))
                .hint("the command and the manager have different versions; compare `deputy --version` and `deputy-manager --version`"),
            Code::Unavailable => Self::new(Exit::Unreachable, format!("cannot reach the manager at {manager}"))
                .caused_by(status)
                .hint("is it running? its address is given with --manager or DEPUTY_MANAGER"),
            Code::DeadlineExceeded | Code::Cancelled => {
                Self::new(Exit::Unreachable, format!("the manager at {manager} did not answer in time to {doing}")).hint("try again; if it stays so, look at the manager's log")
            }
            Code::Ok | Code::Unknown | Code::Aborted | Code::Internal | Code::DataLoss | Code::Unauthenticated => {
                Self::new(Exit::Unreachable, format!("the manager at {manager} could not {doing}: {said}")).caused_by(status)
            }
        }
    }

    /// Is there something to say? A reader that closed the pipe needs no explanation.
    pub(crate) fn is_told(&self) -> bool {
        !self.message.is_empty()
    }

    /// As it is printed.
    pub(crate) fn rendered(&self, colour: crate::render::Colour) -> String {
        let mut text = format!("{} {}\n", colour.bad("error:"), self.message);
        for cause in &self.causes {
            let _ = writeln!(text, "  {} {cause}", colour.faint("caused by:"));
        }
        if !self.hint.is_empty() {
            let _ = writeln!(text, "{} {}", colour.strong("hint:"), self.hint);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use deputy_proto::v1::{TaskState, World};

    use super::*;

    #[test]
    fn exit_codes_follow_the_outcome_and_the_world() {
        let exit = |state: TaskState, world: World| {
            Exit::of(&v1::Result {
                state: state.into(),
                world: world.into(),
                ..v1::Result::default()
            })
        };
        assert_eq!(exit(TaskState::Succeeded, World::Changed), Exit::Succeeded);
        assert_eq!(exit(TaskState::Failed, World::RolledBack), Exit::Failed);
        assert_eq!(exit(TaskState::Failed, World::RollbackFailed), Exit::WorldUnknown);
        assert_eq!(exit(TaskState::TimedOut, World::Unknown), Exit::WorldUnknown);
        assert_eq!(exit(TaskState::Cancelled, World::Unchanged), Exit::Stopped);
        assert_eq!(exit(TaskState::Rejected, World::Unchanged), Exit::Rejected);
        assert_eq!(exit(TaskState::Expired, World::Unchanged), Exit::Expired);
    }
}
