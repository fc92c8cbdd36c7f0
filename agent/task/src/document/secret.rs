//! References to secrets: where a value is, never the value. Only the agent follows them, with its own means.
//! Used by steps and sources; must never hold anything that is worth hiding.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Only variables of the agent whose names begin like this are given to tasks: its others may be its own identity.
pub const ENVIRONMENT_PREFIX: &str = "DEPUTY_SECRET_";

/// A secret that a script gets: where it is, and how the script gets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepSecret {
    /// How the script gets it.
    #[serde(default, rename = "as", skip_serializing_if = "Delivery::is_default")]
    pub delivery: Delivery,
    /// Where it is: exactly one of the kinds.
    #[serde(flatten)]
    pub from: SecretRef,
}

/// How a script gets a secret.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Delivery {
    /// As the value of the environment variable.
    #[default]
    Env,
    /// In a file that only the agent's user can read and that is gone when the step ends; the variable holds its path.
    File,
}

impl Delivery {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Where a secret is; the key names the kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum SecretRef {
    /// A secret of AWS Secrets Manager: name or ARN, with `#key` behind it for one key of its JSON; or a mapping.
    AwsSecretsManager(AwsSecret),
    /// A parameter of the AWS Systems Manager Parameter Store, a `SecureString` too: name or ARN, with `:version` or
    /// `:label` and `#key` behind it; or a mapping.
    AwsParameter(AwsParameter),
    /// An environment variable of the agent whose name begins with `DEPUTY_SECRET_`.
    Environment(String),
    /// A file below the agent's secrets folder, as a relative path.
    File(String),
    /// One key of a Kubernetes Secret in an EKS cluster.
    KubernetesSecret(KubernetesSecret),
}

/// A secret of AWS Secrets Manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum AwsSecret {
    /// `name` or `arn:…`, and `#key` for one key of its JSON.
    Short(String),
    /// In full.
    Full(AwsSecretParts),
}

/// A secret of AWS Secrets Manager, in full.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AwsSecretParts {
    /// Name or ARN.
    pub id: String,
    /// One key of its JSON: a key of the top level, or a path that begins with `/` (RFC 6901).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json_key: Option<String>,
    /// This version of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
    /// The version with this label; default `AWSCURRENT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_stage: Option<String>,
}

/// A parameter of the AWS Systems Manager Parameter Store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum AwsParameter {
    /// `name`, `name:version` or `name:label`, and `#key` for one key of its JSON.
    Short(String),
    /// In full.
    Full(AwsParameterParts),
}

/// A parameter of the AWS Systems Manager Parameter Store, in full.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AwsParameterParts {
    /// Name or ARN; with `:version` or `:label` for one that is not the newest.
    pub name: String,
    /// One key of its JSON: a key of the top level, or a path that begins with `/` (RFC 6901).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json_key: Option<String>,
}

/// One key of a Kubernetes Secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubernetesSecret {
    /// EKS cluster name.
    pub cluster: String,
    /// Default `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The Secret.
    pub name: String,
    /// The key in its `data`.
    pub key: String,
}

impl AwsSecret {
    /// In full.
    #[must_use]
    pub fn parts(&self) -> AwsSecretParts {
        match self {
            Self::Full(parts) => parts.clone(),
            Self::Short(text) => {
                let (id, json_key) = split_key(text);
                AwsSecretParts {
                    id,
                    json_key,
                    ..AwsSecretParts::default()
                }
            }
        }
    }
}

impl AwsParameter {
    /// In full.
    #[must_use]
    pub fn parts(&self) -> AwsParameterParts {
        match self {
            Self::Full(parts) => parts.clone(),
            Self::Short(text) => {
                let (name, json_key) = split_key(text);
                AwsParameterParts { name, json_key }
            }
        }
    }
}

/// Neither names of secrets nor of parameters have a `#`.
fn split_key(text: &str) -> (String, Option<String>) {
    match text.split_once('#') {
        Some((id, key)) => (id.to_owned(), Some(key.to_owned())),
        None => (text.to_owned(), None),
    }
}

impl SecretRef {
    /// The same with every text passed through `each`.
    ///
    /// # Errors
    /// The first of `each`.
    pub fn map<E>(&self, each: impl Fn(&String) -> Result<String, E>) -> Result<Self, E> {
        let optional = |text: &Option<String>| text.as_ref().map(&each).transpose();
        Ok(match self {
            Self::AwsSecretsManager(AwsSecret::Short(text)) => Self::AwsSecretsManager(AwsSecret::Short(each(text)?)),
            Self::AwsSecretsManager(AwsSecret::Full(parts)) => {
                Self::AwsSecretsManager(AwsSecret::Full(AwsSecretParts {
                    id: each(&parts.id)?,
                    json_key: optional(&parts.json_key)?,
                    version_id: optional(&parts.version_id)?,
                    version_stage: optional(&parts.version_stage)?,
                }))
            }
            Self::AwsParameter(AwsParameter::Short(text)) => Self::AwsParameter(AwsParameter::Short(each(text)?)),
            Self::AwsParameter(AwsParameter::Full(parts)) => {
                Self::AwsParameter(AwsParameter::Full(AwsParameterParts {
                    name: each(&parts.name)?,
                    json_key: optional(&parts.json_key)?,
                }))
            }
            Self::Environment(name) => Self::Environment(each(name)?),
            Self::File(path) => Self::File(each(path)?),
            Self::KubernetesSecret(secret) => Self::KubernetesSecret(KubernetesSecret {
                cluster: each(&secret.cluster)?,
                namespace: optional(&secret.namespace)?,
                name: each(&secret.name)?,
                key: each(&secret.key)?,
            }),
        })
    }
}
