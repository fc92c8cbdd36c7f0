//! What an operation does to a task: pure, and the same for every store. A store loads the head and
//! the journal of a task, calls these functions, and writes back what they changed, all in one
//! transaction; that is the compare-and-set.

use bytes::Bytes;
use deputy_proto::v1;
use deputy_task::attempt::Epoch;
use deputy_task::document::OnAgentLoss;
use deputy_task::id::{AgentId, InstanceId};
use deputy_task::outcome::{Outcome, World};
use deputy_task::record::Decision;
use deputy_task::repair::{End, Steering, repair};
use deputy_task::state::{TaskEvent, TaskState};
use prost::Message;

use super::clock::StoreTime;
use super::event::{NewEvent, kind};
use super::journal::Journal;
use super::op::{Change, Missed};
use super::task::{Resolve, TaskHead, TaskKey};

/// After so many agents that were lost one after the other with a task that got no further, it is no
/// coincidence any more: the next one is not risked without a person.
const MAX_LOSSES: u32 = 3;

/// A task at hand, with everything the rules may look at and change.
#[derive(Debug)]
pub struct Hand<'a> {
    /// Which task.
    pub key: &'a TaskKey,
    /// Its policy for the loss of its agent.
    pub on_agent_loss: OnAgentLoss,
    /// Its head; changed in place.
    pub head: &'a mut TaskHead,
    /// The journal of its run; changed in place.
    pub journal: &'a mut Journal,
    /// New events are put here.
    pub events: &'a mut Vec<NewEvent>,
    /// The store's clock.
    pub now: StoreTime,
}

