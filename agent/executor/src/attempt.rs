//! What one attempt has at hand while it lives: its journal, its switch, its log, and the things
//! that are made only when a step asks for them. [`crate::life`] drives it, [`crate::host`] lends
//! it to steps.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use deputy_credentials::backoff::Backoff;
use deputy_credentials::{OidcStart, TaskIdentity, TokenMinter};
use deputy_logs::AttemptLog;
use deputy_policy::policy::Policy;
use deputy_policy::source::Unusable;
use deputy_seal::Subject;
use deputy_steps::effect::Readers;
use deputy_steps::failure::{Halt, StepError};
use deputy_steps::program::StepProgram;
use deputy_task::attempt::AttemptRef;
use deputy_task::boot_time::BootTime;
use deputy_task::document::{Document, Doubts, Inputs, StepKind, Unsealed, Unsure, duration};
use deputy_task::expression::{Scope, TaskNames};
use deputy_task::message::{Assignment, BlobRef, MintedToken, WriteOp, WriteVerdict};
use deputy_task::outcome::Failure;
use deputy_task::record::{EffectKey, Record, RecordBody};
use serde_json::Value;
use tokio::sync::{OnceCell, watch};

use crate::board::Board;
use crate::budget::Budget;
use crate::environment::{Environment, ExecutorConfig};
use crate::known::Known;
use crate::outbox::{Closed, Granted, Outbox, halt_of, turn};
use crate::replay::Replay;
use crate::switch::Switch;
use crate::trust::{Believed, Trust, believe};
use crate::vouch::{Begun, Vouched, vouch};
use crate::workspace::remove;

/// Everything the attempts of an executor share.
pub(crate) struct Shared {
    pub(crate) config: ExecutorConfig,
    pub(crate) environment: Environment,
    pub(crate) outbox: Outbox,
    /// The end of this instance's lease.
    pub(crate) lease: watch::Sender<BootTime>,
    /// How an evaluated step becomes a program: the registry, or what a test says.
    pub(crate) programs: Programs,
}

/// No field of our own records has a longer name.
const MAX_FIELD_BYTES: usize = 24;

/// How an evaluated step becomes a program.
pub(crate) type Programs = Arc<dyn Fn(StepKind) -> Box<dyn StepProgram> + Send + Sync>;

/// The step part of keys that belong to the task itself: no step can be called that.
pub(crate) const TASK: &str = "@task";

/// One attempt.
pub(crate) struct Attempt {
    pub(crate) shared: Arc<Shared>,
    pub(crate) reference: AttemptRef,
    pub(crate) document: Arc<Document>,
    pub(crate) inputs: Arc<Inputs>,
    /// Who vouches for the task.
    pub(crate) vouched: Vouched,
    /// Where the signature does not count.
    pub(crate) doubts: Doubts,
    pub(crate) submitter: String,
    pub(crate) start_deadline: BootTime,
    pub(crate) switch: Arc<Switch>,
    pub(crate) board: Board,
    /// What was left of the task's own time when this attempt was assigned.
    pub(crate) time: Budget,
    pub(crate) bundles: BTreeMap<String, BlobRef>,
    /// Why its journal is not believed: then nothing is done, and nothing undone.
    pub(crate) forged: Option<Box<Failure>>,
    /// How it writes to its journal.
    pub(crate) trust: Trust,
    /// What its readers know without it.
    pub(crate) known: Known,
    replay: Mutex<Replay>,
    log: OnceLock<AttemptLog>,
    workspace: OnceCell<PathBuf>,
    /// The folders of those that a step has asked for.
    pub(crate) sources: tokio::sync::Mutex<BTreeMap<String, PathBuf>>,
    identity: OnceCell<TaskIdentity>,
    /// As it was when the attempt began: a file that changes is for the next task.
    policy: OnceLock<Arc<Policy>>,
}

