//! The document's frame: metadata, inputs, identity, policies. Steps are in [`super::step`].

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::backoff::BackoffSpec;
use super::origin::SourceKind;
use super::step::Step;

/// A task document of `deputy.dev/v1`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Document {
    /// Always `deputy.dev/v1`.
    pub api_version: String,
    /// Always `Task`.
    pub kind: String,
    /// What the task is called.
    pub metadata: Metadata,
    /// What it does.
    pub spec: Spec,
}

/// What the task is called.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// A name for people: letters, digits, `.`, `_`, `-`.
    pub name: String,
    /// For lists and selectors.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// What the task does, where, and under which rules.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    /// Values that the submitter gives.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, InputSpec>,
    /// An expression over agent labels, for example `env == 'prod' && pool == 'eu'`; empty means any agent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub selector: String,
    /// At most one live task per key; empty means no limit.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub exclusive_key: String,
    /// How long a run may take, for example `45m`. Default `1h`.
    #[serde(default = "default_timeout")]
    pub timeout: String,
    /// How long the task may wait in the queue, for example `24h`. Default: forever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_timeout: Option<String>,
    /// Which AWS identity to use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aws: Option<AwsSpec>,
    /// Folders that the steps work in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Source>,
    /// The deployment actions, one after the other.
    pub steps: Vec<Step>,
    /// What happens to what was changed when a step fails, or the task is cancelled or times out.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// What happens when the agent is lost.
    #[serde(default)]
    pub on_agent_loss: OnAgentLoss,
}

fn default_timeout() -> String {
    "1h".into()
}

/// The declared shape of one input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InputSpec {
    /// What kind of value.
    #[serde(rename = "type")]
    pub kind: InputType,
    /// Used when the submitter gives none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Value>,
    /// The submitter must give one.
    #[serde(default)]
    pub required: bool,
    /// Only these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_values: Vec<Value>,
    /// A regular expression the whole string must match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// The kinds of input values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum InputType {
    /// Text.
    String,
    /// A whole or decimal number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// A list or mapping, passed on as it is.
    Object,
}

/// Which AWS identity to use.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AwsSpec {
    /// For example `eu-west-1`.
    pub region: String,
    /// Begin with a role that the manager's OIDC token about this attempt is exchanged for, and not with the agent's
    /// own identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oidc: Option<OidcRole>,
    /// Roles to assume one after the other; empty means the agent's own identity, or that of `oidc`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub assume_role: Vec<RoleHop>,
    /// How AWS calls that were throttled, or not answered, are made again. Default: `fullJitter` with a base of
    /// 500 ms and 5 retries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<BackoffSpec>,
}

/// The role that a token of the manager is exchanged for (AssumeRoleWithWebIdentity).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OidcRole {
    /// `arn:aws:iam::222222222222:role/deployer`; its trust policy names the manager's issuer.
    pub role_arn: String,
    /// Whom the token is for; default: the manager's, `sts.amazonaws.com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
}

/// One hop of a role chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RoleHop {
    /// `arn:aws:iam::222222222222:role/deployer`.
    pub role_arn: String,
    /// What the role's trust policy asks for in `sts:ExternalId`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
    /// Default `deputy-<task>-<attempt>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_name: Option<String>,
    /// `15m` to `12h`; default `1h`, and at most `1h` from the second hop on (AWS role chaining).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
    /// Session tags.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub session_tags: BTreeMap<String, String>,
    /// Keys of session tags that go on to the next hop.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transitive_tag_keys: Vec<String>,
    /// `sts:SourceIdentity`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_identity: Option<String>,
}

/// A folder that the steps work in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// The name by which steps refer to it; default: `bundle`.
    #[serde(default = "default_source")]
    pub name: String,
    /// Where it comes from: exactly one of the kinds.
    #[serde(flatten)]
    pub kind: SourceKind,
}

impl Source {
    /// The folder beside the document, if it is a bundle.
    #[must_use]
    pub fn bundle(&self) -> Option<&str> {
        match &self.kind {
            SourceKind::Bundle(folder) => Some(folder),
            SourceKind::Git(_) | SourceKind::S3(_) => None,
        }
    }
}

fn default_source() -> String {
    "bundle".into()
}

/// What happens to what was changed when a run does not succeed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OnFailure {
    /// It stays as it is; the result says what remains.
    #[default]
    Stop,
    /// Every step that changed something is undone, last one first.
    Rollback,
}

/// What happens when the agent is lost while the task runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OnAgentLoss {
    /// Resume if the effect in progress is bounded or retry-safe, else hold.
    #[default]
    Auto,
    /// Resume elsewhere. A script that was running and is not `retrySafe` waits all the same.
    Resume,
    /// Wait for that agent or for an operator.
    Hold,
    /// Undo elsewhere. A script that was running and is not `retrySafe` waits all the same.
    Rollback,
}

/// Values of inputs after defaults and checks.
pub type Inputs = Map<String, Value>;
