//! The order of leaving after SIGTERM, and how long each stage may take.
//!
//! ```text
//! not ready, no new tasks ─ work stops or ends ─ logs ─ results and goodbye
//! |<──────────── held work ────────────>|<─ kill grace ─>|<──── reserve ────>|
//! |<──────────────────────────── drain_timeout ─────────────────────────────>|
//! ```
//!
//! A second SIGTERM ends the stage that is going on.

use std::future::Future;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::warn;

/// The stages' ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Schedule {
    /// From now until held work is told to stop.
    pub(crate) held: Duration,
    /// From now until the executor must have ended.
    pub(crate) work: Duration,
    /// From now until logs are left behind.
    pub(crate) logs: Duration,
    /// From now until the process ends.
    pub(crate) all: Duration,
}

impl Schedule {
    /// `grace` is what a child has between SIGTERM and SIGKILL.
    pub(crate) fn new(all: Duration, grace: Duration) -> Self {
        let reserve = (all / 4).min(Duration::from_secs(6));
        let work = all - reserve;
        // A child is killed at the end of its grace, and its end must still be written down.
        let held = work.saturating_sub(grace).max(all / 8).min(work);
        Self {
            held,
            work,
            logs: all - reserve / 3,
            all,
        }
    }
}

/// How a stage ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Staged<T> {
    /// In time.
    Done(T),
    /// Its time was over, or a second signal came.
    CutShort,
}

/// Waits for `work`, for the end of the stage, or for another signal.
pub(crate) async fn stage<T>(
    name: &'static str,
    until: Instant,
    again: &mut Signal,
    work: impl Future<Output = T>,
) -> Staged<T> {
    tokio::select! {
        done = work => Staged::Done(done),
        () = sleep_until(until) => {
            warn!(stage = name, "the time for this stage of leaving is over");
            Staged::CutShort
        }
        _ = again.recv() => {
            warn!(stage = name, "signalled again: this stage of leaving is cut short");
            Staged::CutShort
        }
    }
}

/// Waits for `work` at most until `until`, whatever is signalled.
pub(crate) async fn at_most<T>(until: Instant, work: impl Future<Output = T>) -> Option<T> {
    timeout_at(until, work).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stages_are_in_order_and_end_with_the_timeout() {
        for (all, grace) in [(25, 10), (2, 10), (120, 10), (600, 0), (25, 60)] {
            let (all, grace) = (Duration::from_secs(all), Duration::from_secs(grace));
            let schedule = Schedule::new(all, grace);
            assert!(schedule.held <= schedule.work, "{schedule:?}");
            assert!(schedule.work < schedule.logs, "{schedule:?}");
            assert!(schedule.logs < schedule.all && schedule.all == all, "{schedule:?}");
            assert!(!schedule.held.is_zero(), "{schedule:?}");
        }
        assert_eq!(
            Schedule::new(Duration::from_secs(25), Duration::from_secs(10)).held,
            Duration::from_secs(9)
        );
    }
}
