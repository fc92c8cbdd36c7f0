//! The other side of an executor when there is no manager: a journal in memory that answers as a
//! manager would. Used by `deputy-agent task` and by tests.

use std::collections::HashMap;

use deputy_steps::permit;
use deputy_task::attempt::AttemptRef;
use deputy_task::message::{Command, Event, WriteOp, WriteVerdict};
use deputy_task::outcome::{Completion, Failure, Outcome, World};
use deputy_task::record::{Decision, Direction, EffectKey, Record, RecordBody};

/// A run's journal with the manager's rules: natural keys, one-way undo, one attempt at a time.
#[derive(Debug, Default)]
pub struct MemoryJournal {
    records: Vec<Record>,
    /// The place of each intent, result and fact.
    known: HashMap<(EffectKey, Kind), usize>,
    epoch: u64,
    undo: bool,
    completion: Option<Completion>,
    released: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Intent,
    Done,
    Fact,
    Decision,
}

impl MemoryJournal {
    /// A journal that holds these records already.
    #[must_use]
    pub fn resume(records: Vec<Record>) -> Self {
        let mut journal = Self::default();
        for record in records {
            journal.epoch = journal.epoch.max(record.epoch);
            journal.keep(record);
        }
        journal
    }

    /// The next attempt begins; writes of older ones are stale from here on.
    pub const fn next_epoch(&mut self) -> u64 {
        self.epoch += 1;
        self.epoch
    }

    /// The records in order.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// How the run ended, once it has.
    #[must_use]
    pub const fn completion(&self) -> Option<&Completion> {
        self.completion.as_ref()
    }

    /// Why the attempt gave the task back, if it did.
    #[must_use]
    pub fn released(&self) -> Option<&str> {
        self.released.as_deref()
    }

    /// Applies one operation, as a manager would.
    pub fn apply(&mut self, attempt: &AttemptRef, op: WriteOp) -> WriteVerdict {
        if attempt.epoch != self.epoch || self.completion.is_some() {
            return WriteVerdict::StaleEpoch;
        }
        match op {
            WriteOp::Start => self.released = None,
            WriteOp::Append(mut record) => {
                if let Some(refusal) = self.refusal(&record) {
                    return refusal;
                }
                record.epoch = attempt.epoch;
                self.keep(record);
            }
            WriteOp::Complete(completion) => self.completion = Some(*completion),
            WriteOp::Refuse {
                permanent: Some(failure),
                ..
            } => self.completion = Some(rejected(failure)),
            WriteOp::Release { reason } | WriteOp::Refuse { reason, .. } => self.released = Some(reason),
        }
        WriteVerdict::Ok { sent_at: permit::now() }
    }

    /// Answers an event; blobs are not here, and what is only told needs no answer.
    pub fn answer(&mut self, event: Event) -> Option<Command> {
        match event {
            Event::Write { id, attempt, op } => Some(Command::Written {
                id,
                verdict: self.apply(&attempt, op),
            }),
            Event::FetchBlob { id, .. } => Some(Command::BlobFetched {
                id,
                result: Err("there is no manager to fetch it from".into()),
            }),
            Event::MintToken { id, .. } => Some(Command::TokenMinted {
                id,
                result: Err("there is no manager that could vouch for the task".into()),
            }),
            Event::Progress { .. } | Event::GivenUp { .. } | Event::FreeSlots(_) => None,
        }
    }

    fn refusal(&self, record: &Record) -> Option<WriteVerdict> {
        let known = self
            .known
            .get(&(record.key.clone(), Kind::of(&record.body)))
            .map(|at| &self.records[*at].body);
        match (&record.body, known) {
            (RecordBody::Intent(intent), _) if self.undo && intent.direction == Direction::Forward => {
                Some(WriteVerdict::UndoDecided)
            }
            (RecordBody::Intent(new), Some(RecordBody::Intent(old))) if new.plan_digest != old.plan_digest => Some(
                WriteVerdict::Nondeterministic(format!("{} is planned with other arguments", record.key)),
            ),
            (RecordBody::Done(new), Some(RecordBody::Done(old)))
            | (RecordBody::Fact(new), Some(RecordBody::Fact(old)))
                if new != old =>
            {
                Some(WriteVerdict::Nondeterministic(format!(
                    "{} has another value",
                    record.key
                )))
            }
            _ => None,
        }
    }

    fn keep(&mut self, record: Record) {
        if matches!(record.body, RecordBody::Decision(Decision::Undo { .. })) {
            self.undo = true;
        }
        let key = (record.key.clone(), Kind::of(&record.body));
        match self.known.get(&key) {
            // Written again, an intent or a decision is the last word; a value stays where it is.
            Some(at) if matches!(key.1, Kind::Intent | Kind::Decision) => {
                let at = *at;
                self.records.remove(at);
                self.known
                    .values_mut()
                    .filter(|place| **place > at)
                    .for_each(|place| *place -= 1);
            }
            Some(_) => return,
            None => {}
        }
        self.known.insert(key, self.records.len());
        self.records.push(record);
    }
}

impl Kind {
    const fn of(body: &RecordBody) -> Self {
        match body {
            RecordBody::Intent(_) => Self::Intent,
            RecordBody::Done(_) => Self::Done,
            RecordBody::Fact(_) => Self::Fact,
            RecordBody::Decision(_) => Self::Decision,
        }
    }
}
/// A task that was refused before it was started.
fn rejected(failure: Failure) -> Completion {
    Completion {
        outcome: Outcome::Rejected,
        world: World::Unchanged,
        failure: Some(failure),
        remains: Vec::new(),
        repair: String::new(),
        steps: Vec::new(),
    }
}
