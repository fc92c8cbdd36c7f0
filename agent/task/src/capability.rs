//! What an agent offers, and what a task needs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Which journals of a step kind an agent can replay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepSupport {
    /// As in the task document, for example `ecsRollingDeploy`.
    pub kind: String,
    /// Oldest program version.
    pub min_version: u32,
    /// Newest program version; new runs are written with it.
    pub max_version: u32,
}

/// A program the agent found, or could not use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tool {
    /// For example `aws-iam-authenticator`.
    pub name: String,
    /// What it says of itself.
    pub version: String,
    /// Where it is.
    pub path: String,
    /// Why it cannot be used; empty if it can.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub problem: String,
}

/// What an agent offers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Capabilities {
    /// Tasks it can run at the same time.
    pub slots: u32,
    /// For selectors.
    pub labels: BTreeMap<String, String>,
    /// Step kinds with program versions.
    pub steps: Vec<StepSupport>,
    /// Tools found.
    pub tools: Vec<Tool>,
    /// Protocol features by name.
    pub features: Vec<String>,
    /// The ambient AWS identity source, for example `ecs-task-role`; empty for none.
    pub ambient: String,
    /// `os/arch`.
    pub platform: String,
    /// Conditions that people should see.
    pub warnings: Vec<String>,
    /// Why it takes no task at all; empty if it does.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub holds_back: String,
    /// Ids of the pool keys that it has; the first seals new runs. Empty: it has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pool_keys: Vec<String>,
}
