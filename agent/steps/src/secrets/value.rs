//! The value of a secret in memory, and which version of it was read.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Bytes that nobody may print; wiped when they are dropped.
#[derive(Clone)]
pub struct SecretValue(Zeroizing<Vec<u8>>);

impl SecretValue {
    /// Takes the bytes as they are: nothing is trimmed, nothing is added.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, for who hands them to a child.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(***)")
    }
}

/// Which version was read: what is recorded of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Version {
    /// Where it was, for people: an ARN or a path.
    pub(super) from: String,
    /// What its store calls the version; nothing where the store keeps none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) version: Option<String>,
}

/// What a store answers.
pub(super) struct Fetched {
    pub(super) value: SecretValue,
    pub(super) version: Version,
}
