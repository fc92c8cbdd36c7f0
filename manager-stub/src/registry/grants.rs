//! What was granted to a person or a pipeline.

use deputy_proto::v1;
use serde::{Deserialize, Serialize};

use super::secret::Hashed;
use super::table::Remembered;

/// What a grant is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Scope {
    /// Look at tasks.
    Read,
    /// Submit, cancel, retry, resolve.
    Submit,
    /// Everything of Fleet.
    Administer,
}

/// A bearer token, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Grant {
    /// Names it.
    pub id: String,
    /// Whom it stands for.
    pub name: String,
    /// Of its secret.
    pub hashed: Hashed,
    /// What it is good for.
    pub scopes: Vec<Scope>,
    /// Where; empty means everywhere.
    pub projects: Vec<String>,
    /// Unix milliseconds.
    pub created_at_ms: i64,
    /// Unix milliseconds; 0 means never.
    pub expires_at_ms: i64,
    /// Was it revoked?
    pub revoked: bool,
    /// Who made it.
    pub created_by: String,
}

impl Remembered for Grant {
    const KIND: &'static str = "grant";
}

impl Scope {
    /// From the wire.
    #[must_use]
    pub const fn from_wire(scope: v1::Scope) -> Option<Self> {
        match scope {
            v1::Scope::Unspecified => None,
            v1::Scope::Read => Some(Self::Read),
            v1::Scope::Submit => Some(Self::Submit),
            v1::Scope::Administer => Some(Self::Administer),
        }
    }

    const fn to_wire(self) -> v1::Scope {
        match self {
            Self::Read => v1::Scope::Read,
            Self::Submit => v1::Scope::Submit,
            Self::Administer => v1::Scope::Administer,
        }
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Submit => "submit",
            Self::Administer => "administer",
        })
    }
}

impl Grant {
    /// Why it is not good now; `None` if it is.
    #[must_use]
    pub fn refusal(&self, now_ms: i64) -> Option<String> {
        if self.revoked {
            return Some(format!("the token {} of {} was revoked", self.id, self.name));
        }
        (self.expires_at_ms != 0 && self.expires_at_ms <= now_ms)
            .then(|| format!("the token {} of {} has expired", self.id, self.name))
    }

    /// What is known of it, without its hash.
    #[must_use]
    pub fn to_wire(&self) -> v1::TokenInfo {
        v1::TokenInfo {
            id: self.id.clone(),
            name: self.name.clone(),
            scopes: self.scopes.iter().map(|scope| scope.to_wire() as i32).collect(),
            projects: self.projects.clone(),
            created_at_ms: self.created_at_ms,
            expires_at_ms: self.expires_at_ms,
            revoked: self.revoked,
            created_by: self.created_by.clone(),
        }
    }
}
