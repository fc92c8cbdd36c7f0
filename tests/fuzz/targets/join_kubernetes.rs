//! A service-account token from a stranger, and the key sets of clusters. Nobody is let in without the cluster's
//! signature, and with it only by claims that say so when they are read in another way.
//!
//! Input: a byte for the form, then a token as it is; or claims that the cluster signs; or a header that it signs
//! before good claims; or a key set, of which the token of another key is shown.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use deputy_manager::fuzzing::{service_account, signed_by};
use deputy_manager::join::key_sets::KeySource;
use deputy_manager::join::service_account_rule::KubernetesRule;
use deputy_manager::join::{JoinRule, RuleProof};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

const NOW: u64 = 1_800_000_000;
const LEEWAY: f64 = 60.0;
const TRUST_DOMAIN: &str = "deputy.example.com";
const GOOD_HEADER: &str = r#"{"alg":"ES256","kid":"k1"}"#;
const GOOD_CLAIMS: &str = r#"{"iss":"https://cluster","sub":"system:serviceaccount:deputy:agent","aud":["deputy/deputy.example.com"],"iat":1799999400,"exp":1800000600,"kubernetes.io":{"namespace":"deputy","serviceaccount":{"name":"agent"}}}"#;

struct Cluster {
    key: EcdsaKeyPair,
    x: String,
    rules: Vec<JoinRule>,
}

/// The same key in every process, so that tokens can be seeds. It guards nothing.
static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| {
    let key = EcdsaKeyPair::from_private_key_and_public_key(&ECDSA_P256_SHA256_FIXED_SIGNING, &PRIVATE, &public())
        .expect("a key");
    let point = key.public_key().as_ref();
    let (x, y) = (
        URL_SAFE_NO_PAD.encode(&point[1..33]),
        URL_SAFE_NO_PAD.encode(&point[33..]),
    );
    let keys = json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "k1", "x": x, "y": y}]});
    let proof = RuleProof::Kubernetes(KubernetesRule {
        issuer: "https://cluster".into(),
        keys: KeySource::Given(keys.to_string()),
        namespace: "deputy".into(),
        service_account: "agent".into(),
    });
    let rule = JoinRule {
        name: "cluster".into(),
        pool: "default".into(),
        projects: Vec::new(),
        proof,
        created_at_ms: 0,
        created_by: "admin".into(),
    };
    Cluster {
        key,
        x,
        rules: vec![rule],
    }
});

/// One is a private key as good as any here.
const PRIVATE: [u8; 32] = {
    let mut one = [0; 32];
    one[31] = 1;
    one
};

/// The generator of the curve: the public key of the private key one.
fn public() -> Vec<u8> {
    hex::decode(concat!(
        "04",
        "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296",
        "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
    ))
    .expect("hexadecimal")
}

fn token(header: &[u8], claims: &[u8]) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = CLUSTER
        .key
        .sign(&SystemRandom::new(), message.as_bytes())
        .expect("signed");
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn is_let_in(token: &str) -> bool {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
    let proven = service_account(token, TRUST_DOMAIN, &CLUSTER.rules, now);
    if let Ok(proven) = &proven {
        assert_eq!(proven.subject, "kubernetes:cluster:https://cluster:deputy/agent");
    }
    proven.is_ok()
}

/// Read as loosely as JSON can be: the last of two keys counts, as it does for most readers. Numbers that fit nowhere
/// and halves of surrogate pairs, in claims that nobody asks for, make it unreadable in this way.
fn say_so(claims: &[u8]) -> bool {
    let Ok(claims) = serde_json::from_slice::<Value>(claims) else {
        return std::str::from_utf8(claims).is_ok();
    };
    let now = NOW as f64;
    let time = |name: &str| claims[name].as_f64();
    let audience = &claims["aud"];
    let wanted = format!("deputy/{TRUST_DOMAIN}");
    claims["iss"] == "https://cluster"
        && claims["sub"] == "system:serviceaccount:deputy:agent"
        && claims["kubernetes.io"]["namespace"] == "deputy"
        && claims["kubernetes.io"]["serviceaccount"]["name"] == "agent"
        && (*audience == wanted.as_str() || *audience == json!([wanted]))
        && time("exp").is_some_and(|end| end + LEEWAY > now)
        && time("iat").is_some_and(|begin| begin - LEEWAY <= now)
        && (claims.get("nbf").is_none_or(Value::is_null) || time("nbf").is_some_and(|begin| begin - LEEWAY <= now))
}

fuzz_target!(|input: &[u8]| {
    let Some((&form, rest)) = input.split_first() else {
        return;
    };
    match form % 4 {
        // Of the cluster's tokens a stranger has none: only a guess of a signature could be let in.
        0 => {
            if let Ok(text) = std::str::from_utf8(rest) {
                assert!(!is_let_in(text), "let in by {text}");
            }
        }
        1 => {
            if is_let_in(&token(GOOD_HEADER.as_bytes(), rest)) {
                assert!(say_so(rest), "let in by {}", String::from_utf8_lossy(rest));
            }
        }
        2 => {
            if is_let_in(&token(rest, GOOD_CLAIMS.as_bytes())) {
                assert!(std::str::from_utf8(rest).is_ok(), "JSON is UTF-8");
                if let Ok(header) = serde_json::from_slice::<Value>(rest) {
                    assert_eq!(header["alg"], "ES256");
                    assert!(header.get("crit").is_none_or(Value::is_null));
                }
            }
        }
        _ => {
            if signed_by(&token(GOOD_HEADER.as_bytes(), GOOD_CLAIMS.as_bytes()), rest) == Some(true) {
                let text = String::from_utf8_lossy(rest);
                assert!(
                    text.contains(&CLUSTER.x) || text.contains('\\'),
                    "a key that is not there has signed: {text}"
                );
            }
        }
    }
});
