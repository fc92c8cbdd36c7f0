//! The journal of a run as its programs ask for it: what was begun, what was done, what was seen,
//! what was decided. Built from the assignment, kept current by [`crate::host`]. No IO.

use std::collections::{HashMap, HashSet};

use deputy_steps::context::refused;
use deputy_steps::effect::EffectClass;
use deputy_task::record::{Decision, Direction, EffectKey, Intent, Payload, Record, RecordBody};
use serde_json::Value;

/// A run's journal, indexed.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    effects: HashMap<EffectKey, Entry>,
    facts: HashMap<EffectKey, Payload>,
    redo: HashSet<EffectKey>,
    undo: Option<String>,
    versions: HashMap<String, u32>,
}

/// One effect of the run.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// What was intended.
    pub(crate) intent: Intent,
    /// The value of its Done, if there is one.
    pub(crate) result: Option<Payload>,
    /// How far this attempt took it.
    pub(crate) reached: Reached,
}

/// How far this attempt took an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reached {
    /// It was begun by an attempt before this one, and this one has not acted on it.
    Inherited,
    /// Its intent was written by this attempt and not acted on.
    Written,
    /// This attempt was permitted to act.
    Permitted,
}

/// What an effect amounts to, for the world it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trace {
    /// It changed nothing.
    Nothing,
    /// It changed something.
    Changed,
    /// Nobody knows.
    Unknown,
}

impl Replay {
    /// From the records of the assignment, in commit order.
    pub(crate) fn of(journal: Vec<Record>) -> Self {
        let mut replay = Self::default();
        for record in journal {
            replay.take(record);
        }
        replay
    }

    fn take(&mut self, record: Record) {
        if !record.step_kind.is_empty() {
            self.versions
                .entry(record.key.step().to_owned())
                .or_insert(record.program_version);
        }
        match record.body {
            RecordBody::Intent(intent) => {
                // A second intent of the same key renewed the first; a redo decision is used up by it.
                self.redo.remove(&record.key);
                let entry = Entry {
                    intent,
                    result: None,
                    reached: Reached::Inherited,
                };
                self.effects.entry(record.key).or_insert(entry);
            }
            RecordBody::Done(value) => {
                if let Some(entry) = self.effects.get_mut(&record.key) {
                    entry.result = Some(value);
                }
            }
            RecordBody::Fact(value) => {
                self.facts.entry(record.key).or_insert(value);
            }
            RecordBody::Decision(Decision::Undo { reason }) => {
                self.undo.get_or_insert(reason);
            }
            RecordBody::Decision(Decision::Redo { .. }) => {
                self.redo.insert(record.key);
            }
        }
    }

    /// The effect of that key.
    pub(crate) fn effect(&self, key: &EffectKey) -> Option<&Entry> {
        self.effects.get(key)
    }

    /// An intent of this attempt was acknowledged.
    pub(crate) fn written(&mut self, key: EffectKey, intent: Intent) {
        self.effects.entry(key).or_insert(Entry {
            intent,
            result: None,
            reached: Reached::Written,
        });
    }

    /// This attempt was permitted to act.
    pub(crate) fn permitted(&mut self, key: &EffectKey) {
        self.redo.remove(key);
        if let Some(entry) = self.effects.get_mut(key) {
            entry.reached = Reached::Permitted;
        }
    }

    /// The effect has a result.
    pub(crate) fn done(&mut self, key: &EffectKey, value: Payload) {
        if let Some(entry) = self.effects.get_mut(key) {
            entry.result = Some(value);
        }
    }

    /// The fact of that key.
    pub(crate) fn fact(&self, key: &EffectKey) -> Option<Value> {
        self.facts.get(key).map(Payload::value)
    }

    /// A fact was recorded.
    pub(crate) fn seen(&mut self, key: EffectKey, value: Payload) {
        self.facts.entry(key).or_insert(value);
    }

    /// Does a key that was written hold this text? Keys are never masked, so whoever reads the journal has it.
    pub(crate) fn names(&self, text: &str) -> bool {
        let mut keys = self.effects.keys().chain(self.facts.keys());
        keys.any(|key| key.as_str().contains(text))
    }

    /// Did an operator decide that this open effect is run again?
    pub(crate) fn is_to_be_redone(&self, key: &EffectKey) -> bool {
        self.redo.contains(key)
    }

    /// Why this run is being undone, if it is.
    pub(crate) fn undo_reason(&self) -> Option<&str> {
        self.undo.as_deref()
    }

    /// From here on only the undo program runs.
    pub(crate) fn decide_undo(&mut self, reason: String) {
        self.undo.get_or_insert(reason);
    }

    /// The program version with which the journal of this step is written.
    pub(crate) fn version_of(&self, step: &str) -> Option<u32> {
        self.versions.get(step).copied()
    }

    /// Did an attempt before this one record anything?
    pub(crate) fn has_records(&self) -> bool {
        !self.effects.is_empty() || !self.facts.is_empty() || self.undo.is_some()
    }

    /// Has the forward program of this step recorded an intent?
    pub(crate) fn has_begun(&self, step: &str) -> bool {
        self.forward().any(|(key, _)| key.step() == step)
    }

    /// What the forward effects of the run amount to.
    pub(crate) fn traces(&self) -> impl Iterator<Item = (&EffectKey, &Entry, Trace)> {
        self.forward().map(|(key, entry)| (key, entry, entry.trace()))
    }

    fn forward(&self) -> impl Iterator<Item = (&EffectKey, &Entry)> {
        self.effects
            .iter()
            .filter(|(_, entry)| entry.intent.direction == Direction::Forward)
    }
}

impl Entry {
    fn trace(&self) -> Trace {
        let held = matches!(self.intent.class, EffectClass::Held { .. });
        match (&self.result, self.reached) {
            (Some(value), _) if !held && refused(&value.value()).is_some() => Trace::Nothing,
            (Some(_), _) => Trace::Changed,
            (None, Reached::Written) => Trace::Nothing,
            // Its child was ours, and it has ended: what it did until then is done.
            (None, Reached::Permitted) if held => Trace::Changed,
            (None, Reached::Permitted | Reached::Inherited) => Trace::Unknown,
        }
    }
}
