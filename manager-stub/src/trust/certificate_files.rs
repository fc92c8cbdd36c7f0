//! A certificate and its key in files of an operator, read again when one of them is replaced. Shown to whoever connects;
//! knows not to whom or for what.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::time::Instant;

/// How often the files are looked at. A new connection then gets what is in them.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// See the module.
pub struct CertificateFiles {
    chain: PathBuf,
    key: PathBuf,
    provider: Arc<CryptoProvider>,
    current: Mutex<Current>,
}

/// The files cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the certificate {} with the key {} cannot be used: {why}", chain.display(), key.display())]
pub struct BadFiles {
    /// The chain's file.
    pub chain: PathBuf,
    /// The key's file.
    pub key: PathBuf,
    /// The one of them that is to be looked at first.
    pub file: PathBuf,
    /// Why not.
    pub why: String,
}

struct Current {
    certified: Arc<CertifiedKey>,
    looked: Instant,
    stamps: Stamps,
}

/// Length and time of the two files: what changes when one is replaced.
type Stamps = [Option<(u64, SystemTime)>; 2];

impl std::fmt::Debug for CertificateFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CertificateFiles({:?}, {:?})", self.chain, self.key)
    }
}

impl CertificateFiles {
    /// Reads the files: the chain with the leaf first, and the key; both PEM.
    ///
    /// # Errors
    /// If they cannot be used.
    pub fn open(chain: PathBuf, key: PathBuf, provider: Arc<CryptoProvider>) -> Result<Self, BadFiles> {
        let current = Current {
            // Before they are read: what is replaced in between is seen the next time.
            stamps: stamps(&chain, &key),
            certified: Arc::new(certified(&chain, &key, &provider)?),
            looked: Instant::now(),
        };
        Ok(Self {
            chain,
            key,
            provider,
            current: Mutex::new(current),
        })
    }

    /// What is shown now. Files that cannot be used leave the certificate before in its place: a replacement is two
    /// files, and between them they do not go together.
    #[must_use]
    pub fn now(&self) -> Arc<CertifiedKey> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.looked.elapsed() <= LOOK_EVERY {
            return Arc::clone(&current.certified);
        }
        current.looked = Instant::now();
        let stamps = stamps(&self.chain, &self.key);
        if stamps != current.stamps {
            match certified(&self.chain, &self.key, &self.provider) {
                Ok(certified) => {
                    current.certified = Arc::new(certified);
                    current.stamps = stamps;
                    tracing::info!(certificate = %self.chain.display(), "a new certificate is shown from now on");
                }
                Err(error) => {
                    tracing::warn!(%error, "the certificate before is shown until its files can be used");
                }
            }
        }
        Arc::clone(&current.certified)
    }
}

impl ResolvesServerCert for CertificateFiles {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.now())
    }
}

fn stamps(chain: &Path, key: &Path) -> Stamps {
    [chain, key].map(|path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.len(), metadata.modified().ok()?))
    })
}

fn certified(chain: &Path, key: &Path, provider: &CryptoProvider) -> Result<CertifiedKey, BadFiles> {
    let bad = |file: &Path, why: String| BadFiles {
        chain: chain.into(),
        key: key.into(),
        file: file.into(),
        why,
    };
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(chain)
        .and_then(Iterator::collect)
        .map_err(|error| bad(chain, error.to_string()))?;
    if certificates.is_empty() {
        return Err(bad(chain, format!("there is no certificate in {}", chain.display())));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| bad(key, error.to_string()))?;
    CertifiedKey::from_der(certificates, private, provider).map_err(|error| bad(chain, error.to_string()))
}

#[cfg(test)]
mod tests {
    use rustls::crypto::aws_lc_rs::default_provider;

    use super::*;

    fn write(file: &Path, text: String, modified: SystemTime) {
        std::fs::write(file, text).expect("written");
        let opened = std::fs::File::options().write(true).open(file);
        opened.and_then(|opened| opened.set_modified(modified)).expect("dated");
    }

    #[tokio::test(start_paused = true)]
    async fn a_replaced_chain_is_shown_when_the_key_that_stays_is_newer() {
        let folder = tempfile::tempdir().expect("a folder");
        let (chain, key_file) = (folder.path().join("tls.pem"), folder.path().join("tls-key.pem"));
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
        let certificate = |name: &str| {
            let params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("a name");
            params.self_signed(&key).expect("made").pem()
        };
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        write(&key_file, key.serialize_pem(), at(1_000));
        write(&chain, certificate("first.test"), at(10));
        let provider = Arc::new(default_provider());
        let files = CertificateFiles::open(chain.clone(), key_file, provider).expect("good");
        let first = files.now().cert.clone();
        write(&chain, certificate("other.test"), at(20));
        tokio::time::advance(LOOK_EVERY * 2).await;
        assert_ne!(files.now().cert, first);
    }

    #[test]
    fn the_file_at_fault_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let (chain, key) = (folder.path().join("tls.pem"), folder.path().join("tls-key.pem"));
        std::fs::write(&chain, "").expect("written");
        let open = || CertificateFiles::open(chain.clone(), key.clone(), Arc::new(default_provider()));
        let empty = open().expect_err("refused");
        assert_eq!(empty.file, chain);
        assert!(empty.why.contains("there is no certificate in"), "{empty}");
        let own = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).expect("made");
        std::fs::write(&chain, own.cert.pem()).expect("written");
        assert_eq!(open().expect_err("refused").file, key, "there is none");
    }
}
