//! The executor's side of a step: effects against the journal, permits, facts. One per step that
//! runs or is undone. Nothing in the world changes without passing [`StepHost::begin`].

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use deputy_credentials::TaskIdentity;
use deputy_credentials::pace::Tell;
use deputy_logs::{LogWriter, SecretRefused};
use deputy_policy::questions::Change;
use deputy_process::{Ahead, Domain};
use deputy_steps::context::{Begun, Host, StepContext, refused};
use deputy_steps::effect::{Effect, EffectClass, Readers, Recorded, RetrySafe};
use deputy_steps::failpoint::{self, Point};
use deputy_steps::failure::{Halt, StepError};
use deputy_steps::permit::Permit;
use deputy_task::boot_time::BootTime;
use deputy_task::outcome::Failure;
use deputy_task::record::{
    Direction, EffectKey, Intent, MAX_BOUNDED_BUDGET, MAX_RECORD_BYTES, MAX_RECORD_DEPTH, Payload, Record, RecordBody,
    Sealing,
};
use deputy_task::touch::Touch;
use serde_json::Value;
use tokio::sync::watch;

use crate::attempt::{Attempt, TASK};
use crate::gate;
use crate::hidden::Hidden;
use crate::plan;
use crate::replay::Reached;
use crate::source;
use crate::workspace::aside_of;

/// Lends an attempt to one step.
pub(crate) struct StepHost {
    pub(crate) attempt: Arc<Attempt>,
    pub(crate) step: Arc<str>,
    /// In whose log it is told: the step itself, or the one that needs what belongs to the task.
    pub(crate) asking: Arc<str>,
    pub(crate) kind: &'static str,
    pub(crate) version: u32,
    pub(crate) direction: Direction,
    /// What of the step's arguments may not be planned with.
    pub(crate) hidden: Hidden,
    /// Who is told of throttling; one, however often the step asks for its identity.
    pub(crate) tell: OnceLock<Tell>,
    /// For the child that is about to be started.
    pub(crate) ahead: Mutex<Ahead>,
}

/// What the journal knows of an effect that is about to begin.
enum Known {
    Nothing,
    Done(Value),
    Open { redo: bool },
}

/// Was an effect begun by an attempt before this one?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Adopted {
    Yes,
    No,
}

impl StepHost {
    /// What is recorded of the task itself, and told in the log of the step that needs it.
    fn for_task(&self) -> StepContext {
        let host = Self {
            attempt: Arc::clone(&self.attempt),
            step: TASK.into(),
            asking: Arc::clone(&self.asking),
            kind: "",
            version: 1,
            direction: Direction::Forward,
            hidden: Hidden::default(),
            tell: OnceLock::new(),
            ahead: Mutex::default(),
        };
        StepContext::new(
            Arc::new(host),
            TASK,
            self.attempt.reference.clone(),
            Direction::Forward,
            1,
        )
    }

    fn key(&self, name: &str) -> EffectKey {
        EffectKey::of(&self.step, self.direction, name)
    }

    fn record(&self, key: EffectKey, body: RecordBody) -> Record {
        Record {
            key,
            program_version: self.version,
            step_kind: self.kind.to_owned(),
            body,
            epoch: 0,
            sealing: Sealing::default(),
        }
    }

    fn intent(&self, key: &EffectKey, effect: &Effect) -> Intent {
        Intent {
            class: effect.class,
            plan_digest: self.attempt.plan_digest(key, &effect.plan),
            direction: self.direction,
            summary: self.attempt.mask(&effect.summary),
        }
    }

    fn known(&self, key: &EffectKey, intent: &Intent) -> Result<Known, Halt> {
        let replay = self.attempt.replay();
        let Some(entry) = replay.effect(key) else {
            return Ok(Known::Nothing);
        };
        if entry.intent.plan_digest != intent.plan_digest {
            let halt = Halt::Nondeterministic(format!("{key} is planned with other arguments than those recorded"));
            self.attempt.switch.fault(halt.clone());
            return Err(halt);
        }
        Ok(match &entry.result {
            Some(value) => Known::Done(value.value()),
            None => Known::Open {
                redo: replay.is_to_be_redone(key),
            },
        })
    }

