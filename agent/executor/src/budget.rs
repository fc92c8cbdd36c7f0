//! Time that a task, a step or an undo may take, on whichever clock has seen more of it: the
//! runtime's timers stand still while the machine is suspended, CLOCK_BOOTTIME does not.

use std::time::Duration;

use deputy_steps::permit;
use deputy_task::boot_time::BootTime;
use tokio::time::Instant;

/// Longest sleep before CLOCK_BOOTTIME is asked again.
const RECHECK: Duration = Duration::from_secs(15);

/// A limit that began to run at some moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    limit: Duration,
    since: (BootTime, Instant),
}

impl Budget {
    /// A limit that begins now.
    pub(crate) fn new(limit: Duration) -> Self {
        Self {
            limit,
            since: (permit::now(), Instant::now()),
        }
    }

    /// What is left of it.
    pub(crate) fn left(&self) -> Duration {
        let (boot, instant) = self.since;
        self.limit
            .saturating_sub(instant.elapsed().max(permit::now().remaining(boot)))
    }

    /// When to look again.
    pub(crate) fn next_look(&self) -> Instant {
        Instant::now() + self.left().min(RECHECK)
    }
}
