//! A point on CLOCK_BOOTTIME: the clock that also counts while the machine is suspended, and that
//! nobody can set. Leases and deadlines are measured on it; this type only holds the value.

use std::time::Duration;

/// Nanoseconds since the machine booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootTime(u64);

impl BootTime {
    /// The far future: for deadlines that do not exist.
    pub const NEVER: Self = Self(u64::MAX);

    /// From nanoseconds since boot.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since boot.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Later by `duration`; stops at [`BootTime::NEVER`].
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)),
        )
    }

    /// How long until `self`, seen from `now`; zero if it has passed.
    #[must_use]
    pub const fn remaining(self, now: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(now.0))
    }
}
