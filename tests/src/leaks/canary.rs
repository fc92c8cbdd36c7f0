//! The values that must not be found: fixed ones, put where a secret is expected, and those that appear while the
//! world runs, such as the keys of every session that the emulated AWS gives out.

use std::sync::{Arc, Mutex, PoisonError};

/// Shorter values occur by chance.
pub const SHORTEST: usize = 12;

/// A value that must not be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canary {
    /// Where it comes from, for example `session token of deployer`.
    pub name: String,
    /// The value.
    pub value: Vec<u8>,
}

/// All canaries of a world; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Canaries {
    all: Arc<Mutex<Vec<Canary>>>,
}

impl Canaries {
    /// A new value that is nowhere else, for a secret of this name: letters, digits and what makes encodings differ.
    #[must_use]
    pub fn make(&self, name: &str) -> String {
        let value = format!("canary/{name}+\"{:032x}\"&%~", rand::random::<u128>());
        self.learn(name, &value);
        value
    }

    /// The same for places where only letters, digits and hyphens may be.
    #[must_use]
    pub fn make_plain(&self, name: &str) -> String {
        let value = format!("canary-{:032x}", rand::random::<u128>());
        self.learn(name, &value);
        value
    }

    /// A value that somebody else made. What is known already, or too short to be told from chance, is not taken.
    pub fn learn(&self, name: &str, value: &str) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.iter().any(|canary| canary.value == value.as_bytes());
        if value.len() >= SHORTEST && !known {
            all.push(Canary {
                name: name.to_owned(),
                value: value.as_bytes().to_vec(),
            });
        }
    }

    /// All of them, as of now.
    #[must_use]
    pub fn all(&self) -> Vec<Canary> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
