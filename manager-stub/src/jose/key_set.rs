//! Public keys as an issuer publishes them (RFC 7517). Keys that are not for RS256 or ES256 signatures are
//! left out: what they sign is then refused for want of a key.

use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

/// More than any issuer publishes.
const MAX_KEYS: usize = 64;

/// The two ways to sign that are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256, keys of 2048 to 8192 bits.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
}

/// A public key with its one algorithm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VerifyingKey {
    pub(crate) kid: String,
    material: Material,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// Uncompressed: 4, x, y.
    P256(Vec<u8>),
}

/// The keys of an issuer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct KeySet(Vec<VerifyingKey>);

#[derive(Deserialize)]
struct WireSet {
    keys: Vec<WireKey>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireKey {
    kty: String,
    kid: String,
    alg: String,
    #[serde(rename = "use")]
    purpose: String,
    crv: String,
    n: String,
    e: String,
    x: String,
    y: String,
}

impl Algorithm {
    /// As a token's header and a key set name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
        }
    }
}

impl VerifyingKey {
    pub(crate) fn algorithm(&self) -> Algorithm {
        match self.material {
            Material::Rsa { .. } => Algorithm::Rs256,
            Material::P256(_) => Algorithm::Es256,
        }
    }

    /// Did the owner of this key sign `message`?
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::Rsa { n, e } => PublicKeyComponents { n, e }
                .verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
                .is_ok(),
            Material::P256(point) => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
                .verify(message, signature)
                .is_ok(),
        }
    }

    fn of_wire(wire: WireKey) -> Option<Self> {
        if !matches!(wire.purpose.as_str(), "" | "sig") {
            return None;
        }
        let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).ok().filter(|bytes| !bytes.is_empty());
        let material = match (wire.kty.as_str(), wire.alg.as_str(), wire.crv.as_str()) {
            ("RSA", "" | "RS256", _) => Material::Rsa {
                n: bytes(&wire.n)?,
                e: bytes(&wire.e)?,
            },
            ("EC", "" | "ES256", "P-256") => {
                let (x, y) = (bytes(&wire.x)?, bytes(&wire.y)?);
                if x.len() != 32 || y.len() != 32 {
                    return None;
                }
                Material::P256([&[4], x.as_slice(), y.as_slice()].concat())
            }
            _ => return None,
        };
        Some(Self {
            kid: wire.kid,
            material,
        })
    }
}

impl KeySet {
    /// Reads a JWKS document.
    ///
    /// # Errors
    /// If it is none, or holds no key that can be used.
    pub(crate) fn parse(document: &[u8]) -> Result<Self, String> {
        let set: WireSet =
            serde_json::from_slice(document).map_err(|error| format!("it is no JSON Web Key Set: {error}"))?;
        if set.keys.len() > MAX_KEYS {
            return Err(format!("it holds {} keys, and {MAX_KEYS} are read", set.keys.len()));
        }
        let keys: Vec<VerifyingKey> = set.keys.into_iter().filter_map(VerifyingKey::of_wire).collect();
        if keys.is_empty() {
            return Err("it holds no RSA or P-256 key for RS256 or ES256 signatures".into());
        }
        Ok(Self(keys))
    }

    /// The key that a token names; of tokens that name none, the only one.
    pub(crate) fn key(&self, kid: Option<&str>) -> Option<&VerifyingKey> {
        match (kid, self.0.as_slice()) {
            (Some(kid), keys) => keys.iter().find(|key| key.kid == kid),
            (None, [only]) => Some(only),
            (None, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_for_the_known_ways_to_sign_are_read() {
        let told = [
            "",
            "{}",
            r#"{"keys": []}"#,
            r#"{"keys": [{"kty": "oct", "kid": "a", "k": "c2VjcmV0"}]}"#,
            r#"{"keys": [{"kty": "RSA", "alg": "RS512", "n": "AQAB", "e": "AQAB"}]}"#,
            r#"{"keys": [{"kty": "RSA", "use": "enc", "n": "AQAB", "e": "AQAB"}]}"#,
            r#"{"keys": [{"kty": "EC", "crv": "P-256", "x": "AQAB", "y": "AQAB"}]}"#,
        ]
        .map(|document| KeySet::parse(document.as_bytes()).expect_err(document));
        insta::assert_snapshot!(told.join("\n"), @r"
        it is no JSON Web Key Set: EOF while parsing a value at line 1 column 0
        it is no JSON Web Key Set: missing field `keys` at line 1 column 2
        it holds no RSA or P-256 key for RS256 or ES256 signatures
        it holds no RSA or P-256 key for RS256 or ES256 signatures
        it holds no RSA or P-256 key for RS256 or ES256 signatures
        it holds no RSA or P-256 key for RS256 or ES256 signatures
        it holds no RSA or P-256 key for RS256 or ES256 signatures
        ");
    }

    #[test]
    fn a_token_without_a_key_id_is_for_the_only_key() {
        let one = r#"{"keys": [{"kty": "RSA", "kid": "a", "n": "AQAB", "e": "AQAB"}]}"#;
        let two = r#"{"keys": [{"kty": "RSA", "kid": "a", "n": "AQAB", "e": "AQAB"}, {"kty": "RSA", "kid": "b", "n": "AQAB", "e": "AQAB"}]}"#;
        let (one, two) = (KeySet::parse(one.as_bytes()), KeySet::parse(two.as_bytes()));
        let (one, two) = (one.expect("one"), two.expect("two"));
        assert!(one.key(None).is_some());
        assert!(two.key(None).is_none());
        assert_eq!(two.key(Some("b")).map(|key| key.kid.as_str()), Some("b"));
        assert!(two.key(Some("c")).is_none());
    }
}
