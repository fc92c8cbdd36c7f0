//! The state machine of a task: one total transition function.
//!
//! The manager's store calls it for every change of a task, live and when it replays; people's
//! tools use it to know what may still happen. It knows no clock and no storage: *when* an event
//! may happen is decided elsewhere, *what it leads to* only here.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::outcome::Outcome;

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TaskState {
    /// Waits for an agent.
    Queued,
    /// Offered to an agent that has not started it.
    Assigned,
    /// An agent has been granted the start.
    Running,
    /// The agent's lease ran out while the task was running. Keeps its exclusive key.
    Lost,
    /// Ended.
    Ended(Outcome),
}

/// What can happen to a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TaskEvent {
    /// The scheduler gave it to an agent; the epoch is raised.
    Assigned,
    /// The agent was granted the start.
    Started,
    /// Not started: the start deadline passed, the agent is gone, or it declined for now.
    Unassigned,
    /// Refused for good, by policy or because no agent can ever run it.
    Refused,
    /// Cancelled while nothing had been changed and nobody ran it.
    CancelledUnstarted,
    /// It waited in the queue longer than it may.
    QueueTimeout,
    /// The agent says how the run ended: succeeded, failed, cancelled or timed out.
    Completed(Outcome),
    /// The agent handed it back with its journal (drain), or it waits for an approval.
    Released,
    /// The lease of the agent instance ran out.
    LeaseOut,
    /// The same agent instance is back.
    AgentBack,
    /// A lost task goes on elsewhere: resume or rollback, by policy or by an operator.
    GivenAway,
    /// An operator gave a lost task up.
    GivenUp,
    /// The next run begins.
    Retried,
}

/// The event cannot happen in this state; nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a task that is {state} cannot be {event}")]
pub struct IllegalTransition {
    /// Where the task stands.
    pub state: TaskState,
    /// What was tried.
    pub event: TaskEvent,
}

impl TaskState {
    /// Every state.
    pub const ALL: [Self; 10] = [
        Self::Queued,
        Self::Assigned,
        Self::Running,
        Self::Lost,
        Self::Ended(Outcome::Succeeded),
        Self::Ended(Outcome::Failed),
        Self::Ended(Outcome::Cancelled),
        Self::Ended(Outcome::TimedOut),
        Self::Ended(Outcome::Expired),
        Self::Ended(Outcome::Rejected),
    ];

    /// The state after `event`.
    ///
    /// # Errors
    /// If the event cannot happen in this state.
    pub const fn next(self, event: TaskEvent) -> Result<Self, IllegalTransition> {
        use TaskEvent as E;
        Ok(match (self, event) {
            (Self::Queued, E::Assigned) => Self::Assigned,
            (Self::Queued | Self::Assigned, E::CancelledUnstarted) => Self::Ended(Outcome::Cancelled),
            (Self::Queued, E::QueueTimeout) => Self::Ended(Outcome::Expired),
            (Self::Assigned, E::Started) => Self::Running,
            (Self::Assigned, E::Unassigned) | (Self::Running, E::Released) | (Self::Lost, E::GivenAway) => Self::Queued,
            (Self::Queued | Self::Assigned, E::Refused) => Self::Ended(Outcome::Rejected),
            (Self::Running, E::Completed(outcome)) => match outcome {
                Outcome::Succeeded | Outcome::Failed | Outcome::Cancelled | Outcome::TimedOut => Self::Ended(outcome),
                Outcome::Expired | Outcome::Rejected => return Err(IllegalTransition { state: self, event }),
            },
            (Self::Running, E::LeaseOut) => Self::Lost,
            (Self::Lost, E::AgentBack) => Self::Running,
            (Self::Lost, E::GivenUp) => Self::Ended(Outcome::Failed),
            (Self::Ended(outcome), E::Retried) => match outcome {
                Outcome::Succeeded => return Err(IllegalTransition { state: self, event }),
                Outcome::Failed | Outcome::Cancelled | Outcome::TimedOut | Outcome::Expired | Outcome::Rejected => {
                    Self::Queued
                }
            },
            (Self::Queued | Self::Assigned | Self::Running | Self::Lost | Self::Ended(_), _) => {
                return Err(IllegalTransition { state: self, event });
            }
        })
    }

    /// Has the task ended?
    #[must_use]
    pub const fn is_ended(self) -> bool {
        matches!(self, Self::Ended(_))
    }

    /// Does the task hold its exclusive key by its state alone? A task that waits in the middle of
    /// a started run holds it as well; the state does not tell that.
    #[must_use]
    pub const fn holds_key(self) -> bool {
        match self {
            Self::Assigned | Self::Running | Self::Lost => true,
            Self::Queued | Self::Ended(_) => false,
        }
    }

