//! The HTTP client of every AWS call: made once per agent, on first use, because certificates and
//! pools cost an idle agent memory.

use std::fs;
use std::time::Duration;

use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::client::http::{HttpConnectorSettings, SharedHttpClient};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::env::Env;
use crate::error::CredentialsError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// The client for AWS: system certificates, or `AWS_CA_BUNDLE` instead of them; proxies as the
/// environment says.
pub(crate) fn for_aws(env: &Env) -> Result<SharedHttpClient, CredentialsError> {
    let context = context(env)?;
    Ok(Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder();
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(|components| components.sleep_impl()));
        connector
            .proxy_config(ProxyConfig::from_env())
            .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
            .tls_context(context.clone())
            .build()
    }))
}

/// For one call that no SDK client makes, with the same certificates and proxies.
pub(crate) fn connector(env: &Env) -> Result<Connector, CredentialsError> {
    let settings = HttpConnectorSettings::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .build();
    Ok(Connector::builder()
        .connector_settings(settings)
        .sleep_impl(TokioSleep::new())
        .proxy_config(ProxyConfig::from_env())
        .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
        .tls_context(context(env)?)
        .build())
}

fn context(env: &Env) -> Result<TlsContext, CredentialsError> {
    // rustls wants one process-wide provider where none is named; a second install is harmless.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let trust = match env.get("AWS_CA_BUNDLE") {
        Some(path) => TrustStore::empty().with_pem_certificate(read_bundle(path)?),
        None => TrustStore::empty().with_native_roots(true),
    };
    let bad = |error: &dyn std::fmt::Display| CredentialsError::CaBundle {
        path: env.get("AWS_CA_BUNDLE").unwrap_or("nothing").to_owned(),
        problem: format!("cannot be used: {error}"),
    };
    TlsContext::builder()
        .with_trust_store(trust)
        .build()
        .map_err(|error| bad(&error))
}

/// The client for the container credential endpoint, which is never behind a proxy.
pub(crate) fn for_metadata() -> SharedHttpClient {
    Builder::new().build_http()
}

fn read_bundle(path: &str) -> Result<Vec<u8>, CredentialsError> {
    let bad = |problem: String| CredentialsError::CaBundle {
        path: path.to_owned(),
        problem,
    };
    let pem = fs::read(path).map_err(|error| bad(format!("cannot be read: {error}")))?;
    let certificates = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|error| bad(format!("is not PEM: {error}")))?;
    let mut roots = rustls::RootCertStore::empty();
    let (good, refused) = roots.add_parsable_certificates(certificates);
    if good == 0 || refused > 0 {
        return Err(bad(format!(
            "has {good} usable certificates and {refused} unusable ones"
        )));
    }
    Ok(pem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_ca_bundle_is_named() {
        let file = tempfile::NamedTempFile::new().expect("temp file");
        fs::write(file.path(), "not a certificate").expect("write");
        let path = file.path().to_str().expect("utf-8");
        let env: Env = [("AWS_CA_BUNDLE", path)].into_iter().collect();
        let error = for_aws(&env).expect_err("no certificate in it").to_string();
        assert_eq!(
            error,
            format!("AWS_CA_BUNDLE names {path}, which has 0 usable certificates and 0 unusable ones")
        );
        let gone: Env = [("AWS_CA_BUNDLE", "/nowhere/ca.pem")].into_iter().collect();
        assert!(
            for_aws(&gone)
                .expect_err("no such file")
                .to_string()
                .contains("cannot be read")
        );
    }
}
