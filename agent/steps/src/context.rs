//! What a step may ask of the executor. The executor implements [`Host`]; steps see [`StepContext`].
//!
//! ```text
//! effect(effect, look, act)
//!   1. Done in the journal?             return its value: an effect happens once
//!   2. append Intent, wait for its acknowledgement (or StaleEpoch: Halt)
//!   3. Intent, but no Done, from before? look first: Mine → Done, Foreign and Unclear stop the
//!      task, Absent is believed only after the settle time
//!   4. act with a Permit                one API call
//!   5. Done rides with the next frame
//! ```

use std::collections::BTreeMap;
use std::fmt::Display;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use deputy_credentials::TaskIdentity;
use deputy_folder::Folder;
use deputy_logs::{LogWriter, SecretRefused};
use deputy_process::Domain;
use deputy_task::attempt::AttemptRef;
use deputy_task::boot_time::BootTime;
use deputy_task::outcome::Failure;
use deputy_task::record::{Direction, EffectKey};
use deputy_task::touch::Touch;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::sync::watch;

use crate::effect::{Effect, EffectClass, Look, Readers, Recorded, RetrySafe, Secrecy, Settled};
use crate::failure::{Halt, StepError};
use crate::permit::Permit;

/// What the journal answers when an effect begins.
#[derive(Debug, Clone)]
pub enum Begun {
    /// It was done before: this is its value.
    Done(Value),
    /// The intent is acknowledged and new: act.
    Act(Permit),
    /// An attempt before this one (or this one before a reconnect) recorded the intent, and nobody
    /// recorded a result: look first. The permit is fresh; ask for another with [`Host::renew`]
    /// when looking took longer.
    LookFirst(Permit),
    /// As `LookFirst`, and the effect may simply be run again: retry-safe, or an operator's decision.
    Again(Permit),
}

/// What the executor does for a step. Implemented once, by the executor; the local run uses the same.
#[async_trait]
pub trait Host: Send + Sync + 'static {
    /// Does the agent's policy let this step touch all of this?
    fn may_touch(&self, touches: &[Touch]) -> Result<(), Halt>;
    /// Will the policy be asked about that effect when it begins? Not if it is done, or everything is allowed.
    fn will_ask(&self, _effect: &str) -> bool {
        true
    }
    /// Steps 1 and 2 of an effect. The agent's policy is asked first.
    async fn begin(&self, effect: &Effect) -> Result<Begun, Halt>;
    /// A fresh permit for an effect that has begun: the intent is acknowledged again.
    async fn renew(&self, effect: &Effect) -> Result<Permit, Halt>;
    /// Records the result; rides with the next frame.
    async fn done(&self, effect: &Effect, value: Value) -> Result<(), Halt>;
    /// The recorded fact of that program (forward or undo) of this step, if there is one.
    fn recorded_fact(&self, direction: Direction, name: &str) -> Option<Value>;
    /// Records a fact; rides with the next frame.
    async fn record_fact(&self, name: &str, value: Value, readers: Readers) -> Result<(), Halt>;
    /// For undo: what the forward program recorded under this effect name.
    fn recorded_effect(&self, name: &str) -> Recorded<Value>;
    /// For undo: records the result of a forward effect that was found to have happened, for the pool alone.
    async fn settle_done(&self, name: &str, value: Value) -> Result<(), Halt>;
    /// Has the pool a key to seal values with?
    fn can_seal(&self) -> bool {
        false
    }
    /// Ends when the program must stop at its next boundary, and says why.
    async fn halted(&self) -> Halt;
    /// Ends when the child of a held effect must be killed, and says why: as `halted`, but a drain
    /// counts only at its deadline, and the end of the lease counts if the effect is retry-safe.
    async fn held_halted(&self, retry_safe: RetrySafe) -> Halt;
    /// Until when the agent has a right to its attempts; `None` where no lease exists.
    fn lease(&self) -> Option<watch::Receiver<BootTime>> {
        None
    }
    /// Shows what is awaited; empty for nothing.
    fn waiting(&self, what: String);
    /// The folder of the task, made on first use, 0700.
    async fn workspace(&self) -> Result<PathBuf, StepError>;
    /// A folder of the attempt that is closed to all programs of the task, 0700: for what is one step's or one
    /// program's alone. It goes with the task's folder.
    async fn aside(&self) -> Result<PathBuf, StepError>;
    /// The folder of a source, fetched and unpacked on first use.
    async fn source(&self, name: Option<&str>) -> Result<PathBuf, StepError>;
    /// The domain for programs that the task brought, around its folder; `None` where children are not confined.
    async fn domain(&self) -> Result<Option<Domain>, StepError> {
        Ok(None)
    }
    /// The task's AWS identity, taken on first use.
    async fn identity(&self) -> Result<TaskIdentity, StepError>;
    /// The log of this attempt, for this step; opened on first use.
    fn log(&self) -> LogWriter;
    /// The folder whose files tasks may be given as secrets, if the agent has one.
    fn secrets_folder(&self) -> Option<PathBuf> {
        None
    }
    /// Does this value stand in the task's document, in its inputs, or in what its steps were evaluated to?
    fn is_in_document(&self, _value: &[u8]) -> bool {
        false
    }
    /// Makes a value known to the redactor before it can be printed; some time after `end` it may be forgotten.
    ///
    /// # Errors
    /// There is no more room for it: it must not be given to what could print it.
    fn add_secret(&self, value: &[u8], end: Option<SystemTime>) -> Result<(), SecretRefused>;
    /// The text with names in place of what comes from secret outputs of earlier steps: the same in every attempt.
    fn mask(&self, text: &str) -> String;
}

