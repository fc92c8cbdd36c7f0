//! How a step ends when it does not succeed.

use deputy_task::outcome::{Failure, StopReason};

use crate::permit::PermitExpired;

/// Why a step program stopped.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StepError {
    /// The deployment failed; the step's world is what its journal says.
    #[error("{0}")]
    Failed(Box<Failure>),
    /// An effect's outcome cannot be known (`Unclear`), or somebody else changed the thing
    /// (`Foreign`): the task stops and the world is reported as unknown or as it was left.
    #[error("{0}")]
    WorldUnknown(Box<Failure>),
    /// The permit was over before anything was sent, not even once. Only the `act` of an effect
    /// answers this; the effect is then tried again with a fresh permit.
    #[error("{PermitExpired}")]
    NotSent,
    /// The executor stops the program; the step passes this on and does nothing more.
    #[error("{0}")]
    Halted(Halt),
}

/// Why the executor stops a program at its next boundary.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Halt {
    /// The attempt is not ours any more. Do not touch the world; say nothing.
    #[error("this attempt was given to another agent")]
    Stale,
    /// Cancel or timeout.
    #[error("stopped: {0:?}")]
    Stopped(StopReason),
    /// The agent drains: the task is released with its journal.
    #[error("the agent drains")]
    Drained,
    /// The lease ran out under a retry-safe held effect: it is run again elsewhere.
    #[error("the lease of this agent ran out")]
    LeaseOver,
    /// The journal does not take a record: too large or malformed.
    #[error("the journal refused a record: {0}")]
    Refused(String),
    /// The program asked for something else than its journal says.
    #[error("the program does not match its journal: {0}")]
    Nondeterministic(String),
    /// The journal says of what the document fixes that it was something else.
    #[error("the journal is not believed: {0}")]
    Forged(String),
    /// The agent's policy says no.
    #[error("{0}")]
    Denied(Box<Failure>),
}

impl From<Failure> for StepError {
    fn from(failure: Failure) -> Self {
        Self::Failed(Box::new(failure))
    }
}

impl From<PermitExpired> for StepError {
    fn from(_: PermitExpired) -> Self {
        Self::NotSent
    }
}

impl From<Halt> for StepError {
    fn from(halt: Halt) -> Self {
        Self::Halted(halt)
    }
}
