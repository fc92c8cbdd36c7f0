//! How a task ended. A failed deployment is a value here, not an error of ours.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a run of a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// Every step succeeded.
    Succeeded,
    /// A step failed, or an operator gave the task up.
    Failed,
    /// Cancelled, and confirmed.
    Cancelled,
    /// The task's own time was over.
    TimedOut,
    /// It waited in the queue longer than it may.
    Expired,
    /// Refused by policy, or no agent can ever run it.
    Rejected,
}

/// What the task left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum World {
    /// Nothing was changed.
    Unchanged,
    /// Changed, as recorded in the journal.
    Changed,
    /// What was changed has been restored.
    RolledBack,
    /// The rollback did not restore everything.
    RollbackFailed,
    /// An effect has no known outcome; a person must look.
    Unknown,
}

/// Why something did not succeed: for the deployer first, for the operator below.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// What a script can tell apart, for example `ecs.circuitBreaker`. Dotted, camelCase.
    pub class: String,
    /// One sentence for the deployer: what happened, to which thing, why.
    pub summary: String,
    /// What to do next; empty if nothing is known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
    /// The chain of causes, for operators.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// The step in which it happened; empty if in none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub step: String,
}

impl Failure {
    /// A failure with a class and a sentence.
    #[must_use]
    pub fn new(class: impl Into<String>, summary: impl Into<String>) -> Self {
        Self {
            class: class.into(),
            summary: summary.into(),
            hint: String::new(),
            detail: String::new(),
            step: String::new(),
        }
    }

    /// The same with the next thing to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// The same with the causes, outermost first, joined by `: `.
    #[must_use]
    pub fn caused_by(mut self, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if !self.detail.is_empty() {
                self.detail.push_str(": ");
            }
            self.detail.push_str(&error.to_string());
            cause = error.source();
        }
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.summary)
    }
}

/// Why a run is being stopped before its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StopReason {
    /// Somebody wished it; the text says why.
    Cancelled(String),
    /// `spec.timeout` is over.
    TaskTimeout,
    /// The step's `timeout` is over.
    StepTimeout,
}

/// The end of a run, as the agent reports it: the last message of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Completion {
    /// How it ended.
    pub outcome: Outcome,
    /// What was left behind.
    pub world: World,
    /// Why, unless it succeeded.
    pub failure: Option<Failure>,
    /// What remains or was left alone, one sentence each.
    pub remains: Vec<String>,
    /// The command that repairs it, see `repair`; empty if there is none.
    pub repair: String,
    /// Every step as it ended.
    pub steps: Vec<crate::progress::StepProgress>,
}