    /// The state's name as it is shown, for example `TIMED_OUT`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queued => "QUEUED",
            Self::Assigned => "ASSIGNED",
            Self::Running => "RUNNING",
            Self::Lost => "LOST",
            Self::Ended(Outcome::Succeeded) => "SUCCEEDED",
            Self::Ended(Outcome::Failed) => "FAILED",
            Self::Ended(Outcome::Cancelled) => "CANCELLED",
            Self::Ended(Outcome::TimedOut) => "TIMED_OUT",
            Self::Ended(Outcome::Expired) => "EXPIRED",
            Self::Ended(Outcome::Rejected) => "REJECTED",
        }
    }
}

impl TaskEvent {
    /// Every event.
    pub const ALL: [Self; 18] = [
        Self::Assigned,
        Self::Started,
        Self::Unassigned,
        Self::Refused,
        Self::CancelledUnstarted,
        Self::QueueTimeout,
        Self::Completed(Outcome::Succeeded),
        Self::Completed(Outcome::Failed),
        Self::Completed(Outcome::Cancelled),
        Self::Completed(Outcome::TimedOut),
        Self::Completed(Outcome::Expired),
        Self::Completed(Outcome::Rejected),
        Self::Released,
        Self::LeaseOut,
        Self::AgentBack,
        Self::GivenAway,
        Self::GivenUp,
        Self::Retried,
    ];
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for TaskEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Assigned => "assigned",
            Self::Started => "started",
            Self::Unassigned => "unassigned",
            Self::Refused => "refused",
            Self::CancelledUnstarted => "cancelled before its start",
            Self::QueueTimeout => "expired",
            Self::Completed(outcome) => return write!(f, "completed as {}", TaskState::Ended(*outcome)),
            Self::Released => "released",
            Self::LeaseOut => "lost",
            Self::AgentBack => "taken up again",
            Self::GivenAway => "given away",
            Self::GivenUp => "given up",
            Self::Retried => "retried",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table() -> String {
        let mut text = String::new();
        for state in TaskState::ALL {
            for event in TaskEvent::ALL {
                if let Ok(next) = state.next(event) {
                    text.push_str(&format!("{state:<10} {:<28} {next}\n", event.to_string()));
                }
            }
        }
        text
    }

    #[test]
    fn every_pair_not_in_the_table_is_illegal() {
        insta::assert_snapshot!(table(), @r"
        QUEUED     assigned                     ASSIGNED
        QUEUED     refused                      REJECTED
        QUEUED     cancelled before its start   CANCELLED
        QUEUED     expired                      EXPIRED
        ASSIGNED   started                      RUNNING
        ASSIGNED   unassigned                   QUEUED
        ASSIGNED   refused                      REJECTED
        ASSIGNED   cancelled before its start   CANCELLED
        RUNNING    completed as SUCCEEDED       SUCCEEDED
        RUNNING    completed as FAILED          FAILED
        RUNNING    completed as CANCELLED       CANCELLED
        RUNNING    completed as TIMED_OUT       TIMED_OUT
        RUNNING    released                     QUEUED
        RUNNING    lost                         LOST
        LOST       taken up again               RUNNING
        LOST       given away                   QUEUED
        LOST       given up                     FAILED
        FAILED     retried                      QUEUED
        CANCELLED  retried                      QUEUED
        TIMED_OUT  retried                      QUEUED
        EXPIRED    retried                      QUEUED
        REJECTED   retried                      QUEUED
        ");
    }

    #[test]
    fn an_illegal_event_is_named_in_the_error() {
        let error = TaskState::Ended(Outcome::Succeeded)
            .next(TaskEvent::LeaseOut)
            .expect_err("illegal");
        assert_eq!(error.to_string(), "a task that is SUCCEEDED cannot be lost");
    }

    proptest! {
        /// Whatever happens: an ended task stays ended until it is retried, and a running one was started.
        #[test]
        fn any_sequence_of_events_ends_legal(events in proptest::collection::vec(0..TaskEvent::ALL.len(), 0..60)) {
            let mut state = TaskState::Queued;
            let mut started = false;
            for index in events {
                let event = TaskEvent::ALL[index];
                let Ok(next) = state.next(event) else { continue };
                if state.is_ended() {
                    prop_assert_eq!(event, TaskEvent::Retried);
                }
                match event {
                    TaskEvent::Started => started = true,
                    TaskEvent::Assigned | TaskEvent::Retried => started = false,
                    _ => {}
                }
                if matches!(next, TaskState::Running | TaskState::Lost) {
                    prop_assert!(started, "{state} {event} {next}");
                }
                state = next;
            }
        }
    }
}
