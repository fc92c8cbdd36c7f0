//! One pool key, and the keys that are derived from it. Nothing is ever done with the pool key
//! itself, and what is derived for one run is of no use for another.

use std::fmt;

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{self, HKDF_SHA256, Salt};
use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use deputy_task::record::PoolKeyId;
use zeroize::Zeroizing;

/// Bytes of a pool key, and of every key derived from it.
pub const KEY_BYTES: usize = 32;

/// Bytes of an id; 64 bits of something that tells nothing of the key.
const ID_BYTES: usize = 8;

/// 32 random bytes that a pool shares.
#[derive(Clone)]
pub struct PoolKey {
    id: PoolKeyId,
    secret: Zeroizing<[u8; KEY_BYTES]>,
}

/// The library of cryptography refused; it says no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cryptographic library refused")]
pub struct Refused;

impl PoolKey {
    /// A new one.
    ///
    /// # Errors
    /// If the system has no random bytes.
    pub fn generate() -> Result<Self, Refused> {
        let mut secret = Zeroizing::new([0; KEY_BYTES]);
        rand::fill(secret.as_mut_slice())?;
        Self::new(secret)
    }

    /// With these bytes.
    ///
    /// # Errors
    /// If nothing can be derived from it.
    pub fn new(secret: Zeroizing<[u8; KEY_BYTES]>) -> Result<Self, Refused> {
        let mut id = [0; ID_BYTES];
        expand(&secret, &[b"deputy pool key id v1"], &mut id)?;
        Ok(Self {
            id: PoolKeyId::of_bytes(&id),
            secret,
        })
    }

    /// What may be shown of it.
    #[must_use]
    pub fn id(&self) -> &PoolKeyId {
        &self.id
    }

    /// The key itself as text, for a ring.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE64.encode(self.secret.as_slice()))
    }

    /// The key itself as bytes and as the text of a ring: what must never be printed.
    #[must_use]
    pub fn secrets(&self) -> [Zeroizing<Vec<u8>>; 2] {
        let text = self.to_text();
        [self.secret.to_vec().into(), text.as_bytes().to_vec().into()]
    }

    /// A key for `label` within `context`.
    pub(crate) fn derive(&self, label: &str, context: &[u8]) -> Result<Zeroizing<[u8; KEY_BYTES]>, Refused> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        expand(&self.secret, &[label.as_bytes(), context], key.as_mut_slice())?;
        Ok(key)
    }
}

impl fmt::Debug for PoolKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PoolKey({})", self.id)
    }
}

impl From<Unspecified> for Refused {
    fn from(_: Unspecified) -> Self {
        Self
    }
}

/// How many bytes are wanted of HKDF.
struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn expand(secret: &[u8; KEY_BYTES], info: &[&[u8]], out: &mut [u8]) -> Result<(), Refused> {
    let key = Salt::none(HKDF_SHA256).extract(secret);
    Ok(key.expand(info, Length(out.len()))?.fill(out)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> PoolKey {
        PoolKey::new(Zeroizing::new([byte; KEY_BYTES])).expect("a key")
    }

    #[test]
    fn nothing_shows_a_key() {
        let key = key(7);
        let shown = format!("{key:?} {}", key.id());
        for secret in key.secrets() {
            let hex = hex::encode(&*secret);
            assert!(!shown.contains(&hex[..8]), "{shown}");
        }
        assert!(!shown.contains(&key.to_text()[..8]), "{shown}");
    }

    #[test]
    fn labels_contexts_and_keys_lead_to_different_keys() {
        let derived = |of: &PoolKey, label, context: &[u8]| of.derive(label, context).expect("derived");
        let one = derived(&key(1), "mac", b"run");
        assert_eq!(one, derived(&key(1), "mac", b"run"));
        for other in [
            derived(&key(1), "seal", b"run"),
            derived(&key(1), "mac", b"other"),
            derived(&key(2), "mac", b"run"),
        ] {
            assert_ne!(one, other);
        }
        assert_ne!(
            PoolKey::generate().expect("one").id(),
            PoolKey::generate().expect("two").id()
        );
    }
}
