//! Brings the model to what was committed: after every batch, and from scratch at start and after
//! a failed commit.

use std::cmp::Reverse;
use std::collections::HashMap;

use deputy_proto::v1;
use deputy_proto::v1::session_response::Frame;
use deputy_task::attempt::Run;
use deputy_task::state::TaskState;
use prost::Message;

use super::core::Core;
use super::timers::Timer;
use crate::scheduler::{Entry, Pick, Place, Requirement};
use crate::store::clock::StoreTime;
use crate::store::contract::{StoreError, TaskRow};
use crate::store::op::Missed;
use crate::store::task::{TaskHead, TaskKey};

/// A task that an agent has just declined waits this long, so that nobody is asked in a loop.
const DECLINED_DELAY: std::time::Duration = std::time::Duration::from_secs(1);

impl Core {
    /// Members for the instances that the store remembers.
    pub(super) fn remember_fleet(&mut self) -> Result<(), StoreError> {
        for row in self.reads.instances()? {
            let state = self.agents.entry(row.agent.clone()).or_default();
            state.newest = Some(row.instance.clone());
            let member = self.fleet.member(&row.agent, &row.instance);
            member.version = row.version;
            member.lease_until = row.lease_until;
            member.seen_at = row.seen_at;
            member.drain_wish = row.drain_wish;
            member.vouched.line = row.line;
            member.offered = v1::Capabilities::decode(row.capabilities).unwrap_or_default();
        }
        Ok(())
    }

    /// Builds the queue from the store.
    pub(super) fn rebuild(&mut self) -> Result<(), StoreError> {
        self.queue.clear();
        self.fleet.clear_held();
        for TaskRow { spec, head } in self.reads.live()? {
            let key = spec.key.clone();
            let journal = self.journal(&key, &head)?;
            let mut entry = Entry::new(
                Requirement::new(key.project.clone(), spec.needs, &journal),
                &spec.submitter,
                &spec.exclusive_key,
            );
            entry.submitted_at = spec.submitted_at;
            entry.document = spec.document;
            entry.bundles = spec.bundles.into();
            entry.queue_timeout = spec.queue_timeout;
            entry.run = head.run;
            self.queue.insert(key.clone(), entry);
            self.limit_wait(&key, &head);
            self.settle(&key, &head);
            if head.state == TaskState::Assigned {
                self.timers.push(Reverse(Timer::start_deadline(
                    head.deadline_at.max(self.now.after(self.timing.start_deadline)),
                    key,
                    head.epoch,
                )));
            }
        }
        Ok(())
    }

    /// A run that is never started waits only so long.
    fn limit_wait(&mut self, key: &TaskKey, head: &TaskHead) {
        let timeout = self.queue.get(key).and_then(|entry| entry.queue_timeout);
        if let Some(timeout) = timeout.filter(|_| head.started_at == StoreTime::ZERO) {
            let due_at = head.queued_at.after(timeout);
            self.timers.push(Reverse(Timer::queue_timeout(due_at, key.clone())));
        }
    }

    /// The journal of a run that was started before; empty for one that never was.
    fn journal(&self, key: &TaskKey, head: &TaskHead) -> Result<Vec<v1::Record>, StoreError> {
        if head.started_at == StoreTime::ZERO {
            Ok(Vec::new())
        } else {
            self.records(key, head.run)
        }
    }

    fn records(&self, key: &TaskKey, run: Run) -> Result<Vec<v1::Record>, StoreError> {
        let decode = |bytes| {
            v1::Record::decode(bytes).map_err(|error| StoreError::Corrupt {
                what: "record",
                value: error.to_string(),
            })
        };
        self.reads.journal(key, run)?.into_iter().map(decode).collect()
    }

    /// Only the last head of a task in a batch counts: the model is ahead of the ones before.
    pub(super) fn settle_all(&mut self, heads: Vec<(TaskKey, TaskHead)>) {
        let last: HashMap<TaskKey, usize> = heads
            .iter()
            .enumerate()
            .map(|(place, (key, _))| (key.clone(), place))
            .collect();
        for (place, (key, head)) in heads.into_iter().enumerate() {
            if last.get(&key) == Some(&place) {
                self.settle(&key, &head);
            }
        }
    }