    /// Writes the intent and makes a permit of its acknowledgement.
    async fn permit(&self, key: &EffectKey, intent: Intent) -> Result<Permit, Halt> {
        let budget = match intent.class {
            EffectClass::Bounded { budget } => budget.min(MAX_BOUNDED_BUDGET),
            // A child is started within that time; then it may run.
            EffectClass::Held { .. } => {
                self.open_ahead();
                MAX_BOUNDED_BUDGET
            }
        };
        let sent_at: BootTime = self
            .attempt
            .append(
                self.record(key.clone(), RecordBody::Intent(intent.clone())),
                Readers::Everybody,
            )
            .await?;
        self.attempt.replay().written(key.clone(), intent);
        failpoint::hit(Point::AfterIntent, key.as_str());
        // While the acknowledgement was awaited, the wish to stop may have come. A drain does not
        // count any more: an open intent of a held effect could not be told from one that ran.
        match self.attempt.switch.halt_but_drain() {
            Some(halt) => Err(halt),
            None => {
                self.attempt.replay().permitted(key);
                Ok(Permit::until(sent_at.after(budget)))
            }
        }
    }

    /// What a child may open is found out while the journal is written.
    fn open_ahead(&self) {
        if let Some(confinement) = &self.attempt.shared.environment.confinement {
            *self.ahead.lock().unwrap_or_else(PoisonError::into_inner) = confinement.ahead();
        }
    }

    fn admit(&self, effect: Option<&str>, adopted: Adopted, touches: &[Touch]) -> Result<(), Halt> {
        let change = Change {
            step: &self.step,
            kind: self.kind,
            effect,
            direction: self.direction,
            adopted: adopted == Adopted::Yes,
            touches,
            aws: None,
        };
        gate::admit_change(&self.attempt, change).map_err(Halt::Denied)
    }

    /// A key names exactly one thing, so what has to be hidden cannot be masked in it: it is not written, and what
    /// it stands for not done. What an undo is called follows from what was done.
    fn check_name(&self, name: &str) -> Result<(), Halt> {
        // The program's own word stands before the first slash.
        let Some((verb, id)) = name.split_once('/') else {
            return Ok(());
        };
        if self.direction == Direction::Undo {
            return Ok(());
        }
        let masked = self.attempt.mask_unknown(name);
        // Nobody learns anything of the word alone.
        if masked == name || (self.attempt.mask_unknown(id) == id && self.attempt.mask_unknown(verb) != verb) {
            return Ok(());
        }
        let summary = format!(
            "{masked} is not done: its name holds a secret, and names stand in the journal, where the manager reads them"
        );
        let hint = "call things by what is no secret: secret outputs and what holds a secret are for values, not for names of services, families or objects";
        Err(Halt::Denied(Box::new(
            Failure::new("journal.secretName", summary).hint(hint),
        )))
    }

    fn check_size(&self, key: &EffectKey, value: &Value) -> Result<(), Halt> {
        let size = plan::size(value);
        let halt = Halt::Refused(if size > MAX_RECORD_BYTES {
            format!("{key} has about {size} bytes, and a record holds {MAX_RECORD_BYTES}")
        } else if plan::depth(value) > MAX_RECORD_DEPTH {
            format!("lists and mappings of {key} are nested deeper than {MAX_RECORD_DEPTH}, which no record holds")
        } else {
            return Ok(());
        });
        self.attempt.switch.fault(halt.clone());
        Err(halt)
    }

    async fn record_done(&self, key: EffectKey, value: Value, readers: Readers) -> Result<(), Halt> {
        // A refusal is words for people.
        let readers = refused(&value).map_or(readers, |_| Readers::People);
        let is_withheld = self.attempt.replay().fact(&withheld(&key)).is_some();
        let recordable = self.recordable(&value, readers).filter(|_| !is_withheld);
        let Some((value, readers)) = recordable else {
            return self.withhold(&key, value).await;
        };
        self.check_size(&key, &value)?;
        let value = Payload::from(value);
        self.attempt.replay().done(&key, value.clone());
        let record = self.record(key.clone(), RecordBody::Done(value));
        if failpoint::armed(Point::AfterDone, key.as_str()) {
            self.attempt.append(record, readers).await?;
            failpoint::hit(Point::AfterDone, key.as_str());
            return Ok(());
        }
        self.attempt.post(record, readers).await
    }

