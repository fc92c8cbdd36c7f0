//! The names an expression can see. Filled by the document's reader (inputs and what is known of
//! the task) and by the executor (everything). Nothing in it is a secret that may be shown.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

/// The names an expression can see.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Scope {
    /// `task.…`
    pub task: TaskNames,
    /// `agent.…`; a program must take these from a fact, because the next attempt has another agent.
    pub agent: AgentNames,
    /// `inputs.…`, after defaults and checks.
    pub inputs: Map<String, Value>,
    /// `steps.<name>.…`, the steps that have ended.
    pub steps: BTreeMap<String, StepNames>,
}

/// What an expression can know of its task. Nothing here differs between the attempts of a run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct TaskNames {
    /// The task's id; empty while it has none.
    pub id: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// The tenant.
    pub project: String,
    /// The run, from 1.
    pub run: u32,
    /// Who submitted it.
    pub submitter: String,
}

impl TaskNames {
    /// Every name behind `task.`.
    pub const ALL: [&str; 6] = ["id", "name", "labels", "project", "run", "submitter"];
    /// Those that are known before the task is queued.
    pub const BEFORE_QUEUEING: [&str; 2] = ["name", "labels"];
}

/// What an expression can know of the agent it runs on.
#[derive(Debug, Clone, Default, Serialize)]
pub struct AgentNames {
    /// The agent's id.
    pub id: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl AgentNames {
    /// Every name behind `agent.`.
    pub const ALL: [&str; 2] = ["id", "labels"];
}

/// What an expression can know of an earlier step.
#[derive(Debug, Clone, Default, Serialize)]
pub struct StepNames {
    /// Its outputs.
    pub outputs: Map<String, Value>,
}
