//! AWS Secrets Manager.

use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::config::Builder;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use deputy_credentials::TaskIdentity;
use deputy_task::document::secret::AwsSecretParts;
use deputy_task::outcome::Failure;

use crate::aws::explain::Asked;

use super::aws_version::{gone, in_region_of};
use super::value::{Fetched, SecretValue, Version};

/// Reads one version: that of `pinned`, else the one that the reference names.
pub(super) async fn fetch(
    identity: &TaskIdentity,
    parts: &AwsSecretParts,
    pinned: Option<&str>,
) -> Result<Fetched, Failure> {
    let config = Builder::from(&in_region_of(identity, &parts.id)?).interceptor(identity.pace());
    let client = Client::from_conf(config.build());
    let (version, stage) = match pinned {
        Some(version) => (Some(version.to_owned()), None),
        None => (parts.version_id.clone(), parts.version_stage.clone()),
    };
    let asked = client
        .get_secret_value()
        .secret_id(&parts.id)
        .set_version_id(version)
        .set_version_stage(stage);
    let on = format!("the secret {}", parts.id);
    let answer = asked.send().await.map_err(|error| {
        let failure = Asked {
            action: "secretsmanager:GetSecretValue",
            on: &on,
            identity,
        }
        .failure(&error);
        explain(failure, error.code(), error.message(), (&on, pinned))
    })?;
    // One of the two is there; binary ones are not text, and stay as they are.
    let bytes = match (answer.secret_string, answer.secret_binary) {
        (Some(text), _) => text.into_bytes(),
        (None, Some(binary)) => binary.into_inner(),
        (None, None) => Vec::new(),
    };
    Ok(Fetched {
        value: SecretValue::new(bytes),
        version: Version {
            from: answer.arn.unwrap_or_else(|| parts.id.clone()),
            version: answer.version_id,
        },
    })
}

fn explain(failure: Failure, code: Option<&str>, message: Option<&str>, (on, pinned): (&str, Option<&str>)) -> Failure {
    let message = message.unwrap_or_default();
    match (code, pinned) {
        (Some("ResourceNotFoundException"), Some(version)) => gone(on, version, failure.detail),
        (Some("ResourceNotFoundException"), None) => Failure {
            class: "secret.notFound".into(),
            summary: format!("{on} does not exist: {message}"),
            hint: "check its name, its version, and spec.aws.region and the account of the role".into(),
            ..failure
        },
        (Some("InvalidRequestException"), _) if message.contains("deletion") => Failure {
            class: "secret.notFound".into(),
            summary: format!("{on} is marked for deletion"),
            hint: "restore it with `aws secretsmanager restore-secret`, or name another one".into(),
            ..failure
        },
        (Some("DecryptionFailure"), _) => failure.hint("the role needs kms:Decrypt on the key of the secret"),
        _ => failure,
    }
}
