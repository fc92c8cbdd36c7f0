//! What a hostile agent writes about a task, as the manager judges it: nothing is changed by who does not hold the
//! task, a repetition changes nothing more, and what is recorded stays in order and within bounds.
//!
//! Input: pieces of a control byte, two bytes of length, and a `WriteOp`. The control byte says who speaks, whether
//! the attempt is made the present one, whether the write comes twice, and what happens to the task before.
#![no_main]

use deputy_manager::fuzzing::operation;
use deputy_manager::join::JoinRule;
use deputy_manager::store::clock::StoreTime;
use deputy_manager::store::event::{NewEvent, kind};
use deputy_manager::store::journal::{Journal, MAX_JOURNAL_BYTES};
use deputy_manager::store::op::{Change, Verdict, Write};
use deputy_manager::store::rules::Hand;
use deputy_manager::store::task::{TaskHead, TaskKey};
use deputy_proto::v1;
use deputy_task::attempt::AttemptRef;
use deputy_task::document::OnAgentLoss;
use deputy_task::id::{InstanceId, Project};
use deputy_task::state::TaskState;
use libfuzzer_sys::fuzz_target;
use prost::Message;

const OTHER_SPEAKS: u8 = 0b11;
const IS_CURRENT: u8 = 1 << 2;
const TWICE: u8 = 1 << 3;
const BEFORE: u8 = 0b111 << 4;

struct Task {
    key: TaskKey,
    head: TaskHead,
    journal: Journal,
    now: StoreTime,
    /// How many bytes all records have.
    recorded: usize,
    /// Late results that were shown.
    late: usize,
}

fn instance(name: &str) -> InstanceId {
    name.parse().expect("an id")
}

impl Task {
    fn new() -> Self {
        let key = TaskKey {
            project: Project::default_project(),
            task: "t1".parse().expect("an id"),
        };
        let now = StoreTime::from_millis(1_000_000);
        let head = TaskHead::queued(now);
        Self {
            key,
            head,
            journal: Journal::default(),
            now,
            recorded: 0,
            late: 0,
        }
    }

