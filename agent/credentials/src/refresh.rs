//! When credentials are renewed: pure arithmetic on wall-clock times.

use std::time::{Duration, SystemTime};

/// Longest time before the end at which credentials are renewed.
const MAX_MARGIN: Duration = Duration::from_secs(10 * 60);

/// Credentials this close to their end are not handed out any more: a request signed with them could
/// arrive too late.
pub(crate) const MIN_LEFT: Duration = Duration::from_secs(20);

/// When credentials that were issued at `issued` and end at `expires` should be renewed: a quarter of
/// their life before the end, at most ten minutes. Never before `now`; a life of nothing means now.
pub(crate) fn refresh_at(issued: SystemTime, expires: SystemTime, now: SystemTime) -> SystemTime {
    let life = expires.duration_since(issued).unwrap_or(Duration::ZERO);
    let margin = (life / 4).min(MAX_MARGIN);
    expires.checked_sub(margin).unwrap_or(now).max(now)
}

/// Moves the point up to a tenth of the remaining time earlier, so that many agents do not renew in
/// the same second. `dice` is from 0 to 1.
pub(crate) fn jittered(at: SystemTime, now: SystemTime, dice: f64) -> SystemTime {
    let ahead = at.duration_since(now).unwrap_or(Duration::ZERO);
    at.checked_sub(ahead.mul_f64(0.1 * dice.clamp(0.0, 1.0))).unwrap_or(now)
}

/// May credentials that end at `expires` still be used?
pub(crate) fn usable(expires: SystemTime, now: SystemTime) -> bool {
    expires.duration_since(now).is_ok_and(|left| left > MIN_LEFT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn the_point_of_renewal_follows_the_life_and_is_clamped() {
        let cases = [
            ((1_000, 4_600, 1_000), 4_000, "1 h: ten minutes before"),
            ((1_000, 1_900, 1_000), 1_675, "15 min: a quarter before"),
            ((1_000, 1_060, 1_000), 1_045, "60 s: a quarter before"),
            ((1_000, 44_200, 1_000), 43_600, "12 h: ten minutes before"),
            ((1_000, 4_600, 4_500), 4_500, "already due"),
            ((4_600, 1_000, 4_600), 4_600, "ends before it begins (clock step)"),
        ];
        for ((issued, expires, now), expected, why) in cases {
            assert_eq!(refresh_at(at(issued), at(expires), at(now)), at(expected), "{why}");
        }
    }

    #[test]
    fn jitter_only_moves_earlier_and_at_most_a_tenth() {
        assert_eq!(jittered(at(2_000), at(1_000), 0.0), at(2_000));
        assert_eq!(jittered(at(2_000), at(1_000), 1.0), at(1_900));
        assert_eq!(jittered(at(900), at(1_000), 1.0), at(900));
    }

    #[test]
    fn credentials_near_their_end_are_not_used() {
        assert!(usable(at(1_021), at(1_000)));
        assert!(!usable(at(1_020), at(1_000)));
        assert!(!usable(at(900), at(1_000)));
    }
}
