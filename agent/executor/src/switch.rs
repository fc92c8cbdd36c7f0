//! Why an attempt has to stop, and when it may begin: one switch per attempt, set by the executor's
//! loop and by the answers of the journal, asked by [`crate::host`] at every boundary.

use std::time::Duration;

use deputy_steps::failure::Halt;
use deputy_steps::permit;
use deputy_task::boot_time::BootTime;
use deputy_task::outcome::StopReason;
use tokio::sync::watch;

/// Longest sleep before CLOCK_BOOTTIME is asked again: a suspended machine does not advance the
/// timers of the runtime.
const RECHECK: Duration = Duration::from_secs(15);

/// Everything that can stop an attempt. Only ever added to, except by [`Switch::turn_to_undo`].
#[derive(Debug, Clone, Default)]
struct Signals {
    started: bool,
    stale: bool,
    fault: Option<Halt>,
    stop: Option<StopReason>,
    undo_decided: bool,
    undoing: bool,
    drain: Option<BootTime>,
}

/// The switch of one attempt.
#[derive(Debug)]
pub(crate) struct Switch(watch::Sender<Signals>);

impl Switch {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Signals::default()))
    }

    /// Start is acknowledged.
    pub(crate) fn start(&self) {
        self.0.send_modify(|signals| signals.started = true);
    }

    /// The attempt is not ours any more.
    pub(crate) fn revoke(&self) {
        self.0.send_modify(|signals| signals.stale = true);
    }

    /// The journal does not agree with the program.
    pub(crate) fn fault(&self, halt: Halt) {
        self.0.send_modify(|signals| {
            signals.fault.get_or_insert(halt);
        });
    }

    /// Cancel or timeout; the first reason stays. Means nothing to an undo.
    pub(crate) fn stop(&self, reason: StopReason) {
        self.0.send_if_modified(|signals| {
            let new = !signals.undoing && signals.stop.is_none();
            if new {
                signals.stop = Some(reason);
            }
            new
        });
    }

    /// The manager decided that the run is undone.
    pub(crate) fn decide_undo(&self) {
        self.0.send_modify(|signals| {
            signals.undo_decided = true;
            signals
                .stop
                .get_or_insert_with(|| StopReason::Cancelled("it was decided that the task is undone".into()));
        });
    }

    /// The time for undoing is over.
    pub(crate) fn end_undo(&self) {
        self.0
            .send_modify(|signals| signals.stop = Some(StopReason::TaskTimeout));
    }

    /// Bounded work stops at its next boundary, held work at `deadline`.
    pub(crate) fn drain(&self, deadline: BootTime) {
        self.0.send_modify(|signals| signals.drain = Some(deadline));
    }

    /// The forward program has ended and its undo begins: what stopped the one does not stop the other.
    pub(crate) fn turn_to_undo(&self) {
        self.0.send_modify(|signals| {
            signals.undoing = true;
            signals.stop = None;
        });
    }

    /// Did the manager decide that the run is undone?
    pub(crate) fn is_undo_decided(&self) -> bool {
        self.0.borrow().undo_decided
    }

    /// Is the attempt not ours any more?
    pub(crate) fn is_stale(&self) -> bool {
        self.0.borrow().stale
    }

    /// Why the program must stop at its next boundary, if it must.
    pub(crate) fn halt(&self) -> Option<Halt> {
        self.0.borrow().halt()
    }

    /// As [`Self::halt`] for what holds the world in one hand: a drain does not count.
    pub(crate) fn halt_but_drain(&self) -> Option<Halt> {
        self.0.borrow().halt_but_drain()
    }

    /// When held work must end because of a drain.
    pub(crate) fn drain_deadline(&self) -> Option<BootTime> {
        self.0.borrow().drain
    }

    /// Waits until Start is acknowledged.
    pub(crate) async fn started(&self) -> Result<(), Halt> {
        if self.0.borrow().started {
            return Ok(());
        }
        self.wait(|signals| match (signals.stale, signals.started) {
            (true, _) => Some(Err(Halt::Stale)),
            (false, true) => Some(Ok(())),
            (false, false) => None,
        })
        .await
    }

    /// Waits until the attempt is not ours any more.
    pub(crate) async fn revoked(&self) {
        self.wait(|signals| signals.stale.then_some(())).await;
    }

    /// Waits until the program must stop at its next boundary.
    pub(crate) async fn halted(&self) -> Halt {
        self.wait(Signals::halt).await
    }

    /// Waits until the child of a held effect must be killed. `lease` is watched for retry-safe
    /// ones: they end `margin` before it does.
    pub(crate) async fn held_halted(&self, lease: Option<(watch::Receiver<BootTime>, Duration)>) -> Halt {
        let drained = async {
            let deadline = self.wait(|signals| signals.drain).await;
            sleep_until_boot_time(deadline).await;
        };
        let lease_over = async {
            match lease {
                Some((lease, margin)) => lease_over(lease, margin).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            halt = self.wait(Signals::halt_but_drain) => halt,
            () = drained => Halt::Drained,
            () = lease_over => Halt::LeaseOver,
        }
    }

    async fn wait<T>(&self, mut ready: impl FnMut(&Signals) -> Option<T>) -> T {
        let mut signals = self.0.subscribe();
        loop {
            if let Some(answer) = ready(&signals.borrow_and_update()) {
                return answer;
            }
            if signals.changed().await.is_err() {
                // The switch is borrowed for as long as this future lives, so this does not happen.
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Signals {
    fn halt(&self) -> Option<Halt> {
        self.halt_but_drain().or_else(|| self.drain.map(|_| Halt::Drained))
    }

    fn halt_but_drain(&self) -> Option<Halt> {
        if self.stale {
            return Some(Halt::Stale);
        }
        self.fault.clone().or_else(|| self.stop.clone().map(Halt::Stopped))
    }
}

/// The margin is at most a quarter of the lease: a manager may give leases that are shorter than it.
async fn lease_over(mut lease: watch::Receiver<BootTime>, margin: Duration) {
    let mut longest = Duration::ZERO;
    loop {
        let until = *lease.borrow_and_update();
        let left = until.remaining(permit::now());
        longest = longest.max(left);
        let margin = margin.min(longest / 4);
        if left <= margin {
            return;
        }
        tokio::select! {
            // No sender any more means no executor any more; the end of the lease still counts.
            Ok(()) = lease.changed() => {}
            () = tokio::time::sleep((left - margin).min(RECHECK)) => {}
        }
    }
}

async fn sleep_until_boot_time(deadline: BootTime) {
    loop {
        let left = deadline.remaining(permit::now());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(RECHECK)).await;
    }
}
