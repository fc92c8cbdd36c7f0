//! A signed token, taken apart and verified. Nothing of it is believed before its signature is good, except
//! which key it names.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::key_set::KeySet;

/// Longest token that is looked at. Kubernetes's have about 1 KiB.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// A token whose signature has not been looked at.
#[derive(Debug)]
pub(crate) struct Unverified<'a> {
    header: Header,
    message: &'a [u8],
    claims: Vec<u8>,
    signature: Vec<u8>,
}

#[derive(Debug, Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Extensions that must be understood; none is.
    crit: Option<serde::de::IgnoredAny>,
}

/// Why a token proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("it is no signed token: {0}")]
    Malformed(&'static str),
    #[error("it is signed with {0:?}, and only RS256 and ES256 are accepted")]
    Algorithm(String),
    #[error("it says {says:?}, and the key {kid:?} is for {is}")]
    OtherAlgorithm {
        says: String,
        kid: String,
        is: &'static str,
    },
    #[error("the issuer has no key {0:?}")]
    NoSuchKey(String),
    #[error("its signature is not that of the issuer's key {0:?}")]
    BadSignature(String),
}

impl<'a> Unverified<'a> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// If it is none, or is signed in a way that is never accepted (`none`, HMAC).
    pub(crate) fn parse(token: &'a str) -> Result<Self, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Malformed("it is longer than 16 KiB"));
        }
        let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed("it has no parts"))?;
        let (header, claims) = message
            .split_once('.')
            .ok_or(TokenError::Malformed("it does not have three parts"))?;
        if claims.contains('.') {
            return Err(TokenError::Malformed("it has more than three parts"));
        }
        let bytes = |part: &str| {
            URL_SAFE_NO_PAD
                .decode(part)
                .map_err(|_| TokenError::Malformed("it is not base64url"))
        };
        // Readers of JSON that is not UTF-8 may each read something else.
        let text = |part: &str| {
            String::from_utf8(bytes(part)?).map_err(|_| TokenError::Malformed("its header or claims are not UTF-8"))
        };
        let header: Header = serde_json::from_str(&text(header)?)
            .map_err(|_| TokenError::Malformed("its header is not JSON with an algorithm"))?;
        if header.crit.is_some() {
            return Err(TokenError::Malformed("it has critical extensions, and none is known"));
        }
        if !matches!(header.alg.as_str(), "RS256" | "ES256") {
            return Err(TokenError::Algorithm(header.alg.chars().take(20).collect()));
        }
        Ok(Self {
            header,
            message: message.as_bytes(),
            claims: text(claims)?.into_bytes(),
            signature: bytes(signature)?,
        })
    }

    /// What it says, before anything is known to be true. Only for choosing whose keys to ask.
    pub(crate) fn claims_unverified<T: for<'de> Deserialize<'de>>(&self) -> Option<T> {
        serde_json::from_slice(&self.claims).ok()
    }

    /// Which key it names.
    pub(crate) fn kid(&self) -> Option<&str> {
        self.header.kid.as_deref()
    }

    /// The claims, if a key of `keys` signed them.
    ///
    /// # Errors
    /// If none did.
    pub(crate) fn verify(&self, keys: &KeySet) -> Result<&[u8], TokenError> {
        let named = || self.kid().unwrap_or_default().chars().take(80).collect::<String>();
        let key = keys.key(self.kid()).ok_or_else(|| TokenError::NoSuchKey(named()))?;
        if key.algorithm().name() != self.header.alg {
            return Err(TokenError::OtherAlgorithm {
                says: self.header.alg.clone(),
                kid: named(),
                is: key.algorithm().name(),
            });
        }
        if key.verifies(self.message, &self.signature) {
            Ok(&self.claims)
        } else {
            Err(TokenError::BadSignature(named()))
        }
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    use serde_json::{Value, json};

    use super::*;

    struct Issuer {
        key: EcdsaKeyPair,
        keys: KeySet,
    }

    fn issuer() -> Issuer {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        let point = key.public_key().as_ref();
        let jwk = json!({"kty": "EC", "crv": "P-256", "kid": "k1", "x": URL_SAFE_NO_PAD.encode(&point[1..33]),
            "y": URL_SAFE_NO_PAD.encode(&point[33..])});
        let keys = KeySet::parse(json!({ "keys": [jwk] }).to_string().as_bytes()).expect("a set");
        Issuer { key, keys }
    }

    fn part(value: &Value) -> String {
        URL_SAFE_NO_PAD.encode(value.to_string())
    }

    impl Issuer {
        fn token(&self, header: &Value, claims: &Value) -> String {
            let message = format!("{}.{}", part(header), part(claims));
            let signature = self.key.sign(&SystemRandom::new(), message.as_bytes()).expect("signed");
            format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
        }

        fn verdict(&self, token: &str) -> Result<String, TokenError> {
            let parsed = Unverified::parse(token)?;
            parsed
                .verify(&self.keys)
                .map(|claims| String::from_utf8_lossy(claims).into_owned())
        }
    }

    #[test]
    fn a_token_of_the_issuers_key_is_believed_and_a_changed_one_is_not() {
        let issuer = issuer();
        let token = issuer.token(&json!({"alg": "ES256", "kid": "k1"}), &json!({"sub": "a"}));
        assert_eq!(issuer.verdict(&token).as_deref(), Ok(r#"{"sub":"a"}"#));
        let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
        parts[1] = part(&json!({"sub": "b"}));
        assert_eq!(
            issuer.verdict(&parts.join(".")),
            Err(TokenError::BadSignature("k1".into()))
        );
    }

    /// Bytes that are no text, in a claim that is not asked for, were passed over.
    #[test]
    fn what_is_not_utf8_is_refused_whoever_signed_it() {
        let issuer = issuer();
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        for (header, claims) in [
            (
                b"{\"alg\":\"ES256\",\"kid\":\"k1\",\"ty\":\"\xd7\"}".as_slice(),
                b"{}".as_slice(),
            ),
            (b"{\"alg\":\"ES256\",\"kid\":\"k1\"}", b"{\"x\":\"\xd7\"}"),
        ] {
            let message = format!("{}.{}", part(header), part(claims));
            let signature = issuer
                .key
                .sign(&SystemRandom::new(), message.as_bytes())
                .expect("signed");
            let verdict = issuer.verdict(&format!("{message}.{}", part(signature.as_ref())));
            assert_eq!(
                verdict,
                Err(TokenError::Malformed("its header or claims are not UTF-8"))
            );
        }
    }

    #[test]
    fn what_proves_nothing_is_refused_in_its_own_words() {
        let (issuer, claims) = (issuer(), json!({"sub": "a"}));
        let good = json!({"alg": "ES256", "kid": "k1"});
        let unsigned = format!("{}.{}.", part(&json!({"alg": "none"})), part(&claims));
        // The issuer's public key as the secret of an HMAC: what a verifier that asks the token would accept.
        let told = [
            issuer.verdict(&unsigned),
            issuer.verdict(&issuer.token(&json!({"alg": "HS256", "kid": "k1"}), &claims)),
            issuer.verdict(&issuer.token(&json!({"alg": "RS256", "kid": "k1"}), &claims)),
            issuer.verdict(&issuer.token(&json!({"alg": "ES256", "kid": "k2"}), &claims)),
            issuer.verdict(&issuer.token(&json!({"alg": "ES256", "kid": "k1", "crit": ["b64"]}), &claims)),
            issuer.verdict(&issuer.token(&json!({"kid": "k1"}), &claims)),
            issuer.verdict(&super::tests::issuer().token(&good, &claims)),
            issuer.verdict(""),
            issuer.verdict("a.b"),
            issuer.verdict("a.b.c.d"),
            issuer.verdict("ä.b.c"),
            issuer.verdict(&"a".repeat(20_000)),
        ]
        .map(|verdict| verdict.expect_err("refused").to_string());
        insta::assert_snapshot!(told.join("\n"), @r#"
        it is signed with "none", and only RS256 and ES256 are accepted
        it is signed with "HS256", and only RS256 and ES256 are accepted
        it says "RS256", and the key "k1" is for ES256
        the issuer has no key "k2"
        it is no signed token: it has critical extensions, and none is known
        it is no signed token: its header is not JSON with an algorithm
        its signature is not that of the issuer's key "k1"
        it is no signed token: it has no parts
        it is no signed token: it does not have three parts
        it is no signed token: it has more than three parts
        it is no signed token: it is not base64url
        it is no signed token: it is longer than 16 KiB
        "#);
    }
}
