//! The manager's side of TLS: its certificate, from its own authority or from files of an operator that may change
//! while it runs, and which client certificates are looked at.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use tokio::time::Instant;

use super::authority::{Authority, AuthorityError, SERVER_LIFE};
use super::certificate_files::{BadFiles, CertificateFiles};

/// Where the manager's certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateSource {
    /// Its own authority signs one for these names; `localhost` and the loopback addresses are always among them.
    Own(Vec<String>),
    /// Files of an operator: the chain with the leaf first, and the key.
    Files {
        /// The chain, PEM.
        chain: PathBuf,
        /// The key, PEM.
        key: PathBuf,
    },
}

/// TLS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The authority could not sign.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The operator's files cannot be used.
    #[error(transparent)]
    Files(#[from] BadFiles),
    /// A fault of the build.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

/// What every connection is accepted with.
///
/// # Errors
/// If there is no certificate to show.
pub fn config(authority: &Arc<Authority>, source: CertificateSource) -> Result<Arc<ServerConfig>, TlsError> {
    let setup = |error: &dyn std::fmt::Display| TlsError::Setup(error.to_string());
    let provider = Arc::new(default_provider());
    let mut roots = RootCertStore::empty();
    roots
        .add(authority.certificate().clone())
        .map_err(|error| setup(&error))?;
    let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .map_err(|error| setup(&error))?;
    let shown = Shown::new(Arc::clone(authority), source, &provider)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| setup(&error))?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(Arc::new(shown));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A resumed session would bring back a client certificate without looking at it again.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The certificate that is shown.
#[derive(Debug)]
enum Shown {
    Own(OwnCertificate),
    Files(CertificateFiles),
}

/// A certificate of the own authority, made again before it ends.
struct OwnCertificate {
    authority: Arc<Authority>,
    names: Vec<String>,
    provider: Arc<CryptoProvider>,
    current: Mutex<Current>,
}

struct Current {
    certified: Arc<CertifiedKey>,
    made: Instant,
}

impl std::fmt::Debug for OwnCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OwnCertificate({:?})", self.names)
    }
}

impl Shown {
    fn new(
        authority: Arc<Authority>,
        source: CertificateSource,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, TlsError> {
        let provider = Arc::clone(provider);
        Ok(match source {
            CertificateSource::Own(names) => Self::Own(OwnCertificate::make(authority, names, provider)?),
            CertificateSource::Files { chain, key } => Self::Files(CertificateFiles::open(chain, key, provider)?),
        })
    }

    fn now(&self) -> Arc<CertifiedKey> {
        match self {
            Self::Own(own) => own.now(),
            Self::Files(files) => files.now(),
        }
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.now())
    }
}

impl OwnCertificate {
    fn make(authority: Arc<Authority>, names: Vec<String>, provider: Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let certified = certified(&authority, &names, &provider)?;
        Ok(Self {
            authority,
            names,
            provider,
            current: Mutex::new(Current {
                certified: Arc::new(certified),
                made: Instant::now(),
            }),
        })
    }

    /// What is shown now; the one before as long as no other can be made.
    fn now(&self) -> Arc<CertifiedKey> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.made.elapsed() > SERVER_LIFE * 2 / 3 {
            match certified(&self.authority, &self.names, &self.provider) {
                Ok(certified) => {
                    current.certified = Arc::new(certified);
                    current.made = Instant::now();
                    tracing::info!("the manager shows a new certificate from now on");
                }
                Err(error) => tracing::warn!(%error, "the certificate before is shown until another can be made"),
            }
        }
        Arc::clone(&current.certified)
    }
}

fn certified(authority: &Authority, names: &[String], provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let mut all = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    all.extend(
        names
            .iter()
            .filter(|name| !all.contains(name))
            .cloned()
            .collect::<Vec<_>>(),
    );
    let (leaf, key) = authority.server(&all)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    // The authority is sent along: who pinned its hash has to see it.
    let chain = vec![leaf, authority.certificate().clone()];
    CertifiedKey::from_der(chain, key, provider).map_err(|error| TlsError::Setup(error.to_string()))
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::CertificateDer;

    use super::*;
    use crate::trust::certificate_files::LOOK_EVERY;

    fn write(folder: &std::path::Path, authority: &Authority) -> CertificateSource {
        let (leaf, key) = authority.server(&["manager.test".into()]).expect("made");
        let (chain, key_file) = (folder.join("tls.pem"), folder.join("tls-key.pem"));
        let text = rcgen_pem(&leaf);
        std::fs::write(&chain, text).expect("written");
        std::fs::write(&key_file, key.serialize_pem()).expect("written");
        CertificateSource::Files { chain, key: key_file }
    }

    fn rcgen_pem(der: &CertificateDer<'_>) -> String {
        use base64::Engine;
        let body = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
    }

    #[tokio::test(start_paused = true)]
    async fn replaced_files_are_shown_without_a_restart_and_broken_ones_are_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Arc::new(Authority::open(folder.path(), Some("test")).expect("made"));
        let source = write(folder.path(), &authority);
        let shown = Shown::new(Arc::clone(&authority), source, &Arc::new(default_provider())).expect("shown");
        let first = shown.now().cert.clone();
        write(folder.path(), &authority);
        assert_eq!(shown.now().cert, first, "looked at once a second");
        tokio::time::advance(LOOK_EVERY * 2).await;
        let second = shown.now().cert.clone();
        assert_ne!(second, first);
        std::fs::write(folder.path().join("tls-key.pem"), "no key").expect("written");
        tokio::time::advance(LOOK_EVERY * 2).await;
        assert_eq!(shown.now().cert, second, "what was good stays");
        write(folder.path(), &authority);
        tokio::time::advance(LOOK_EVERY * 2).await;
        assert_ne!(shown.now().cert, second);
    }

    #[test]
    fn a_key_of_another_certificate_is_refused_at_the_start() {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Arc::new(Authority::open(folder.path(), Some("test")).expect("made"));
        let source = write(folder.path(), &authority);
        let (_, other) = authority.server(&[]).expect("made");
        std::fs::write(folder.path().join("tls-key.pem"), other.serialize_pem()).expect("written");
        let error = config(&authority, source).expect_err("refused");
        assert!(matches!(error, TlsError::Files { .. }), "{error}");
    }
}
