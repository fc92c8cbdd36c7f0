//! The AWS Systems Manager Parameter Store.

use aws_sdk_ssm::Client;
use aws_sdk_ssm::config::Builder;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use deputy_credentials::TaskIdentity;
use deputy_task::document::secret::AwsParameterParts;
use deputy_task::outcome::Failure;

use crate::aws::explain::Asked;

use super::aws_version::{gone, in_region_of};
use super::value::{Fetched, SecretValue, Version};

/// Reads one version, decrypted: that of `pinned`, else the one that the reference names.
pub(super) async fn fetch(
    identity: &TaskIdentity,
    parts: &AwsParameterParts,
    pinned: Option<&str>,
) -> Result<Fetched, Failure> {
    let config = Builder::from(&in_region_of(identity, &parts.name)?).interceptor(identity.pace());
    let client = Client::from_conf(config.build());
    let name = match pinned {
        Some(version) => format!("{}:{version}", without_selector(&parts.name)),
        None => parts.name.clone(),
    };
    let on = format!("the parameter {}", parts.name);
    let asked = client.get_parameter().name(&name).with_decryption(true);
    let answer = asked.send().await.map_err(|error| {
        let failure = Asked {
            action: "ssm:GetParameter",
            on: &on,
            identity,
        }
        .failure(&error);
        explain(failure, error.code(), (&on, pinned))
    })?;
    let parameter = answer
        .parameter
        .unwrap_or_else(|| aws_sdk_ssm::types::Parameter::builder().build());
    Ok(Fetched {
        version: Version {
            from: parameter.arn.clone().unwrap_or_else(|| parts.name.clone()),
            version: Some(parameter.version.to_string()),
        },
        value: SecretValue::new(parameter.value.unwrap_or_default().into_bytes()),
    })
}

/// The name without `:version` or `:label`; an ARN has five colons of its own.
fn without_selector(name: &str) -> &str {
    let own = if name.starts_with("arn:") { 5 } else { 0 };
    name.match_indices(':').nth(own).map_or(name, |(at, _)| &name[..at])
}

/// The version behind the name; a label is none, and begins with no digit.
pub(super) fn fixed(name: &str) -> Option<String> {
    let selector = name.strip_prefix(without_selector(name))?.strip_prefix(':')?;
    selector.parse::<u64>().ok().map(|version| version.to_string())
}

fn explain(failure: Failure, code: Option<&str>, (on, pinned): (&str, Option<&str>)) -> Failure {
    match (code, pinned) {
        (Some("ParameterNotFound" | "ParameterVersionNotFound"), Some(version)) => gone(on, version, failure.detail),
        (Some("ParameterNotFound"), None) => Failure {
            class: "secret.notFound".into(),
            summary: format!("{on} does not exist"),
            hint: "check its name with its slashes, and spec.aws.region and the account of the role".into(),
            ..failure
        },
        (Some("ParameterVersionNotFound"), None) => Failure {
            class: "secret.notFound".into(),
            summary: format!("{on} has no such version or label"),
            hint: "`aws ssm get-parameter-history` shows which there are".into(),
            ..failure
        },
        (Some("InvalidKeyId"), _) => failure.hint("the role needs kms:Decrypt on the key of the parameter"),
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_asked_for_is_put_behind_the_bare_name() {
        for (name, bare) in [
            ("/db/password", "/db/password"),
            ("/db/password:3", "/db/password"),
            ("plain:prod", "plain"),
            (
                "arn:aws:ssm:eu-west-1:222222222222:parameter/db",
                "arn:aws:ssm:eu-west-1:222222222222:parameter/db",
            ),
            (
                "arn:aws:ssm:eu-west-1:222222222222:parameter/db:7",
                "arn:aws:ssm:eu-west-1:222222222222:parameter/db",
            ),
        ] {
            assert_eq!(without_selector(name), bare);
        }
        assert_eq!(fixed("/db/password:03").as_deref(), Some("3"));
        assert_eq!(fixed("/db/password:prod"), None);
        assert_eq!(fixed("/db/password"), None);
    }
}
