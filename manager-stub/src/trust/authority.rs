//! The manager's authority: a key and a self-signed certificate in the data folder, made at the first start. It signs
//! the manager's own certificate and those of agents and users, and nobody else's.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use sha2::{Digest, Sha256};

use crate::data_folder;

/// The authority's certificate in the data folder; anybody may have it.
pub const CERTIFICATE_FILE: &str = "ca.pem";
/// Its key; nobody may.
pub const KEY_FILE: &str = "ca-key.pem";

/// How long the authority lives.
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long the manager's own certificate lives; a new one is made in time, and at every start.
pub const SERVER_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Certificates begin this long before they are made: clocks differ.
pub const BACKDATED: Duration = Duration::from_secs(3600);
/// How the name of an authority begins.
const NAME: &str = "Deputy authority";
/// What is before the trust domain in it.
const OF: &str = " of ";
/// Largest signing request.
const MAX_REQUEST_BYTES: usize = 8 * 1024;

/// See the module.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    trust_domain: String,
    path: PathBuf,
}

/// The authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file cannot be read or written.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// One of the two files is missing: put it back from a backup, or remove both and join every agent again.
    #[error("{} is missing while its other half is there", .0.display())]
    Half(PathBuf),
    /// A file is damaged.
    #[error("{} cannot be used: {why}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// A key or certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Making(#[from] rcgen::Error),
}

/// A certificate that the authority has signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// DER.
    pub leaf: Vec<u8>,
    /// Lower-case hex, without leading zeros.
    pub serial: String,
    /// SHA-256 of the public key's bits, hex.
    pub key: String,
    /// The line of keys that it says it is of; empty for users.
    pub line: String,
    /// Unix milliseconds.
    pub not_before_ms: i64,
    /// Unix milliseconds.
    pub not_after_ms: i64,
}

/// A signing request whose signature is good, by a P-256 key.
#[derive(Debug)]
pub struct SigningRequest {
    inner: CertificateSigningRequestParams,
    /// SHA-256 of the public key's bits, hex.
    pub key: String,
}

/// A signing request that is not signed. The text is for the agent's operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the certificate signing request {0}")]
pub struct BadRequest(&'static str);

impl SigningRequest {
    /// Reads a request; its signature shows that the key is at hand.
    ///
    /// # Errors
    /// If it is too large, malformed, signed by another key, or not of a P-256 key.
    pub fn read(der: &[u8]) -> Result<Self, BadRequest> {
        if der.len() > MAX_REQUEST_BYTES {
            return Err(BadRequest("is larger than 8 KiB"));
        }
        let inner = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der))
            .map_err(|_| BadRequest("cannot be read, or its signature is not by its own key"))?;
        if inner.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(BadRequest("is not of an ECDSA P-256 key"));
        }
        let key = hex::encode(Sha256::digest(rcgen::PublicKeyData::der_bytes(&inner.public_key)));
        Ok(Self { inner, key })
    }
}

impl Authority {
    /// The authority of a data folder, made if there is none. Without a trust domain it keeps the one that it was made
    /// with, and a new one gets one of its own.
    ///
    /// # Errors
    /// If its files cannot be read or written, or do not go together.
    pub fn open(data: &Path, trust_domain: Option<&str>) -> Result<Self, AuthorityError> {
        let (certificate_path, key_path) = (data.join(CERTIFICATE_FILE), data.join(KEY_FILE));
        match (read(&certificate_path)?, read(&key_path)?) {
            (Some(certificate), Some(key)) => {
                Self::load(&certificate_path, (&certificate, &key), &key_path, trust_domain)
            }
            (None, None) => {
                let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
                Self::make(&certificate_path, &key_path, key, trust_domain)
            }
            (None, Some(_)) => Err(AuthorityError::Half(certificate_path)),
            (Some(_), None) => Err(AuthorityError::Half(key_path)),
        }
    }

