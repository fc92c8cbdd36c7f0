//! Full-jitter backoff: how long to wait before the next connection attempt.
//!
//! Full jitter, because a fleet that lost its manager at one instant must not come back at one
//! instant. Used by the session and by the bulk connections; it never gives up.

use std::time::Duration;

use rand::Rng;

/// The bounds of a backoff, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    base: Duration,
    max: Duration,
}

/// The bounds make no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadBackoff {
    /// Give a base above zero: a zero base is a busy loop.
    #[error("the base delay is zero")]
    ZeroBase,
    /// Give a maximum that is at least the base.
    #[error("the maximum delay {max:?} is below the base delay {base:?}")]
    MaxBelowBase {
        /// What was given.
        base: Duration,
        /// What was given.
        max: Duration,
    },
}

impl Backoff {
    /// Delays between zero and `base`, doubling with every failure up to `max`.
    ///
    /// # Errors
    /// If `base` is zero or `max` is below it.
    pub fn new(base: Duration, max: Duration) -> Result<Self, BadBackoff> {
        if base.is_zero() {
            return Err(BadBackoff::ZeroBase);
        }
        if max < base {
            return Err(BadBackoff::MaxBelowBase { base, max });
        }
        Ok(Self { base, max })
    }

    /// The longest delay.
    #[must_use]
    pub const fn max(&self) -> Duration {
        self.max
    }

    /// The upper bound of the delay after `failures` failures in a row.
    #[must_use]
    pub fn ceiling(&self, failures: u32) -> Duration {
        let factor = 2u32.checked_pow(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.max)
    }
}

/// A backoff in use: counts failures in a row.
#[derive(Debug)]
pub(crate) struct Retry {
    backoff: Backoff,
    failures: u32,
}

impl Retry {
    pub(crate) const fn new(backoff: Backoff) -> Self {
        Self { backoff, failures: 0 }
    }

    /// The connection was healthy: the next failure counts as the first.
    pub(crate) const fn reset(&mut self) {
        self.failures = 0;
    }

    /// How long to wait after one more failure.
    pub(crate) fn next(&mut self, rng: &mut impl Rng) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let ceiling = self.backoff.ceiling(self.failures);
        rng.random_range(Duration::ZERO..=ceiling)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;

    use super::*;

    proptest! {
        #[test]
        fn a_delay_never_exceeds_its_ceiling_nor_the_maximum(
            base_ms in 1u64..100_000, factor in 1u32..1000, failures in 1usize..80, seed: u64,
        ) {
            let base = Duration::from_millis(base_ms);
            let backoff = Backoff::new(base, base * factor).expect("valid");
            let mut retry = Retry::new(backoff);
            let mut rng = rand::rngs::SmallRng::seed_from_u64(seed);
            let mut last = Duration::ZERO;
            for n in 1..=failures {
                let ceiling = backoff.ceiling(u32::try_from(n).expect("small"));
                prop_assert!(retry.next(&mut rng) <= ceiling);
                prop_assert!(ceiling <= backoff.max());
                prop_assert!(ceiling >= last);
                last = ceiling;
            }
            retry.reset();
            prop_assert!(retry.next(&mut rng) <= base);
        }
    }

    #[test]
    fn bounds_that_make_no_sense_are_refused() {
        let second = Duration::from_secs(1);
        assert_eq!(Backoff::new(Duration::ZERO, second), Err(BadBackoff::ZeroBase));
        assert!(matches!(
            Backoff::new(second * 2, second),
            Err(BadBackoff::MaxBelowBase { .. })
        ));
    }
}