/// What a step has at hand. Cheap to clone.
#[derive(Clone)]
pub struct StepContext {
    /// The step's name.
    pub step: Arc<str>,
    /// Which attempt this is.
    pub attempt: AttemptRef,
    /// The forward program or its undo.
    pub direction: Direction,
    /// The program version that this journal is written with.
    pub program_version: u32,
    /// Does the task ask for rollback (so that before-images must be kept)?
    pub keeps_before_images: bool,
    /// Does the task bring folders or name an AWS identity, so that preparing for a child takes more than a moment?
    pub brings_surroundings: bool,
    host: Arc<dyn Host>,
}

/// Outputs of a step.
#[derive(Debug, Clone, Default)]
pub struct Outputs {
    /// Shown, journaled, usable by later steps.
    pub values: Map<String, Value>,
    /// Usable by later steps of the same attempt; never leave the agent.
    pub secrets: BTreeMap<String, String>,
}

/// What an undo did.
#[derive(Debug, Clone, Default)]
pub struct Undone {
    /// Something was restored.
    pub restored: bool,
    /// What was left alone and why, one sentence each; not empty means the world is not what it was.
    pub left: Vec<String>,
    /// What nobody promised to restore and people should know, one sentence each: that a script ran.
    pub noted: Vec<String>,
}

impl StepContext {
    /// Made by the executor for each step it runs or undoes.
    #[must_use]
    pub fn new(
        host: Arc<dyn Host>,
        step: &str,
        attempt: AttemptRef,
        direction: Direction,
        program_version: u32,
    ) -> Self {
        Self {
            step: step.into(),
            attempt,
            direction,
            program_version,
            keeps_before_images: false,
            brings_surroundings: false,
            host,
        }
    }

    /// The executor's side.
    #[must_use]
    pub fn host(&self) -> &Arc<dyn Host> {
        &self.host
    }

    /// Makes a value known to the redactor before `what` can be printed.
    ///
    /// # Errors
    /// There is no more room for it.
    pub(crate) fn hide(&self, what: &str, secret: &[u8]) -> Result<(), Failure> {
        let added = self.host.add_secret(secret, None);
        added.map_err(|refused| {
            Failure::new("secret.tooLong", format!("{what} cannot be hidden: {refused}"))
                .hint("give the task fewer or shorter secrets and secret outputs")
        })
    }

