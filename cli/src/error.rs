//! What ends a command early, and the exit codes of every command. Printed by [`crate::run`] as
//! `error: …`, the causes, and `hint: …`, or as one JSON object.

use std::error::Error;
use std::fmt::Write as _;

use deputy_proto::v1;
use deputy_task::document::Diagnostics;
use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::render::Colour;

/// How the process ends. The numbers are documented in `--help` and stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The command did what it should; a followed task succeeded.
    Succeeded = 0,
    /// The deployment failed.
    Failed = 1,
    /// The document, an argument or a name is wrong.
    BadInput = 2,
    /// The manager cannot be reached, or could not do it.
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

/// What a program can tell apart, beyond the exit code. The names are documented in `--help` and stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// The command line is wrong.
    Usage,
    /// A task document is wrong; the diagnostics say where.
    Document,
    /// A file, a value or an address is wrong.
    Input,
    /// There is no such task, agent or bundle.
    NotFound,
    /// The manager refuses: not now, or not this.
    Refused,
    /// The manager cannot be reached, or did not answer in time.
    Unreachable,
    /// The manager was reached and could not do it.
    Manager,
    /// This machine did not let the command do its work.
    Local,
    /// The user interrupted it.
    Interrupted,
}

impl Class {
    const fn name(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Document => "document",
            Self::Input => "input",
            Self::NotFound => "notFound",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Manager => "manager",
            Self::Local => "local",
            Self::Interrupted => "interrupted",
        }
    }

    /// What an exit code says without more.
    const fn of(exit: Exit) -> Self {
        match exit {
            Exit::BadInput => Self::Input,
            Exit::Unreachable => Self::Unreachable,
            Exit::Interrupted => Self::Interrupted,
            Exit::Succeeded | Exit::Failed | Exit::Stopped | Exit::Rejected | Exit::Expired | Exit::WorldUnknown => {
                Self::Manager
            }
        }
    }
}

/// Where a token comes from.
pub(crate) const TOKEN: &str =
    "give a token with DEPUTY_TOKEN or --token-file; the first one is in the manager's data folder, in admin-token";

/// What ends a command early.
#[derive(Debug)]
pub(crate) struct CliError {
    pub(crate) exit: Exit,
    class: Class,
    message: String,
    causes: Vec<String>,
    hint: String,
    /// What is wrong with documents, for programs.
    diagnostics: Vec<Diagnostics>,
}

impl CliError {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            class: Class::of(exit),
            message: message.into(),
            causes: Vec::new(),
            hint: String::new(),
            diagnostics: Vec::new(),
        }
    }

    pub(crate) const fn class(mut self, class: Class) -> Self {
        self.class = class;
        self
    }

    pub(crate) fn bad_input(message: impl Into<String>) -> Self {
        Self::new(Exit::BadInput, message)
    }

    /// Documents that are not accepted.
    pub(crate) fn bad_documents(message: impl Into<String>, diagnostics: Vec<Diagnostics>) -> Self {
        Self {
            diagnostics,
            ..Self::bad_input(message).class(Class::Document)
        }
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
        let refused = |class| {
            let message = if said.is_empty() {
                format!("cannot {doing}: {}", status.code())
            } else {
                said.to_owned()
            };
            Self::bad_input(message).class(class)
        };
        match status.code() {
            Code::InvalidArgument | Code::OutOfRange => refused(Class::Input),
            Code::NotFound => refused(Class::NotFound),
            Code::AlreadyExists | Code::FailedPrecondition | Code::PermissionDenied => refused(Class::Refused),
            // Nothing is wrong with what was asked: the manager has no room for it.
            Code::ResourceExhausted => Self::new(Exit::Unreachable, format!("the manager at {manager} cannot {doing} now: {said}")).class(Class::Manager),
            Code::Unimplemented => Self::new(Exit::Unreachable, format!("the manager at {manager} cannot {doing}: it does not know this call"))
                .class(Class::Manager)
                .hint("the command and the manager have different versions; compare `deputy --version` and `deputy-manager --version`"),
            Code::Unavailable => Self::new(Exit::Unreachable, format!("cannot reach the manager at {manager}"))
                .caused_by(status)
                .hint("is it running? its address is given with --manager or DEPUTY_MANAGER"),
            Code::DeadlineExceeded | Code::Cancelled => {
                Self::new(Exit::Unreachable, format!("the manager at {manager} did not answer in time to {doing}")).hint("try again; if it stays so, look at the manager's log")
            }
            Code::Unauthenticated => refused(Class::Refused).hint(TOKEN),
            Code::Ok | Code::Unknown | Code::Aborted | Code::Internal | Code::DataLoss => {
                Self::new(Exit::Unreachable, format!("the manager at {manager} could not {doing}: {said}"))
                    .class(Class::Manager)
                    .caused_by(status)
            }
        }
    }

    /// Is there something to say? A reader that closed the pipe needs no explanation.
    pub(crate) fn is_told(&self) -> bool {
        !self.message.is_empty()
    }

    /// As it is printed.
    pub(crate) fn rendered(&self, colour: Colour) -> String {
        let mut text: String = self
            .diagnostics
            .iter()
            .map(|wrong| wrong.rendered(colour.paint()))
            .collect();
        let _ = writeln!(text, "{} {}", colour.bad("error:"), self.message);
        for cause in &self.causes {
            let _ = writeln!(text, "  {} {cause}", colour.faint("caused by:"));
        }
        if !self.hint.is_empty() {
            let _ = writeln!(text, "{} {}", colour.strong("hint:"), self.hint);
        }
        text
    }

    /// As a program reads it.
    pub(crate) fn json(&self) -> Value {
        let diagnostics: Vec<Value> = self
            .diagnostics
            .iter()
            .flat_map(|wrong| wrong.items.iter().map(|item| (&wrong.source, item)))
            .map(|(file, item)| {
                json!({
                    "severity": item.severity, "file": file, "line": item.line, "column": item.column, "key": item.path,
                    "message": item.message, "suggestion": item.hint,
                })
            })
            .collect();
        json!({
            "class": self.class.name(), "message": self.message, "causes": self.causes, "hint": self.hint,
            "exitCode": self.exit as u8, "diagnostics": diagnostics,
        })
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

    #[test]
    fn a_manager_without_room_is_not_a_fault_of_what_was_asked() {
        let full = Status::resource_exhausted("the manager's disk is full: nothing was stored");
        let error = CliError::from_status(&full, "http://127.0.0.1:7443", "submit the task");
        assert_eq!((error.exit, error.class), (Exit::Unreachable, Class::Manager));
        assert_eq!(
            error.message,
            "the manager at http://127.0.0.1:7443 cannot submit the task now: the manager's disk is full: nothing was stored"
        );
    }
}
