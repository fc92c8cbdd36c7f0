//! A key that signs tokens: RSA of 2048 bits, RS256. Every relying party must know RS256 (OpenID Connect Discovery
//! 1.0, section 3), AWS does, and few know more.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::store::oidc_key::OidcKeyRow;

/// A private key, its public half as a JWK, and its times.
pub(super) struct SigningKey {
    pub(super) row: OidcKeyRow,
    pair: KeyPair,
    n: String,
    e: String,
}

/// What went wrong with a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the signing key {kid} of the OIDC issuer {problem}")]
pub(super) struct KeyError {
    kid: String,
    problem: &'static str,
}

impl SigningKey {
    /// A new one. Takes some tenths of a second: not on a thread that must not block.
    pub(super) fn generate(created_ms: i64, signs_from_ms: i64) -> Result<Self, KeyError> {
        let bad = |problem| KeyError {
            kid: "(new)".into(),
            problem,
        };
        let pair = KeyPair::generate(KeySize::Rsa2048).map_err(|_| bad("could not be generated"))?;
        let der: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| bad("could not be encoded"))?;
        let kid = hex::encode(&Sha256::digest(pair.public_key().as_ref())[..12]);
        Self::read(OidcKeyRow {
            kid,
            pkcs8: der.as_ref().to_vec(),
            created_ms,
            signs_from_ms,
        })
    }

    /// One from the store.
    pub(super) fn read(row: OidcKeyRow) -> Result<Self, KeyError> {
        let bad = |problem| KeyError {
            kid: row.kid.clone(),
            problem,
        };
        let pair = KeyPair::from_pkcs8(&row.pkcs8).map_err(|_| bad("cannot be read from the store"))?;
        let (n, e) = components(pair.public_key().as_ref()).ok_or_else(|| bad("has no readable public half"))?;
        let (n, e) = (URL_SAFE_NO_PAD.encode(n), URL_SAFE_NO_PAD.encode(e));
        Ok(Self { row, pair, n, e })
    }

    /// The public half.
    pub(super) fn jwk(&self) -> Value {
        json!({ "kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.row.kid, "n": self.n, "e": self.e })
    }

    /// A token with these claims.
    pub(super) fn sign(&self, claims: &[u8]) -> Result<String, KeyError> {
        let header = json!({ "alg": "RS256", "kid": self.row.kid, "typ": "JWT" }).to_string();
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair
            .sign(
                &RSA_PKCS1_SHA256,
                &SystemRandom::new(),
                message.as_bytes(),
                &mut signature,
            )
            .map_err(|_| KeyError {
                kid: self.row.kid.clone(),
                problem: "could not sign",
            })?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// Modulus and exponent of `RSAPublicKey` in DER (RFC 8017, A.1.1), without leading zeros.
fn components(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (sequence, _) = element(der, 0x30)?;
    let (n, rest) = element(sequence, 0x02)?;
    let (e, _) = element(rest, 0x02)?;
    let unsigned = |integer: &'_ [u8]| integer.iter().position(|byte| *byte != 0);
    Some((n.get(unsigned(n)?..)?, e.get(unsigned(e)?..)?))
}

/// The content of the first element, which must have this tag, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 | 0x82 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x0f))?;
            (
                bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)),
                rest,
            )
        }
        _ => return None,
    };
    (found == tag).then_some(())?;
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jose::key_set::KeySet;
    use crate::jose::token::Unverified;

    #[test]
    fn what_it_signs_is_verified_with_its_published_half_after_a_restart_too() {
        let key = SigningKey::generate(1, 2).expect("a key");
        let again = SigningKey::read(key.row.clone()).expect("the same key");
        assert_eq!(key.jwk(), again.jwk());
        let set = json!({ "keys": [key.jwk()] }).to_string();
        let set = KeySet::parse(set.as_bytes()).expect("a set");
        let token = again.sign(br#"{"sub":"a"}"#).expect("signed");
        let token = Unverified::parse(&token).expect("a token");
        assert_eq!(token.verify(&set).expect("verified"), br#"{"sub":"a"}"#);
        assert!(!format!("{:?}", key.row).contains("pkcs8: ["), "{:?}", key.row);
    }

    #[test]
    fn der_that_is_cut_short_is_no_key() {
        let key = SigningKey::generate(1, 2).expect("a key");
        let der = key.pair.public_key().as_ref().to_vec();
        assert!(components(&der).is_some());
        for end in [0, 1, 3, 10, der.len() - 1] {
            assert!(components(&der[..end]).is_none(), "{end}");
        }
        let row = OidcKeyRow {
            pkcs8: vec![1, 2, 3],
            ..key.row
        };
        assert!(SigningKey::read(row).is_err());
    }
}