    /// Brings the model of one task to its committed head.
    pub(super) fn settle(&mut self, key: &TaskKey, head: &TaskHead) {
        if self.queue.get(key).is_none() {
            if head.state.is_ended() {
                return;
            }
            if let Err(error) = self.revive(key) {
                tracing::error!(error = %error, task.id = %key.task, "a task cannot be read");
                return;
            }
        }
        let Some(entry) = self.queue.get_mut(key) else { return };
        let before = (entry.state, entry.instance.clone());
        let next_run = entry.run != head.run;
        entry.state = head.state;
        entry.run = head.run;
        entry.epoch = head.epoch;
        entry.started_at = head.started_at;
        entry.not_before = match head.state {
            TaskState::Queued if head.deadline_at > StoreTime::ZERO => head.deadline_at.after(self.timing.guard),
            _ => StoreTime::ZERO,
        };
        entry.cancel.clone_from(&head.cancel);
        entry.instance.clone_from(&head.instance);
        let was_assigned_elsewhere = before
            .1
            .as_ref()
            .filter(|instance| head.instance.as_ref() != Some(instance))
            .cloned();
        if let Some(instance) = was_assigned_elsewhere {
            self.fleet.loosen(&instance, key);
        }
        if next_run {
            self.limit_wait(key, head);
        }
        match head.state {
            TaskState::Assigned | TaskState::Running | TaskState::Lost => {
                self.queue.hold(key);
                if let (Some(agent), Some(instance)) = (&head.agent, &head.instance) {
                    let member = self.fleet.member(agent, instance);
                    if head.state == TaskState::Assigned {
                        member.disowned.remove(key);
                    }
                    self.fleet.hold(instance, key);
                }
                if head.state == TaskState::Lost {
                    self.give_away_at(key, self.now);
                }
            }
            TaskState::Queued => self.requeue(key, head, before.0),
            TaskState::Ended(_) => self.ended(key, head, before.0),
        }
    }

    fn requeue(&mut self, key: &TaskKey, head: &TaskHead, before: TaskState) {
        if let Some(instance) = &head.instance {
            self.fleet.loosen(instance, key);
        }
        if head.started_at > StoreTime::ZERO
            && before != TaskState::Queued
            && let Ok(journal) = self.journal(key, head)
            && let Some(entry) = self.queue.get_mut(key)
            && entry.place == Place::Held
        {
            entry.requirement = Requirement::new(key.project.clone(), entry.requirement.needs.clone(), &journal).into();
        }
        let declined = before == TaskState::Assigned && head.condition.starts_with("refused: ");
        if matches!(before, TaskState::Assigned | TaskState::Lost)
            && !declined
            && let Some(instance) = &head.instance
        {
            self.revoke(key, head, instance);
        }
        let Some(entry) = self.queue.get(key).filter(|entry| entry.place == Place::Held) else {
            return;
        };
        let declined_until = if declined {
            self.now.after(DECLINED_DELAY)
        } else {
            StoreTime::ZERO
        };
        let until = entry.not_before.max(declined_until);
        if head.holds_key() {
            // Also after a rebuild, when another one may have come first.
            self.queue.hold(key);
        } else {
            self.queue.release_key(key);
        }
        if until > self.now {
            self.queue.delay(key);
            self.timers.push(Reverse(Timer::delay(until, key.clone())));
        } else {
            self.queue.enqueue(key);
        }
    }

    fn ended(&mut self, key: &TaskKey, head: &TaskHead, before: TaskState) {
        tracing::info!(task.id = %key.task, state = %head.state, attempt = head.epoch, "task ended");
        if let Some(instance) = &head.instance {
            self.fleet.loosen(instance, key);
            if before == TaskState::Assigned || before == TaskState::Lost {
                self.revoke(key, head, instance);
            }
        }
        self.forget_task(key);
    }

