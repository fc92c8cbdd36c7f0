//! How long is waited before an AWS call is made again: pure arithmetic over the number of the retry and a die.
//!
//! The three strategies are those of the AWS Architecture Blog, "Exponential Backoff And Jitter"
//! (<https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>).

use std::time::Duration;

use deputy_task::document::{BackoffSpec, Delays};

/// When, and how often, a call is made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Backoff {
    strategy: Strategy,
    base: Duration,
    longest: Duration,
    retries: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Strategy {
    Fixed,
    EqualJitter,
    FullJitter,
}

impl Default for Backoff {
    /// Full jitter, which the AWS SDKs use too, and time for a throttled service to recover.
    fn default() -> Self {
        Self {
            strategy: Strategy::FullJitter,
            base: Duration::from_millis(500),
            longest: Duration::from_secs(20),
            retries: 5,
        }
    }
}

impl Backoff {
    /// As a checked document says.
    #[must_use]
    pub fn of(spec: &BackoffSpec) -> Self {
        let made = |strategy, delays: Delays| Self {
            strategy,
            base: Duration::from_millis(delays.base_delay_ms),
            longest: Duration::from_millis(delays.max_delay_ms),
            retries: delays.max_retries,
        };
        match (spec.fixed_delay, spec.equal_jitter, spec.full_jitter) {
            (Some(delays), _, _) => made(Strategy::Fixed, delays),
            (None, Some(delays), _) => made(Strategy::EqualJitter, delays),
            (None, None, Some(delays)) => made(Strategy::FullJitter, delays),
            (None, None, None) => Self::default(),
        }
    }

    /// How often a call is made at most: once, and the retries.
    #[must_use]
    pub const fn tries(&self) -> u32 {
        self.retries.saturating_add(1)
    }

    /// The wait before retry `retry`, counted from 1. `dice` is from 0 to 1.
    #[must_use]
    pub fn wait(&self, retry: u32, dice: f64) -> Duration {
        let dice = dice.clamp(0.0, 1.0);
        let ceiling = self.ceiling(retry);
        match self.strategy {
            Strategy::Fixed => ceiling,
            Strategy::EqualJitter => ceiling / 2 + (ceiling / 2).mul_f64(dice),
            Strategy::FullJitter => ceiling.mul_f64(dice),
        }
    }

    /// No wait before retry `retry` is longer.
    fn ceiling(&self, retry: u32) -> Duration {
        let doublings = match self.strategy {
            Strategy::Fixed => 0,
            Strategy::EqualJitter | Strategy::FullJitter => retry.saturating_sub(1).min(31),
        };
        self.base.saturating_mul(1 << doublings).min(self.longest)
    }

    /// The longest time that all waits of one call can take together.
    #[must_use]
    pub fn longest_in_all(&self) -> Duration {
        (1..=self.retries).map(|retry| self.ceiling(retry)).sum()
    }

    /// No wait is longer, also when the service asks for more.
    #[must_use]
    pub const fn longest(&self) -> Duration {
        self.longest
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    const DELAYS: Delays = Delays {
        base_delay_ms: 100,
        max_delay_ms: 1_000,
        max_retries: 6,
    };

    fn fixed() -> Backoff {
        Backoff::of(&BackoffSpec {
            fixed_delay: Some(DELAYS),
            ..BackoffSpec::default()
        })
    }

    fn equal_jitter() -> Backoff {
        Backoff::of(&BackoffSpec {
            equal_jitter: Some(DELAYS),
            ..BackoffSpec::default()
        })
    }

    fn full_jitter() -> Backoff {
        Backoff::of(&BackoffSpec {
            full_jitter: Some(DELAYS),
            ..BackoffSpec::default()
        })
    }

    /// Of 20,000 waits before this retry, in milliseconds: the least, the mean, the most, and how many fell into
    /// each quarter of the range that the strategy allows.
    fn drawn(backoff: Backoff, retry: u32, range: (f64, f64)) -> (f64, f64, f64, [u32; 4]) {
        const DRAWS: u32 = 20_000;
        let mut dice = StdRng::seed_from_u64(u64::from(retry));
        let (mut least, mut most, mut sum, mut quarters) = (f64::MAX, 0.0_f64, 0.0, [0; 4]);
        for _ in 0..DRAWS {
            let wait = backoff.wait(retry, dice.random()).as_secs_f64() * 1_000.0;
            assert!((range.0..=range.1).contains(&wait), "{wait} is not in {range:?}");
            (least, most, sum) = (least.min(wait), most.max(wait), sum + wait);
            let share = (wait - range.0) / (range.1 - range.0).max(f64::MIN_POSITIVE);
            let quarter = [0.25, 0.5, 0.75].iter().filter(|end| share >= **end).count();
            quarters[quarter] += 1;
        }
        (least, sum / f64::from(DRAWS), most, quarters)
    }

    /// Even over the whole range: each quarter has its share within 5 %, the ends are reached, the mean is the middle.
    fn is_even(backoff: Backoff, retry: u32, range: (f64, f64)) {
        let (least, mean, most, quarters) = drawn(backoff, retry, range);
        let width = range.1 - range.0;
        assert!(
            least < range.0 + width * 0.01 && most > range.1 - width * 0.01,
            "{least} {most}"
        );
        assert!(
            (mean - (range.0 + range.1) / 2.0).abs() < width * 0.01,
            "{mean} in {range:?}"
        );
        assert!(
            quarters.iter().all(|count| (4_750..=5_250).contains(count)),
            "{quarters:?}"
        );
    }

    /// What doubles from 100 and is capped at 1000.
    const CEILINGS: [f64; 6] = [100.0, 200.0, 400.0, 800.0, 1_000.0, 1_000.0];

    #[test]
    fn a_fixed_delay_is_always_the_same() {
        for retry in 1..=6 {
            let (least, _, most, _) = drawn(fixed(), retry, (100.0, 100.0));
            assert_eq!((least, most), (100.0, 100.0));
        }
    }

    #[test]
    fn equal_jitter_is_even_over_the_upper_half() {
        for (retry, ceiling) in (1..).zip(CEILINGS) {
            is_even(equal_jitter(), retry, (ceiling / 2.0, ceiling));
        }
    }

    #[test]
    fn full_jitter_is_even_over_the_whole() {
        for (retry, ceiling) in (1..).zip(CEILINGS) {
            is_even(full_jitter(), retry, (0.0, ceiling));
        }
    }

    #[test]
    fn the_longest_time_in_all_is_the_sum_of_the_ceilings() {
        assert_eq!(full_jitter().longest_in_all(), Duration::from_millis(3_500));
        assert_eq!(equal_jitter().longest_in_all(), Duration::from_millis(3_500));
        assert_eq!(fixed().longest_in_all(), Duration::from_millis(600));
        assert_eq!(Backoff::default().longest_in_all(), Duration::from_millis(15_500));
    }

    #[test]
    fn extreme_numbers_stay_within_the_longest_wait() {
        let delays = Delays {
            base_delay_ms: 20_000,
            max_delay_ms: 20_000,
            max_retries: u32::MAX,
        };
        let backoff = Backoff::of(&BackoffSpec {
            full_jitter: Some(delays),
            ..BackoffSpec::default()
        });
        assert_eq!(backoff.wait(u32::MAX, 2.0), Duration::from_secs(20));
        assert_eq!(backoff.tries(), u32::MAX);
    }
}
