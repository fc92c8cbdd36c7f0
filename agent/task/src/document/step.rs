//! The steps of a document: a closed set of kinds, each with its own keys.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::secret::StepSecret;

/// One deployment action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Unique within the task; letters, digits, `.`, `_`, `-`.
    pub name: String,
    /// An expression; the step is skipped when it is false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// How long the step may take, for example `10m`. Default: as long as the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// What it does: exactly one of the kinds.
    #[serde(flatten)]
    pub kind: StepKind,
}

/// The closed set of step kinds; the key names the kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum StepKind {
    /// Runs a script.
    Shell(Shell),
    /// Deploys a task definition to an ECS service with the ECS deployment controller.
    EcsRollingDeploy(EcsRollingDeploy),
    /// Applies manifests with server-side apply.
    KubernetesApply(KubernetesApply),
    /// Applies manifests and follows the rollout of their workloads to steady state.
    KubernetesRollingDeploy(KubernetesRollingDeploy),
    /// One bounded effect that changes nothing outside Deputy; for measurements.
    #[schemars(skip)]
    NoopEffect(NoopEffect),
}

impl StepKind {
    /// The key that names the kind in a document.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Shell(_) => "shell",
            Self::EcsRollingDeploy(_) => "ecsRollingDeploy",
            Self::KubernetesApply(_) => "kubernetesApply",
            Self::KubernetesRollingDeploy(_) => "kubernetesRollingDeploy",
            Self::NoopEffect(_) => "noopEffect",
        }
    }
}

/// Runs a script. A *held* effect: it is not run again elsewhere unless `retrySafe`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Shell {
    /// The script.
    pub run: String,
    /// Which shell; default `bash`.
    #[serde(default)]
    pub shell: ShellProgram,
    /// The source whose folder is the working directory; default: the only source, else an empty folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Environment variables; none with which the shell or the linker runs something else (`BASH_ENV`, `LD_PRELOAD` …).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Secrets by the name of the environment variable in which the script finds them, or their file's path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, StepSecret>,
    /// Names of outputs that the script writes to `$DEPUTY_OUTPUT` and that are secret: later steps can use
    /// them, and nobody sees them. Where the pool has a key they are sealed in the journal; without one they
    /// never leave the agent and are lost with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secret_outputs: Vec<String>,
    /// May be run again from its beginning after an agent was lost.
    #[serde(default)]
    pub retry_safe: bool,
    /// An EKS cluster whose temporary kubeconfig the script finds in `$KUBECONFIG`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Between SIGTERM and SIGKILL when the step is stopped; default `10s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<String>,
}

/// Which shell runs a script.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ShellProgram {
    /// `bash -eo pipefail`
    #[default]
    Bash,
    /// `sh -e`
    Sh,
}

/// Deploys a task definition to an ECS service with the ECS deployment controller.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EcsRollingDeploy {
    /// Cluster name or ARN.
    pub cluster: String,
    /// Service name.
    pub service: String,
    /// The input of `RegisterTaskDefinition`, passed through whole.
    pub task_definition: Map<String, Value>,
    /// The input of `CreateService` or `UpdateService` beside cluster, service and task definition;
    /// passed through whole. Needed where the service does not exist yet.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub service_definition: Map<String, Value>,
    /// Accept keys inside the AWS documents that look like misspelt ones.
    #[serde(default)]
    pub allow_unknown_fields: bool,
}

/// Applies manifests with server-side apply, field manager `deputy`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubernetesApply {
    /// EKS cluster name.
    pub cluster: String,
    /// Namespace for objects that name none; default `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The manifests.
    #[serde(flatten)]
    pub manifests: Manifests,
    /// Take over fields that another field manager owns.
    #[serde(default)]
    pub force_conflicts: bool,
}

/// Applies manifests and follows the rollout of their workloads to steady state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubernetesRollingDeploy {
    /// EKS cluster name.
    pub cluster: String,
    /// Namespace for objects that name none; default `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The manifests; at least one Deployment, StatefulSet or DaemonSet.
    #[serde(flatten)]
    pub manifests: Manifests,
    /// Take over fields that another field manager owns.
    #[serde(default)]
    pub force_conflicts: bool,
}

/// Where manifests come from: inline objects, or files of a source.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Manifests {
    /// Objects, inline.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub manifests: Vec<Map<String, Value>>,
    /// Files of a source, relative to its folder.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// The source the files are in; default: the only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// One bounded effect that changes nothing outside Deputy; for measurements.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NoopEffect {}