impl Hand<'_> {
    /// Goes to the next state, or says why not.
    pub(super) fn step(&mut self, event: TaskEvent) -> Result<(), Missed> {
        self.head.state = self
            .head
            .state
            .next(event)
            .map_err(|illegal| Missed::NotNow(illegal.to_string()))?;
        Ok(())
    }

    pub(super) fn say(&mut self, kind: &'static str, message: impl Into<String>) {
        self.events.push(NewEvent {
            kind,
            message: message.into(),
            record: None,
        });
    }

    /// QUEUED to ASSIGNED. The caller has checked the exclusive key.
    ///
    /// # Errors
    /// If the task is not queued, has another epoch than the scheduler saw, or was released while a
    /// request may still be in flight.
    pub fn assign(
        &mut self,
        seen: Epoch,
        agent: AgentId,
        instance: InstanceId,
        deadline_at: StoreTime,
    ) -> Result<(), Missed> {
        if self.head.epoch != seen {
            return Err(Missed::NotNow(format!(
                "the task is at epoch {} and not {seen}",
                self.head.epoch
            )));
        }
        if self.head.state == TaskState::Queued && self.now < self.head.deadline_at {
            return Err(Missed::NotBefore(self.head.deadline_at));
        }
        self.step(TaskEvent::Assigned)?;
        self.head.epoch += 1;
        self.head.deadline_at = deadline_at;
        self.head.condition.clear();
        self.head.resolve = None;
        self.say(kind::ASSIGNED, format!("assigned to {agent}"));
        self.head.agent = Some(agent);
        self.head.instance = Some(instance);
        Ok(())
    }

    /// A change by the manager itself.
    ///
    /// # Errors
    /// Why it did not happen.
    pub fn change(&mut self, change: Change) -> Result<(), Missed> {
        match change {
            Change::Unassign { epoch, reason } => {
                self.same_epoch(epoch)?;
                self.unassign(&reason)
            }
            Change::Reattach { run, epoch, instance } => {
                if self.head.run != run || self.head.instance.as_ref() != Some(&instance) {
                    return Err(Missed::NotNow("the attempt is another instance's".into()));
                }
                self.same_epoch(epoch)?;
                self.reattach()
            }
            Change::Lose { epoch, reason } => {
                self.same_epoch(epoch)?;
                self.step(TaskEvent::LeaseOut)?;
                self.head.condition = self.lost_condition();
                let message = format!("{reason}; {}", self.head.condition);
                self.say(kind::LOST, message);
                Ok(())
            }
            Change::GiveAway {
                epoch,
                lease_until,
                guard,
                kill_grace,
            } => {
                self.same_epoch(epoch)?;
                if self.head.state != TaskState::Lost {
                    return Err(Missed::NotNow(format!("the task is {}", self.head.state)));
                }
                let clear_at = self.clear_at(lease_until, kill_grace).after(guard);
                if self.now < clear_at {
                    return Err(Missed::NotBefore(clear_at));
                }
                self.give_away()
            }
            Change::Expire { queue_timeout } => {
                if self.head.started_at > StoreTime::ZERO {
                    return Err(Missed::NotNow("the task has been started before".into()));
                }
                let due_at = self.head.queued_at.after(queue_timeout);
                if self.now < due_at {
                    return Err(Missed::NotBefore(due_at));
                }
                self.step(TaskEvent::QueueTimeout)?;
                self.end_by_manager(v1::Failure {
                    class: "queue.timeout".into(),
                    summary: "no agent took the task within its queue timeout".into(),
                    hint: format!("deputy explain {} says why no agent could take it", self.key.task),
                    ..v1::Failure::default()
                });
                Ok(())
            }
            Change::Cancel { reason } => self.cancel(reason),
            Change::Retry { seen_run } => self.retry(seen_run),
            Change::Resolve { resolve, reason } => self.resolve(resolve, reason),
            Change::GiveUp { reason } => self.give_up(&reason),
        }
    }

    fn same_epoch(&self, epoch: Epoch) -> Result<(), Missed> {
        if self.head.epoch == epoch {
            Ok(())
        } else {
            Err(Missed::NotNow(format!(
                "the task is at epoch {} and not {epoch}",
                self.head.epoch
            )))
        }
    }

    pub(super) fn unassign(&mut self, reason: &str) -> Result<(), Missed> {
        self.step(TaskEvent::Unassigned)?;
        self.head.deadline_at = StoreTime::ZERO;
        if self.head.started_at > StoreTime::ZERO {
            self.head.queued_at = self.now;
        }
        self.say(kind::UNASSIGNED, reason);
        self.settle_cancel();
        Ok(())
    }

    pub(super) fn reattach(&mut self) -> Result<(), Missed> {
        if self.head.state == TaskState::Running {
            return Ok(());
        }
        self.step(TaskEvent::AgentBack)?;
        self.head.condition.clear();
        self.head.resolve = None;
        let agent = self.head.agent.as_ref().map_or_else(String::new, ToString::to_string);
        self.say(kind::REATTACHED, format!("{agent} is back"));
        Ok(())
    }

    /// From then on (without the guard) nothing of the lost attempt can be in flight, held effects aside.
    fn clear_at(&self, lease_until: StoreTime, kill_grace: std::time::Duration) -> StoreTime {
        let mut clear = lease_until;
        for entry in self.journal.open() {
            if !entry.held {
                clear = clear.max(entry.deadline_at);
            } else if entry.retry_safe {
                clear = clear.max(lease_until.after(kill_grace));
            }
        }
        clear
    }

    fn held_by(&self) -> Option<String> {
        self.journal.open_unsafe().next().map(|entry| {
            let step = entry.key.split_once('/').map_or(entry.key.as_str(), |(step, _)| step);
            format!(
                "step {step} ({}) may still be running there and is not retrySafe",
                entry.step_kind
            )
        })
    }

    /// Agents that were lost one after the other with this task, that of the newest attempt included, while nothing
    /// new came into its journal.
    fn losses(&self) -> u32 {
        if self.journal.grown_in() == self.head.epoch {
            0
        } else {
            self.head.losses.saturating_add(1)
        }
    }

    /// What holds the task, or what becomes of it. It is stored, and says nothing about its process: whether that can
    /// still come back changes while the task is lost, and is for `explain` to look up.
    fn lost_condition(&self) -> String {
        let resolve = format!("`deputy resolve {} resume|rollback|fail`", self.key.task);
        let decides = format!("{resolve} decides");
        let losses = self.losses();
        if losses >= MAX_LOSSES {
            let agent = self.head.agent.as_ref().map_or("its agent", AgentId::as_str);
            return format!(
                "held: {losses} agents were lost one after the other while they had this task, which got no further; see their logs, the last is {agent}'s; then {resolve}"
            );
        }
        match (self.on_agent_loss, self.held_by()) {
            (_, Some(why)) => format!("held: {why}; {decides}"),
            (OnAgentLoss::Hold, None) => format!("held: onAgentLoss is hold; {decides}"),
            (OnAgentLoss::Auto | OnAgentLoss::Resume, None) => {
                "resumes elsewhere when nothing can be in flight any more".into()
            }
            (OnAgentLoss::Rollback, None) => "is rolled back elsewhere when nothing can be in flight any more".into(),
        }
    }

    /// Policy, or what an operator decided before.
    fn give_away(&mut self) -> Result<(), Missed> {
        let losses = self.losses();
        if self.head.resolve.is_none() && losses >= MAX_LOSSES {
            return Err(Missed::Held);
        }
        let undo = match (self.head.resolve, self.held_by(), self.on_agent_loss) {
            (Some(Resolve::Resume), _, _) => false,
            (Some(Resolve::Rollback), _, _) => true,
            (None, Some(_), _) | (None, None, OnAgentLoss::Hold) => return Err(Missed::Held),
            (None, None, OnAgentLoss::Auto | OnAgentLoss::Resume) => false,
            (None, None, OnAgentLoss::Rollback) => true,
        };
        self.step(TaskEvent::GivenAway)?;
        let by_operator = self.head.resolve.take().is_some();
        // A person who has looked has the count begin anew.
        self.head.losses = if by_operator { 0 } else { losses };
        let reason = if by_operator {
            "an operator decided"
        } else {
            "its agent was lost"
        };
        if undo {
            self.decide("task/undo", &Decision::Undo { reason: reason.into() });
        } else if by_operator {
            let open: Vec<String> = self
                .journal
                .open()
                .filter(|entry| entry.held)
                .map(|entry| entry.key.clone())
                .collect();
            for key in open {
                self.decide(&key, &Decision::Redo { reason: reason.into() });
            }
        }
        self.head.queued_at = self.now;
        self.head.condition = if undo { "rolling back".into() } else { "resuming".into() };
        self.say(
            kind::REQUEUED,
            if undo {
                "goes to another agent, to be rolled back"
            } else {
                "goes to another agent, to be resumed"
            },
        );
        self.settle_cancel();
        Ok(())
    }

    /// A decision of the manager's own.
    fn decide(&mut self, key: &str, decision: &Decision) {
        let undo = matches!(decision, Decision::Undo { .. });
        if undo && self.journal.undo_decided() {
            return;
        }
        let record = v1::Record {
            key: key.into(),
            kind: v1::RecordKind::Decision.into(),
            payload: serde_json::to_vec(decision).unwrap_or_default().into(),
            summary: if undo { "undo".into() } else { "run it again".into() },
            ..v1::Record::default()
        };
        self.append(record);
    }

    /// Puts a record into the journal.
    pub(super) fn append(&mut self, mut record: v1::Record) {
        record.epoch = self.head.epoch;
        record.committed_at_ms = self.now.millis();
        let encoded: Bytes = record.encode_to_vec().into();
        self.journal.take(&record, encoded.len(), self.now);
        let message = if record.summary.is_empty() {
            record.key.clone()
        } else {
            std::mem::take(&mut record.summary)
        };
        let kind = super::journal::event_kind(&record).unwrap_or(kind::FACT);
        self.events.push(NewEvent {
            kind,
            message,
            record: Some(encoded),
        });
    }

    fn cancel(&mut self, reason: String) -> Result<(), Missed> {
        match self.head.state {
            TaskState::Ended(Outcome::Cancelled) => return Ok(()),
            TaskState::Ended(_) => {
                return Err(Missed::NotNow(format!(
                    "the task has already ended: {}",
                    self.head.state
                )));
            }
            TaskState::Queued | TaskState::Assigned | TaskState::Running | TaskState::Lost => {}
        }
        let reason = if reason.is_empty() {
            "no reason given".into()
        } else {
            reason
        };
        self.say(kind::CANCEL_WISHED, reason.clone());
        self.head.cancel = reason;
        self.settle_cancel();
        Ok(())
    }

    /// A wished cancel of a task that nobody runs and that has changed nothing is done at once.
    pub(super) fn settle_cancel(&mut self) {
        let unstarted = matches!(self.head.state, TaskState::Queued | TaskState::Assigned);
        if self.head.cancel.is_empty() || !unstarted || self.journal.has_intents() {
            return;
        }
        if self.step(TaskEvent::CancelledUnstarted).is_ok() {
            let summary = format!("cancelled before anything was changed: {}", self.head.cancel);
            self.end_by_manager(v1::Failure {
                class: "cancelled".into(),
                summary,
                ..v1::Failure::default()
            });
        }
    }

    fn retry(&mut self, seen_run: u32) -> Result<(), Missed> {
        if seen_run != 0 && seen_run != self.head.run {
            return Err(Missed::NotNow(format!(
                "the task is in run {} and not {seen_run}",
                self.head.run
            )));
        }
        self.step(TaskEvent::Retried)?;
        let kept = (
            self.head.epoch,
            self.head.revision,
            self.head.agent.take(),
            self.head.run,
        );
        *self.head = TaskHead {
            epoch: kept.0,
            revision: kept.1,
            agent: kept.2,
            run: kept.3 + 1,
            ..TaskHead::queued(self.now)
        };
        *self.journal = Journal::default();
        let message = format!("run {} begins with an empty journal", self.head.run);
        self.say(kind::RETRIED, message);
        Ok(())
    }

    fn resolve(&mut self, resolve: Resolve, reason: String) -> Result<(), Missed> {
        if self.head.state != TaskState::Lost {
            return Err(Missed::NotNow(format!(
                "the task is {}; only a LOST task can be resolved",
                self.head.state
            )));
        }
        self.head.resolve = Some(resolve);
        self.head.condition = match resolve {
            Resolve::Resume => "an operator decided: resumes elsewhere when nothing can be in flight any more".into(),
            Resolve::Rollback => {
                "an operator decided: is rolled back elsewhere when nothing can be in flight any more".into()
            }
        };
        self.say(kind::RESOLVED, reason);
        Ok(())
    }

    fn give_up(&mut self, reason: &str) -> Result<(), Missed> {
        self.step(TaskEvent::GivenUp)?;
        let agent = self.head.agent.as_ref().map_or("its agent", AgentId::as_str);
        let summary = format!("{agent} was lost and an operator gave the task up: {reason}");
        self.say(kind::RESOLVED, reason);
        self.end_by_manager(v1::Failure {
            class: "agent.lost".into(),
            summary,
            ..v1::Failure::default()
        });
        Ok(())
    }

    /// The result of a task that ends without an agent's word.
    pub(super) fn end_by_manager(&mut self, failure: v1::Failure) {
        let TaskState::Ended(outcome) = self.head.state else {
            return;
        };
        let (world, said) = match outcome {
            Outcome::Failed => (World::Unknown, v1::World::Unknown),
            _ if self.journal.has_intents() => (World::Changed, v1::World::Changed),
            _ => (World::Unchanged, v1::World::Unchanged),
        };
        let end = End {
            task: &self.key.task,
            outcome,
            world,
            left: &[],
        };
        let repair = repair(end, &Steering::Manager);
        let remains = self
            .journal
            .open()
            .map(|entry| format!("{} ({}) has no recorded result", entry.key, entry.summary))
            .collect();
        self.end(v1::Result {
            world: said.into(),
            failure: Some(failure),
            remains,
            repair,
            ..v1::Result::default()
        });
    }

    /// Keeps the result of a task that has just ended.
    pub(super) fn end(&mut self, mut result: v1::Result) {
        let TaskState::Ended(outcome) = self.head.state else {
            return;
        };
        let (state, kind) = match outcome {
            Outcome::Succeeded => (v1::TaskState::Succeeded, kind::ENDED[0]),
            Outcome::Failed => (v1::TaskState::Failed, kind::ENDED[1]),
            Outcome::Cancelled => (v1::TaskState::Cancelled, kind::ENDED[2]),
            Outcome::TimedOut => (v1::TaskState::TimedOut, kind::ENDED[3]),
            Outcome::Expired => (v1::TaskState::Expired, kind::ENDED[4]),
            Outcome::Rejected => (v1::TaskState::Rejected, kind::ENDED[5]),
        };
        result.state = state.into();
        let message = result
            .failure
            .as_ref()
            .map_or_else(String::new, |failure| failure.summary.clone());
        self.say(kind, message);
        self.head.finished_at = self.now;
        self.head.deadline_at = StoreTime::ZERO;
        self.head.condition.clear();
        self.head.resolve = None;
        self.head.result = result.encode_to_vec().into();
    }
}
