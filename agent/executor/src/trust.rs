//! What this agent believes of the journal that came with an assignment, and how it writes to it: with
//! the keys of its pool, if it has any. Made by [`crate::attempt`] before anything of the journal is
//! used; asked by [`crate::host`] for every record and every digest.

use std::sync::{Mutex, MutexGuard, PoisonError};

use deputy_seal::run_seal::{NotSealed, Resumed};
use deputy_seal::{KeyRing, RunSeal, Subject};
use deputy_steps::effect::Readers;
use deputy_steps::failure::Halt;
use deputy_task::attempt::AttemptRef;
use deputy_task::outcome::Failure;
use deputy_task::record::{EffectKey, Record};
use serde_json::Value;

use crate::plan;

/// The code of a journal that is not believed.
pub(crate) const FORGED: &str = "journal.forged";

/// How records are written.
#[derive(Debug, Default)]
pub(crate) struct Trust(Option<Mutex<RunSeal>>);

/// The journal of an attempt, as far as it is believed.
#[derive(Debug)]
pub(crate) struct Believed {
    pub(crate) trust: Trust,
    /// Empty if it is not believed.
    pub(crate) journal: Vec<Record>,
    /// What its records prove that agents of the pool ran.
    pub(crate) begun: Option<Subject>,
    /// Why nothing may be done.
    pub(crate) forged: Option<Box<Failure>>,
}

/// Verifies the journal, and opens what is sealed in it.
pub(crate) fn believe(
    ring: Option<&KeyRing>,
    attempt: &AttemptRef,
    subjects: (&Subject, &[Subject]),
    journal: Vec<Record>,
) -> Believed {
    let Some(ring) = ring else {
        return Believed {
            trust: Trust::default(),
            journal,
            begun: None,
            forged: None,
        };
    };
    match RunSeal::resume(ring, attempt, subjects, journal) {
        Ok(Resumed { seal, journal, begun }) => Believed {
            trust: Trust(Some(Mutex::new(seal))),
            journal,
            begun,
            forged: None,
        },
        Err(why) => {
            tracing::error!(task.id = %attempt.task, attempt = attempt.epoch, %why, "the journal is not believed");
            let failure = Failure::new(FORGED, format!("the journal of this run is not what agents of this pool wrote: {why}"))
                .hint("nothing was done and nothing was undone: find out who changed the records at the manager, compare `deputy explain` with the world, put it right by hand, and only then run the task again");
            Believed {
                trust: Trust::default(),
                journal: Vec::new(),
                begun: None,
                forged: Some(Box::new(failure)),
            }
        }
    }
}

/// Why an agent without a pool key cannot take a run with this journal.
pub(crate) fn needs_key(journal: &[Record]) -> Option<String> {
    let sealed = journal.iter().find(|record| !record.sealing.is_none())?;
    let key = sealed.sealing.mac.as_ref().map_or("unknown", |mac| mac.key.as_str());
    Some(format!(
        "its journal is authenticated with the pool key {key}, and this agent has no pool key (--pool-key-file)"
    ))
}

impl Trust {
    /// Is there a key to seal with?
    pub(crate) fn can_seal(&self) -> bool {
        self.0.is_some()
    }

    /// Hands the record to `write` as it must be written. Nothing else is written in between, for a record proves
    /// the one before it.
    pub(crate) fn write<T>(
        &self,
        record: Record,
        readers: Readers,
        write: impl FnOnce(Record) -> T,
    ) -> Result<T, Halt> {
        let Some(mut seal) = self.lock() else {
            return Ok(write(record));
        };
        let record = match readers {
            Readers::Everybody | Readers::People => Ok(record),
            Readers::Pool => seal.seal(record),
        };
        let record = record.and_then(|record| seal.authenticate(record));
        Ok(write(record.map_err(|why: NotSealed| Halt::Refused(why.to_string()))?))
    }

    /// The record was refused: its place is free again.
    pub(crate) fn retract(&self, record: &Record) {
        if let Some(mut seal) = self.lock() {
            seal.retract(record);
        }
    }

    /// The digest of an effect's plan, keyed if there is a key.
    pub(crate) fn digest(&self, key: &EffectKey, plan: &Value) -> String {
        self.lock()
            .map_or_else(|| plan::digest(plan), |seal| seal.digest(key, plan))
    }

    fn lock(&self) -> Option<MutexGuard<'_, RunSeal>> {
        self.0
            .as_ref()
            .map(|seal| seal.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
