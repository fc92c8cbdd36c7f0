//! One attempt from its assignment to its last message: start, run, undo, clean up, result. The
//! result is always the last; after STALE_EPOCH nothing is said any more.

use std::sync::Arc;

use deputy_steps::failure::Halt;
use deputy_steps::permit;
use deputy_task::attempt::Epoch;
use deputy_task::document::OnFailure;
use deputy_task::message::{WriteOp, WriteVerdict};
use deputy_task::outcome::{Completion, Failure, Outcome, World};
use deputy_task::repair::{End, repair};
use tokio_util::sync::CancellationToken;

use crate::arguments::Arguments;
use crate::attempt::Attempt;
use crate::forward::{Certainty, Ended, Ending, forward};
use crate::gate::{self, NotAdmitted};
use crate::outbox::Granted;
use crate::replay::Trace;
use crate::slot::Slot;
use crate::undo::{self, Left, Restored, UndoEnded, undo};

/// The first attempt that a task is handed out as.
const FIRST_EPOCH: Epoch = 1;

/// The last message of an attempt.
#[derive(Debug)]
enum LastWord {
    Complete(Box<Completion>),
    Release(String),
    Refuse(String),
    /// The agent's policy says no: nobody needs to be offered it again.
    Deny(Box<Failure>),
    /// Not ours any more: none.
    None,
}

/// Lives the attempt. `predecessors` are the older attempts of the same task in this process, which
/// must all have ended before anything is touched.
pub(crate) async fn live(attempt: Arc<Attempt>, predecessors: Vec<CancellationToken>, slot: Slot) {
    for predecessor in predecessors {
        predecessor.cancelled().await;
    }
    let word = if attempt.switch.is_stale() {
        LastWord::None
    } else if permit::now() >= attempt.start_deadline {
        LastWord::Refuse("the deadline for starting it had passed".into())
    } else if let Some(failure) = &attempt.forged {
        start_and_hold(&attempt, failure).await
    } else {
        match gate::admit(&attempt) {
            Ok(()) => start_and_run(&attempt).await,
            Err(NotAdmitted::NoPolicy(why)) => LastWord::Refuse(why),
            Err(NotAdmitted::Denied(failure)) => LastWord::Deny(failure),
        }
    };
    attempt.clean_up().await;
    drop(slot);
    say(&attempt, word).await;
}

/// What is said for an attempt whose task panicked.
pub(crate) async fn bury(attempt: Arc<Attempt>, panic: String) {
    let failure = Failure::new(
        "agent.panic",
        format!("the agent failed inside itself while it ran the task: {panic}"),
    )
    .hint("report it with the agent's log; see `deputy explain` for what was changed");
    let ending = Ending {
        outcome: Outcome::Failed,
        failure,
        certainty: Certainty::Known,
    };
    attempt.clean_up().await;
    let completion = completion(&attempt, Some(ending), None);
    say(&attempt, LastWord::Complete(Box::new(completion))).await;
}

/// Ends a run whose journal is not believed: nothing is done, nothing is undone, and a person has to look.
async fn start_and_hold(attempt: &Attempt, failure: &Failure) -> LastWord {
    let started = attempt
        .shared
        .outbox
        .post(&attempt.reference, WriteOp::Start, &attempt.switch, Granted::Start);
    if started.await.is_err() || attempt.switch.started().await.is_err() {
        return LastWord::None;
    }
    let ending = Ending {
        outcome: Outcome::Failed,
        failure: failure.clone(),
        certainty: Certainty::Held,
    };
    LastWord::Complete(Box::new(completion(attempt, Some(ending), None)))
}

