//! What the steps of an attempt do, as people see it: kept current by [`crate::host`] and the
//! programs' driver, sent coalesced. A task that ends within [`QUIET`] sends nothing but its result.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use deputy_task::document::Step;
use deputy_task::outcome::Outcome;
use deputy_task::progress::{StepProgress, StepStatus};
use serde_json::{Map, Value};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Nothing is sent before this much time.
const QUIET: Duration = Duration::from_millis(100);
/// Nothing is sent more often.
const INTERVAL: Duration = Duration::from_millis(250);

/// The steps of one attempt.
#[derive(Debug)]
pub(crate) struct Board {
    lines: Mutex<Lines>,
    changed: Notify,
}

#[derive(Debug)]
struct Lines {
    steps: Vec<StepProgress>,
    dirty: Vec<bool>,
    next_send: Instant,
}

impl Board {
    pub(crate) fn new(steps: &[Step]) -> Self {
        let lines = steps.iter().map(|step| StepProgress {
            name: step.name.clone(),
            kind: step.kind.name().to_owned(),
            status: StepStatus::Pending,
            waiting_for: String::new(),
            started_at_ms: 0,
            finished_at_ms: 0,
            outputs: Map::new(),
        });
        let lines = Lines {
            steps: lines.collect(),
            dirty: vec![false; steps.len()],
            next_send: Instant::now() + QUIET,
        };
        Self {
            lines: Mutex::new(lines),
            changed: Notify::new(),
        }
    }

    /// A step goes on to another status.
    pub(crate) fn status(&self, step: &str, status: StepStatus) {
        self.change(step, |line| {
            line.status = status;
            line.waiting_for.clear();
            match status {
                StepStatus::Pending | StepStatus::Skipped => {}
                StepStatus::Running | StepStatus::Undoing => {
                    if line.started_at_ms == 0 {
                        line.started_at_ms = unix_ms();
                    }
                    line.finished_at_ms = 0;
                }
                StepStatus::Succeeded | StepStatus::Failed | StepStatus::Undone | StepStatus::Interrupted => {
                    line.finished_at_ms = unix_ms();
                }
            }
            true
        });
    }

    /// What a step waits for.
    pub(crate) fn waiting(&self, step: &str, what: String) {
        self.change(step, |line| {
            let new = line.waiting_for != what;
            line.waiting_for = what;
            new
        });
    }

    /// The outputs of a step that are not secret.
    pub(crate) fn outputs(&self, step: &str, outputs: Map<String, Value>) {
        if !outputs.is_empty() {
            self.change(step, |line| {
                line.outputs = outputs;
                true
            });
        }
    }

    /// What the result says of the steps: those that were never reached are skipped.
    pub(crate) fn ended(&self, outcome: Outcome) -> Vec<StepProgress> {
        let mut lines = self.lock();
        let at = unix_ms();
        for line in &mut lines.steps {
            line.waiting_for.clear();
            match line.status {
                StepStatus::Pending => line.status = StepStatus::Skipped,
                StepStatus::Running | StepStatus::Undoing => {
                    line.status = if outcome == Outcome::Failed {
                        StepStatus::Failed
                    } else {
                        StepStatus::Interrupted
                    };
                    line.finished_at_ms = at;
                }
                StepStatus::Succeeded
                | StepStatus::Failed
                | StepStatus::Skipped
                | StepStatus::Undone
                | StepStatus::Interrupted => {}
            }
        }
        lines.steps.clone()
    }

    /// When there will be something to send; never, if nothing has changed.
    pub(crate) fn due(&self) -> Option<Instant> {
        let lines = self.lock();
        lines.dirty.contains(&true).then_some(lines.next_send)
    }

    /// Takes what has changed, if it is time to send it.
    pub(crate) fn take_due(&self) -> Vec<StepProgress> {
        let mut lines = self.lock();
        let now = Instant::now();
        if now < lines.next_send {
            return Vec::new();
        }
        lines.next_send = now + INTERVAL;
        let Lines { steps, dirty, .. } = &mut *lines;
        steps
            .iter()
            .zip(dirty)
            .filter_map(|(line, dirty)| std::mem::take(dirty).then(|| line.clone()))
            .collect()
    }

    /// What could not be sent will be sent later.
    pub(crate) fn put_back(&self, unsent: &[StepProgress]) {
        let mut lines = self.lock();
        let Lines { steps, dirty, .. } = &mut *lines;
        for (line, dirty) in steps.iter().zip(dirty) {
            *dirty |= unsent.iter().any(|unsent| unsent.name == line.name);
        }
    }

    /// Waits for the next change.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn change(&self, step: &str, change: impl FnOnce(&mut StepProgress) -> bool) {
        let mut lines = self.lock();
        let Some(index) = lines.steps.iter().position(|line| line.name == step) else {
            return;
        };
        if change(&mut lines.steps[index]) {
            let first = !lines.dirty.contains(&true);
            lines.dirty[index] = true;
            drop(lines);
            if first {
                self.changed.notify_one();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stamp for people, never compared.
fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
