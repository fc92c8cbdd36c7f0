//! A certificate signing request from a stranger: whatever it asks for, the certificate names the agent as the manager
//! knows it, for the request's own key, and is good for nothing but being that client.
//!
//! Input: a byte for the form, then the request (DER); or the part of it that is signed, which the target then signs.
#![no_main]

use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, UnparsedPublicKey};
use deputy_manager::fuzzing::Signer;
use libfuzzer_sys::fuzz_target;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

struct World {
    _folder: tempfile::TempDir,
    signer: Signer,
    key: EcdsaKeyPair,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let mut one = [0; 32];
    one[31] = 1;
    let generator = hex::decode(concat!(
        "04",
        "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296",
        "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
    ));
    let public = generator.expect("hexadecimal");
    World {
        signer: Signer::in_folder(folder.path()),
        _folder: folder,
        key: EcdsaKeyPair::from_private_key_and_public_key(&ECDSA_P256_SHA256_ASN1_SIGNING, &one, &public)
            .expect("a key"),
    }
});

/// A DER element with this tag.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let len = content.len();
    let mut der = vec![tag];
    match u8::try_from(len) {
        Ok(short) if short < 0x80 => der.push(short),
        _ => {
            let bytes = len.to_be_bytes();
            let bytes = &bytes[bytes.iter().position(|byte| *byte != 0).unwrap_or(0)..];
            der.push(0x80 | u8::try_from(bytes.len()).expect("few"));
            der.extend(bytes);
        }
    }
    der.extend(content);
    der
}

/// A request whose signed part is this, signed with the target's key.
fn signed(part: &[u8]) -> Vec<u8> {
    let signature = WORLD.key.sign(&SystemRandom::new(), part).expect("signed");
    let ecdsa_with_sha256 = [0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
    let bits = [&[0], signature.as_ref()].concat();
    element(0x30, &[part, &ecdsa_with_sha256, &element(0x03, &bits)].concat())
}

fn check(request: &[u8], leaf: &[u8]) {
    assert!(request.len() <= 8 * 1024);
    let (_, asked) = X509CertificationRequest::from_der(request).expect("accepted");
    let info = &asked.certification_request_info;
    let key = &info.subject_pki.subject_public_key.data;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.as_ref())
        .verify(info.raw, &asked.signature_value.data)
        .expect("the request is not signed by its own key");
    let (rest, given) = X509Certificate::from_der(leaf).expect("a certificate");
    assert!(rest.is_empty());
    assert_eq!(given.public_key().subject_public_key.data, *key, "for another key");
    assert_eq!(given.subject().to_string(), "CN=Deputy client");
    let names = given.subject_alternative_name().expect("one").expect("one");
    assert_eq!(
        names.value.general_names,
        [GeneralName::URI("spiffe://deputy.example.com/pool/agent")]
    );
    let usage = given.extended_key_usage().expect("one").expect("one").value;
    assert!(usage.client_auth && !usage.server_auth && !usage.any && !usage.code_signing && usage.other.is_empty());
    assert!(!given.is_ca());
    for extension in given.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(_)
            | ParsedExtension::ExtendedKeyUsage(_)
            | ParsedExtension::KeyUsage(_)
            | ParsedExtension::BasicConstraints(_)
            | ParsedExtension::AuthorityKeyIdentifier(_)
            | ParsedExtension::SubjectKeyIdentifier(_) => {}
            other => panic!("the request put {other:?} into the certificate"),
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&form, rest)) = input.split_first() else {
        return;
    };
    let request = if form % 2 == 0 { rest.to_vec() } else { signed(rest) };
    if let Ok(leaf) = WORLD.signer.certificate(&request) {
        check(&request, &leaf);
    }
});
