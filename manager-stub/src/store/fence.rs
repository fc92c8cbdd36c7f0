//! What a write of an attempt does to its task: the fence, and idempotency by natural keys.

use deputy_proto::v1;
use deputy_task::attempt::AttemptRef;
use deputy_task::id::InstanceId;
use deputy_task::outcome::Outcome;
use deputy_task::record::{Decision, MAX_BOUNDED_BUDGET, MAX_RECORD_BYTES};
use deputy_task::state::{TaskEvent, TaskState};
use prost::Message;

use super::clock::StoreTime;
use super::event::{NewEvent, kind};
use super::journal::{MAX_JOURNAL_BYTES, content, decision};
use super::op::{Verdict, Write};
use super::rules::Hand;

const MAX_KEY_BYTES: usize = 1024;
/// At most so much longer a record is with the epoch and the time that it is kept with.
const STAMP_BYTES: usize = 22;

impl Hand<'_> {
    /// Judges one write and does it.
    pub fn write(&mut self, attempt: &AttemptRef, instance: &InstanceId, write: Write) -> Verdict {
        let current = self.head.run == attempt.run
            && self.head.epoch == attempt.epoch
            && self.head.instance.as_ref() == Some(instance);
        if !current {
            if let Write::Append(record) = write {
                self.keep_evidence(attempt, &record);
            }
            return Verdict::StaleEpoch;
        }
        if self.head.state == TaskState::Lost && self.reattach().is_err() {
            return Verdict::StaleEpoch;
        }
        match write {
            Write::Start => self.start(),
            Write::Append(record) => self.record(*record),
            Write::Complete(result) => self.complete(*result),
            Write::Release { reason } => self.release(&reason),
            Write::Refuse { reason, permanent } => self.refuse(&reason, permanent.map(|failure| *failure)),
        }
    }

    fn start(&mut self) -> Verdict {
        match self.head.state {
            TaskState::Running => Verdict::Ok,
            TaskState::Assigned => {
                if self.step(TaskEvent::Started).is_err() {
                    return Verdict::StaleEpoch;
                }
                self.head.deadline_at = StoreTime::ZERO;
                if self.head.started_at == StoreTime::ZERO {
                    self.head.started_at = self.now;
                }
                let agent = self.head.agent.as_ref().map_or_else(String::new, ToString::to_string);
                self.say(kind::STARTED, format!("started on {agent}"));
                Verdict::Ok
            }
            TaskState::Queued | TaskState::Lost | TaskState::Ended(_) => Verdict::StaleEpoch,
        }
    }

    fn record(&mut self, record: v1::Record) -> Verdict {
        if let Err(message) = check(&record) {
            return Verdict::Invalid(message);
        }
        let known = self.journal.find(&record.key, record.kind());
        let same = known.is_some_and(|entry| entry.content == content(&record));
        match self.head.state {
            TaskState::Running => {}
            TaskState::Assigned => return Verdict::Invalid("the attempt has not been started".into()),
            TaskState::Ended(_) if same => return Verdict::Ok,
            TaskState::Queued | TaskState::Lost | TaskState::Ended(_) => return Verdict::StaleEpoch,
        }
        let mine = known.is_some_and(|entry| entry.epoch == self.head.epoch);
        let is_known = known.is_some();
        match record.kind() {
            v1::RecordKind::Intent => {
                if is_known && !same {
                    return contradiction(&record, "planned with other arguments");
                }
                if self.journal.undo_decided() && !record.undo {
                    return if mine { Verdict::Ok } else { Verdict::UndoDecided };
                }
                if self.journal.find(&record.key, v1::RecordKind::Done).is_some() {
                    return Verdict::Ok;
                }
            }
            v1::RecordKind::Done => {
                if is_known {
                    return if same {
                        Verdict::Ok
                    } else {
                        contradiction(&record, "recorded with another result")
                    };
                }
                if self.journal.find(&record.key, v1::RecordKind::Intent).is_none() {
                    return Verdict::Invalid(format!("a result without an intent: {}", record.key));
                }
            }
            v1::RecordKind::Fact => {
                if is_known {
                    return if same {
                        Verdict::Ok
                    } else {
                        contradiction(&record, "recorded with another value")
                    };
                }
            }
            v1::RecordKind::Decision => match decision(&record) {
                None => return Verdict::Invalid(format!("the decision {} cannot be read", record.key)),
                Some(Decision::Undo { .. }) if self.journal.undo_decided() => return Verdict::Ok,
                Some(Decision::Redo { .. }) if is_known => return Verdict::Ok,
                Some(Decision::Undo { .. } | Decision::Redo { .. }) => {}
            },
            v1::RecordKind::Unspecified => return Verdict::Invalid("a record without a kind".into()),
        }
        if self.journal.bytes() + record.encoded_len() + STAMP_BYTES > MAX_JOURNAL_BYTES {
            return Verdict::Invalid(format!(
                "the journal of this run would exceed {MAX_JOURNAL_BYTES} bytes"
            ));
        }
        self.append(record);
        Verdict::Ok
    }

    fn complete(&mut self, result: v1::Result) -> Verdict {
        let outcome = match result.state() {
            v1::TaskState::Succeeded => Outcome::Succeeded,
            v1::TaskState::Failed => Outcome::Failed,
            v1::TaskState::Cancelled => Outcome::Cancelled,
            v1::TaskState::TimedOut => Outcome::TimedOut,
            other => return Verdict::Invalid(format!("a run cannot be completed as {}", other.as_str_name())),
        };
        match self.head.state {
            TaskState::Running => {
                if self.step(TaskEvent::Completed(outcome)).is_err() {
                    return Verdict::StaleEpoch;
                }
                self.end(result);
                Verdict::Ok
            }
            TaskState::Ended(ended) if ended == outcome => Verdict::Ok,
            TaskState::Assigned => Verdict::Invalid("the attempt has not been started".into()),
            TaskState::Queued | TaskState::Lost | TaskState::Ended(_) => Verdict::StaleEpoch,
        }
    }

    fn release(&mut self, reason: &str) -> Verdict {
        match self.head.state {
            TaskState::Running => {
                if self.step(TaskEvent::Released).is_err() {
                    return Verdict::StaleEpoch;
                }
                self.head.queued_at = self.now;
                self.head.losses = 0;
                self.head.deadline_at = self
                    .journal
                    .open()
                    .filter(|entry| !entry.held && entry.deadline_at > self.now)
                    .map(|entry| entry.deadline_at)
                    .max()
                    .unwrap_or(StoreTime::ZERO);
                self.head.condition = format!("released: {reason}");
                self.say(kind::RELEASED, reason);
                self.settle_cancel();
                Verdict::Ok
            }
            TaskState::Assigned => match self.unassign(reason) {
                Ok(()) => Verdict::Ok,
                Err(_) => Verdict::StaleEpoch,
            },
            TaskState::Queued => Verdict::Ok,
            TaskState::Lost | TaskState::Ended(_) => Verdict::StaleEpoch,
        }
    }

    fn refuse(&mut self, reason: &str, permanent: Option<v1::Failure>) -> Verdict {
        match (self.head.state, permanent) {
            (TaskState::Assigned, None) => {
                if self.unassign(reason).is_err() {
                    return Verdict::StaleEpoch;
                }
                if self.head.state == TaskState::Queued {
                    self.head.condition = format!("refused: {reason}");
                }
                Verdict::Ok
            }
            (TaskState::Assigned, Some(failure)) => {
                if self.step(TaskEvent::Refused).is_err() {
                    return Verdict::StaleEpoch;
                }
                self.end_by_manager(failure);
                Verdict::Ok
            }
            (TaskState::Queued, None) | (TaskState::Ended(Outcome::Rejected), Some(_)) => Verdict::Ok,
            (TaskState::Running, _) => Verdict::Invalid("the attempt has been started; complete or release it".into()),
            (TaskState::Queued | TaskState::Lost | TaskState::Ended(_), _) => Verdict::StaleEpoch,
        }
    }

    /// A result from an attempt that is not the current one any more is shown, not used. Any agent can name any
    /// attempt: only what an open intent waits for is kept, and once.
    fn keep_evidence(&mut self, attempt: &AttemptRef, record: &v1::Record) {
        let was_ours = self.head.run == attempt.run && attempt.epoch < self.head.epoch;
        let is_result = record.kind() == v1::RecordKind::Done && check(record).is_ok();
        if was_ours && is_result && self.journal.is_news(&record.key) {
            let message = format!(
                "{} of epoch {} arrived after the task was given away",
                record.key, attempt.epoch
            );
            self.events.push(NewEvent {
                kind: kind::EVIDENCE,
                message,
                record: Some(record.encode_to_vec().into()),
            });
        }
    }
}

