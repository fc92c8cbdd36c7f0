//! What the steps of a task are doing, as people see it. Not part of the journal.

use serde::{Deserialize, Serialize};

/// Where a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StepStatus {
    /// Not begun.
    Pending,
    /// Running.
    Running,
    /// Done.
    Succeeded,
    /// Failed.
    Failed,
    /// Its `when` was false, or an earlier step failed.
    Skipped,
    /// Being undone.
    Undoing,
    /// Undone.
    Undone,
    /// Interrupted by cancel or timeout.
    Interrupted,
}

/// The last that is known about one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepProgress {
    /// The step's name.
    pub name: String,
    /// The step's kind, as in the document.
    pub kind: String,
    /// Where it stands.
    pub status: StepStatus,
    /// What is awaited right now; empty for nothing.
    pub waiting_for: String,
    /// Unix milliseconds on the agent's clock; 0 if not begun.
    pub started_at_ms: i64,
    /// Unix milliseconds on the agent's clock; 0 while it runs.
    pub finished_at_ms: i64,
    /// Outputs that are not secret.
    pub outputs: serde_json::Map<String, serde_json::Value>,
}
