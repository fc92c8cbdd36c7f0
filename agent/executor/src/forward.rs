//! The forward program of a task: its steps in order. Steps that the journal says have ended are
//! skipped; the one that was interrupted is run again and finds its effects done.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};

use deputy_credentials::refusal::encoded;
use deputy_steps::context::{Outputs, StepContext};
use deputy_steps::effect::Readers;
use deputy_steps::failure::{Halt, StepError};
use deputy_steps::registry;
use deputy_task::document::{OnAgentLoss, OnFailure, Step, duration};
use deputy_task::outcome::{Failure, Outcome, StopReason};
use deputy_task::progress::StepStatus;
use deputy_task::record::{Direction, EffectKey, MAX_RECORD_BYTES, Record, RecordBody, Sealing};
use serde_json::Value;

use crate::arguments::{ArgumentError, Arguments, Evaluated, RecordedOutputs};
use crate::attempt::Attempt;
use crate::budget::Budget;
use crate::driver::{Limits, drive};
use crate::gate;
use crate::hidden::Hidden;
use crate::host::StepHost;
use crate::trust::FORGED;

/// The name of the fact that a step has ended.
const OUTPUTS: &str = "outputs";
/// The name of the sealed fact with its secret outputs; before the one above.
const SECRET_OUTPUTS: &str = "outputs/secret";

/// How a program of a task ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// Every step succeeded.
    Succeeded,
    /// It did not, and the run ends.
    Failed(Ending),
    /// The run goes on elsewhere.
    Released(String),
    /// The attempt is not ours any more.
    Stale,
}

/// Why a run ends without success.
#[derive(Debug, Clone)]
pub(crate) struct Ending {
    pub(crate) outcome: Outcome,
    pub(crate) failure: Failure,
    pub(crate) certainty: Certainty,
}

/// What is known of the world when a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Certainty {
    /// The journal says it all.
    Known,
    /// A look could not tell, or showed somebody else's hand.
    Unknown,
    /// The journal and the program do not agree: nothing more may be done, no undo either.
    Held,
}

impl Ending {
    fn new(outcome: Outcome, failure: Failure) -> Self {
        Self {
            outcome,
            failure,
            certainty: Certainty::Known,
        }
    }
}

/// Runs the steps from the first that has not ended.
pub(crate) async fn forward(attempt: &Arc<Attempt>, arguments: &mut Arguments) -> Ended {
    let last = attempt.document.spec.steps.len().saturating_sub(1);
    for (index, step) in attempt.document.spec.steps.iter().enumerate() {
        if replay_outputs(attempt, arguments, step) {
            continue;
        }
        let limits = Limits::Forward {
            task: attempt.time,
            step: step_budget(step),
        };
        limits.enforce(attempt);
        if let Some(halt) = attempt.switch.halt() {
            return of_halt(attempt, halt, &step.name);
        }
        let place = if index == last { Place::Last } else { Place::Before };
        match run_step(attempt, arguments, step, (limits, place)).await {
            Ok(()) => {}
            Err(error) => {
                let error = decoded(attempt, error).await;
                let ended = of_error(attempt, error, &step.name);
                let status = match &ended {
                    Ended::Failed(Ending {
                        outcome: Outcome::Cancelled | Outcome::TimedOut,
                        ..
                    }) => StepStatus::Interrupted,
                    Ended::Failed(_) => StepStatus::Failed,
                    Ended::Succeeded | Ended::Released(_) | Ended::Stale => return ended,
                };
                attempt.board.status(&step.name, status);
                return ended;
            }
        }
    }
    Ended::Succeeded
}

/// Only outputs that a later step may need are worth a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Before,
    Last,
}

async fn run_step(
    attempt: &Arc<Attempt>,
    arguments: &mut Arguments,
    step: &Step,
    (limits, place): (Limits, Place),
) -> Result<(), StepError> {
    if !arguments.wanted(attempt, step).await? {
        attempt.board.status(&step.name, StepStatus::Skipped);
        return Ok(());
    }
    let Evaluated { kind, hidden } = arguments.evaluate(attempt, step).await?;
    gate::admit_step(attempt, step, &kind).map_err(Halt::Denied)?;
    attempt.board.status(&step.name, StepStatus::Running);
    let ctx = context(attempt, step, Direction::Forward, hidden);
    let program = (attempt.shared.programs)(kind);
    let outputs = masked(attempt, drive(attempt, limits, program.run(&ctx)).await?);
    finish_step(attempt, step, &outputs, place).await?;
    attempt.board.outputs(&step.name, outputs.values.clone());
    attempt.board.status(&step.name, StepStatus::Succeeded);
    arguments.ended(&step.name, outputs);
    Ok(())
}

