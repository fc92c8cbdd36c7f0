//! Why a proof of identity was not accepted, in words for the person who runs the agent.

use std::fmt;

/// Why a proof was not accepted. Never holds the proof itself: it may be worth something elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Unproven {
    /// What the agent can do about it.
    pub kind: UnprovenKind,
    /// What is wrong.
    pub what: String,
    /// What to do next; may be empty.
    pub hint: String,
}

/// What the agent can do about a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnprovenKind {
    /// Nothing: the proof is not what it says it is, or proves somebody who may not join.
    Denied,
    /// Try again: somebody whose word is needed did not answer.
    Later,
}

impl Unproven {
    /// The proof is refused.
    pub(crate) fn denied(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            kind: UnprovenKind::Denied,
            what: what.into(),
            hint: hint.into(),
        }
    }

    /// Nothing can be said of the proof now.
    pub(crate) fn later(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            kind: UnprovenKind::Later,
            what: what.into(),
            hint: hint.into(),
        }
    }
}

impl fmt::Display for Unproven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if !self.hint.is_empty() {
            write!(f, "; {}", self.hint)?;
        }
        Ok(())
    }
}