async fn start_and_run(attempt: &Arc<Attempt>) -> LastWord {
    let started = attempt
        .shared
        .outbox
        .post(&attempt.reference, WriteOp::Start, &attempt.switch, Granted::Start);
    if started.await.is_err() {
        return LastWord::None;
    }
    // A task that was handed out before may have taken its agent down. Were this process to end before the manager
    // knows that the task was started here, that loss would not be counted against the task.
    if attempt.reference.epoch > FIRST_EPOCH && attempt.switch.started().await.is_err() {
        return LastWord::None;
    }
    let decided = attempt.replay().undo_reason().map(str::to_owned);
    let ending = match decided {
        Some(reason) => undo::recorded_ending(attempt, &reason),
        None => match forward(attempt, &mut Arguments::default()).await {
            Ended::Succeeded => return LastWord::Complete(Box::new(completion(attempt, None, None))),
            Ended::Stale => return LastWord::None,
            Ended::Released(reason) => return LastWord::Release(reason),
            Ended::Failed(ending) if !is_undone(attempt, &ending) => {
                return LastWord::Complete(Box::new(completion(attempt, Some(ending), None)));
            }
            Ended::Failed(ending) => match undo::decide(attempt, ending.clone()).await {
                Ok(ending) => ending,
                Err(Halt::Stale) => return LastWord::None,
                Err(halt) => {
                    let ending = not_undone(attempt, ending, &halt);
                    return LastWord::Complete(Box::new(completion(attempt, Some(ending), None)));
                }
            },
        },
    };
    match undo(attempt).await {
        UndoEnded::Finished { left, noted, restored } => {
            let undone = UndoneRun { left, noted, restored };
            LastWord::Complete(Box::new(completion(attempt, Some(ending), Some(undone))))
        }
        UndoEnded::Released(reason) => LastWord::Release(reason),
        UndoEnded::Stale => LastWord::None,
    }
}

/// The ending of a run whose undo the journal does not take: nothing is touched any more.
fn not_undone(attempt: &Attempt, mut ending: Ending, halt: &Halt) -> Ending {
    tracing::error!(task.id = %attempt.reference.task, attempt = attempt.reference.epoch, %halt, "the decision to undo was refused");
    let hint = format!(
        "nothing was undone, because the decision to undo was refused: {halt}; compare `deputy explain` with the world before the task is run again"
    );
    ending.failure.hint = if ending.failure.hint.is_empty() {
        hint
    } else {
        format!("{}; {hint}", ending.failure.hint)
    };
    ending.failure = attempt.mask_failure(ending.failure);
    ending.certainty = Certainty::Held;
    ending
}

/// Is a run that ends this way undone?
fn is_undone(attempt: &Attempt, ending: &Ending) -> bool {
    if attempt.switch.is_undo_decided() {
        return true;
    }
    let wanted = attempt.document.spec.on_failure == OnFailure::Rollback && ending.certainty != Certainty::Held;
    wanted && attempt.replay().traces().any(|(_, _, trace)| trace != Trace::Nothing)
}

/// What an undo says of the world.
struct UndoneRun {
    left: Vec<Left>,
    noted: Vec<String>,
    restored: Restored,
}

/// The result: how it ended, what the world is now, what remains, and the command that repairs it.
fn completion(attempt: &Attempt, ending: Option<Ending>, undone: Option<UndoneRun>) -> Completion {
    let outcome = ending.as_ref().map_or(Outcome::Succeeded, |ending| ending.outcome);
    let certainty = ending.as_ref().map_or(Certainty::Known, |ending| ending.certainty);
    let (changed, unknown) = traces(attempt);
    let mut left_steps: Vec<String> = Vec::new();
    for left in undone.iter().flat_map(|undone| &undone.left) {
        if !left_steps.contains(&left.step) {
            left_steps.push(left.step.clone());
        }
    }
    let (world, remains) = match undone {
        Some(undone) if undone.left.is_empty() && changed.is_empty() && unknown.is_empty() => {
            (World::Unchanged, undone.noted)
        }
        // Only scripts ran: there was nothing to put back, and nobody knows what they did.
        Some(undone) if undone.left.is_empty() && undone.restored == Restored::Nothing && !undone.noted.is_empty() => {
            (World::Changed, undone.noted)
        }
        // What was begun was looked for and had not happened. Where something had (`changed`) and nothing was put
        // back, it had been taken back before: a circuit breaker does that.
        Some(undone) if undone.left.is_empty() && undone.restored == Restored::Nothing && changed.is_empty() => {
            (World::Unchanged, undone.noted)
        }
        Some(undone) if undone.left.is_empty() => (World::RolledBack, undone.noted),
        Some(undone) => {
            let left = undone
                .left
                .into_iter()
                .map(|Left { step, what }| format!("{step}: {what}"));
            (World::RollbackFailed, left.chain(undone.noted).collect())
        }
        None if outcome == Outcome::Succeeded && changed.is_empty() => (World::Unchanged, Vec::new()),
        None if outcome == Outcome::Succeeded => (World::Changed, Vec::new()),
        None if certainty != Certainty::Known || !unknown.is_empty() => {
            let asked = unknown
                .iter()
                .map(|what| format!("it is not known whether {what} happened"));
            (
                World::Unknown,
                asked
                    .chain(changed.iter().map(|what| format!("{what} was done and stays")))
                    .collect(),
            )
        }
        None if changed.is_empty() => (World::Unchanged, Vec::new()),
        None => (
            World::Changed,
            changed
                .iter()
                .map(|what| format!("{what} was done and stays"))
                .collect(),
        ),
    };
    let end = End {
        task: &attempt.reference.task,
        outcome,
        world,
        left: &left_steps,
    };
    let repair = repair(end, &attempt.shared.environment.steering);
    let steps = attempt.board.ended(outcome);
    Completion {
        outcome,
        world,
        failure: ending.map(|ending| ending.failure),
        remains,
        repair,
        steps,
    }
}

