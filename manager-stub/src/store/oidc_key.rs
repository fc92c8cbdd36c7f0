//! A signing key of the OIDC issuer, as the store keeps it. It belongs to no project.

use std::fmt;

/// A key and its times, Unix milliseconds.
#[derive(Clone, PartialEq, Eq)]
pub struct OidcKeyRow {
    /// Its id, as tokens and the key set name it.
    pub kid: String,
    /// The private key, PKCS #8 DER. Whoever has it can make tokens: the data folder is this user's alone.
    pub pkcs8: Vec<u8>,
    /// When it was made.
    pub created_ms: i64,
    /// From when on it signs.
    pub signs_from_ms: i64,
}

/// Shows everything but the key.
impl fmt::Debug for OidcKeyRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OidcKeyRow")
            .field("kid", &self.kid)
            .field("signs_from_ms", &self.signs_from_ms)
            .finish_non_exhaustive()
    }
}
