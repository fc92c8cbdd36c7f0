//! Follows references. Called by the shell step before its script begins, and by sources.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use deputy_logs::SecretRefused;
use deputy_task::document::secret::SecretRef;
use deputy_task::outcome::Failure;

use crate::context::StepContext;
use crate::failure::{Halt, StepError};
use crate::kubernetes::Connection;

use super::value::{Fetched, SecretValue, Version};
use super::{aws_parameter, aws_secret, json_key, kubernetes_secret, of_agent, worth};

/// Follows the references of one step. What it opens for one of them it keeps for the next.
pub struct Secrets<'a> {
    ctx: &'a StepContext,
    clusters: BTreeMap<String, Connection>,
}

impl<'a> Secrets<'a> {
    /// With the identity and the facts of this step.
    #[must_use]
    pub const fn new(ctx: &'a StepContext) -> Self {
        Self {
            ctx,
            clusters: BTreeMap::new(),
        }
    }

    /// The value that `reference` leads to, known to the redactor. `name` tells it from the step's others.
    ///
    /// # Errors
    /// If it is not there, may not be read, or cannot be hidden; or a halt.
    pub async fn resolve(&mut self, name: &str, reference: &SecretRef) -> Result<SecretValue, StepError> {
        let ctx = self.ctx;
        let fact = format!("secret/{name}");
        let recorded: Option<Version> = ctx.recorded(&fact)?;
        let pinned = recorded.as_ref().and_then(|version| version.version.clone());
        believe(name, reference, pinned.as_deref())?;
        let fetched = tokio::select! {
            halt = ctx.halted() => return Err(halt.into()),
            fetched = self.fetch(reference, pinned.as_deref()) => fetched.map_err(|error| of_secret(name, error))?,
        };
        let value = match json_key_of(reference) {
            None => fetched.value,
            Some(key) => {
                // It may be printed whole by nobody either, but the one value is what must be hidden.
                json_key::at(&fetched.value, &key).map_err(|error| {
                    Failure::new("secret.noKey", format!("secret {name}: {error}"))
                        .hint("`jsonKey` is a key of the top level, or a path such as /database/password")
                })?
            }
        };
        hide(ctx, name, &value)?;
        if recorded.is_none() {
            let version = fetched.version;
            ctx.fact(&fact, async || Ok(version)).await?;
        }
        Ok(value)
    }

    async fn fetch(&mut self, reference: &SecretRef, pinned: Option<&str>) -> Result<Fetched, StepError> {
        let ctx = self.ctx;
        Ok(match reference {
            SecretRef::AwsSecretsManager(secret) => {
                aws_secret::fetch(&ctx.identity().await?, &secret.parts(), pinned).await?
            }
            SecretRef::AwsParameter(parameter) => {
                aws_parameter::fetch(&ctx.identity().await?, &parameter.parts(), pinned).await?
            }
            SecretRef::Environment(name) => of_agent::variable(name)?,
            SecretRef::File(path) => of_agent::file(ctx.host().secrets_folder().as_deref(), path)?,
            SecretRef::KubernetesSecret(secret) => {
                let connection = match self.clusters.entry(secret.cluster.clone()) {
                    Entry::Occupied(open) => open.into_mut(),
                    Entry::Vacant(free) => free.insert(Connection::open(ctx, &secret.cluster, None).await?),
                };
                kubernetes_secret::fetch(connection, secret, pinned).await?
            }
        })
    }
}

/// Makes the value known to the redactor, or says why it cannot be a secret.
fn hide(ctx: &StepContext, name: &str, value: &SecretValue) -> Result<(), Failure> {
    if let Err(refused) = ctx.host().log().add_secret(value.bytes()) {
        let (class, hint) = match refused {
            SecretRefused::TooShort { .. } => (
                "secret.tooShort",
                "give it a longer value; what is no secret belongs into `env`",
            ),
            SecretRefused::TooLong { .. } | SecretRefused::TooMany { .. } => (
                "secret.tooLong",
                "keep what is not secret of it elsewhere, or let the script fetch it itself",
            ),
        };
        return Err(Failure::new(class, format!("secret {name}: {refused}")).hint(hint));
    }
    if worth::is_ordinary(value.bytes()) || ctx.host().is_in_document(value.bytes()) {
        tracing::warn!(task.id = %ctx.attempt.task, step = &*ctx.step, secret = name, "the value of a secret is an ordinary word or stands in the task document: it is easily guessed");
        ctx.narrate(format!(
            "the value of secret {name} also stands in ordinary output or in the task document: wherever it does, this log has *** in its place; a longer, random value hides better"
        ));
    }
    Ok(())
}

/// What is recorded is the version that the reference fixes, if it fixes one.
fn believe(name: &str, reference: &SecretRef, recorded: Option<&str>) -> Result<(), Halt> {
    match (fixed(reference), recorded) {
        (Some(asked), Some(read)) if asked != read => Err(Halt::Forged(format!(
            "it says that version {read} of secret {name} was read, and the document asks for {asked}"
        ))),
        _ => Ok(()),
    }
}

/// The version that the reference fixes.
fn fixed(reference: &SecretRef) -> Option<String> {
    match reference {
        SecretRef::AwsSecretsManager(secret) => secret.parts().version_id,
        SecretRef::AwsParameter(parameter) => aws_parameter::fixed(&parameter.parts().name),
        SecretRef::Environment(_) | SecretRef::File(_) | SecretRef::KubernetesSecret(_) => None,
    }
}

fn json_key_of(reference: &SecretRef) -> Option<String> {
    match reference {
        SecretRef::AwsSecretsManager(secret) => secret.parts().json_key,
        SecretRef::AwsParameter(parameter) => parameter.parts().json_key,
        SecretRef::Environment(_) | SecretRef::File(_) | SecretRef::KubernetesSecret(_) => None,
    }
}

/// Says which of a step's secrets it was.
fn of_secret(name: &str, error: StepError) -> StepError {
    match error {
        StepError::Failed(mut failure) => {
            failure.summary = format!("secret {name}: {}", failure.summary);
            StepError::Failed(failure)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_recorded_version_does_not_override_the_one_that_the_reference_fixes() {
        let reference = |json| serde_json::from_value::<SecretRef>(json).expect("a reference");
        let fixed = reference(json!({"awsSecretsManager": {"id": "db", "versionId": "v1"}}));
        let numbered = reference(json!({"awsParameter": "/db/password:3#key"}));
        let labelled = reference(json!({"awsParameter": "/db/password:prod"}));
        let newest = reference(json!({"awsSecretsManager": "db"}));
        for (reference, recorded) in [
            (&fixed, Some("v1")),
            (&fixed, None),
            (&numbered, Some("3")),
            (&labelled, Some("7")),
            (&newest, Some("v2")),
        ] {
            assert!(believe("TOKEN", reference, recorded).is_ok(), "{reference:?}");
        }
        for (reference, recorded) in [(&fixed, "v2"), (&numbered, "2")] {
            let forged = believe("TOKEN", reference, Some(recorded)).expect_err("another version");
            assert!(
                matches!(&forged, Halt::Forged(what) if what.contains("of secret TOKEN")),
                "{forged}"
            );
        }
    }
}