/// The context of a step's program.
pub(crate) fn context(attempt: &Arc<Attempt>, step: &Step, direction: Direction, hidden: Hidden) -> StepContext {
    let recorded = attempt.replay().version_of(&step.name);
    let version = recorded.unwrap_or_else(|| registry::newest_version(&step.kind));
    let host = StepHost {
        attempt: Arc::clone(attempt),
        step: step.name.as_str().into(),
        asking: step.name.as_str().into(),
        kind: step.kind.name(),
        version,
        direction,
        hidden,
        tell: OnceLock::new(),
        ahead: Mutex::default(),
    };
    let mut ctx = StepContext::new(
        Arc::new(host),
        &step.name,
        attempt.reference.clone(),
        direction,
        version,
    );
    let spec = &attempt.document.spec;
    ctx.keeps_before_images = spec.on_failure == OnFailure::Rollback || spec.on_agent_loss == OnAgentLoss::Rollback;
    ctx.brings_surroundings = !attempt.document.spec.sources.is_empty() || attempt.document.spec.aws.is_some();
    ctx
}

async fn finish_step(attempt: &Attempt, step: &Step, outputs: &Outputs, place: Place) -> Result<(), Halt> {
    if place == Place::Last {
        return Ok(());
    }
    let recorded = RecordedOutputs {
        values: outputs.values.clone(),
        secrets: outputs.secrets.keys().cloned().collect(),
    };
    let version = attempt
        .replay()
        .version_of(&step.name)
        .unwrap_or_else(|| registry::newest_version(&step.kind));
    let fact = |name, value: Value| {
        let size = crate::plan::size(&value);
        if size > MAX_RECORD_BYTES {
            return Err(Halt::Refused(format!(
                "the outputs of step {} have about {size} bytes",
                step.name
            )));
        }
        Ok(Record {
            key: EffectKey::new(&step.name, name),
            program_version: version,
            step_kind: step.kind.name().to_owned(),
            body: RecordBody::Fact(value.into()),
            epoch: 0,
            sealing: Sealing::default(),
        })
    };
    let value = fact(OUTPUTS, serde_json::to_value(&recorded).unwrap_or_default())?;
    if attempt.trust.can_seal() && !outputs.secrets.is_empty() {
        let secrets = fact(
            SECRET_OUTPUTS,
            serde_json::to_value(&outputs.secrets).unwrap_or_default(),
        )?;
        // An attempt may have got no further than this.
        if attempt.replay().fact(&secrets.key).is_none() {
            attempt.post_fact(secrets, Readers::Pool).await?;
        }
    }
    attempt.post_fact(value, Readers::Everybody).await
}

/// Outputs as they are recorded, and as later steps get them in this attempt and in every other.
fn masked(attempt: &Attempt, mut outputs: Outputs) -> Outputs {
    for value in outputs.secrets.values() {
        // Before anything can print it; too short a value cannot be told from ordinary text.
        drop(attempt.log().add_secret(value.as_bytes()));
    }
    outputs.values.values_mut().for_each(|value| attempt.mask_value(value));
    outputs
}

/// Has the step ended in an attempt before this one?
fn replay_outputs(attempt: &Attempt, arguments: &mut Arguments, step: &Step) -> bool {
    if !load_outputs(attempt, arguments, step) {
        return false;
    }
    attempt.board.status(&step.name, StepStatus::Succeeded);
    true
}

/// Makes the recorded outputs of a step known to expressions, if it has ended.
pub(crate) fn load_outputs(attempt: &Attempt, arguments: &mut Arguments, step: &Step) -> bool {
    let recorded = attempt.replay().fact(&EffectKey::new(&step.name, OUTPUTS));
    let Some(recorded) = recorded.and_then(|value| serde_json::from_value::<RecordedOutputs>(value).ok()) else {
        return false;
    };
    attempt.board.outputs(&step.name, recorded.values.clone());
    let secrets = attempt.replay().fact(&EffectKey::new(&step.name, SECRET_OUTPUTS));
    let secrets: BTreeMap<String, String> = secrets
        .and_then(|value| serde_json::from_value(value).ok())
        .unwrap_or_default();
    for value in secrets.values() {
        // As when it was made: too short a value cannot be told from ordinary text.
        drop(attempt.log().add_secret(value.as_bytes()));
    }
    arguments.replayed(&step.name, recorded, secrets);
    true
}