    /// Changes the world once. `look` tells whether an interrupted earlier try happened; `act` is
    /// one API call (or one child process) and gets the permit to transmit.
    ///
    /// What `act` answers decides what is recorded:
    /// - `Ok`: Done, with the value.
    /// - `Failed`, of a bounded effect: the service refused, *nothing changed*; recorded, and every
    ///   replay fails with the same words. Of a held effect: the child ran and failed.
    /// - `WorldUnknown`: no answer (a timeout, a broken connection). A bounded effect is looked at
    ///   at once: `Mine` makes it Done, `Absent` makes it `Failed`.
    /// - `NotSent`: the permit was over before anything was sent; it is renewed and `act` runs again.
    /// - `Halted`: passed on; the intent stays open for the next attempt to look at.
    ///
    /// # Errors
    /// What `act` or `look` answer, a halt, or `WorldUnknown` for a foreign or unclear look.
    pub async fn effect<T, L, A>(
        &self,
        effect: Effect,
        look: impl Fn() -> L,
        act: impl Fn(Permit) -> A,
    ) -> Result<T, StepError>
    where
        T: Serialize + DeserializeOwned,
        L: Future<Output = Result<Look<T>, StepError>>,
        A: Future<Output = Result<T, StepError>>,
    {
        let mut permit = match self.host.begin(&effect).await? {
            Begun::Done(value) => return replayed(&effect.name, value),
            Begun::Act(permit) | Begun::Again(permit) => permit,
            Begun::LookFirst(_) => match self.look_until_settled(&effect, &look).await? {
                Some(value) => return self.finish(&effect, value).await,
                None => self.host.renew(&effect).await?,
            },
        };
        let mut renewals = 0;
        let failure = loop {
            match act(permit).await {
                Ok(value) => return self.finish(&effect, value).await,
                Err(StepError::NotSent) if renewals < MAX_RENEWALS => {
                    renewals += 1;
                    permit = self.host.renew(&effect).await?;
                }
                Err(StepError::NotSent) => {
                    break Box::new(Failure::new(
                        "effect.notSent",
                        format!(
                            "{} could not be sent within its time, {MAX_RENEWALS} times in a row",
                            effect.summary
                        ),
                    ));
                }
                Err(StepError::WorldUnknown(failure)) if matches!(effect.class, EffectClass::Bounded { .. }) => {
                    match self.look_until_settled(&effect, &look).await? {
                        Some(value) => return self.finish(&effect, value).await,
                        None => break failure,
                    }
                }
                Err(StepError::Failed(failure)) => break failure,
                Err(error @ (StepError::WorldUnknown(_) | StepError::Halted(_))) => return Err(error),
            }
        };
        self.host.done(&effect, refusal(&failure)).await?;
        Err(StepError::Failed(failure))
    }

    async fn finish<T: Serialize>(&self, effect: &Effect, value: T) -> Result<T, StepError> {
        self.host.done(effect, encode(&value)).await?;
        Ok(value)
    }

    /// `Absent` is believed only when the settle time has passed since the first look.
    async fn look_until_settled<T, L>(&self, effect: &Effect, look: &impl Fn() -> L) -> Result<Option<T>, StepError>
    where
        L: Future<Output = Result<Look<T>, StepError>>,
    {
        let settled = tokio::time::Instant::now() + effect.settle;
        loop {
            match look().await? {
                Look::Mine(value) => return Ok(Some(value)),
                Look::Foreign(failure) | Look::Unclear(failure) => {
                    return Err(StepError::WorldUnknown(Box::new(failure)));
                }
                Look::Absent if tokio::time::Instant::now() >= settled => return Ok(None),
                Look::Absent => {
                    self.sleep(
                        Duration::from_millis(500).min(effect.settle),
                        "an earlier call to become visible",
                    )
                    .await?
                }
            }
        }
    }

    /// What was seen and steers the program: observed once, recorded, and never looked at again on replay.
    ///
    /// # Errors
    /// What `observe` answers, a halt, or `journal.secretValue`: it holds what nobody may read, and cannot be sealed.
    pub async fn fact<T, F>(&self, name: &str, observe: impl FnOnce() -> F) -> Result<T, StepError>
    where
        T: Serialize + DeserializeOwned,
        F: Future<Output = Result<T, StepError>>,
    {
        self.guarded_fact(name, |_| Secrecy::Public, observe).await
    }

    /// As [`Self::fact`], for what is told to people: what must be hidden in it is masked.
    ///
    /// # Errors
    /// What `observe` answers, or a halt.
    pub async fn told_fact<T, F>(&self, name: &str, observe: impl FnOnce() -> F) -> Result<T, StepError>
    where
        T: Serialize + DeserializeOwned,
        F: Future<Output = Result<T, StepError>>,
    {
        self.guarded_fact(name, |_| Secrecy::Told, observe).await
    }

