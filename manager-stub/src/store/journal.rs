//! A run's journal as the rules need it: what was recorded under which key, and what is still open.
//! Payloads stay in the store; only a digest of them is kept here, to tell a repetition from a contradiction.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use deputy_proto::v1;
use deputy_task::attempt::Epoch;
use deputy_task::record::Decision;

use super::clock::StoreTime;
use super::event::kind;

/// Most bytes of all records of one run. An assignment carries the whole journal in one frame.
pub const MAX_JOURNAL_BYTES: usize = 3 * 1024 * 1024;

/// One record, without its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Which effect, fact or decision.
    pub key: String,
    /// What the record means.
    pub kind: v1::RecordKind,
    /// The attempt that wrote it last.
    pub epoch: Epoch,
    /// What must be the same when the record is written again.
    pub content: u64,
    /// For intents: may an opaque child be behind it?
    pub held: bool,
    /// For intents: may it be run again elsewhere?
    pub retry_safe: bool,
    /// For bounded intents: until then the call may be transmitted.
    pub deadline_at: StoreTime,
    /// For intents: the step kind.
    pub step_kind: String,
    /// For intents: one line for people.
    pub summary: String,
}

/// A run's journal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Journal {
    entries: Vec<Entry>,
    bytes: usize,
    undo: bool,
    grown_in: Epoch,
    /// Open intents of which a late result was shown.
    late: BTreeSet<String>,
}

impl Journal {
    /// The entry with this natural key.
    #[must_use]
    pub fn find(&self, key: &str, kind: v1::RecordKind) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.kind == kind && entry.key == key)
    }

    /// Takes a record in, or renews the entry with the same natural key. `committed_at` is when it
    /// was (or will be) committed; a bounded intent may be transmitted for its budget from then on.
    pub fn take(&mut self, record: &v1::Record, encoded_bytes: usize, committed_at: StoreTime) {
        let entry = Entry {
            key: record.key.clone(),
            kind: record.kind(),
            epoch: record.epoch,
            content: content(record),
            held: record.effect_class() == v1::EffectClass::Held,
            retry_safe: record.retry_safe,
            deadline_at: committed_at.after(std::time::Duration::from_millis(record.budget_ms.into())),
            step_kind: record.step_kind.clone(),
            summary: record.summary.clone(),
        };
        // A repetition is one more row of the store.
        self.bytes += encoded_bytes;
        self.undo |= matches!(decision(record), Some(Decision::Undo { .. }));
        match self
            .entries
            .iter_mut()
            .find(|old| old.kind == entry.kind && old.key == entry.key)
        {
            Some(old) => *old = entry,
            None => {
                self.grown_in = record.epoch;
                self.entries.push(entry);
            }
        }
    }

    /// Bytes of all records, repetitions counted.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Records, repetitions not counted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Has nothing been recorded?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The attempt that last recorded something new; an intent that is written again is nothing new.
    #[must_use]
    pub fn grown_in(&self) -> Epoch {
        self.grown_in
    }

    /// Has `Decision(undo)` been taken?
    #[must_use]
    pub fn undo_decided(&self) -> bool {
        self.undo
    }

    /// Has anything been intended in this run?
    #[must_use]
    pub fn has_intents(&self) -> bool {
        self.entries.iter().any(|entry| entry.kind == v1::RecordKind::Intent)
    }

    /// Intents without a result.
    pub fn open(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| {
            entry.kind == v1::RecordKind::Intent && self.find(&entry.key, v1::RecordKind::Done).is_none()
        })
    }

    /// Is this the first late result of an open intent? Others tell nobody anything.
    pub fn is_news(&mut self, key: &str) -> bool {
        let is_open = self.open().any(|entry| entry.key == key);
        is_open && self.late.insert(key.to_owned())
    }

    /// Open held intents that must not be run again elsewhere by a timer.
    pub fn open_unsafe(&self) -> impl Iterator<Item = &Entry> {
        self.open().filter(|entry| entry.held && !entry.retry_safe)
    }
}

/// What must be the same when a record with the same natural key is written again.
#[must_use]
pub fn content(record: &v1::Record) -> u64 {
    let mut hasher = DefaultHasher::new();
    match record.kind() {
        v1::RecordKind::Intent => (&record.plan_digest, record.undo, record.effect_class).hash(&mut hasher),
        v1::RecordKind::Unspecified | v1::RecordKind::Done | v1::RecordKind::Fact | v1::RecordKind::Decision => {
            (&record.payload, &record.seal).hash(&mut hasher);
        }
    }
    hasher.finish()
}

/// The decision of a record, if it is one.
#[must_use]
pub fn decision(record: &v1::Record) -> Option<Decision> {
    match record.kind() {
        v1::RecordKind::Decision => serde_json::from_slice(&record.payload).ok(),
        v1::RecordKind::Unspecified | v1::RecordKind::Intent | v1::RecordKind::Done | v1::RecordKind::Fact => None,
    }
}

/// The event kind of a record; `None` for a record without a kind.
#[must_use]
pub fn event_kind(record: &v1::Record) -> Option<&'static str> {
    match record.kind() {
        v1::RecordKind::Unspecified => None,
        v1::RecordKind::Intent => Some(kind::INTENT),
        v1::RecordKind::Done => Some(kind::DONE),
        v1::RecordKind::Fact => Some(kind::FACT),
        v1::RecordKind::Decision => Some(kind::DECISION),
    }
}
