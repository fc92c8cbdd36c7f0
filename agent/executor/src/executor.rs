//! The executor's loop: takes assignments, hands answers to those who wait for them, passes wishes
//! on, and owns every attempt. It never waits for the other side of its channels, so that the two
//! loops cannot wait for each other.

use std::collections::HashMap;
use std::sync::Arc;

use deputy_steps::registry;
use deputy_task::attempt::AttemptRef;
use deputy_task::boot_time::BootTime;
use deputy_task::document::{Document, OidcRole, RoleHop};
use deputy_task::message::{Assignment, Command, Event, WriteOp};
use deputy_task::outcome::StopReason;
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::attempt::{Attempt, Programs, Shared};
use crate::environment::{Environment, ExecutorConfig};
use crate::life::{bury, live};
use crate::outbox::Outbox;
use crate::slot::Slots;
use crate::trust::needs_key;

/// Commands taken at once.
const BATCH: usize = 256;

/// Runs tasks. One per agent; the supervisor spawns [`Executor::run`] and awaits it.
pub struct Executor {
    config: ExecutorConfig,
    environment: Environment,
    programs: Programs,
}

impl Executor {
    /// An executor that has not begun.
    #[must_use]
    pub fn new(config: ExecutorConfig, environment: Environment) -> Self {
        Self {
            config,
            environment,
            programs: Arc::new(registry::program),
        }
    }

    /// The same with other programs behind the step kinds.
    #[cfg(test)]
    pub(crate) fn with_programs(mut self, programs: Programs) -> Self {
        self.programs = programs;
        self
    }

    /// Runs until it is drained and its last attempt has ended, or until `commands` is closed: then
    /// every attempt stops without touching the world, because nobody would record it.
    pub async fn run(self, mut commands: mpsc::Receiver<Command>, events: mpsc::Sender<Event>) {
        let slots = Slots::new(self.config.slots);
        let shared = Arc::new(Shared {
            config: self.config,
            environment: self.environment,
            outbox: Outbox::new(events),
            lease: watch::Sender::new(BootTime::NEVER),
            programs: self.programs,
        });
        let mut running = Running {
            shared,
            slots,
            attempts: HashMap::new(),
            tasks: HashMap::new(),
            set: JoinSet::new(),
            drain: None,
        };
        let mut batch = Vec::with_capacity(BATCH);
        let mut told = None;
        loop {
            told = running.tell_free_slots(told);
            if running.drain.is_some() && running.set.is_empty() {
                return;
            }
            tokio::select! {
                taken = commands.recv_many(&mut batch, BATCH) => {
                    if taken == 0 {
                        break;
                    }
                    batch.drain(..).for_each(|command| running.obey(command));
                }
                Some(ended) = running.set.join_next_with_id(), if !running.set.is_empty() => running.ended(ended),
            }
        }
        running.abandon().await;
    }
}

/// What the loop owns.
struct Running {
    shared: Arc<Shared>,
    slots: Slots,
    attempts: HashMap<AttemptRef, Live>,
    tasks: HashMap<Id, AttemptRef>,
    set: JoinSet<()>,
    /// When held work ends, once it is known that the agent drains.
    drain: Option<BootTime>,
}

struct Live {
    attempt: Arc<Attempt>,
    ended: CancellationToken,
}

impl Running {
    fn obey(&mut self, command: Command) {
        match command {
            Command::Written { id, verdict } => self.shared.outbox.answer(id, verdict),
            Command::BlobFetched { id, result } => self.shared.outbox.answer_blob(id, result),
            Command::TokenMinted { id, result } => self.shared.outbox.answer_token(id, result),
            Command::Assign(assignment) => self.assign(*assignment),
            Command::Lease { until } => drop(self.shared.lease.send_replace(until)),
            Command::Cancel { attempt, reason } => {
                if let Some(live) = self.attempts.get(&attempt) {
                    live.attempt.switch.stop(StopReason::Cancelled(reason));
                }
            }
            Command::Revoke { attempt, reason } => {
                if let Some(live) = self.attempts.get(&attempt) {
                    tracing::info!(task.id = %attempt.task, attempt = attempt.epoch, reason, "revoked");
                    live.attempt.switch.revoke();
                }
            }
            Command::Drain { deadline, reason } => {
                tracing::info!(reason, attempts = self.attempts.len(), "draining");
                self.drain = Some(deadline);
                self.attempts
                    .values()
                    .for_each(|live| live.attempt.switch.drain(deadline));
            }
        }
    }

