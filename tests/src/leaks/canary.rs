//! The values that must not be found: fixed ones, put where a secret is expected, and those that appear while the
//! world runs, such as the keys of every session that the emulated AWS gives out.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;

use super::whole_run::WholeRun;

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
    all: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    all: Vec<Canary>,
    values: HashSet<Vec<u8>>,
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

    /// A value that somebody else made. What is known already, or too short to be told from chance, is not taken. Of a
    /// value of several lines each line is one too: programs print them one by one.
    pub fn learn(&self, name: &str, value: &str) {
        self.learn_bytes(name, value.as_bytes());
        for line in value
            .lines()
            .filter(|line| line.len() < value.len() && !is_common(line))
        {
            self.learn_bytes(&format!("{name}, a line of it"), line.as_bytes());
        }
    }

    /// The same for what need not be text.
    pub fn learn_bytes(&self, name: &str, value: &[u8]) {
        if value.len() < SHORTEST {
            return;
        }
        let canary = Canary {
            name: name.to_owned(),
            value: value.to_vec(),
        };
        let mut known = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if known.values.insert(canary.value.clone()) {
            if let Some(run) = WholeRun::asked_for() {
                run.note(name, value);
            }
            known.all.push(canary);
        }
    }

    /// Every secret that the tests of a run noted.
    pub fn of_run(run: &WholeRun) -> Result<Self> {
        let canaries = Self::default();
        for (name, value) in run.noted()? {
            canaries.learn_bytes(&name, &value);
        }
        Ok(canaries)
    }

    /// All of them, as of now.
    #[must_use]
    pub fn all(&self) -> Vec<Canary> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).all.clone()
    }
}

/// Notes a secret of a test for the record of the whole run, if there is one.
pub fn note(name: &str, value: &str) {
    Canaries::default().learn(name, value);
}

/// The first and last lines of every PEM text.
fn is_common(line: &str) -> bool {
    line.trim_start().starts_with("-----")
}
