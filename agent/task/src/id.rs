//! Identifiers, each a type of its own so that they cannot be mixed up.
//!
//! Every id is text on the wire and in the store. Parsing checks the character set once; nothing
//! behind it has to.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest id, in bytes. Ids become file names, so this stays well under 255.
pub const MAX_ID_BYTES: usize = 128;

/// An id has characters other than letters, digits, `.`, `_` and `-`, or a bad length.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} must be 1 to {MAX_ID_BYTES} letters, digits, '.', '_' or '-', and not begin with '.' or '-'")]
pub struct BadId {
    /// Which kind of id.
    pub what: &'static str,
    /// What was given.
    pub text: String,
}

fn check(what: &'static str, text: &str) -> Result<(), BadId> {
    let good = !text.is_empty()
        && text.len() <= MAX_ID_BYTES
        && !text.starts_with(['.', '-'])
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if good {
        Ok(())
    } else {
        Err(BadId {
            what,
            text: text.chars().take(MAX_ID_BYTES).collect(),
        })
    }
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $what:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                check($what, text)?;
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadId;
            fn try_from(text: String) -> Result<Self, BadId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

ids! {
    /// The tenant: every key in the store begins with it.
    Project = "project";
    /// What a user submitted.
    TaskId = "task id";
    /// An agent's identity; survives restarts.
    AgentId = "agent id";
    /// One start of an agent process. Leases belong to it.
    InstanceId = "instance id";
    /// The name of a step within its task.
    StepName = "step name";
}

impl Project {
    /// The project of those who name none.
    #[must_use]
    pub fn default_project() -> Self {
        Self("default".into())
    }
}

impl TaskId {
    /// A new id; ids sort by the time they were made.
    #[must_use]
    pub fn generate() -> Self {
        Self(uuid::Uuid::now_v7().simple().to_string().into())
    }
}

impl InstanceId {
    /// A new id for a process that starts.
    #[must_use]
    pub fn generate() -> Self {
        Self(uuid::Uuid::new_v4().simple().to_string().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_refuse_what_could_escape_a_folder() {
        for bad in ["", ".", "..", "a/b", "-x", "a b", "é", &"x".repeat(129)] {
            assert!(bad.parse::<TaskId>().is_err(), "{bad:?}");
        }
        assert_eq!(
            "checkout-api_1.2".parse::<StepName>().expect("good").as_str(),
            "checkout-api_1.2"
        );
    }
}