    fn assign(&mut self, assignment: Assignment) {
        if self.attempts.contains_key(&assignment.attempt) {
            return;
        }
        if let Err(reason) = self.admit(&assignment) {
            return self.refuse(assignment.attempt, reason);
        }
        let Some(slot) = self.slots.take() else {
            return self.refuse(assignment.attempt, "every slot of the agent is taken".into());
        };
        let cancel = assignment.cancel.clone();
        let attempt = Arc::new(Attempt::new(Arc::clone(&self.shared), assignment));
        if let Err(reason) = self.alone(&attempt) {
            return self.refuse(attempt.reference.clone(), reason);
        }
        let predecessors = self.supersede(&attempt.reference);
        if let Some(reason) = cancel {
            attempt.switch.stop(StopReason::Cancelled(reason));
        }
        let ended = CancellationToken::new();
        let reference = attempt.reference.clone();
        let task = self.set.spawn(live(Arc::clone(&attempt), predecessors, slot));
        self.tasks.insert(task.id(), reference.clone());
        self.attempts.insert(reference, Live { attempt, ended });
    }

    /// May it be started here?
    fn admit(&self, assignment: &Assignment) -> Result<(), String> {
        if self.drain.is_some() {
            return Err("the agent drains".into());
        }
        if self.shared.environment.pool_keys.is_none()
            && let Some(why) = needs_key(&assignment.journal)
        {
            return Err(why);
        }
        let foreign = assignment.journal.iter().find(|record| {
            !record.step_kind.is_empty() && !registry::replays(&record.step_kind, record.program_version)
        });
        match foreign {
            Some(record) => Err(format!(
                "its journal was written by version {} of {}, which this agent cannot replay",
                record.program_version, record.step_kind
            )),
            None => Ok(()),
        }
    }

    /// Children that are not confined can read each other's memory, credentials and files: those that run at the same
    /// time must be of one tenant. What counts is what will run, not the manager's reading of a signed task.
    fn alone(&self, attempt: &Attempt) -> Result<(), String> {
        if self.shared.environment.confinement.is_some() {
            return Ok(());
        }
        let tenant = (&attempt.reference.project, roles(&attempt.document));
        let other = self.attempts.values().map(|live| &live.attempt);
        let other = other.filter(|other| (&other.reference.project, roles(&other.document)) != tenant);
        match other.map(|other| &other.reference).next() {
            Some(other) => Err(format!(
                "the agent cannot confine children, so tasks of different projects or role chains do not run beside each other, and task {} runs",
                other.task
            )),
            None => Ok(()),
        }
    }

    /// A newer attempt of a task makes the older ones stale; they must all end before it touches anything.
    fn supersede(&self, attempt: &AttemptRef) -> Vec<CancellationToken> {
        let older = |known: &AttemptRef| known.project == attempt.project && known.task == attempt.task;
        let superseded = self.attempts.iter().filter(|(known, _)| older(known));
        superseded
            .map(|(_, live)| {
                live.attempt.switch.revoke();
                live.ended.clone()
            })
            .collect()
    }

    fn refuse(&mut self, attempt: AttemptRef, reason: String) {
        let shared = Arc::clone(&self.shared);
        self.set.spawn(async move {
            tracing::info!(task.id = %attempt.task, attempt = attempt.epoch, reason, "assignment refused");
            drop(
                shared
                    .outbox
                    .write(
                        &attempt,
                        WriteOp::Refuse {
                            reason,
                            permanent: None,
                        },
                    )
                    .await,
            );
        });
    }

    fn ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let (id, panic) = match ended {
            Ok((id, ())) => (id, None),
            Err(error) => (error.id(), Some(panic_text(error))),
        };
        let Some(reference) = self.tasks.remove(&id) else {
            return;
        };
        let Some(live) = self.attempts.remove(&reference) else {
            return;
        };
        match panic {
            None => live.ended.cancel(),
            Some(panic) => {
                tracing::error!(task.id = %reference.task, attempt = reference.epoch, panic, "an attempt panicked");
                let attempt = Arc::clone(&live.attempt);
                let task = self.set.spawn(bury(Arc::clone(&attempt), panic));
                self.tasks.insert(task.id(), reference.clone());
                self.attempts.insert(reference, live);
            }
        }
    }

    /// Tells the number of free slots if it has changed; answers what was told last.
    fn tell_free_slots(&self, told: Option<u32>) -> Option<u32> {
        let free = if self.drain.is_some() { 0 } else { self.slots.free() };
        if told == Some(free) || self.shared.outbox.free_slots(free).is_err() {
            told
        } else {
            Some(free)
        }
    }

    /// Nobody will answer any more.
    async fn abandon(mut self) {
        self.attempts.values().for_each(|live| live.attempt.switch.revoke());
        let grace = self.shared.config.stop_grace;
        let all = async { while self.set.join_next().await.is_some() {} };
        if tokio::time::timeout(grace, all).await.is_err() {
            tracing::error!("attempts did not end in their grace and are dropped");
        }
    }
}

/// The chain that makes the identity of a task's children, with what it begins with; none for a task without AWS.
fn roles(document: &Document) -> Option<(Option<&OidcRole>, &[RoleHop])> {
    let aws = document.spec.aws.as_ref()?;
    Some((aws.oidc.as_ref(), aws.assume_role.as_slice()))
}

fn panic_text(error: JoinError) -> String {
    match error.try_into_panic() {
        Ok(payload) => payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a panic without words".into()),
        Err(error) => error.to_string(),
    }
}
