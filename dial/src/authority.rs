//! Whom to take for the manager: the authorities of a PEM file, or the one certificate of an authority that a hash
//! names. Nothing else is believed, the system's own list included.

use std::fmt;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};

/// Whom to take for the manager.
#[derive(Debug, Clone)]
pub struct Authority {
    verifier: Arc<dyn ServerCertVerifier>,
}

/// The authority cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAuthority {
    /// Give a PEM file with at least one certificate.
    #[error("there is no certificate in it")]
    Empty,
    /// The file is damaged.
    #[error("it is no PEM file of certificates: {0}")]
    Pem(String),
    /// A certificate cannot serve as an authority.
    #[error("a certificate in it cannot be an authority: {0}")]
    Certificate(String),
    /// Give 64 hexadecimal digits.
    #[error("{0:?} is no SHA-256: 64 hexadecimal digits, with or without colons")]
    Pin(String),
}

/// What a client shows of itself.
#[derive(Clone)]
pub struct ClientIdentity {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
}

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientIdentity({} certificates)", self.chain.len())
    }
}

/// A certificate and key that do not go together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the client's certificate and key cannot be used: {0}")]
pub struct BadIdentity(String);

impl ClientIdentity {
    /// From DER: leaf first, and a PKCS #8 key.
    ///
    /// # Errors
    /// If it is no such key.
    pub fn new(chain: &[Vec<u8>], pkcs8: &[u8]) -> Result<Self, BadIdentity> {
        let key = PrivateKeyDer::try_from(pkcs8.to_vec()).map_err(|error| BadIdentity(error.to_owned()))?;
        Ok(Self {
            chain: chain.iter().cloned().map(CertificateDer::from).collect(),
            key: Arc::new(key),
        })
    }

    /// From a PEM file with the certificates, leaf first, and the key.
    ///
    /// # Errors
    /// If one of them is missing or damaged.
    pub fn from_pem(pem: &[u8]) -> Result<Self, BadIdentity> {
        let bad = |error: rustls::pki_types::pem::Error| BadIdentity(error.to_string());
        let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<_, _>>()
            .map_err(bad)?;
        if chain.is_empty() {
            return Err(BadIdentity("there is no certificate in it".into()));
        }
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(bad)?;
        Ok(Self {
            chain,
            key: Arc::new(key),
        })
    }
}

impl Authority {
    /// The authorities of a PEM file.
    ///
    /// # Errors
    /// If there is none in it, or one cannot be used.
    pub fn from_pem(pem: &[u8]) -> Result<Self, BadAuthority> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| BadAuthority::Pem(error.to_string()))?;
            roots
                .add(certificate)
                .map_err(|error| BadAuthority::Certificate(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(BadAuthority::Empty);
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider())
            .build()
            .map_err(|error| BadAuthority::Certificate(error.to_string()))?;
        Ok(Self { verifier })
    }

    /// The authority whose certificate (DER) has this SHA-256: what `openssl x509 -noout -fingerprint -sha256` prints.
    /// The manager sends that certificate with its own.
    ///
    /// # Errors
    /// If it is no SHA-256.
    pub fn from_pin(text: &str) -> Result<Self, BadAuthority> {
        let digits: String = text.trim().chars().filter(|c| *c != ':').collect();
        let bytes = hex::decode(&digits).unwrap_or_default();
        let pin = <[u8; 32]>::try_from(bytes).map_err(|_| BadAuthority::Pin(text.into()))?;
        Ok(Self {
            verifier: Arc::new(Pinned { pin }),
        })
    }

    /// TLS 1.3 and 1.2 towards a manager, as this client or as nobody.
    ///
    /// # Errors
    /// If certificate and key do not go together.
    pub fn client_config(&self, identity: Option<&ClientIdentity>) -> Result<ClientConfig, BadIdentity> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| BadIdentity(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&self.verifier));
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => builder
                .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
                .map_err(|error| BadIdentity(error.to_string()))?,
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Believes what the pinned certificate has signed.
#[derive(Debug)]
struct Pinned {
    pin: [u8; 32],
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = intermediates
            .iter()
            .find(|certificate| Sha256::digest(certificate).as_slice() == self.pin);
        let Some(pinned) = pinned else {
            return Err(CertificateError::UnknownIssuer.into());
        };
        let mut roots = RootCertStore::empty();
        roots.add(pinned.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_a_sha256_with_or_without_colons() {
        let plain = "ab".repeat(32);
        let colons = vec!["AB"; 32].join(":");
        assert!(Authority::from_pin(&plain).is_ok());
        assert!(Authority::from_pin(&colons).is_ok());
        for bad in ["", "ab", &plain[1..], &"zz".repeat(32)] {
            assert!(matches!(Authority::from_pin(bad), Err(BadAuthority::Pin(_))), "{bad}");
        }
    }

    #[test]
    fn a_file_without_a_certificate_is_no_authority() {
        assert_eq!(Authority::from_pem(b"").err(), Some(BadAuthority::Empty));
        assert_eq!(Authority::from_pem(b"what is this").err(), Some(BadAuthority::Empty));
    }
}
