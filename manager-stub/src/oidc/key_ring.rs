//! Which key signs, which keys are published, and when the next one is due. Pure: the times are given to it.
//!
//! A key is published some time before it signs, so that whoever keeps a copy of the key set has seen it, and
//! some time after it has signed its last token, until that one has ended everywhere.

use std::time::Duration;

use super::signing_key::SigningKey;
use crate::trust::authority::millis;

/// A key is published for so long before it signs, or for a quarter of the time between keys if that is shorter.
const SEEN_BEFORE: Duration = Duration::from_secs(24 * 3_600);
/// IAM takes a token for five minutes after its end
/// (<https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles_providers_oidc.html>); clocks may be apart as well.
const TAKEN_AFTER_END: Duration = Duration::from_secs(10 * 60);

/// The times of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyTimes {
    pub(super) kid: String,
    pub(super) signs_from_ms: i64,
}

/// What has to be done to the keys now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Due {
    /// Make a key that signs from then on.
    Make { signs_from_ms: i64 },
    /// Forget a key whose last token has ended.
    Forget { kid: String },
}

/// How long keys sign, and tokens live.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rhythm {
    pub(super) rotation: Duration,
    pub(super) token_life: Duration,
}

impl KeyTimes {
    pub(super) fn of(key: &SigningKey) -> Self {
        Self {
            kid: key.row.kid.clone(),
            signs_from_ms: key.row.signs_from_ms,
        }
    }
}

/// The key that signs at `now_ms`, of keys in the order of their times: the newest whose time has come.
pub(super) fn signer(keys: &[KeyTimes], now_ms: i64) -> Option<usize> {
    keys.iter().rposition(|key| key.signs_from_ms <= now_ms)
}

/// What is due at `now_ms`, of keys in the order of their times. Asked again after each thing done.
pub(super) fn due(keys: &[KeyTimes], rhythm: Rhythm, now_ms: i64) -> Option<Due> {
    let Some(signer) = signer(keys, now_ms) else {
        return Some(Due::Make { signs_from_ms: now_ms });
    };
    let is_last = signer + 1 == keys.len();
    let seen_before = SEEN_BEFORE.min(rhythm.rotation / 4);
    let next_signs = keys[signer].signs_from_ms.saturating_add(millis(rhythm.rotation));
    if is_last && now_ms >= next_signs.saturating_sub(millis(seen_before)) {
        return Some(Due::Make {
            signs_from_ms: next_signs.max(now_ms.saturating_add(millis(seen_before))),
        });
    }
    let kept = millis(rhythm.token_life + TAKEN_AFTER_END);
    // A key signs until the one after it does.
    let over = keys
        .windows(2)
        .find(|pair| pair[1].signs_from_ms.saturating_add(kept) <= now_ms)?;
    Some(Due::Forget {
        kid: over[0].kid.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;
    const MINUTE: i64 = 60_000;
    const RHYTHM: Rhythm = Rhythm {
        rotation: Duration::from_secs(30 * 86_400),
        token_life: Duration::from_secs(15 * 60),
    };

    #[test]
    fn keys_overlap_over_a_year_and_every_token_can_be_verified_until_it_has_ended() {
        let mut keys: Vec<KeyTimes> = Vec::new();
        let mut published: Vec<(i64, Vec<String>)> = Vec::new();
        let mut tokens: Vec<(i64, String)> = Vec::new();
        let mut made = 0;
        for now in (0..365 * DAY).step_by(usize::try_from(5 * MINUTE).expect("small")) {
            while let Some(due) = due(&keys, RHYTHM, now) {
                match due {
                    Due::Make { signs_from_ms } => {
                        made += 1;
                        let kid = format!("k{made}");
                        keys.push(KeyTimes { kid, signs_from_ms });
                    }
                    Due::Forget { kid } => keys.retain(|key| key.kid != kid),
                }
            }
            let signer = signer(&keys, now).expect("somebody signs");
            tokens.push((now, keys[signer].kid.clone()));
            published.push((now, keys.iter().map(|key| key.kid.clone()).collect()));
            assert!(keys.len() <= 2, "{keys:?}");
        }
        assert_eq!(made, 13, "one at the start, then every thirty days, made a day ahead");
        // From a day before its first token to the end of its last, each key was published.
        for (number, kid) in (1..=12).map(|number| (number, format!("k{number}"))) {
            let signed: Vec<i64> = tokens.iter().filter(|(_, by)| *by == kid).map(|(at, _)| *at).collect();
            let shown: Vec<i64> = published
                .iter()
                .filter(|(_, kids)| kids.contains(&kid))
                .map(|(at, _)| *at)
                .collect();
            assert!(number == 1 || shown[0] <= signed[0] - DAY, "{kid}");
            let last = signed[signed.len() - 1];
            if last < 364 * DAY {
                assert!(shown[shown.len() - 1] >= last + 20 * MINUTE, "{kid}");
            }
        }
    }

    #[test]
    fn a_manager_that_slept_through_a_change_of_keys_still_shows_the_new_one_first() {
        let old = KeyTimes {
            kid: "old".into(),
            signs_from_ms: 0,
        };
        let now = 300 * DAY;
        let signs_from_ms = now + DAY;
        assert_eq!(
            due(std::slice::from_ref(&old), RHYTHM, now),
            Some(Due::Make { signs_from_ms })
        );
        let new = KeyTimes {
            kid: "new".into(),
            signs_from_ms,
        };
        let keys = [old, new];
        assert_eq!(signer(&keys, now), Some(0));
        assert_eq!(due(&keys, RHYTHM, now), None);
        assert_eq!(signer(&keys, signs_from_ms), Some(1));
        let ended = signs_from_ms + 25 * MINUTE;
        assert_eq!(due(&keys, RHYTHM, ended - 1), None);
        assert_eq!(due(&keys, RHYTHM, ended), Some(Due::Forget { kid: "old".into() }));
    }

    #[test]
    fn a_clock_that_went_back_finds_a_key_that_signs() {
        let keys = [KeyTimes {
            kid: "future".into(),
            signs_from_ms: 10,
        }];
        assert_eq!(due(&keys, RHYTHM, 5), Some(Due::Make { signs_from_ms: 5 }));
    }
}
