//! Keys that AWS KMS wraps: made there without being shown, and unwrapped with the agent's own identity.
//! Knows nothing of what they are for; the caller says what they are bound to.

use std::collections::HashMap;

use aws_sdk_kms::Client;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::DataKeySpec;
use deputy_task::outcome::Failure;
use zeroize::Zeroizing;

use crate::error::chain_of;
use crate::identity::{Identities, TaskIdentity};
use crate::refusal::{Refusal, denied, is_denial};

/// What wraps a key, and what the wrapped key is bound to.
#[derive(Debug, Clone, Copy)]
pub struct Wrapping<'a> {
    /// The ARN of the KMS key.
    pub key_arn: &'a str,
    /// Names and values that KMS must be shown to unwrap it; a key policy can ask for them.
    pub context: &'a [(&'a str, &'a str)],
}

/// A new key of 32 bytes, wrapped. Nobody has seen it.
///
/// # Errors
/// What KMS says, explained.
pub async fn make(identities: &Identities, wrapping: &Wrapping<'_>) -> Result<Vec<u8>, Failure> {
    let (identity, client) = client(identities, wrapping).await?;
    let made = client
        .generate_data_key_without_plaintext()
        .key_id(wrapping.key_arn)
        .key_spec(DataKeySpec::Aes256)
        .set_encryption_context(Some(context(wrapping)))
        .send()
        .await
        .map_err(|error| refused(&identity, wrapping, "kms:GenerateDataKeyWithoutPlaintext", &error))?;
    let wrapped = made.ciphertext_blob.map(Blob::into_inner);
    wrapped.ok_or_else(|| Failure::new("kms.noKey", format!("KMS gave no data key of {}", wrapping.key_arn)))
}

/// The key that was wrapped.
///
/// # Errors
/// What KMS says, explained.
pub async fn unwrap(
    identities: &Identities,
    wrapping: &Wrapping<'_>,
    wrapped: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let (identity, client) = client(identities, wrapping).await?;
    let answer = client
        .decrypt()
        .key_id(wrapping.key_arn)
        .ciphertext_blob(Blob::new(wrapped))
        .set_encryption_context(Some(context(wrapping)))
        .send()
        .await
        .map_err(|error| refused(&identity, wrapping, "kms:Decrypt", &error))?;
    let key = answer.plaintext.map(|blob| Zeroizing::new(blob.into_inner()));
    key.ok_or_else(|| Failure::new("kms.noKey", format!("KMS unwrapped nothing with {}", wrapping.key_arn)))
}

async fn client(identities: &Identities, wrapping: &Wrapping<'_>) -> Result<(TaskIdentity, Client), Failure> {
    let region = region_of(wrapping.key_arn).ok_or_else(|| {
        Failure::new(
            "kms.badKey",
            format!("{} is not the ARN of a KMS key", wrapping.key_arn),
        )
        .hint("write it in full, for example arn:aws:kms:eu-west-1:111122223333:key/1234abcd-…")
    })?;
    let identity = identities.for_task(region, &[], "deputy-agent");
    let identity = identity.map_err(|error| error.failure())?;
    // Asked first, so that a missing identity is told as one.
    identity.credentials().await.map_err(|error| error.failure())?;
    let config = identity.sdk_config().map_err(|error| error.failure())?;
    let config = aws_sdk_kms::config::Builder::from(&config).interceptor(identity.pace());
    let client = Client::from_conf(config.build());
    Ok((identity, client))
}

fn context(wrapping: &Wrapping<'_>) -> HashMap<String, String> {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    wrapping.context.iter().map(own).collect()
}

/// `arn:aws:kms:eu-west-1:111122223333:key/…`
fn region_of(arn: &str) -> Option<&str> {
    let mut parts = arn.split(':');
    let is_kms = parts.next() == Some("arn") && parts.next().is_some() && parts.next() == Some("kms");
    let region = parts.next().filter(|region| !region.is_empty());
    region.filter(|_| is_kms && parts.next().is_some() && parts.next().is_some())
}

fn refused<E, R>(identity: &TaskIdentity, wrapping: &Wrapping<'_>, action: &str, error: &SdkError<E, R>) -> Failure
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
    R: std::fmt::Debug + 'static,
{
    let key = wrapping.key_arn;
    let who = "the agent's own identity";
    let (code, message) = (error.code(), error.message().unwrap_or("no message"));
    let mut failure = match code {
        None => Failure::new("kms.unreachable", format!("KMS did not answer {action} of {key}")).hint(
            "check the region in the key's ARN, and the way from the agent to the KMS API (VPC endpoint, proxy, DNS)",
        ),
        Some(code) if is_denial(code) => {
            let asked = (action, &*format!("the KMS key {key}"));
            let told = denied(&Refusal::read(message), who, &identity.lineage(), asked);
            Failure::new("kms.accessDenied", told.summary).hint(told.hint)
        }
        Some("InvalidCiphertextException" | "IncorrectKeyException") => Failure::new(
            "kms.notWrappedByIt",
            format!("what was given to {action} was not wrapped by {key}, or for something else"),
        )
        .hint("the file was made with another KMS key or for another pool; make a new one, or take the right one"),
        Some(code) => Failure::new(
            "kms.refused",
            format!("KMS refused {action} of {key}: {code}: {message}"),
        )
        .hint("the key must exist, be enabled, and be a symmetric one for encryption"),
    };
    failure.detail = chain_of(error);
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_arn_of_a_kms_key_says_where_it_is() {
        let region = region_of("arn:aws-cn:kms:cn-north-1:111122223333:key/1234");
        assert_eq!(region, Some("cn-north-1"));
        for other in [
            "alias/pool",
            "",
            "arn:aws:kms",
            "arn:aws:iam::1:role/x",
            "arn:aws:kms::1:key/x",
        ] {
            assert_eq!(region_of(other), None, "{other}");
        }
    }
}
