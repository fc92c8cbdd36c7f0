//! The HTTP client of every AWS call: made once per agent, on first use, because certificates and
//! pools cost an idle agent memory.

use std::time::Duration;

use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::client::http::{HttpConnectorSettings, SharedHttpClient};
use deputy_dial::proxy::{BadProxy, ProxyRule};

use crate::ca_bundle::{self, Following};
use crate::env::Env;
use crate::error::CredentialsError;

/// Where AWS's APIs are.
const AWS_PORT: u16 = 443;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// The client for AWS: system certificates, or `AWS_CA_BUNDLE` instead of them, also when that file is replaced later;
/// proxies as the environment says.
pub(crate) fn for_aws(env: &Env) -> Result<SharedHttpClient, CredentialsError> {
    let Some(path) = env.get("AWS_CA_BUNDLE") else {
        return with_present_certificates(env);
    };
    let (path, env) = (path.to_owned(), env.clone());
    let following = Following::new(&path, move || with_present_certificates(&env))?;
    Ok(SharedHttpClient::new(following))
}

fn with_present_certificates(env: &Env) -> Result<SharedHttpClient, CredentialsError> {
    let (context, proxy) = (context(env)?, proxy(env)?);
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

/// For one call that no SDK client makes, with the same certificates and proxies.
pub(crate) fn connector(env: &Env) -> Result<Connector, CredentialsError> {
    let settings = HttpConnectorSettings::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .build();
    Ok(Connector::builder()
        .connector_settings(settings)
        .sleep_impl(TokioSleep::new())
        .proxy_config(proxy(env)?)
        .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
        .tls_context(context(env)?)
        .build())
}

/// What the agent takes HTTPS_PROXY and NO_PROXY for, told to the SDK, whose own reader takes some of it for something else.
fn proxy(env: &Env) -> Result<ProxyConfig, CredentialsError> {
    let rule = ProxyRule::of(&|name| env.get(name).map(str::to_owned));
    let rule = rule.map_err(|bad| CredentialsError::Proxy(bad.to_string()))?;
    let Some(told) = rule.told(AWS_PORT) else {
        return Ok(ProxyConfig::disabled());
    };
    let config = ProxyConfig::https(told.proxy.as_str());
    let config = config.map_err(|_| CredentialsError::Proxy(BadProxy::Malformed.to_string()))?;
    Ok(config.no_proxy(told.around))
}

fn context(env: &Env) -> Result<TlsContext, CredentialsError> {
    // rustls wants one process-wide provider where none is named; a second install is harmless.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let trust = match env.get("AWS_CA_BUNDLE") {
        Some(path) => TrustStore::empty().with_pem_certificate(ca_bundle::read(path)?),
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

#[cfg(test)]
mod tests {
    use std::fs;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Asks for this address; did the proxy see it?
    async fn goes_through(env: &Env, listener: &TcpListener, url: &str) -> bool {
        let connector = connector(env).expect("good");
        let request = http::Request::get(url).body(aws_smithy_types::body::SdkBody::empty());
        let request = request.expect("a request").try_into().expect("a request");
        let asked = aws_smithy_runtime_api::client::http::HttpConnector::call(&connector, request);
        let seen = async {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut said = [0; 8];
            stream.read_exact(&mut said).await.expect("a line");
            assert_eq!(&said, b"CONNECT ");
            let refused = stream
                .write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
                .await;
            refused.expect("said");
        };
        tokio::select! {
            biased;
            () = seen => true,
            refused = asked => {
                refused.expect_err("nobody is there");
                false
            }
        }
    }

    /// Guards that one environment means one way, for the manager and for AWS.
    #[tokio::test]
    async fn aws_is_reached_through_the_proxy_through_which_the_manager_is() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address").to_string();
        let upper = |no_proxy| vec![("HTTPS_PROXY", address.as_str()), ("NO_PROXY", no_proxy)];
        let name = "sts.deputy.invalid";
        for (set, host, through) in [
            (upper(""), name, true),
            (upper("*.deputy.invalid,x"), name, false),
            (upper(".deputy.invalid"), name, false),
            (upper("x sts.deputy.invalid"), name, false),
            (upper("sts.deputy.invalid:443"), name, false),
            (upper("sts.deputy.invalid:8443"), name, true),
            (upper("*"), name, false),
            (upper("*"), "127.0.0.9", false),
            (upper("127.0.0.0/8"), "127.0.0.9", false),
            (upper("[::1]"), "127.0.0.9", true),
            (vec![("HTTPS_PROXY", ""), ("https_proxy", &address)], name, true),
            (vec![("ALL_PROXY", &address), ("HTTP_PROXY", &address)], name, false),
            (
                vec![("https_proxy", &address), ("no_proxy", "*.deputy.invalid")],
                name,
                false,
            ),
        ] {
            let env: Env = set.iter().copied().collect();
            let rule = ProxyRule::of(&|name| env.get(name).map(str::to_owned)).expect("good");
            assert_eq!(rule.for_host(host, 443).is_some(), through, "the manager: {set:?}");
            let seen = goes_through(&env, &listener, &format!("https://{host}/")).await;
            assert_eq!(seen, through, "AWS: {set:?}");
        }
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_refused_without_its_password() {
        let env: Env = [("HTTPS_PROXY", "socks5://me:secret@proxy:1080")].into_iter().collect();
        let refused = for_aws(&env).expect_err("no HTTP proxy").to_string();
        assert!(
            refused.contains("HTTPS_PROXY cannot be used") && !refused.contains("secret"),
            "{refused}"
        );
    }

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
