//! Who the agent is to its manager: a key that was made here and a certificate for it. Kept in memory; whoever wants
//! it on disk asks for its parts.

use std::fmt;
use std::time::Duration;

use deputy_proto::v1;
use zeroize::Zeroizing;

/// Part of its life after which a certificate is renewed, and how much that differs from agent to agent.
const RENEWED_AFTER: f64 = 2.0 / 3.0;
const JITTER: f64 = 0.05;

/// Its last part.
const LAST: f64 = 0.1;

/// See the module.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// Leaf first, DER.
    pub chain: Vec<Vec<u8>>,
    /// PKCS #8.
    pub key: Zeroizing<Vec<u8>>,
    /// When it came, by this machine's clock, Unix milliseconds.
    pub obtained_at_ms: i64,
    /// When it ends, by this machine's clock: clocks that differ a little do not matter. Unix milliseconds.
    pub not_after_ms: i64,
    /// Whom it names.
    pub agent_id: String,
    /// The pool that the join rule put the agent in.
    pub pool: String,
    /// The rule that let it in.
    pub join_rule: String,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("agent_id", &self.agent_id)
            .field("pool", &self.pool)
            .field("not_after_ms", &self.not_after_ms)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// From the manager's answer.
    pub(crate) fn new(issued: v1::IssuedCertificate, key: Zeroizing<Vec<u8>>, now: Duration) -> Self {
        Self {
            chain: issued.chain.iter().map(|one| one.to_vec()).collect(),
            key,
            obtained_at_ms: millis(now),
            not_after_ms: issued.not_after_ms,
            agent_id: issued.agent_id,
            pool: issued.pool,
            join_rule: issued.join_rule,
        }
    }

    pub(crate) fn is_over(&self, now: Duration) -> bool {
        self.not_after_ms <= millis(now)
    }

    /// When to renew, from now on; `chance` is from 0 to 1.
    pub(crate) fn renew_in(&self, now: Duration, chance: f64) -> Duration {
        let part = RENEWED_AFTER + JITTER * (2.0 * chance - 1.0);
        self.after(part).saturating_sub(now)
    }

    /// When the last tenth of its life begins, since 1970.
    pub(crate) fn last_tenth(&self) -> Duration {
        self.after(1.0 - LAST)
    }

    /// When this part of its life is over, since 1970.
    fn after(&self, part: f64) -> Duration {
        let life = self.not_after_ms.saturating_sub(self.obtained_at_ms).max(0);
        // A life in milliseconds is far below what a float holds exactly.
        let life = Duration::from_millis(u64::try_from(life).unwrap_or(0));
        Duration::from_millis(u64::try_from(self.obtained_at_ms).unwrap_or(0)) + life.mul_f64(part)
    }
}

/// Now, since 1970, by this machine's clock.
pub(crate) fn unix_now() -> Duration {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
}

/// Whole milliseconds.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_renewed_around_two_thirds_of_its_life() {
        let start = Duration::from_secs(1_800_000_000);
        let day = Duration::from_secs(24 * 3600);
        let identity = Identity {
            chain: Vec::new(),
            key: Zeroizing::default(),
            obtained_at_ms: millis(start),
            not_after_ms: millis(start + day),
            agent_id: "a".into(),
            pool: "p".into(),
            join_rule: "r".into(),
        };
        for chance in [0.0, 0.3, 0.5, 1.0] {
            let due = identity.renew_in(start, chance);
            assert!(due > day.mul_f64(0.61) && due < day.mul_f64(0.72), "{due:?}");
            assert_eq!(identity.renew_in(start + day, chance), Duration::ZERO);
        }
        assert!(identity.renew_in(start, 0.1) < identity.renew_in(start, 0.9));
        assert!(!identity.is_over(start));
        assert!(identity.is_over(start + day));
        assert!(!format!("{identity:?}").contains("key"));
    }
}
