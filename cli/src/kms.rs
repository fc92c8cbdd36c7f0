//! Signs with a key that never leaves AWS KMS. The caller's own AWS identity is used, as the AWS CLI would: environment,
//! profiles, SSO, the role of the machine.

use std::path::{Path, PathBuf};

use aws_config::BehaviorVersion;
use aws_sdk_kms::Client;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{KeySpec, MessageType, SigningAlgorithmSpec};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use deputy_dial::authority::Authority;
use deputy_dial::proxy::BadProxy;
use deputy_task::document::region_of_arn;

use crate::error::{Class, CliError, Exit};
use crate::values::{proxy_of_environment, read_file};

/// Where KMS is.
const KMS_PORT: u16 = 443;

/// Is this a key of KMS, and no file? Files of such a name are written `./alias/…`.
pub(crate) fn is_kms_key(text: &str) -> bool {
    text.starts_with("arn:") || text.starts_with("alias/")
}

/// The signature of `key` under `statement`, as agents verify it.
pub(crate) async fn sign(key: &str, statement: &[u8]) -> Result<Vec<u8>, CliError> {
    let bundle = std::env::var_os("AWS_CA_BUNDLE").filter(|path| !path.is_empty());
    let bundle = bundle.map(PathBuf::from);
    let mut config = aws_config::defaults(BehaviorVersion::latest()).http_client(http_client(bundle.as_deref())?);
    // An ARN says where its key is; the caller's own region may be another.
    if let Some(region) = region_of(key)? {
        config = config.region(aws_config::Region::new(region.to_owned()));
    }
    let client = Client::new(&config.load().await);
    let described = client.get_public_key().key_id(key).send().await;
    let described = described.map_err(|error| refused(key, "kms:GetPublicKey", &error))?;
    let algorithm = match described.key_spec() {
        Some(KeySpec::EccNistP256) => SigningAlgorithmSpec::EcdsaSha256,
        Some(KeySpec::EccNistEdwards25519) => SigningAlgorithmSpec::Ed25519Sha512,
        other => {
            let spec = other.map_or("unknown", KeySpec::as_str);
            let message = format!("the KMS key {key} is of kind {spec}, which agents do not verify");
            return Err(CliError::bad_input(message)
                .hint("make one with `aws kms create-key --key-usage SIGN_VERIFY --key-spec ECC_NIST_P256`"));
        }
    };
    let signed = client
        .sign()
        .key_id(key)
        .message(Blob::new(statement))
        .message_type(MessageType::Raw)
        .signing_algorithm(algorithm)
        .send()
        .await
        .map_err(|error| refused(key, "kms:Sign", &error))?;
    let signature = signed.signature.map(Blob::into_inner);
    signature.ok_or_else(|| CliError::new(Exit::Unreachable, format!("KMS gave no signature of {key}")))
}

/// Proxies as the environment says; the certificates of this machine, or those of a file instead.
fn http_client(bundle: Option<&Path>) -> Result<SharedHttpClient, CliError> {
    let trust = match bundle {
        None => TrustStore::empty().with_native_roots(true),
        Some(path) => TrustStore::empty().with_pem_certificate(checked(path)?),
    };
    let context = TlsContext::builder().with_trust_store(trust).build();
    let context = context.map_err(|error| {
        CliError::bad_input(format!("AWS_CA_BUNDLE names certificates that cannot be used: {error}"))
    })?;
    let proxy = proxy()?;
    Ok(Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder();
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(|components| components.sleep_impl()));
        connector
            .proxy_config(proxy.clone())
            .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
            .tls_context(context.clone())
            .build()
    }))
}

/// The proxy of everything else, told to the SDK, whose own reader of the environment takes some of it for something else.
fn proxy() -> Result<ProxyConfig, CliError> {
    let Some(told) = proxy_of_environment()?.told(KMS_PORT) else {
        return Ok(ProxyConfig::disabled());
    };
    let config = ProxyConfig::https(told.proxy.as_str());
    let config =
        config.map_err(|_| CliError::bad_input("HTTPS_PROXY cannot be used").caused_by(&BadProxy::Malformed))?;
    Ok(config.no_proxy(told.around))
}

/// The SDK looks at certificates when it connects first, and panics at one that it cannot use.
fn checked(path: &Path) -> Result<Vec<u8>, CliError> {
    let pem = read_file(path)?;
    Authority::from_pem(&pem).map_err(|bad| {
        CliError::bad_input(format!(
            "AWS_CA_BUNDLE names {}, which cannot be used: {bad}",
            path.display()
        ))
        .hint("set AWS_CA_BUNDLE to a readable file of PEM certificates, or unset it; nothing was signed or submitted")
    })?;
    Ok(pem)
}

/// `arn:aws:kms:eu-west-1:…`
fn region_of(key: &str) -> Result<Option<&str>, CliError> {
    region_of_arn(key).map_err(|bad| {
        CliError::bad_input(format!("{bad}, and stands where the ARN of a KMS key has its region"))
            .hint("correct the ARN; nothing was signed or submitted")
    })
}

fn refused<E, R>(key: &str, action: &str, error: &SdkError<E, R>) -> CliError
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
    R: std::fmt::Debug + 'static,
{
    let (exit, class, hint) = match error.code() {
        Some("NotFoundException") => (
            Exit::BadInput,
            Class::NotFound,
            "check account, region and name of the key; nothing was submitted".to_owned(),
        ),
        Some("AccessDeniedException") => (
            Exit::BadInput,
            Class::Refused,
            format!("let the caller's role {action} on this key, in its policy and in the key's; nothing was submitted"),
        ),
        Some("DisabledException" | "KMSInvalidStateException" | "InvalidKeyUsageException") => (
            Exit::BadInput,
            Class::Refused,
            "the key must be enabled and made for SIGN_VERIFY; nothing was submitted".to_owned(),
        ),
        _ => (
            Exit::Unreachable,
            Class::Unreachable,
            "KMS is asked with the AWS identity of this shell: `aws sts get-caller-identity` shows it; nothing was submitted"
                .to_owned(),
        ),
    };
    CliError::new(exit, format!("the task cannot be signed with the KMS key {key}"))
        .class(class)
        .caused_by(error)
        .hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_ca_bundle_is_named_before_anything_is_asked() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        for (text, told) in [
            ("no certificate", "there is no certificate in it"),
            (
                "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
                "it is no PEM file of certificates",
            ),
            (
                "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
                "cannot be an authority",
            ),
        ] {
            std::fs::write(file.path(), text).expect("written");
            let said = format!("{:?}", http_client(Some(file.path())).expect_err("refused"));
            assert!(said.contains("AWS_CA_BUNDLE names") && said.contains(told), "{said}");
        }
        assert!(http_client(None).is_ok());
    }

    #[test]
    fn keys_of_kms_are_told_from_files_and_say_where_they_are() {
        let arn = "arn:aws:kms:eu-west-1:222222222222:key/1234abcd";
        assert!(is_kms_key(arn) && is_kms_key("alias/release"));
        assert!(!is_kms_key("./alias/release") && !is_kms_key("release-key.pem"));
        assert!(matches!(region_of(arn), Ok(Some("eu-west-1"))));
        assert!(matches!(region_of("alias/release"), Ok(None)));
        assert!(
            region_of("arn:aws:kms:evil.example/x:2:key/1").is_err(),
            "it would be another host"
        );
    }
}