    /// Ends what a first start began: a key without its certificate, where nobody has seen either yet. For managers that
    /// have given out nothing; anybody else has lost a file.
    ///
    /// # Errors
    /// If the key is damaged, or a file cannot be read or written.
    pub fn complete_first(data: &Path, trust_domain: Option<&str>) -> Result<(), AuthorityError> {
        let (certificate_path, key_path) = (data.join(CERTIFICATE_FILE), data.join(KEY_FILE));
        if let (None, Some(key)) = (read(&certificate_path)?, read(&key_path)?) {
            let key = KeyPair::from_pem(&String::from_utf8_lossy(&key)).map_err(|error| AuthorityError::Damaged {
                path: key_path.clone(),
                why: error.to_string(),
            })?;
            tracing::info!(key = %key_path.display(), "the first start had ended before its certificate was written");
            Self::make(&certificate_path, &key_path, key, trust_domain)?;
        }
        Ok(())
    }

    fn load(
        path: &Path,
        (certificate, key): (&[u8], &[u8]),
        key_path: &Path,
        trust_domain: Option<&str>,
    ) -> Result<Self, AuthorityError> {
        let damaged = |path: &Path, why: String| AuthorityError::Damaged { path: path.into(), why };
        let certificate =
            CertificateDer::from_pem_slice(certificate).map_err(|error| damaged(path, error.to_string()))?;
        let key = String::from_utf8_lossy(key);
        let key = KeyPair::from_pem(&key).map_err(|error| damaged(key_path, error.to_string()))?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&certificate).map_err(|error| damaged(path, error.to_string()))?;
        if parsed.public_key().subject_public_key.data != key.public_key_raw() {
            return Err(damaged(key_path, format!("it is not the key of {}", path.display())));
        }
        let made_for = parsed
            .subject()
            .iter_common_name()
            .find_map(|name| domain_in(name.as_str().ok()?));
        let trust_domain = trust_domain
            .map(str::to_owned)
            .or(made_for)
            .unwrap_or_else(|| domain_of(&key));
        Ok(Self {
            issuer: Issuer::from_ca_cert_der(&certificate, key)?,
            certificate: certificate.into_owned(),
            trust_domain,
            path: path.into(),
        })
    }

    fn make(path: &Path, key_path: &Path, key: KeyPair, trust_domain: Option<&str>) -> Result<Self, AuthorityError> {
        let trust_domain = trust_domain.map_or_else(|| domain_of(&key), str::to_owned);
        let now = unix_now();
        let mut params = CertificateParams::new(Vec::new())?;
        // Authorities with the same name and other keys cannot be told apart when one of them is refused.
        let mark = hex::encode(rand::random::<[u8; 4]>());
        params.distinguished_name = named(&format!("{NAME} {mark}{OF}{trust_domain}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(SerialNumber::from_slice(&random_serial()));
        valid(&mut params, now, AUTHORITY_LIFE);
        let certificate = params.self_signed(&key)?;
        let write = |path: &Path, text: &str| {
            write_whole(path, text).map_err(|source| AuthorityError::Io {
                path: path.into(),
                source,
            })
        };
        write(key_path, &key.serialize_pem())?;
        if let Err(error) = write(path, &certificate.pem()) {
            // Half an authority would be refused at the next start.
            drop(std::fs::remove_file(key_path));
            return Err(error);
        }
        Ok(Self {
            certificate: certificate.der().clone(),
            issuer: Issuer::new(params, key),
            trust_domain,
            path: path.into(),
        })
    }

    /// Where its certificate is, for whoever has to give it to agents.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its certificate.
    #[must_use]
    pub const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// SHA-256 of its certificate, hex: what agents pin.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        hex::encode(Sha256::digest(&self.certificate))
    }

    /// The trust domain that its certificates speak of.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// A new key with a certificate for these names.
    ///
    /// # Errors
    /// If a name can be in no certificate.
    pub fn server(&self, names: &[String]) -> Result<(CertificateDer<'static>, KeyPair), AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(names.to_vec())?;
        params.distinguished_name = named("Deputy manager");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let now = unix_now();
        self.complete(&mut params, now, SERVER_LIFE);
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((certificate.der().clone(), key))
    }

    /// A client certificate for the key of a request. What the request asks for by name is ignored. The line of keys that
    /// an agent speaks for is in it: a manager whose store has forgotten the certificate can read it there.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn client(
        &self,
        request: &SigningRequest,
        (path, line): (&str, &str),
        life: Duration,
    ) -> Result<Issued, AuthorityError> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = named("Deputy client");
        if !line.is_empty() {
            params.distinguished_name.push(DnType::OrganizationalUnitName, line);
        }
        let uri = format!("spiffe://{}/{path}", self.trust_domain);
        params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let now = unix_now();
        let serial = self.complete(&mut params, now, life);
        let certificate = params.signed_by(&request.inner.public_key, &self.issuer)?;
        Ok(Issued {
            leaf: certificate.der().to_vec(),
            serial,
            key: request.key.clone(),
            line: line.to_owned(),
            not_before_ms: millis(now.saturating_sub(BACKDATED)),
            not_after_ms: millis(now + life),
        })
    }

    /// The public key of a certificate that this authority has signed, however long ago; `None` if it has not.
    #[must_use]
    pub fn key_of(&self, leaf: &[u8]) -> Option<Vec<u8>> {
        let (_, parsed) = x509_parser::parse_x509_certificate(leaf).ok()?;
        let ours = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, self.issuer.key().public_key_raw());
        ours.verify(parsed.tbs_certificate.as_ref(), &parsed.signature_value.data)
            .ok()?;
        Some(parsed.public_key().subject_public_key.data.to_vec())
    }

    fn complete(&self, params: &mut CertificateParams, now: Duration, life: Duration) -> String {
        let serial = random_serial();
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        valid(params, now, life);
        hex::encode(serial)
    }
}