impl Attempt {
    /// What expressions can know before any step has ended.
    pub(crate) fn names(&self) -> Scope {
        let metadata = &self.document.metadata;
        let task = TaskNames {
            id: self.reference.task.to_string(),
            name: metadata.name.clone(),
            labels: metadata.labels.clone(),
            project: self.reference.project.to_string(),
            run: self.reference.run,
            submitter: self.submitter.clone(),
        };
        Scope {
            task,
            inputs: self.inputs.as_ref().clone(),
            ..Scope::default()
        }
    }

    pub(crate) fn new(shared: Arc<Shared>, mut assignment: Assignment) -> Self {
        let ring = shared.environment.pool_keys.as_deref();
        let received = std::mem::take(&mut assignment.journal);
        let environment = &shared.environment;
        let judged = vouch(&environment.signers, &environment.agent.labels, &assignment);
        let believed = believe(ring, &assignment.attempt, judged.subjects(), received);
        let (begun, unsure) = match believed.begun {
            Some(Subject::Signed(_)) => (Begun::Proven, Unsure::Unsealed),
            Some(Subject::Sent { .. }) => (Begun::Unproven, Unsure::UnknownSigner),
            None => (Begun::Unproven, Unsure::Unsealed),
        };
        let vouched = judged.at(begun, shared.config.undo_budget);
        let Believed {
            trust, journal, forged, ..
        } = believed;
        // What was begun as something else than what was signed may be what the manager made of it.
        let unsealed = match begun {
            Begun::Proven => Unsealed::default(),
            Begun::Unproven => Unsealed::of(&journal, TASK, unsure),
        };
        let doubts = match &vouched.signer {
            Some(_) => Doubts::of(&vouched.document.spec, &unsealed),
            None => Doubts::default(),
        };
        // The document was checked before it was queued; its longest duration is the fallback.
        let timeout = duration::parse(&vouched.document.spec.timeout).unwrap_or(duration::LONGEST);
        Self {
            shared,
            reference: assignment.attempt,
            known: Known::of(&vouched.document, &vouched.inputs),
            board: Board::new(&vouched.document.spec.steps),
            document: Arc::clone(&vouched.document),
            inputs: Arc::clone(&vouched.inputs),
            vouched,
            doubts,
            submitter: assignment.submitter,
            start_deadline: assignment.start_deadline,
            switch: Arc::new(Switch::new()),
            time: Budget::new(timeout.saturating_sub(assignment.run_age)),
            bundles: assignment.bundles,
            forged,
            trust,
            replay: Mutex::new(Replay::of(journal)),
            log: OnceLock::new(),
            workspace: OnceCell::new(),
            sources: tokio::sync::Mutex::new(BTreeMap::new()),
            identity: OnceCell::new(),
            policy: OnceLock::new(),
        }
    }

    /// The journal. Never held across an await.
    pub(crate) fn replay(&self) -> MutexGuard<'_, Replay> {
        self.replay.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this attempt may do.
    ///
    /// # Errors
    /// The agent has no policy that it can use.
    pub(crate) fn policy(&self) -> Result<Arc<Policy>, Unusable> {
        if let Some(policy) = self.policy.get() {
            return Ok(Arc::clone(policy));
        }
        let current = self.shared.environment.policy.current()?;
        Ok(Arc::clone(self.policy.get_or_init(|| current)))
    }

    /// The log, opened on first use.
    pub(crate) fn log(&self) -> &AttemptLog {
        self.log.get_or_init(|| {
            let environment = &self.shared.environment;
            let log = environment.logs.open(self.reference.clone());
            for secret in environment.pool_keys.iter().flat_map(|ring| ring.secrets()) {
                // Long enough not to be refused.
                drop(log.add_secret(&secret));
            }
            log
        })
    }

    /// A text without secrets.
    pub(crate) fn mask(&self, text: &str) -> String {
        self.log.get().map_or_else(|| text.to_owned(), |log| log.redact(text))
    }

