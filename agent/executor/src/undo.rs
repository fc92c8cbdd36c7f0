//! The undo of a run: decided once, in the journal; then every step that began to change something,
//! the last one first. Another agent can take it over at any point.

use std::sync::Arc;

use deputy_steps::context::Undone;
use deputy_steps::effect::Readers;
use deputy_steps::failure::{Halt, StepError};
use deputy_task::document::Step;
use deputy_task::outcome::{Failure, Outcome};
use deputy_task::progress::StepStatus;
use deputy_task::record::{Decision, Direction, EffectKey, Record, RecordBody, Sealing};
use serde::{Deserialize, Serialize};

use crate::arguments::{Arguments, Evaluated, task_key, task_record};
use crate::attempt::Attempt;
use crate::budget::Budget;
use crate::driver::{Limits, drive};
use crate::forward::{Certainty, Ending, context, decoded, evaluate, load_outputs};
use crate::gate;

const ENDING: &str = "ending";
const DECISION: &str = "undo";
/// The fact that a step has been undone, with what was left.
const UNDONE: &str = "undone";

/// How an undo ended.
#[derive(Debug)]
pub(crate) enum UndoEnded {
    /// Everything that could be done is done; what was left alone, one sentence each.
    Finished {
        /// Not empty: the world is not what it was.
        left: Vec<Left>,
        /// What nobody promised to restore.
        noted: Vec<String>,
        /// Something was put back.
        restored: Restored,
    },
    /// It goes on elsewhere.
    Released(String),
    /// The attempt is not ours any more.
    Stale,
}

/// What an undo left of a step.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) step: String,
    /// One sentence.
    pub(crate) what: String,
}

impl Left {
    fn of(step: &Step, what: impl Into<String>) -> Self {
        Self {
            step: step.name.clone(),
            what: what.into(),
        }
    }
}

/// Whether an undo put anything back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Restored {
    /// At least one thing.
    Something,
    /// There was nothing to put back, or nothing could be.
    Nothing,
}