/// What can be the host of a SPIFFE id.
#[must_use]
pub fn is_trust_domain(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
    (1..=255).contains(&text.len()) && text.bytes().all(good)
}

/// The trust domain that an authority of ours was made with.
fn domain_in(name: &str) -> Option<String> {
    let (_, domain) = name.strip_prefix(NAME)?.split_once(OF)?;
    is_trust_domain(domain).then(|| domain.to_owned())
}

/// A trust domain that no other manager has. A token of a cluster is for an audience with this name: with a name that many
/// have, it would be good at all of them.
fn domain_of(key: &KeyPair) -> String {
    let digest = hex::encode(Sha256::digest(key.public_key_raw()));
    format!("deputy-{}", &digest[..12])
}

/// Now, since 1970.
#[must_use]
pub fn unix_now() -> Duration {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
}

/// Whole milliseconds.
#[must_use]
pub fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn valid(params: &mut CertificateParams, now: Duration, life: Duration) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(now.saturating_sub(BACKDATED).as_secs());
    params.not_after = epoch + Duration::from_secs((now + life).as_secs());
}

/// 16 random bytes that are a positive number without leading zeros.
fn random_serial() -> [u8; 16] {
    let mut serial: [u8; 16] = rand::random();
    serial[0] = (serial[0] & 0x7f) | 0x40;
    serial
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, AuthorityError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(AuthorityError::Io {
            path: path.into(),
            source,
        }),
    }
}