    /// A failure without secrets.
    pub(crate) fn mask_failure(&self, failure: Failure) -> Failure {
        let Some(log) = self.log.get() else { return failure };
        Failure {
            class: failure.class,
            summary: log.redact(&failure.summary),
            hint: log.redact(&failure.hint),
            detail: log.redact(&failure.detail),
            step: failure.step,
        }
    }

    /// A text of the journal without secrets, but for what its readers know anyway.
    pub(crate) fn mask_unknown(&self, text: &str) -> String {
        let is_known = |part: &str| self.known.has(part) || self.replay().names(part);
        let log = self.log.get();
        log.map_or_else(|| text.to_owned(), |log| log.redact_unless(text, is_known))
    }

    /// A value of the journal without secrets, but for what its readers know anyway.
    pub(crate) fn mask_value(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.mask_unknown(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.mask_value(item)),
            Value::Object(entries) => {
                let taken = std::mem::take(entries);
                for (key, mut entry) in taken {
                    self.mask_value(&mut entry);
                    let masked = if is_field(&key) { key } else { self.mask_unknown(&key) };
                    entries.insert(masked, entry);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Appends and awaits the acknowledgement: when the acknowledged frame was sent.
    pub(crate) async fn append(&self, record: Record, readers: Readers) -> Result<BootTime, Halt> {
        let verdict = tokio::select! {
            biased;
            verdict = self.write_and_wait(record, readers) => verdict?,
            () = self.switch.revoked() => return Err(Halt::Stale),
        };
        match verdict {
            Ok(WriteVerdict::Ok { sent_at }) => Ok(sent_at),
            Ok(other) => {
                if let Some(verdict) = halt_of(other) {
                    turn(&self.switch, verdict);
                }
                Err(self.switch.halt().unwrap_or(Halt::Stale))
            }
            // The agent ends: this process writes nothing any more.
            Err(_closed) => Err(Halt::Stale),
        }
    }

    async fn write_and_wait(&self, record: Record, readers: Readers) -> Result<Result<WriteVerdict, Closed>, Halt> {
        let Ok(room) = self.shared.outbox.room().await else {
            return Ok(Err(Closed));
        };
        let (answer, written) = self.write(record, readers, |record| {
            let answer = room.write(&self.reference, WriteOp::Append(record.clone()));
            (answer, record)
        })?;
        let verdict = answer.await.map_err(|_| Closed);
        if matches!(
            verdict,
            Ok(WriteVerdict::UndoDecided | WriteVerdict::Nondeterministic(_) | WriteVerdict::Invalid(_))
        ) {
            self.trust.retract(&written);
        }
        Ok(verdict)
    }

    /// Appends without waiting; it rides with the next frame.
    pub(crate) async fn post(&self, record: Record, readers: Readers) -> Result<(), Halt> {
        let room = self.shared.outbox.room().await.map_err(|_| Halt::Stale)?;
        self.write(record, readers, |record| {
            room.post(&self.reference, WriteOp::Append(record), &self.switch, Granted::Record);
        })
    }

    /// What cannot be authenticated is not written, and ends the program.
    fn write<T>(&self, record: Record, readers: Readers, write: impl FnOnce(Record) -> T) -> Result<T, Halt> {
        self.trust
            .write(record, readers, write)
            .inspect_err(|halt| self.switch.fault(halt.clone()))
    }

    /// The digest of an effect's plan.
    pub(crate) fn plan_digest(&self, key: &EffectKey, plan: &Value) -> String {
        self.trust.digest(key, plan)
    }

    /// Records a fact of the task itself.
    pub(crate) async fn post_fact(&self, record: Record, readers: Readers) -> Result<(), Halt> {
        if let RecordBody::Fact(value) = &record.body {
            self.replay().seen(record.key.clone(), value.clone());
        }
        self.post(record, readers).await
    }

    /// The folder of the attempt, made on first use.
    pub(crate) async fn workspace(&self) -> Result<PathBuf, StepError> {
        self.switch.started().await?;
        let made = self.workspace.get_or_try_init(|| async {
            let name = format!("{}-{}", self.reference.task, self.reference.epoch);
            self.shared.environment.work.make(&name).map_err(|error| {
                let failure = Failure::new("agent.workspace", "the folder of the task cannot be made on the agent");
                StepError::from(
                    failure
                        .hint("see that the agent's work folder is writable and its disk not full")
                        .caused_by(&error),
                )
            })
        });
        Ok(made.await?.clone())
    }

    /// The task's AWS identity, taken on first use.
    pub(crate) async fn identity(&self) -> Result<TaskIdentity, StepError> {
        self.switch.started().await?;
        let taken = self.identity.get_or_try_init(|| async {
            let aws = self.document.spec.aws.as_ref().ok_or_else(|| {
                Failure::new(
                    "aws.notConfigured",
                    "the step needs an AWS identity and the task has no spec.aws",
                )
                .hint("add spec.aws with a region, and the roles to assume")
            })?;
            let session = session_name(&self.reference);
            let backoff = aws.backoff.as_ref().map_or_else(Backoff::default, Backoff::of);
            let identities = &self.shared.environment.identities;
            let identity = match &aws.oidc {
                None => identities.for_task_with(&aws.region, &aws.assume_role, &session, backoff),
                Some(role) => {
                    let start = OidcStart {
                        role: role.clone(),
                        minter: Arc::new(Vouching {
                            attempt: self.reference.clone(),
                            shared: Arc::clone(&self.shared),
                        }),
                        backoff,
                    };
                    identities.for_oidc_task(&aws.region, start, &aws.assume_role, &session)
                }
            };
            identity.map_err(|error| StepError::from(Failure::from(error)))
        });
        Ok(taken.await?.clone())
    }

    /// Everything on disk and in memory that was made for this attempt goes. The result comes after.
    pub(crate) async fn clean_up(&self) {
        if let Some(log) = self.log.get() {
            log.finish();
        }
        if let Some(folder) = self.workspace.get().cloned() {
            let shown = folder.display().to_string();
            match tokio::task::spawn_blocking(move || remove(&folder)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::error!(folder = shown, error = %error, "a workspace could not be removed; the next start tries again")
                }
                Err(error) => tracing::error!(folder = shown, error = %error, "removing a workspace failed"),
            }
        }
    }
}

/// Is it called as the fields of our own records are? A secret may be an ordinary word, and what was recorded must
/// still be read.
fn is_field(key: &str) -> bool {
    key.len() <= MAX_FIELD_BYTES && key.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'$')
}

/// Asks the manager for tokens about one attempt.
struct Vouching {
    attempt: AttemptRef,
    shared: Arc<Shared>,
}

#[async_trait::async_trait]
impl TokenMinter for Vouching {
    async fn mint(&self, audience: &str) -> Result<MintedToken, String> {
        let answer = self.shared.outbox.mint(&self.attempt, audience).await;
        answer.unwrap_or_else(|closed| Err(closed.to_string()))
    }
}

/// `deputy-<task>-<attempt>` in the 64 characters that STS allows.
fn session_name(attempt: &AttemptRef) -> String {
    let epoch = attempt.epoch.to_string();
    let room = 64 - "deputy--".len() - epoch.len();
    let task: String = attempt.task.as_str().chars().take(room).collect();
    format!("deputy-{task}-{epoch}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_names_fit_and_tell_the_attempt() {
        let attempt = |task: &str| AttemptRef {
            project: deputy_task::id::Project::default_project(),
            task: task.parse().expect("id"),
            run: 1,
            epoch: 42,
        };
        assert_eq!(session_name(&attempt("0190")), "deputy-0190-42");
        let long = session_name(&attempt(&"x".repeat(128)));
        assert!(long.len() == 64 && long.ends_with("-42"));
    }
}
