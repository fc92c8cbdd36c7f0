//! Secrets that the manager gives out and then forgets: 256 random bits, of which it keeps the SHA-256. A random
//! secret needs no slow hash: there is nothing to guess.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A secret as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hashed(String);

/// A secret that was just made: its id, the text for its owner, and what is kept.
pub(super) struct Made {
    pub(super) id: String,
    pub(super) text: String,
    pub(super) hashed: Hashed,
}

/// Makes a secret. The text begins with `prefix`, so that scanners of leaked secrets can know it.
pub(super) fn make(prefix: &str) -> Made {
    let id = hex::encode(rand::random::<[u8; 8]>());
    let secret = hex::encode(rand::random::<[u8; 32]>());
    Made {
        hashed: Hashed::of(&secret),
        text: format!("{prefix}_{id}_{secret}"),
        id,
    }
}

/// Id and secret of a text, if it has the form.
pub(super) fn parse<'a>(prefix: &str, text: &'a str) -> Option<(&'a str, &'a str)> {
    let rest = text.trim().strip_prefix(prefix)?.strip_prefix('_')?;
    let (id, secret) = rest.split_once('_')?;
    (id.len() == 16 && secret.len() == 64).then_some((id, secret))
}

impl Hashed {
    fn of(secret: &str) -> Self {
        Self(hex::encode(Sha256::digest(secret.as_bytes())))
    }

    /// Is it this secret's?
    pub(super) fn is_of(&self, secret: &str) -> bool {
        let other = Self::of(secret);
        aws_lc_rs::constant_time::verify_slices_are_equal(self.0.as_bytes(), other.0.as_bytes()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_known_again_and_is_nowhere_in_what_is_kept() {
        let made = make("dpt");
        let (id, secret) = parse("dpt", &made.text).expect("the form");
        assert_eq!(id, made.id);
        assert!(made.hashed.is_of(secret));
        assert!(!made.hashed.is_of(&secret.replace('0', "1").replace('2', "3")));
        assert!(!format!("{:?}", made.hashed).contains(secret));
        assert_eq!(parse("dpj", &made.text), None);
        assert_eq!(parse("dpt", "dpt_x_y"), None);
    }
}