    /// The value as it can be recorded, and for whom. What a program acts on is recorded as it is, or not at all:
    /// who goes on with `***` in a name acts on something else. What only the pool can read hides its secrets so.
    fn recordable(&self, value: &Value, readers: Readers) -> Option<(Value, Readers)> {
        let can_seal = self.attempt.trust.can_seal();
        if readers == Readers::Pool && can_seal {
            return Some((value.clone(), readers));
        }
        let mut masked = value.clone();
        self.attempt.mask_value(&mut masked);
        if masked == *value || readers == Readers::People {
            Some((masked, readers))
        } else {
            can_seal.then(|| (value.clone(), Readers::Pool))
        }
    }

    /// It is done, and its result cannot be written: its intent stays open, so an attempt that goes on looks at the
    /// world and finds the same. That one may not know the secret, so it is told not to write it either.
    async fn withhold(&self, key: &EffectKey, value: Value) -> Result<(), Halt> {
        let told = withheld(key);
        let is_told = {
            let mut replay = self.attempt.replay();
            replay.done(key, value.into());
            replay.fact(&told).is_some()
        };
        if is_told {
            return Ok(());
        }
        self.log().narrate(&format!(
            "the result of {key} holds a secret and is not recorded: an attempt that goes on looks for it again; a pool key would seal it"
        ));
        let record = self.record(told, RecordBody::Fact(true.into()));
        self.attempt.post_fact(record, Readers::Everybody).await
    }

    fn cannot_keep(name: &str) -> Halt {
        let summary = format!(
            "what was seen as {name} holds a secret and has to be kept as it is, in the journal, where the manager reads it"
        );
        let hint = "nothing is changed that could not be put back: give every agent of the pool the same pool key (--pool-key-file), which seals it, or do not use as a secret what things are called";
        Halt::Denied(Box::new(Failure::new("journal.secretValue", summary).hint(hint)))
    }
}

/// The fact that the result of an effect is not written.
fn withheld(key: &EffectKey) -> EffectKey {
    EffectKey::from_journal(format!("{key}/withheld"))
}

#[async_trait]
impl Host for StepHost {
    fn may_touch(&self, touches: &[Touch]) -> Result<(), Halt> {
        self.admit(None, Adopted::No, touches)
    }

    fn will_ask(&self, effect: &str) -> bool {
        let replay = self.attempt.replay();
        let is_done = replay
            .effect(&self.key(effect))
            .is_some_and(|entry| entry.result.is_some());
        !is_done && gate::has_rules(&self.attempt)
    }

    async fn begin(&self, effect: &Effect) -> Result<Begun, Halt> {
        let key = self.key(&effect.name);
        let intent = self.intent(&key, effect);
        let known = self.known(&key, &intent)?;
        let adopted = if matches!(known, Known::Open { .. }) {
            Adopted::Yes
        } else {
            Adopted::No
        };
        if matches!(known, Known::Nothing) {
            self.check_name(&effect.name)?;
        }
        if !matches!(known, Known::Done(_)) {
            self.admit(Some(&effect.name), adopted, &effect.touches)?;
        }
        match known {
            Known::Done(value) => Ok(Begun::Done(value)),
            Known::Nothing => {
                if let Some(halt) = self.attempt.switch.halt() {
                    return Err(halt);
                }
                failpoint::hit(Point::BeforeIntent, key.as_str());
                Ok(Begun::Act(self.permit(&key, intent).await?))
            }
            Known::Open { redo } => {
                if let Some(halt) = self.attempt.switch.halt() {
                    return Err(halt);
                }
                let retry_safe = matches!(effect.class, EffectClass::Held { retry_safe: true });
                if redo || retry_safe {
                    Ok(Begun::Again(self.permit(&key, intent).await?))
                } else {
                    // Looking is reading: it needs an attempt that is ours, and no intent.
                    self.attempt.switch.started().await?;
                    Ok(Begun::LookFirst(Permit::until(BootTime::from_nanos(0))))
                }
            }
        }
    }

    async fn renew(&self, effect: &Effect) -> Result<Permit, Halt> {
        let key = self.key(&effect.name);
        let intent = self.intent(&key, effect);
        self.permit(&key, intent).await
    }

    async fn done(&self, effect: &Effect, value: Value) -> Result<(), Halt> {
        let key = self.key(&effect.name);
        failpoint::hit(Point::AfterAct, key.as_str());
        self.record_done(key, value, effect.readers).await
    }

    fn recorded_fact(&self, direction: Direction, name: &str) -> Option<Value> {
        self.attempt.replay().fact(&EffectKey::of(&self.step, direction, name))
    }