    /// As [`Self::fact`], for a value that could carry a secret: `secrecy` says of what was observed whether it
    /// does. A value for the pool alone is sealed; a secret without a pool key to seal it refuses the step, so this
    /// must come before the first change.
    ///
    /// # Errors
    /// What `observe` answers, a halt, or `journal.noPoolKey`.
    pub async fn guarded_fact<T, F>(
        &self,
        name: &str,
        secrecy: impl FnOnce(&T) -> Secrecy,
        observe: impl FnOnce() -> F,
    ) -> Result<T, StepError>
    where
        T: Serialize + DeserializeOwned,
        F: Future<Output = Result<T, StepError>>,
    {
        if let Some(value) = self.host.recorded_fact(self.direction, name) {
            return decode(name, value);
        }
        let value = observe().await?;
        let readers = match secrecy(&value) {
            Secrecy::Public => Readers::Everybody,
            Secrecy::Told => Readers::People,
            Secrecy::Private => Readers::Pool,
            Secrecy::Secret(what) => {
                self.needs_sealing(what)?;
                Readers::Pool
            }
        };
        self.host.record_fact(name, encode(&value), readers).await?;
        Ok(value)
    }

    /// Can values be sealed, so that only agents of the pool read them?
    #[must_use]
    pub fn can_seal(&self) -> bool {
        self.host.can_seal()
    }

    /// Refuses the step where `what`, which could carry a secret, cannot be sealed.
    ///
    /// # Errors
    /// `journal.noPoolKey`.
    pub fn needs_sealing(&self, what: &str) -> Result<(), StepError> {
        if self.can_seal() {
            return Ok(());
        }
        let summary = format!(
            "{what} could carry secrets and must be kept to be put back, and this agent has no pool key to seal it with"
        );
        let hint = "make one with `deputy-agent pool-key new`, give the same file to every agent of the pool with --pool-key-file, and run the task again";
        Err(Failure::new(NO_POOL_KEY, summary).hint(hint).into())
    }

    /// A fact of this program, if it was recorded.
    ///
    /// # Errors
    /// If the recorded value is not a `T`.
    pub fn recorded<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StepError> {
        self.host
            .recorded_fact(self.direction, name)
            .map(|value| decode(name, value))
            .transpose()
    }

    /// For undo: a fact of the forward program, if it was recorded.
    ///
    /// # Errors
    /// If the recorded value is not a `T`.
    pub fn recorded_fact<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StepError> {
        self.host
            .recorded_fact(Direction::Forward, name)
            .map(|value| decode(name, value))
            .transpose()
    }

    /// For undo: what became of a forward effect. An open one is looked at first.
    ///
    /// # Errors
    /// What `look` answers, a halt, or `WorldUnknown` for an unclear look.
    pub async fn settled<T, L>(
        &self,
        name: &str,
        settle: Duration,
        look: impl Fn() -> L,
    ) -> Result<Settled<T>, StepError>
    where
        T: Serialize + DeserializeOwned,
        L: Future<Output = Result<Look<T>, StepError>>,
    {
        match self.host.recorded_effect(name) {
            Recorded::Never | Recorded::Refused(_) => Ok(Settled::Never),
            Recorded::Done(value) => Ok(Settled::Happened(decode(name, value)?)),
            Recorded::Open => {
                let effect = Effect::bounded(name, "", &Value::Null).settle(settle);
                match self.look_until_settled(&effect, &look).await? {
                    Some(value) => {
                        self.host.settle_done(name, encode(&value)).await?;
                        Ok(Settled::Happened(value))
                    }
                    None => Ok(Settled::Never),
                }
            }
        }
    }

    /// Asks the agent's policy about what a step found out that it will touch, before the first change.
    ///
    /// # Errors
    /// A halt: the policy says no.
    pub fn may_touch(&self, touches: &[Touch]) -> Result<(), StepError> {
        Ok(self.host.may_touch(touches)?)
    }

    /// Will the agent's policy be asked about that effect of this program? Then what only the world can tell of
    /// it is read first.
    #[must_use]
    pub fn will_ask(&self, effect: &str) -> bool {
        self.host.will_ask(effect)
    }

    /// Waits, and shows what for. Every wait loop of a step goes through here, so that cancel,
    /// timeout and drain stop it at once.
    ///
    /// # Errors
    /// The halt that ended it.
    pub async fn sleep(&self, duration: Duration, waiting_for: impl Display) -> Result<(), StepError> {
        self.host.waiting(waiting_for.to_string());
        tokio::select! {
            halt = self.host.halted() => Err(halt.into()),
            () = tokio::time::sleep(duration) => Ok(()),
        }
    }

    /// Ends when the program must stop at its next boundary: for long reads that do not wait in
    /// [`Self::sleep`].
    pub async fn halted(&self) -> Halt {
        self.host.halted().await
    }

