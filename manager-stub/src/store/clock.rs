//! The store's clock: Unix milliseconds that never go backwards and never step.
//!
//! It starts where the store last was (or at the wall clock, if that is later) and then advances
//! by CLOCK_BOOTTIME alone. Setting the machine's clock can therefore neither end nor extend a lease.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point on the store's clock, Unix milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreTime(i64);

impl StoreTime {
    /// Not yet, or never.
    pub const ZERO: Self = Self(0);

    /// From Unix milliseconds.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Unix milliseconds.
    #[must_use]
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Later by `duration`.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    /// How long until `self`, seen from `now`; zero if it has passed.
    #[must_use]
    pub fn remaining(self, now: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(now.0)).unwrap_or(0))
    }
}

/// Where elapsed time comes from: nanoseconds since the machine booted.
pub trait BootClock: Send + Sync {
    /// Nanoseconds of CLOCK_BOOTTIME.
    fn nanos(&self) -> u64;
}

/// The machine's own CLOCK_BOOTTIME.
#[derive(Debug, Clone, Copy)]
pub struct KernelBootClock;

impl BootClock for KernelBootClock {
    fn nanos(&self) -> u64 {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        seconds
            .saturating_mul(1_000_000_000)
            .saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
    }
}

/// The store's clock. Cheap to clone.
#[derive(Clone)]
pub struct StoreClock {
    base: StoreTime,
    started_nanos: u64,
    boot: Arc<dyn BootClock>,
}

impl fmt::Debug for StoreClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreClock({})", self.now().millis())
    }
}

impl StoreClock {
    /// A clock that goes on from `high_water`, the last time that the store has committed.
    #[must_use]
    pub fn resume(high_water: StoreTime, boot: Arc<dyn BootClock>) -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::starting_at(StoreTime::ZERO.after(wall).max(high_water), boot)
    }

    /// A clock that starts at `base`.
    #[must_use]
    pub fn starting_at(base: StoreTime, boot: Arc<dyn BootClock>) -> Self {
        Self {
            base,
            started_nanos: boot.nanos(),
            boot,
        }
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> StoreTime {
        self.base.after(Duration::from_nanos(
            self.boot.nanos().saturating_sub(self.started_nanos),
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    struct Hand(AtomicU64);
    impl BootClock for Hand {
        fn nanos(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn time_goes_on_from_the_high_water_mark_even_if_the_wall_clock_was_set_back() {
        let far_future = StoreTime::from_millis(32_503_680_000_000);
        let hand = Arc::new(Hand(AtomicU64::new(5)));
        let clock = StoreClock::resume(far_future, hand.clone());
        assert_eq!(clock.now(), far_future);
        hand.0.store(5 + 2_000_000_000, Ordering::Relaxed);
        assert_eq!(clock.now(), far_future.after(Duration::from_secs(2)));
    }

    #[test]
    fn only_elapsed_time_moves_the_clock() {
        let hand = Arc::new(Hand(AtomicU64::new(0)));
        let clock = StoreClock::starting_at(StoreTime::from_millis(1_000), hand.clone());
        for seconds in [0_u64, 1, 59, 3600] {
            hand.0.store(seconds * 1_000_000_000, Ordering::Relaxed);
            assert_eq!(
                clock.now().millis(),
                1_000 + i64::try_from(seconds).expect("small") * 1_000
            );
        }
    }

    #[test]
    fn what_has_passed_remains_no_time() {
        let now = StoreTime::from_millis(10);
        assert_eq!(StoreTime::from_millis(4).remaining(now), Duration::ZERO);
        assert_eq!(StoreTime::from_millis(14).remaining(now), Duration::from_millis(4));
    }
}
