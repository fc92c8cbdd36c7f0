//! A join token: a secret that is good for a bounded number of joins, for a bounded time.

use deputy_proto::v1;
use serde::{Deserialize, Serialize};

use super::secret::{self, Hashed};
use super::table::Remembered;

/// What join tokens begin with.
pub(super) const JOIN_PREFIX: &str = "dpj";

/// A join token, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JoinToken {
    /// Names it.
    pub id: String,
    /// The rule that it is for.
    pub rule: String,
    /// Of its secret.
    pub hashed: Hashed,
    /// Joins in all.
    pub max_uses: u32,
    /// Joins so far.
    pub uses: u32,
    /// Unix milliseconds.
    pub created_at_ms: i64,
    /// Unix milliseconds.
    pub expires_at_ms: i64,
    /// Was it revoked?
    pub revoked: bool,
    /// Who made it.
    pub created_by: String,
}

/// Whether an agent joins with a key that this manager has seen before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinAttempt {
    /// It has not.
    First,
    /// The answer was lost on its way.
    Repeated,
}

impl Remembered for JoinToken {
    const KIND: &'static str = "join-token";
}

impl JoinToken {
    /// The id in what somebody shows, if it has the form of a join token.
    #[must_use]
    pub fn id_in(text: &str) -> Option<&str> {
        secret::parse(JOIN_PREFIX, text).map(|(id, _)| id)
    }

    /// Is this what somebody shows?
    #[must_use]
    pub fn is_shown_by(&self, text: &str) -> bool {
        secret::parse(JOIN_PREFIX, text).is_some_and(|(id, secret)| id == self.id && self.hashed.is_of(secret))
    }

    /// Why nobody joins by it now; `None` if somebody can. A join that is only repeated, with the same key, takes no use.
    #[must_use]
    pub fn refusal(&self, now_ms: i64, attempt: JoinAttempt) -> Option<String> {
        let id = &self.id;
        if self.revoked {
            return Some(format!("the join token {id} was revoked"));
        }
        if self.expires_at_ms <= now_ms {
            return Some(format!(
                "the join token {id} has expired; make a new one: deputy fleet join-token create {}",
                self.rule
            ));
        }
        (self.uses >= self.max_uses && attempt == JoinAttempt::First).then(|| {
            format!(
                "the join token {id} is used up ({} of {} uses); a token is good for the joins it was made for: deputy \
                 fleet join-token create {}",
                self.uses, self.max_uses, self.rule
            )
        })
    }

    /// The same token after such a join.
    #[must_use]
    pub fn used(&self, attempt: JoinAttempt) -> Self {
        Self {
            uses: self.uses + u32::from(attempt == JoinAttempt::First),
            ..self.clone()
        }
    }

    /// What is known of it, without its hash.
    #[must_use]
    pub fn to_wire(&self) -> v1::JoinTokenInfo {
        v1::JoinTokenInfo {
            id: self.id.clone(),
            rule: self.rule.clone(),
            max_uses: self.max_uses,
            uses: self.uses,
            created_at_ms: self.created_at_ms,
            expires_at_ms: self.expires_at_ms,
            revoked: self.revoked,
            created_by: self.created_by.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_join_token_ends_at_its_time_whatever_uses_are_left() {
        let made = secret::make(JOIN_PREFIX);
        let token = JoinToken {
            id: made.id,
            rule: "r".into(),
            hashed: made.hashed,
            max_uses: 2,
            uses: 1,
            created_at_ms: 0,
            expires_at_ms: 100,
            revoked: false,
            created_by: "admin".into(),
        };
        for attempt in [JoinAttempt::First, JoinAttempt::Repeated] {
            assert_eq!(token.refusal(99, attempt), None);
            let refused = token.refusal(100, attempt).expect("over");
            assert!(refused.contains("has expired; make a new one"), "{refused}");
        }
    }
}