    /// Tells an agent that holds an attempt to let go of it.
    fn revoke(&mut self, key: &TaskKey, head: &TaskHead, instance: &deputy_task::id::InstanceId) {
        let Some(session) = self.session_of(instance) else {
            return;
        };
        let attempt = wire_attempt(key, head);
        self.send(
            session,
            Frame::Revoked(v1::Revoked {
                attempt: Some(attempt),
                reason: format!("the task is {}", head.state),
            }),
        );
    }

    /// A task that is alive again: retried.
    fn revive(&mut self, key: &TaskKey) -> Result<(), StoreError> {
        let Some(TaskRow { spec, .. }) = self.reads.task(key)? else {
            return Ok(());
        };
        let requirement = Requirement::new(key.project.clone(), spec.needs, &[]);
        let mut entry = Entry::new(requirement, &spec.submitter, &spec.exclusive_key);
        entry.submitted_at = spec.submitted_at;
        entry.bundles = spec.bundles.into();
        entry.queue_timeout = spec.queue_timeout;
        self.queue.insert(key.clone(), entry);
        Ok(())
    }

    pub(super) fn forget_task(&mut self, key: &TaskKey) {
        if let Some(entry) = self.queue.remove(key)
            && let Some(instance) = &entry.instance
        {
            self.fleet.loosen(instance, key);
        }
        self.board.forget(key);
    }

    /// The store did not take an assignment: the model was wrong about the task.
    pub(super) fn not_assigned(&mut self, pick: &Pick, missed: &Missed) {
        self.fleet.loosen(&pick.instance, &pick.key);
        if *missed == Missed::NoSuchTask {
            self.queue.remove(&pick.key);
            return;
        }
        tracing::debug!(task.id = %pick.key.task, ?missed, "an assignment was not taken");
        self.queue.delay(&pick.key);
        self.timers
            .push(Reverse(Timer::delay(self.now.after(DECLINED_DELAY), pick.key.clone())));
        if let Ok(Some(row)) = self.reads.task(&pick.key)
            && row.head.state != TaskState::Queued
        {
            self.settle(&pick.key, &row.head);
        }
    }

    /// Offers a task to its agent, after the assignment is on disk.
    pub(super) fn push_assignment(&mut self, pick: &Pick, head: &TaskHead) {
        self.timers.push(Reverse(Timer::start_deadline(
            head.deadline_at,
            pick.key.clone(),
            head.epoch,
        )));
        let Some(session) = self.session_of(&pick.instance) else {
            return;
        };
        match self.assignment(&pick.key, head) {
            Ok(assignment) => self.send(session, Frame::Assignment(assignment)),
            Err(error) => tracing::error!(error = %error, task.id = %pick.key.task, "a task cannot be read"),
        }
    }

    fn assignment(&self, key: &TaskKey, head: &TaskHead) -> Result<v1::Assignment, StoreError> {
        let missing = || StoreError::Corrupt {
            what: "task",
            value: key.to_string(),
        };
        let entry = self.queue.get(key).ok_or_else(missing)?;
        let document = if entry.document.is_empty() {
            self.reads.document(key)?.ok_or_else(missing)?
        } else {
            entry.document.clone()
        };
        let bundle = |bundle: &crate::store::task::TaskBundle| v1::Bundle {
            name: bundle.name.clone(),
            sha256: bundle.sha256.clone(),
            size_bytes: bundle.size_bytes,
        };
        Ok(v1::Assignment {
            attempt: Some(wire_attempt(key, head)),
            document,
            submitter: entry.submitter.to_string(),
            journal: self.journal(key, head)?,
            start_deadline_ms: u32::try_from(head.deadline_at.remaining(self.now).as_millis()).unwrap_or(u32::MAX),
            cancel_reason: head.cancel.clone(),
            bundles: entry.bundles.iter().map(bundle).collect(),
            submitted_at_ms: entry.submitted_at.millis(),
            run_started_at_ms: head.started_at.millis(),
            server_time_ms: self.now.millis(),
        })
    }
}

pub(super) fn wire_attempt(key: &TaskKey, head: &TaskHead) -> v1::AttemptRef {
    v1::AttemptRef {
        project: key.project.to_string(),
        task_id: key.task.to_string(),
        run: head.run,
        epoch: head.epoch,
    }
}