/// The summaries of what was changed, and of what nobody knows, each sorted.
fn traces(attempt: &Attempt) -> (Vec<String>, Vec<String>) {
    let replay = attempt.replay();
    let (mut changed, mut unknown) = (Vec::new(), Vec::new());
    for (key, entry, trace) in replay.traces() {
        let what = if entry.intent.summary.is_empty() {
            key.to_string()
        } else {
            entry.intent.summary.clone()
        };
        match trace {
            Trace::Nothing => {}
            Trace::Changed => changed.push(what),
            Trace::Unknown => unknown.push(what),
        }
    }
    changed.sort_unstable();
    unknown.sort_unstable();
    (changed, unknown)
}

async fn say(attempt: &Attempt, word: LastWord) {
    let word = if attempt.switch.is_stale() {
        LastWord::None
    } else {
        word
    };
    let op = match word {
        LastWord::None => {
            tracing::info!(task.id = %attempt.reference.task, attempt = attempt.reference.epoch, "attempt is not ours any more");
            return;
        }
        LastWord::Complete(completion) => WriteOp::Complete(completion),
        LastWord::Release(reason) => WriteOp::Release { reason },
        LastWord::Deny(failure) => {
            tracing::warn!(task.id = %attempt.reference.task, reason = %failure, "task denied");
            WriteOp::Refuse {
                reason: failure.summary.clone(),
                permanent: Some(*failure),
            }
        }
        LastWord::Refuse(reason) => WriteOp::Refuse {
            reason,
            permanent: None,
        },
    };
    let again = match &op {
        WriteOp::Complete(completion) => Some(slimmed(completion)),
        WriteOp::Start | WriteOp::Append(_) | WriteOp::Release { .. } | WriteOp::Refuse { .. } => None,
    };
    let outbox = &attempt.shared.outbox;
    let mut verdict = outbox.write(&attempt.reference, op).await;
    if let (Ok(WriteVerdict::Invalid(why)), Some(slim)) = (&verdict, again) {
        tracing::error!(task.id = %attempt.reference.task, reason = why, "the result was refused and is sent without its outputs");
        verdict = outbox
            .write(&attempt.reference, WriteOp::Complete(Box::new(slim)))
            .await;
    }
    match verdict {
        Ok(WriteVerdict::Ok { .. } | WriteVerdict::StaleEpoch) | Err(_) => {}
        Ok(verdict @ (WriteVerdict::UndoDecided | WriteVerdict::Nondeterministic(_) | WriteVerdict::Invalid(_))) => {
            tracing::error!(task.id = %attempt.reference.task, verdict = ?verdict, "the last message of an attempt was refused");
            // Held on, it would be waited for for ever.
            if outbox.give_up(&attempt.reference).await.is_err() {
                tracing::debug!(task.id = %attempt.reference.task, "the agent ends, and with it what it holds");
            }
        }
    }
}

/// The same result without what could be too large.
fn slimmed(completion: &Completion) -> Completion {
    let mut slim = completion.clone();
    slim.steps.iter_mut().for_each(|step| step.outputs.clear());
    slim.remains.truncate(10);
    if let Some(failure) = &mut slim.failure {
        failure.detail = failure.detail.chars().take(2_000).collect();
    }
    slim
}