    /// Ends when the child of a held effect must be killed. `act` then kills the process group and
    /// answers the halt.
    pub async fn held_halted(&self, retry_safe: RetrySafe) -> Halt {
        self.host.held_halted(retry_safe).await
    }

    /// The journal key of an effect of this step, for [`crate::failpoint::hit`].
    #[must_use]
    pub fn key(&self, name: &str) -> EffectKey {
        EffectKey::of(&self.step, self.direction, name)
    }

    /// `value` as JSON, with names in place of what comes from secret outputs: what may go into a plan. What the
    /// redactor happens to know must not count, for the next attempt's knows less.
    #[must_use]
    pub fn masked(&self, value: &impl Serialize) -> Value {
        let mut value = encode(value);
        mask(self.host.as_ref(), &mut value);
        value
    }

    /// One line for people in the task's log.
    pub fn narrate(&self, line: impl Display) {
        self.host.log().narrate(&line.to_string());
    }

    /// The task's folder.
    ///
    /// # Errors
    /// If it cannot be made.
    pub async fn workspace(&self) -> Result<PathBuf, StepError> {
        self.host.workspace().await
    }

    /// A folder of the attempt that is closed to all programs of the task; a domain opens to some of them what is in it.
    ///
    /// # Errors
    /// If it cannot be made.
    pub async fn aside(&self) -> Result<PathBuf, StepError> {
        self.host.aside().await
    }

    /// The folder of a source, for programs.
    ///
    /// # Errors
    /// If there is no such source, or it cannot be fetched or unpacked.
    pub async fn source(&self, name: Option<&str>) -> Result<PathBuf, StepError> {
        self.host.source(name).await
    }

    /// The task's AWS identity.
    ///
    /// # Errors
    /// If it cannot be taken, in AWS's words.
    pub async fn identity(&self) -> Result<TaskIdentity, StepError> {
        self.host.identity().await
    }

    /// The folder of a source, held open: the agent itself reads of it by this only, since scripts may have changed
    /// what is in it, and put something else in its place.
    ///
    /// # Errors
    /// If there is no such source, it cannot be fetched or unpacked, or a script took it away.
    pub async fn source_held(&self, name: Option<&str>) -> Result<Folder, StepError> {
        let folder = self.source(name).await?;
        let held = Folder::open(&folder).map_err(|error| {
            let which = name.map_or_else(|| "the source".to_owned(), |name| format!("source {name}"));
            Failure::new(
                "source.changed",
                format!("{which} has no folder any more: it was removed, or something else is in its place"),
            )
            .hint("an earlier step of the task changed it; leave the folder of a source where it is")
            .caused_by(&error)
        });
        Ok(held?)
    }
}

/// The class of a step that would have to seal something, and cannot.
pub const NO_POOL_KEY: &str = "journal.noPoolKey";

/// The key under which a recorded failure is told apart from a value.
const REFUSED: &str = "$refused";

/// How often an effect whose permit ran out before it was sent is tried again.
const MAX_RENEWALS: u32 = 3;

/// A failed effect, as the value of its Done record.
#[must_use]
pub fn refusal(failure: &Failure) -> Value {
    let mut object = Map::new();
    object.insert(REFUSED.to_owned(), encode(failure));
    Value::Object(object)
}

/// The failure, if the value of a Done record is one.
#[must_use]
pub fn refused(value: &Value) -> Option<Failure> {
    let object = value.as_object().filter(|object| object.len() == 1)?;
    serde_json::from_value(object.get(REFUSED)?.clone()).ok()
}

fn replayed<T: DeserializeOwned>(name: &str, value: Value) -> Result<T, StepError> {
    match refused(&value) {
        Some(failure) => Err(StepError::Failed(Box::new(failure))),
        None => decode(name, value),
    }
}

fn mask(host: &dyn Host, value: &mut Value) {
    match value {
        Value::String(text) => *text = host.mask(text),
        Value::Array(items) => items.iter_mut().for_each(|item| mask(host, item)),
        Value::Object(entries) => entries.values_mut().for_each(|entry| mask(host, entry)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn encode<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

fn decode<T: DeserializeOwned>(name: &str, value: Value) -> Result<T, StepError> {
    serde_json::from_value(value).map_err(|error| {
        Halt::Nondeterministic(format!(
            "the recorded value of {name} cannot be read by this version: {error}"
        ))
        .into()
    })
}