/// Written whole or not at all, for this user alone, and on disk.
///
/// # Errors
/// If it cannot be written.
pub fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let partial = path.with_extension("partial");
    let mut file = data_folder::writing().open(&partial)?;
    file.set_len(0)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&partial, path)?;
    match path.parent() {
        Some(folder) => std::fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn request() -> (KeyPair, Vec<u8>) {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let params = CertificateParams::new(vec!["evil.example.com".into()]).expect("names");
        let der = params.serialize_request(&key).expect("a request").der().to_vec();
        (key, der)
    }

    #[test]
    fn the_authority_stays_the_same_over_starts_and_its_key_is_nobody_elses() {
        let data = tempfile::tempdir().expect("a folder");
        let first = Authority::open(data.path(), Some("test")).expect("made");
        let again = Authority::open(data.path(), Some("test")).expect("loaded");
        assert_eq!(first.fingerprint(), again.fingerprint());
        let key = data.path().join(KEY_FILE).metadata().expect("there");
        assert_eq!(key.permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_first_start_that_ended_between_its_files_is_ended_by_the_next() {
        let data = tempfile::tempdir().expect("a folder");
        Authority::open(data.path(), None).expect("made");
        let key = std::fs::read(data.path().join(KEY_FILE)).expect("a key");
        std::fs::remove_file(data.path().join(CERTIFICATE_FILE)).expect("removed");
        assert!(matches!(
            Authority::open(data.path(), None),
            Err(AuthorityError::Half(path)) if path.ends_with(CERTIFICATE_FILE)
        ));
        Authority::complete_first(data.path(), None).expect("ended");
        let first = Authority::open(data.path(), None).expect("whole");
        assert_eq!(
            std::fs::read(data.path().join(KEY_FILE)).expect("a key"),
            key,
            "it is kept"
        );
        Authority::complete_first(data.path(), None).expect("nothing to do");
        let again = Authority::open(data.path(), None).expect("whole");
        assert_eq!(first.fingerprint(), again.fingerprint());
    }

    #[test]
    fn a_trust_domain_that_nobody_chose_is_of_this_manager_alone_and_stays() {
        let (one, other) = (tempfile::tempdir().expect("a"), tempfile::tempdir().expect("b"));
        let domain = |folder: &Path, chosen| {
            let authority = Authority::open(folder, chosen).expect("an authority");
            authority.trust_domain().to_owned()
        };
        let first = domain(one.path(), None);
        assert!(first.starts_with("deputy-") && first.len() == 19, "{first}");
        assert!(is_trust_domain(&first));
        assert_eq!(domain(one.path(), None), first);
        assert_ne!(domain(other.path(), None), first);
        assert_eq!(domain(one.path(), Some("prod.example.com")), "prod.example.com");
        let chosen = tempfile::tempdir().expect("c");
        assert_eq!(domain(chosen.path(), Some("prod.example.com")), "prod.example.com");
        assert_eq!(
            domain(chosen.path(), None),
            "prod.example.com",
            "the one it was made with"
        );
    }

    #[test]
    fn half_an_authority_or_another_key_is_refused() {
        let (data, other) = (tempfile::tempdir().expect("a"), tempfile::tempdir().expect("b"));
        Authority::open(data.path(), Some("test")).expect("made");
        Authority::open(other.path(), Some("test")).expect("made");
        std::fs::copy(other.path().join(KEY_FILE), data.path().join(KEY_FILE)).expect("copied");
        let error = Authority::open(data.path(), Some("test"))
            .err()
            .expect("refused")
            .to_string();
        assert!(error.contains("it is not the key of"), "{error}");
        std::fs::remove_file(data.path().join(KEY_FILE)).expect("removed");
        assert!(matches!(
            Authority::open(data.path(), Some("test")),
            Err(AuthorityError::Half(_))
        ));
    }

    #[test]
    fn a_client_gets_the_name_that_the_manager_gives_and_not_the_one_it_asked_for() {
        let data = tempfile::tempdir().expect("a folder");
        let authority = Authority::open(data.path(), Some("test")).expect("made");
        let (_, der) = request();
        let request = SigningRequest::read(&der).expect("good");
        let issued = authority
            .client(&request, ("pool/eu/agent/a1", "the line"), Duration::from_secs(60))
            .expect("issued");
        let (_, leaf) = x509_parser::parse_x509_certificate(&issued.leaf).expect("a certificate");
        let names = leaf.subject_alternative_name().expect("read").expect("there");
        let names: Vec<String> = names
            .value
            .general_names
            .iter()
            .map(|name| format!("{name:?}"))
            .collect();
        assert_eq!(names, [r#"URI("spiffe://test/pool/eu/agent/a1")"#]);
        assert_eq!(hex::encode(leaf.raw_serial()), issued.serial);
        let read = crate::trust::peer::read(&issued.leaf, "test").expect("read");
        assert_eq!((read.line, read.key), ("the line".into(), issued.key));
    }

    #[test]
    fn a_request_that_its_key_did_not_sign_is_refused() {
        let (_, mut der) = request();
        let last = der.len() - 1;
        der[last] ^= 1;
        assert!(SigningRequest::read(&der).is_err());
        assert!(SigningRequest::read(b"").is_err());
        assert!(SigningRequest::read(&vec![0x30; 9000]).is_err());
        let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("a key");
        let params = CertificateParams::new(Vec::new()).expect("names");
        let der = params.serialize_request(&p384).expect("a request").der().to_vec();
        assert_eq!(
            SigningRequest::read(&der).err(),
            Some(BadRequest("is not of an ECDSA P-256 key"))
        );
    }
}
