//! A key for a client certificate: made here, and written beside the certificate for this user alone.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64::Engine;
use deputy_proto::v1::IssuedCertificate;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};

use crate::error::CliError;

/// Characters on a line of PEM.
const LINE: usize = 64;

/// A key and its signing request.
pub(super) struct NewKey {
    key: KeyPair,
    /// PKCS #10, DER.
    pub(super) request: Vec<u8>,
}

impl NewKey {
    pub(super) fn make() -> Result<Self, CliError> {
        let failed = |error: rcgen::Error| CliError::bad_input("no key can be made").caused_by(&error);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let params = CertificateParams::new(Vec::new()).map_err(failed)?;
        let request = params.serialize_request(&key).map_err(failed)?.der().to_vec();
        Ok(Self { key, request })
    }

    /// Into a file that is not there yet.
    pub(super) fn write(&self, path: &Path, issued: &IssuedCertificate) -> Result<(), CliError> {
        let mut text = self.key.serialize_pem();
        for certificate in &issued.chain {
            text.push_str(&pem(certificate));
        }
        let mut options = std::fs::OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(path);
        let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|error| CliError::bad_input(format!("cannot write {}", path.display())).caused_by(&error))
    }
}

fn pem(der: &[u8]) -> String {
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in body.as_bytes().chunks(LINE) {
        let _ = writeln!(text, "{}", String::from_utf8_lossy(line));
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}