    fn hand<R>(&mut self, act: impl FnOnce(&mut Hand<'_>) -> R) -> (R, Vec<NewEvent>) {
        let mut events = Vec::new();
        let answer = act(&mut Hand {
            key: &self.key,
            on_agent_loss: OnAgentLoss::Auto,
            head: &mut self.head,
            journal: &mut self.journal,
            events: &mut events,
            now: self.now,
        });
        for event in &events {
            let bytes = event.record.as_ref().map_or(0, |record| record.len());
            if event.kind == kind::EVIDENCE {
                self.late += 1;
            } else {
                self.recorded += bytes;
            }
        }
        (answer, events)
    }

    /// What the manager does of itself: hand out, lose, give away.
    fn happens(&mut self, what: u8) {
        let epoch = self.head.epoch;
        self.now = self
            .now
            .after(std::time::Duration::from_secs(if what == 6 { 300 } else { 1 }));
        let (agent, mine) = ("a1".parse().expect("an id"), instance("i1"));
        let deadline = self.now.after(std::time::Duration::from_secs(10));
        let lease_until = self.now;
        let (guard, kill_grace) = (std::time::Duration::from_secs(1), std::time::Duration::from_secs(1));
        drop(match what {
            0 | 1 => self.hand(|hand| hand.assign(epoch, agent, mine, deadline)).0,
            2 => {
                self.hand(|hand| {
                    hand.change(Change::Lose {
                        epoch,
                        reason: "lost".into(),
                    })
                })
                .0
            }
            3 => {
                self.hand(|hand| {
                    hand.change(Change::GiveAway {
                        epoch,
                        lease_until,
                        guard,
                        kill_grace,
                    })
                })
                .0
            }
            4 => {
                self.hand(|hand| hand.change(Change::Cancel { reason: "stop".into() }))
                    .0
            }
            5 => {
                self.hand(|hand| {
                    hand.change(Change::Unassign {
                        epoch,
                        reason: "late".into(),
                    })
                })
                .0
            }
            _ => Ok(()),
        });
    }

    fn write(&mut self, attempt: &AttemptRef, speaker: &InstanceId, write: Write) -> Verdict {
        let (head, journal) = (self.head.clone(), self.journal.clone());
        let holds = (head.run, head.epoch, head.instance.as_ref()) == (attempt.run, attempt.epoch, Some(speaker));
        let forward =
            matches!(&write, Write::Append(record) if record.kind() == v1::RecordKind::Intent && !record.undo);
        let (verdict, events) = self.hand(|hand| hand.write(attempt, speaker, write));
        if !holds {
            assert_eq!(verdict, Verdict::StaleEpoch, "somebody else wrote");
            assert_eq!(head, self.head, "somebody else changed the task");
            assert_eq!(what_is_recorded(&journal), what_is_recorded(&self.journal));
            assert!(events.iter().all(|event| event.kind == kind::EVIDENCE));
        }
        if verdict != Verdict::Ok {
            assert_eq!(
                what_is_recorded(&journal),
                what_is_recorded(&self.journal),
                "a refused write was recorded"
            );
        }
        if let TaskState::Ended(_) = head.state {
            assert_eq!(head.state, self.head.state, "a task that ended was changed");
            assert_eq!(what_is_recorded(&journal), what_is_recorded(&self.journal));
        }
        assert!(
            self.head.run == head.run && self.head.epoch == head.epoch,
            "an agent moved the fence"
        );
        let grown = self.journal.len() - journal.len();
        assert!(grown <= 1 && (grown == 0 || matches!(head.state, TaskState::Running | TaskState::Lost)));
        assert!(
            !(grown == 1 && forward && journal.undo_decided()),
            "a forward intent after the undo was decided"
        );
        assert_eq!(self.journal.bytes(), self.recorded, "the journal's size is another");
        assert!(self.late <= self.journal.len(), "more late results than intents");
        assert!(self.journal.bytes() <= MAX_JOURNAL_BYTES);
        verdict
    }
}

fn what_is_recorded(journal: &Journal) -> (usize, usize, bool) {
    (journal.len(), journal.bytes(), journal.undo_decided())
}

fn pieces(mut rest: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (&[control, high, low], after) = rest.split_first_chunk::<3>()?;
        let len = usize::from(u16::from_be_bytes([high, low])).min(after.len());
        let (piece, after) = after.split_at(len);
        rest = after;
        Some((control, piece))
    })
}

/// Rules come from administrators and from the store: what is read once is read again.
fn rule(bytes: &[u8]) {
    let Ok(wire) = v1::JoinRule::decode(bytes) else { return };
    if let Ok(rule) = JoinRule::from_wire(wire) {
        assert_eq!(JoinRule::from_wire(rule.to_wire()).as_ref(), Ok(&rule));
    }
}

fuzz_target!(|input: &[u8]| {
    rule(input);
    let mut task = Task::new();
    for (control, piece) in pieces(input) {
        task.happens((control & BEFORE) >> 4);
        let Ok(op) = v1::WriteOp::decode(piece) else { continue };
        let Ok((mut attempt, write)) = operation(op) else {
            continue;
        };
        if control & IS_CURRENT != 0 {
            attempt.run = task.head.run;
            attempt.epoch = task.head.epoch;
        }
        let speaker = instance(if control & OTHER_SPEAKS == OTHER_SPEAKS {
            "i2"
        } else {
            "i1"
        });
        let hands_back = matches!(write, Write::Release { .. } | Write::Refuse { .. });
        let first = task.write(&attempt, &speaker, write.clone());
        if control & TWICE != 0 {
            let journal = task.journal.len();
            let second = task.write(&attempt, &speaker, write);
            assert_eq!(journal, task.journal.len(), "a repetition was recorded once more");
            // Who has handed the task back does not hold it any more.
            if first == Verdict::Ok && !hands_back {
                assert_eq!(second, Verdict::Ok, "a repetition is judged otherwise");
            }
        }
    }
});