fn contradiction(record: &v1::Record, how: &str) -> Verdict {
    Verdict::Nondeterministic(format!("{} was {how} before", record.key))
}

/// Is the record well formed?
fn check(record: &v1::Record) -> Result<(), String> {
    if record.key.is_empty() || record.key.len() > MAX_KEY_BYTES {
        return Err(format!("a record's key must have 1 to {MAX_KEY_BYTES} bytes"));
    }
    let bytes =
        record.payload.len() + record.seal.len() + record.mac.len() + record.plan_digest.len() + record.summary.len();
    if bytes > MAX_RECORD_BYTES {
        return Err(format!(
            "the record {} has {bytes} bytes; at most {MAX_RECORD_BYTES} are taken",
            record.key
        ));
    }
    if record.kind() == v1::RecordKind::Intent {
        let longest = MAX_BOUNDED_BUDGET.as_millis();
        match record.effect_class() {
            v1::EffectClass::Bounded if u128::from(record.budget_ms) > longest => {
                return Err(format!(
                    "the intent {} has a budget of {} ms; at most {longest} are granted",
                    record.key, record.budget_ms
                ));
            }
            v1::EffectClass::Bounded | v1::EffectClass::Held => {}
            v1::EffectClass::Unspecified => return Err(format!("the intent {} has no effect class", record.key)),
        }
    }
    Ok(())
}