fn step_budget(step: &Step) -> Option<Budget> {
    step.timeout
        .as_deref()
        .and_then(|text| duration::parse(text).ok())
        .map(Budget::new)
}

/// AWS gives some of its reasons in a message that the task's identity may be able to have decoded.
/// A denial of which AWS gave the reason in a message of its own, explained where the task's identity may read it.
pub(crate) async fn decoded(attempt: &Attempt, error: StepError) -> StepError {
    match error {
        StepError::Failed(failure) if encoded(&failure.detail).is_some() => match attempt.identity().await {
            Ok(identity) => StepError::Failed(Box::new(identity.decoded(*failure).await)),
            Err(_) => StepError::Failed(failure),
        },
        error => error,
    }
}

fn of_error(attempt: &Attempt, error: StepError, step: &str) -> Ended {
    let (failure, certainty) = match error {
        StepError::Failed(failure) => (*failure, Certainty::Known),
        StepError::WorldUnknown(failure) => (*failure, Certainty::Unknown),
        StepError::NotSent => (Failure::new("effect.notSent", error.to_string()), Certainty::Known),
        StepError::Halted(halt) => return of_halt(attempt, halt, step),
    };
    let mut failure = attempt.mask_failure(failure);
    failure.step = step.to_owned();
    Ended::Failed(Ending {
        outcome: Outcome::Failed,
        failure,
        certainty,
    })
}

/// What a halt of the forward program means for the task.
fn of_halt(attempt: &Attempt, halt: Halt, step: &str) -> Ended {
    let spec = &attempt.document.spec;
    let mut ending = match halt {
        Halt::Stale => return Ended::Stale,
        Halt::Drained | Halt::LeaseOver => return Ended::Released(halt.to_string()),
        Halt::Stopped(StopReason::Cancelled(reason)) => Ending::new(
            Outcome::Cancelled,
            Failure::new("task.cancelled", format!("the task was cancelled: {reason}")),
        ),
        Halt::Stopped(StopReason::TaskTimeout) => Ending::new(
            Outcome::TimedOut,
            Failure::new(
                "task.timeout",
                format!("the task took longer than its timeout of {}", spec.timeout),
            )
            .hint("see in the log what it waited for, or give it more time with spec.timeout"),
        ),
        Halt::Stopped(StopReason::StepTimeout) => {
            let limit = spec
                .steps
                .iter()
                .find(|known| known.name == step)
                .and_then(|step| step.timeout.clone());
            let limit = limit.unwrap_or_default();
            Ending::new(
                Outcome::Failed,
                Failure::new(
                    "step.timeout",
                    format!("step {step} took longer than its timeout of {limit}"),
                )
                .hint("see in the log what it waited for, or give it more time with `timeout`"),
            )
        }
        Halt::Nondeterministic(what) => {
            let failure = Failure::new(
                "journal.nondeterministic",
                format!("the program does not match its journal: {what}"),
            );
            let failure = failure
                .hint("nothing more was changed; compare `deputy explain` with the world before the task is run again");
            Ending {
                certainty: Certainty::Held,
                ..Ending::new(Outcome::Failed, failure)
            }
        }
        Halt::Forged(what) => {
            let failure = Failure::new(FORGED, format!("the journal of this run is not believed: {what}"));
            let failure = failure.hint(
                "nothing more was done and nothing was undone: find out who changed the records at the manager, compare `deputy explain` with the world, put it right by hand, and only then run the task again",
            );
            Ending {
                certainty: Certainty::Held,
                ..Ending::new(Outcome::Failed, failure)
            }
        }
        Halt::Denied(failure) => Ending::new(Outcome::Failed, *failure),
        Halt::Refused(why) => {
            let failure = Failure::new("journal.refused", format!("the journal refused a record: {why}"));
            Ending {
                certainty: Certainty::Held,
                ..Ending::new(Outcome::Failed, failure)
            }
        }
    };
    ending.failure = attempt.mask_failure(ending.failure);
    step.clone_into(&mut ending.failure.step);
    Ended::Failed(ending)
}

impl From<ArgumentError> for StepError {
    fn from(error: ArgumentError) -> Self {
        match error {
            ArgumentError::Failed(failure) => Self::Failed(failure),
            ArgumentError::Halted(halt) => Self::Halted(halt),
        }
    }
}

/// A step, evaluated; for the undo program too.
pub(crate) async fn evaluate(
    attempt: &Attempt,
    arguments: &mut Arguments,
    step: &Step,
) -> Result<Evaluated, StepError> {
    Ok(arguments.evaluate(attempt, step).await?)
}
