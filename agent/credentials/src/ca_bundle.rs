//! The authorities of `AWS_CA_BUNDLE`: read whole or refused, and followed when the file is replaced.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::connector_metadata::ConnectorMetadata;
use aws_smithy_runtime_api::client::http::{HttpClient, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector};
use aws_smithy_runtime_api::client::runtime_components::{RuntimeComponents, RuntimeComponentsBuilder};
use aws_smithy_types::config_bag::ConfigBag;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::error::CredentialsError;

/// The certificates as PEM.
///
/// # Errors
/// If the file cannot be read, or if one of its certificates cannot be used.
pub(crate) fn read(path: &str) -> Result<Vec<u8>, CredentialsError> {
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

/// Tells a replaced file, also behind the links of a mounted Secret. Nothing: it is not there.
type Stamp = Option<(u64, u64, i64, i64, u64)>;

fn stamp(path: &str) -> Stamp {
    let metadata = fs::metadata(path).ok()?;
    Some((
        metadata.dev(),
        metadata.ino(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.len(),
    ))
}

type Make = Box<dyn Fn() -> Result<SharedHttpClient, CredentialsError> + Send + Sync>;

/// A client that is made anew when the file is another one. One that cannot be used is warned about once, and the
/// client before it is used on.
pub(crate) struct Following {
    path: String,
    make: Make,
    present: Mutex<(Stamp, SharedHttpClient)>,
}

impl Following {
    /// # Errors
    /// If no client can be made with the file as it is.
    pub(crate) fn new(
        path: &str,
        make: impl Fn() -> Result<SharedHttpClient, CredentialsError> + Send + Sync + 'static,
    ) -> Result<Self, CredentialsError> {
        // The stamp first: a file that is replaced while it is read is then another one at the next look.
        let present = (stamp(path), make()?);
        Ok(Self {
            path: path.to_owned(),
            make: Box::new(make),
            present: Mutex::new(present),
        })
    }

    fn present(&self) -> SharedHttpClient {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let now = stamp(&self.path);
        if now != present.0 {
            present.0 = now;
            match (self.make)() {
                Ok(made) => {
                    tracing::info!(path = %self.path, "AWS_CA_BUNDLE was replaced; its certificates count from now on");
                    present.1 = made;
                }
                Err(error) => {
                    tracing::warn!(%error, "the certificates before are used on");
                }
            }
        }
        present.1.clone()
    }
}

impl fmt::Debug for Following {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Following({})", self.path)
    }
}

impl HttpClient for Following {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        self.present().http_connector(settings, components)
    }

    fn validate_base_client_config(
        &self,
        components: &RuntimeComponentsBuilder,
        cfg: &ConfigBag,
    ) -> Result<(), BoxError> {
        self.present().validate_base_client_config(components, cfg)
    }

    fn validate_final_config(&self, components: &RuntimeComponents, cfg: &ConfigBag) -> Result<(), BoxError> {
        self.present().validate_final_config(components, cfg)
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.present().connector_metadata()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::env::Env;
    use crate::http_client;

    type Issuer = CertifiedIssuer<'static, KeyPair>;

    fn authority() -> Issuer {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority")
    }

    /// A server that answers everything with 200, and whose certificate is from this authority.
    async fn server(issuer: &Issuer, running: &mut JoinSet<()>) -> String {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
        let leaf = params.signed_by(&key, issuer).expect("signed");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(
                vec![leaf.der().clone()],
                rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .expect("a configuration");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("an address").port();
        running.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let mut said = [0; 1024];
                let _ = stream.read(&mut said).await;
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                let _ = stream.write_all(answer).await;
                let _ = stream.shutdown().await;
            }
        });
        format!("https://localhost:{port}/")
    }

    /// Did a call of this client get to that server?
    async fn answers(client: &aws_sdk_sts::Client, url: &str) -> bool {
        let asked = client.get_caller_identity().customize();
        let here = aws_sdk_sts::Config::builder().endpoint_url(url);
        match asked.config_override(here).send().await {
            Ok(_) => true,
            Err(error) => error.as_service_error().is_some() || error.raw_response().is_some(),
        }
    }

    /// Guards that an authority which is replaced, as a mounted Secret is, counts without a restart; and that half a
    /// file does not take the one before it away.
    #[tokio::test]
    async fn a_replaced_bundle_counts_from_the_next_call_on() {
        let (first, second) = (authority(), authority());
        let mut running = JoinSet::new();
        let one = server(&first, &mut running).await;
        let two = server(&second, &mut running).await;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ca.pem");
        let put = |text: &str| {
            let next = folder.path().join("next.pem");
            fs::write(&next, text).expect("written");
            fs::rename(&next, &path).expect("renamed");
        };
        put(&first.pem());
        let named = path.display().to_string();
        let env: Env = [("AWS_CA_BUNDLE", named.as_str())].into_iter().collect();
        let config = aws_sdk_sts::Config::builder()
            .behavior_version(aws_sdk_sts::config::BehaviorVersion::latest())
            .region(aws_sdk_sts::config::Region::new("us-east-1"))
            .credentials_provider(aws_sdk_sts::config::Credentials::new("AKIA", "key", None, None, "test"))
            .retry_config(aws_sdk_sts::config::retry::RetryConfig::disabled())
            .http_client(http_client::for_aws(&env).expect("a client"));
        let client = aws_sdk_sts::Client::from_conf(config.build());
        assert!(answers(&client, &one).await && !answers(&client, &two).await);
        put(&second.pem()[..100]);
        assert!(answers(&client, &one).await, "half a file changes nothing");
        put(&second.pem());
        assert!(answers(&client, &two).await && !answers(&client, &one).await);
        fs::remove_file(&path).expect("removed");
        assert!(answers(&client, &two).await, "neither does one that is gone");
    }
}