    async fn record_fact(&self, name: &str, value: Value, readers: Readers) -> Result<(), Halt> {
        let key = self.key(name);
        self.check_name(name)?;
        let recordable = self.recordable(&value, readers);
        let (value, readers) = recordable.ok_or_else(|| Self::cannot_keep(name))?;
        self.check_size(&key, &value)?;
        let value = Payload::from(value);
        self.attempt.replay().seen(key.clone(), value.clone());
        self.attempt
            .post(self.record(key, RecordBody::Fact(value)), readers)
            .await
    }

    fn can_seal(&self) -> bool {
        self.attempt.trust.can_seal()
    }

    fn recorded_effect(&self, name: &str) -> Recorded<Value> {
        let replay = self.attempt.replay();
        let Some(entry) = replay.effect(&EffectKey::of(&self.step, Direction::Forward, name)) else {
            return Recorded::Never;
        };
        match (&entry.result, entry.reached) {
            (Some(value), _) => {
                let value = value.value();
                refused(&value).map_or(Recorded::Done(value), Recorded::Refused)
            }
            // Written by this attempt and never acted on: it did not happen.
            (None, Reached::Written) => Recorded::Never,
            (None, Reached::Inherited | Reached::Permitted) => Recorded::Open,
        }
    }

    async fn settle_done(&self, name: &str, value: Value) -> Result<(), Halt> {
        let key = EffectKey::of(&self.step, Direction::Forward, name);
        self.record_done(key, value, Readers::Pool).await
    }

    async fn halted(&self) -> Halt {
        self.attempt.switch.halted().await
    }

    async fn held_halted(&self, retry_safe: RetrySafe) -> Halt {
        let shared = &self.attempt.shared;
        let lease = match retry_safe {
            RetrySafe::Yes => Some((shared.lease.subscribe(), shared.config.lease_margin)),
            RetrySafe::No => None,
        };
        self.attempt.switch.held_halted(lease).await
    }

    fn lease(&self) -> Option<watch::Receiver<BootTime>> {
        let lease = self.attempt.shared.lease.subscribe();
        // Without a manager there is none.
        let exists = *lease.borrow() != BootTime::NEVER;
        exists.then_some(lease)
    }

    fn waiting(&self, what: String) {
        self.attempt.board.waiting(&self.asking, self.attempt.mask(&what));
    }

    async fn workspace(&self) -> Result<PathBuf, StepError> {
        self.attempt.workspace().await
    }

    async fn aside(&self) -> Result<PathBuf, StepError> {
        Ok(aside_of(&self.attempt.workspace().await?))
    }

    async fn source(&self, name: Option<&str>) -> Result<PathBuf, StepError> {
        source::folder_of(&self.attempt, &self.for_task(), name).await
    }

    async fn domain(&self) -> Result<Option<Domain>, StepError> {
        match &self.attempt.shared.environment.confinement {
            Some(confinement) => {
                let domain = confinement.around(&self.attempt.workspace().await?);
                let ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner).clone();
                Ok(Some(domain.taking(ahead)))
            }
            None => Ok(None),
        }
    }

    async fn identity(&self) -> Result<TaskIdentity, StepError> {
        let identity = self.attempt.identity().await?;
        let tell = self.tell.get_or_init(|| {
            let log = self.log();
            Arc::new(move |line| log.narrate(line))
        });
        Ok(identity.telling(Arc::clone(tell)))
    }

    fn log(&self) -> LogWriter {
        self.attempt.log().writer(&self.asking)
    }

    fn secrets_folder(&self) -> Option<PathBuf> {
        self.attempt.shared.environment.secrets_folder.clone()
    }

    fn is_in_document(&self, value: &[u8]) -> bool {
        let Ok(value) = std::str::from_utf8(value) else {
            return false;
        };
        self.attempt.known.stands(value.trim())
    }

    fn add_secret(&self, value: &[u8], end: Option<SystemTime>) -> Result<(), SecretRefused> {
        let log = self.attempt.log();
        let added = match end {
            Some(end) => log.add_session(value, end),
            None => log.add_secret(value),
        };
        match added {
            // Nobody could tell it from ordinary text.
            Err(error @ SecretRefused::TooShort { .. }) => {
                tracing::debug!(task.id = %self.attempt.reference.task, error = %error, "a value is not redacted");
                Ok(())
            }
            added => added,
        }
    }

    fn mask(&self, text: &str) -> String {
        self.hidden.mask(text)
    }
}
