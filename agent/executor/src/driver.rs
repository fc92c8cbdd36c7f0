//! Drives one program of a step: polls it, watches its time, tells what it does, and drops it if it
//! does not stop when it is told to. The only place where an attempt's timers are.

use std::future::Future;
use std::pin::pin;

use deputy_steps::failure::{Halt, StepError};
use deputy_steps::permit;
use deputy_task::outcome::StopReason;
use tokio::time::{Instant, sleep_until};

use crate::attempt::Attempt;
use crate::budget::Budget;

/// What limits a program.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Limits {
    /// The task's time, and the step's if it has its own.
    Forward {
        /// From the task.
        task: Budget,
        /// From the step.
        step: Option<Budget>,
    },
    /// The time for undoing.
    Undo(Budget),
}

impl Limits {
    fn next_look(&self) -> Instant {
        match self {
            Self::Forward { task, step: Some(step) } => task.next_look().min(step.next_look()),
            Self::Forward { task, step: None } => task.next_look(),
            Self::Undo(budget) => budget.next_look(),
        }
    }

    /// Turns the switch if the time is over.
    pub(crate) fn enforce(&self, attempt: &Attempt) {
        match self {
            Self::Forward { task, .. } if task.left().is_zero() => attempt.switch.stop(StopReason::TaskTimeout),
            Self::Forward { step: Some(step), .. } if step.left().is_zero() => {
                attempt.switch.stop(StopReason::StepTimeout);
            }
            Self::Undo(budget) if budget.left().is_zero() => attempt.switch.end_undo(),
            Self::Forward { .. } | Self::Undo(_) => {}
        }
    }
}

/// Runs `program` to its end, or to the end of the grace after it was told to stop. Dropping a
/// program leaves its open intent to be looked at.
pub(crate) async fn drive<T>(
    attempt: &Attempt,
    limits: Limits,
    program: impl Future<Output = Result<T, StepError>>,
) -> Result<T, StepError> {
    let mut program = pin!(program);
    let mut told: Option<(Halt, Instant)> = None;
    loop {
        let look = told
            .as_ref()
            .map_or_else(|| limits.next_look(), |(_, give_up)| *give_up);
        let wake = attempt.board.due().map_or(look, |due| due.min(look));
        tokio::select! {
            biased;
            ended = &mut program => return ended,
            () = attempt.board.changed() => {}
            halt = attempt.switch.halted(), if told.is_none() => {
                let give_up = give_up_at(attempt, &halt);
                told = Some((halt, give_up));
            }
            () = sleep_until(wake) => {}
        }
        send_progress(attempt);
        match &told {
            Some((halt, give_up)) if Instant::now() >= *give_up => {
                tracing::error!(task.id = %attempt.reference.task, halt = %halt, "a step did not stop in its grace and was dropped");
                return Err(StepError::Halted(halt.clone()));
            }
            Some(_) => {}
            None => limits.enforce(attempt),
        }
    }
}

/// A drain lets held work go on until its deadline.
fn give_up_at(attempt: &Attempt, halt: &Halt) -> Instant {
    let grace = attempt.shared.config.stop_grace;
    let more = match (halt, attempt.switch.drain_deadline()) {
        (Halt::Drained, Some(deadline)) => deadline.remaining(permit::now()),
        _ => std::time::Duration::ZERO,
    };
    Instant::now() + more + grace
}

fn send_progress(attempt: &Attempt) {
    let steps = attempt.board.take_due();
    if !steps.is_empty()
        && let Err(unsent) = attempt.shared.outbox.progress(&attempt.reference, steps)
    {
        attempt.board.put_back(&unsent);
    }
}
