//! When credentials are renewed: pure arithmetic. AWS says when they end in wall-clock time, and the machine's wall
//! clock may be set while they are kept, so elapsed time counts too.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// Longest time before the end at which credentials are renewed.
const MAX_MARGIN: Duration = Duration::from_secs(10 * 60);

/// Credentials this close to their end are not handed out any more: a request signed with them could
/// arrive too late. Less for a life of less than 160 seconds.
const MIN_LEFT: Duration = Duration::from_secs(20);

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

/// The last moment at which credentials are handed out: later than [`refresh_at`], so that a renewal has time while
/// the present ones are still good.
pub(crate) fn last_use(issued: SystemTime, expires: SystemTime) -> SystemTime {
    let life = expires.duration_since(issued).unwrap_or(Duration::ZERO);
    expires
        .checked_sub((life / 8).min(MIN_LEFT))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Now, on both clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub(crate) wall: SystemTime,
    pub(crate) elapsed: Instant,
}

impl Now {
    pub(crate) fn read() -> Self {
        Self {
            wall: SystemTime::now(),
            elapsed: Instant::now(),
        }
    }
}

/// A moment that has come when one of the clocks says so: a wall clock that was set back must not prolong anything,
/// and elapsed time stands still while a machine sleeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Due {
    wall: SystemTime,
    since: Instant,
    after: Duration,
}

impl Due {
    /// `wall`, as seen from `now`.
    pub(crate) fn at(wall: SystemTime, now: Now) -> Self {
        Self {
            wall,
            since: now.elapsed,
            after: wall.duration_since(now.wall).unwrap_or(Duration::ZERO),
        }
    }

    /// Has it come?
    pub(crate) fn has_come(&self, now: Now) -> bool {
        now.wall >= self.wall || now.elapsed.saturating_duration_since(self.since) >= self.after
    }
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
    fn a_moment_comes_by_either_clock_and_a_step_back_prolongs_nothing() {
        let begun = Instant::now();
        let now = |wall, elapsed| Now {
            wall: at(wall),
            elapsed: begun + Duration::from_secs(elapsed),
        };
        let due = Due::at(at(4_600), now(1_000, 0));
        let cases = [
            (now(4_599, 3_599), false, "just before"),
            (
                now(4_600, 10),
                true,
                "the wall clock was set forward, or the machine slept",
            ),
            (now(1_000, 3_600), true, "the wall clock was set back by an hour"),
            (now(500, 10), false, "set back, and nothing has elapsed"),
        ];
        for (now, expected, why) in cases {
            assert_eq!(due.has_come(now), expected, "{why}");
        }
        assert!(
            Due::at(at(900), now(1_000, 0)).has_come(now(500, 0)),
            "over from the start"
        );
    }

    #[test]
    fn the_last_use_is_after_the_point_of_renewal_however_short_the_life() {
        assert_eq!(last_use(at(1_000), at(4_600)), at(4_580), "1 h");
        assert_eq!(last_use(at(1_000), at(1_080)), at(1_070), "80 s");
        assert_eq!(last_use(at(4_600), at(1_000)), at(1_000), "a clock step");
        for life in [1, 15, 60, 160, 900, 3_600] {
            let (issued, expires) = (at(1_000), at(1_000 + life));
            assert!(
                refresh_at(issued, expires, issued) < last_use(issued, expires),
                "{life} s"
            );
            assert!(last_use(issued, expires) < expires, "{life} s");
        }
    }
}
