//! Signs a task, with a key from a file or by KMS. A key from a file is read, used and forgotten; nothing of it is
//! shown.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use deputy_proto::v1::{SubmitRequest, TaskSignature};
use deputy_task::document::duration;
use deputy_task::id::Project;
use deputy_task::signed::Signed;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;

use crate::error::CliError;
use crate::kms;
use crate::values::read_file;

/// A private key.
enum Key {
    Ed25519(Ed25519KeyPair),
    EcdsaP256(EcdsaKeyPair),
}

/// Puts a signature on a request, good for `time` from now on. The key is a file's path, or a key of KMS.
pub(crate) async fn sign_request(request: &mut SubmitRequest, key: &str, time: &str) -> Result<(), CliError> {
    let time = duration::parse(time).map_err(|bad| CliError::bad_input(format!("--sign-for: {bad}")))?;
    let text = |bytes: &[u8]| {
        String::from_utf8(bytes.to_vec()).map_err(|_| CliError::bad_input("a document must be UTF-8 to be signed"))
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let project = if request.project.is_empty() {
        Project::default_project().to_string()
    } else {
        request.project.clone()
    };
    let bundles = request
        .bundles
        .iter()
        .map(|bundle| (bundle.name.clone(), bundle.sha256.clone()));
    let signed = Signed {
        document: text(&request.document)?,
        inputs: text(&request.inputs)?,
        bundles: bundles.collect(),
        project,
        request: request.client_request_id.clone(),
        not_after: (now + time).as_secs(),
        signature: String::new(),
    };
    let statement = signed
        .statement()
        .map_err(|error| CliError::bad_input(format!("the task cannot be signed: {error}")))?;
    let signature = if kms::is_kms_key(key) {
        kms::sign(key, &statement).await?
    } else {
        sign(&statement, Path::new(key))?
    };
    request.signature = Some(TaskSignature {
        not_after: signed.not_after,
        signature: signature.into(),
    });
    Ok(())
}

fn sign(statement: &[u8], file: &Path) -> Result<Vec<u8>, CliError> {
    let key = key(file)?;
    let signature = match &key {
        Key::Ed25519(key) => key.sign(statement).as_ref().to_vec(),
        Key::EcdsaP256(key) => key
            .sign(&SystemRandom::new(), statement)
            .map_err(|_| CliError::bad_input(format!("{} does not sign", file.display())))?
            .as_ref()
            .to_vec(),
    };
    Ok(signature)
}

fn key(file: &Path) -> Result<Key, CliError> {
    let text = read_file(file)?;
    let der = PrivatePkcs8KeyDer::from_pem_slice(&text).map_err(|_| {
        CliError::bad_input(format!(
            "{} holds no private key in PKCS#8 PEM (`-----BEGIN PRIVATE KEY-----`); make one with `openssl genpkey -algorithm ed25519`",
            file.display()
        ))
    })?;
    let bytes = der.secret_pkcs8_der();
    if let Ok(key) = Ed25519KeyPair::from_pkcs8(bytes) {
        return Ok(Key::Ed25519(key));
    }
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, bytes)
        .map(Key::EcdsaP256)
        .map_err(|_| {
            CliError::bad_input(format!(
                "the key in {} is neither Ed25519 nor ECDSA P-256",
                file.display()
            ))
        })
}