/// Why the run ends, kept for whoever finishes its undo.
#[derive(Debug, Serialize, Deserialize)]
struct RecordedEnding {
    outcome: Outcome,
    failure: Failure,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct RecordedUndone {
    restored: bool,
    left: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    noted: Vec<String>,
}

/// Decides the undo: from here on, forward intents are refused. Answers why the run ends: what an
/// attempt before this one recorded stays, for a fact has one value.
///
/// # Errors
/// The decision is not acknowledged: nothing may be undone.
pub(crate) async fn decide(attempt: &Attempt, ending: Ending) -> Result<Ending, Halt> {
    attempt.switch.turn_to_undo();
    let key = task_key(ENDING);
    let recorded = attempt.replay().fact(&key);
    let ending = match recorded {
        Some(value) => serde_json::from_value::<RecordedEnding>(value).map_or(ending, Ending::from),
        None => {
            let recorded = RecordedEnding {
                outcome: ending.outcome,
                failure: ending.failure.clone(),
            };
            let value = serde_json::to_value(&recorded).unwrap_or_default();
            attempt
                .post_fact(task_record(key, RecordBody::Fact(value.into())), Readers::Everybody)
                .await?;
            ending
        }
    };
    if attempt.replay().undo_reason().is_none() && !attempt.switch.is_undo_decided() {
        let decision = Decision::Undo {
            reason: ending.failure.summary.clone(),
        };
        attempt
            .append(
                task_record(task_key(DECISION), RecordBody::Decision(decision)),
                Readers::Everybody,
            )
            .await?;
    }
    attempt.replay().decide_undo(ending.failure.summary.clone());
    Ok(ending)
}

/// Why a run ends whose undo was decided before this attempt.
pub(crate) fn recorded_ending(attempt: &Attempt, reason: &str) -> Ending {
    let recorded = attempt.replay().fact(&task_key(ENDING));
    let recorded = recorded.and_then(|value| serde_json::from_value::<RecordedEnding>(value).ok());
    let recorded = recorded.unwrap_or_else(|| RecordedEnding {
        outcome: Outcome::Failed,
        failure: Failure::new(
            "task.undone",
            format!("it was decided that the task is undone: {reason}"),
        ),
    });
    Ending::from(recorded)
}

impl From<RecordedEnding> for Ending {
    fn from(recorded: RecordedEnding) -> Self {
        Self {
            outcome: recorded.outcome,
            failure: recorded.failure,
            certainty: Certainty::Known,
        }
    }
}

/// Undoes what the forward program began.
pub(crate) async fn undo(attempt: &Arc<Attempt>) -> UndoEnded {
    attempt.switch.turn_to_undo();
    let limits = Limits::Undo(Budget::new(attempt.shared.config.undo_budget));
    let mut arguments = Arguments::default();
    for step in &attempt.document.spec.steps {
        if load_outputs(attempt, &mut arguments, step) {
            attempt.board.status(&step.name, StepStatus::Succeeded);
        }
    }
    arguments.name_lost();
    let (mut left, mut noted, mut restored) = (Vec::new(), Vec::new(), Restored::Nothing);
    for step in attempt.document.spec.steps.iter().rev() {
        if !attempt.replay().has_begun(&step.name) {
            continue;
        }
        let undone = match undo_step(attempt, &mut arguments, step, limits).await {
            Err(error) => Err(decoded(attempt, error).await),
            undone => undone,
        };
        match undone {
            Ok(undone) => {
                if undone.restored {
                    restored = Restored::Something;
                }
                left.extend(undone.left.into_iter().map(|what| Left::of(step, what)));
                noted.extend(undone.noted.iter().map(|what| format!("{}: {what}", step.name)));
            }
            Err(StepError::Halted(Halt::Stale)) => return UndoEnded::Stale,
            Err(StepError::Halted(halt @ (Halt::Drained | Halt::LeaseOver))) => {
                return UndoEnded::Released(halt.to_string());
            }
            Err(StepError::Halted(Halt::Stopped(_))) => {
                left.push(Left::of(step, "not undone, the time for undoing was over"));
                attempt.board.status(&step.name, StepStatus::Interrupted);
            }
            Err(
                StepError::Failed(failure)
                | StepError::WorldUnknown(failure)
                | StepError::Halted(Halt::Denied(failure)),
            ) => {
                let failure = attempt.mask_failure(*failure);
                tell(attempt, step, &failure);
                left.push(Left::of(step, not_undone(&failure)));
                attempt.board.status(&step.name, StepStatus::Failed);
            }
            Err(
                error @ (StepError::NotSent
                | StepError::Halted(Halt::Nondeterministic(_) | Halt::Refused(_) | Halt::Forged(_))),
            ) => {
                left.push(Left::of(step, format!("not undone: {error}")));
                attempt.board.status(&step.name, StepStatus::Failed);
            }
        }
    }
    UndoEnded::Finished { left, noted, restored }
}

/// What stays says what happened and what to do; what there is beyond it, such as AWS's own words, is in the log.
fn not_undone(failure: &Failure) -> String {
    let mut what = format!("not undone: {}", failure.summary);
    if !failure.hint.is_empty() {
        what.push_str("; to mend it: ");
        what.push_str(&failure.hint);
    }
    what
}

fn tell(attempt: &Attempt, step: &Step, failure: &Failure) {
    let log = attempt.log().writer(&step.name);
    log.narrate(&format!("the step was not undone: {}", failure.summary));
    for more in [&failure.hint, &failure.detail] {
        more.lines().for_each(|line| log.narrate(line));
    }
}

async fn undo_step(
    attempt: &Arc<Attempt>,
    arguments: &mut Arguments,
    step: &Step,
    limits: Limits,
) -> Result<RecordedUndone, StepError> {
    let key = EffectKey::of(&step.name, Direction::Undo, UNDONE);
    let recorded = attempt.replay().fact(&key);
    if let Some(undone) = recorded.and_then(|value| serde_json::from_value(value).ok()) {
        attempt.board.status(&step.name, StepStatus::Undone);
        return Ok(undone);
    }
    limits.enforce(attempt);
    if let Some(halt) = attempt.switch.halt() {
        return Err(halt.into());
    }
    attempt.board.status(&step.name, StepStatus::Undoing);
    let Evaluated { kind, hidden } = evaluate(attempt, arguments, step).await?;
    gate::admit_step(attempt, step, &kind).map_err(Halt::Denied)?;
    let ctx = context(attempt, step, Direction::Undo, hidden);
    let program = (attempt.shared.programs)(kind);
    let undone: Undone = drive(attempt, limits, program.undo(&ctx)).await?;
    let masked = |what: &[String]| what.iter().map(|what| attempt.mask(what)).collect();
    let undone = RecordedUndone {
        restored: undone.restored,
        left: masked(&undone.left),
        noted: masked(&undone.noted),
    };
    let record = Record {
        key,
        program_version: ctx.program_version,
        step_kind: step.kind.name().to_owned(),
        body: RecordBody::Fact(serde_json::to_value(&undone).unwrap_or_default().into()),
        epoch: 0,
        sealing: Sealing::default(),
    };
    attempt.post_fact(record, Readers::Everybody).await?;
    attempt.board.status(
        &step.name,
        if undone.left.is_empty() {
            StepStatus::Undone
        } else {
            StepStatus::Failed
        },
    );
    Ok(undone)
}
