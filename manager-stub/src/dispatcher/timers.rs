//! What happens because time has passed: start deadlines, leases, giving tasks away, queue timeouts.
//! Every timer is only a reason to look; what it finds is decided by the store.

use std::cmp::Reverse;

use deputy_task::attempt::Epoch;
use deputy_task::id::InstanceId;
use deputy_task::state::TaskState;

use super::batch::Origin;
use super::core::Core;
use crate::scheduler::Place;
use crate::store::clock::StoreTime;
use crate::store::op::{Change, Op};
use crate::store::task::TaskKey;

/// Members without a session, a task or a lease are remembered for this long.
const REMEMBER_INSTANCES: std::time::Duration = std::time::Duration::from_secs(24 * 60 * 60);

/// How often it is looked for instances to forget.
const FORGET_EVERY: std::time::Duration = std::time::Duration::from_secs(10 * 60);

/// Something to look at later.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Timer {
    at: StoreTime,
    kind: TimerKind,
    key: TaskKey,
    epoch: Epoch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum TimerKind {
    StartDeadline,
    GiveAway,
    QueueTimeout,
    Delay,
}

impl Timer {
    pub(super) fn start_deadline(at: StoreTime, key: TaskKey, epoch: Epoch) -> Self {
        Self {
            at,
            kind: TimerKind::StartDeadline,
            key,
            epoch,
        }
    }

    pub(super) fn give_away(at: StoreTime, key: TaskKey, epoch: Epoch) -> Self {
        Self {
            at,
            kind: TimerKind::GiveAway,
            key,
            epoch,
        }
    }

    pub(super) fn queue_timeout(at: StoreTime, key: TaskKey) -> Self {
        Self {
            at,
            kind: TimerKind::QueueTimeout,
            key,
            epoch: 0,
        }
    }

    pub(super) fn delay(at: StoreTime, key: TaskKey) -> Self {
        Self {
            at,
            kind: TimerKind::Delay,
            key,
            epoch: 0,
        }
    }
}

impl Core {
    pub(super) fn tick(&mut self) {
        if self.is_failing() {
            self.probe();
            return;
        }
        self.end_leases();
        while self.timers.peek().is_some_and(|Reverse(timer)| timer.at <= self.now) {
            if let Some(Reverse(timer)) = self.timers.pop() {
                self.ring(timer);
            }
        }
    }

    /// Until when the lease of an instance lasts, the grace after a start included.
    pub(super) fn lease_until(&self, instance: &InstanceId) -> StoreTime {
        match self.fleet.get(instance) {
            Some(member) if member.gone => member.lease_until,
            Some(member) => member.lease_until.max(self.grace_until),
            None => self.grace_until,
        }
    }

    /// Until when an instance may act for a task: as long as its lease lasts, or until it said that it does not have it.
    fn held_until(&self, instance: &InstanceId, key: &TaskKey) -> StoreTime {
        let disowned = self.fleet.get(instance).and_then(|member| member.disowned.get(key));
        disowned.copied().unwrap_or_else(|| self.lease_until(instance))
    }

    fn end_leases(&mut self) {
        let now = self.now;
        let grace_until = self.grace_until;
        let mut over = Vec::new();
        for (instance, member) in self.fleet.iter_mut() {
            let until = if member.gone {
                member.lease_until
            } else {
                member.lease_until.max(grace_until)
            };
            if now >= until {
                member.lapsed = true;
                if !member.held.is_empty() {
                    over.push(instance.clone());
                }
            }
        }
        for instance in over {
            let Some(member) = self.fleet.get(&instance) else {
                continue;
            };
            let reason = if member.gone {
                format!("{} said goodbye", member.agent)
            } else {
                format!("the lease of {} ran out", member.agent)
            };
            let held: Vec<TaskKey> = member.held.iter().cloned().collect();
            for key in held {
                self.lose(&key, &instance, &reason);
            }
        }
    }

    /// Takes a task from an instance that does not answer for it any more.
    pub(super) fn lose(&mut self, key: &TaskKey, instance: &InstanceId, reason: &str) {
        let Some(entry) = self.queue.get(key) else { return };
        if entry.instance.as_ref() != Some(instance) {
            return;
        }
        let epoch = entry.epoch;
        let change = match entry.state {
            TaskState::Running => Change::Lose {
                epoch,
                reason: reason.into(),
            },
            TaskState::Assigned => Change::Unassign {
                epoch,
                reason: reason.into(),
            },
            TaskState::Queued | TaskState::Lost | TaskState::Ended(_) => return,
        };
        self.manage(key.clone(), change);
    }

    pub(super) fn manage(&mut self, key: TaskKey, change: Change) {
        self.batch.push(
            Op::Manage {
                key: key.clone(),
                change,
            },
            Origin::Manage { key },
        );
    }

    pub(super) fn give_away_at(&mut self, key: &TaskKey, at: StoreTime) {
        if let Some(entry) = self.queue.get(key) {
            self.timers
                .push(Reverse(Timer::give_away(at, key.clone(), entry.epoch)));
        }
    }

    /// A timer rang too early, by the store's own times.
    pub(super) fn look_again_at(&mut self, key: &TaskKey, at: StoreTime) {
        match self.queue.get(key).map(|entry| entry.state) {
            Some(TaskState::Queued) => self.timers.push(Reverse(Timer::queue_timeout(at, key.clone()))),
            Some(TaskState::Lost) => self.give_away_at(key, at),
            Some(TaskState::Assigned | TaskState::Running | TaskState::Ended(_)) | None => {}
        }
    }

    fn ring(&mut self, timer: Timer) {
        let Some(entry) = self.queue.get(&timer.key) else {
            return;
        };
        match (timer.kind, entry.state) {
            (TimerKind::StartDeadline, TaskState::Assigned) if entry.epoch == timer.epoch => {
                let agent = entry.instance.as_ref().and_then(|instance| self.fleet.get(instance));
                let agent = agent.map_or_else(|| "the agent".into(), |member| member.agent.to_string());
                let reason = format!("{agent} did not start it within {:?}", self.timing.start_deadline);
                self.manage(
                    timer.key,
                    Change::Unassign {
                        epoch: timer.epoch,
                        reason,
                    },
                );
            }
            (TimerKind::GiveAway, TaskState::Lost) if entry.epoch == timer.epoch => {
                let lease_until = entry
                    .instance
                    .as_ref()
                    .map_or(self.grace_until, |instance| self.held_until(instance, &timer.key));
                let change = Change::GiveAway {
                    epoch: timer.epoch,
                    lease_until,
                    guard: self.timing.guard,
                    kill_grace: self.timing.kill_grace,
                };
                self.manage(timer.key, change);
            }
            (TimerKind::QueueTimeout, TaskState::Queued) if entry.started_at == StoreTime::ZERO => {
                if let Some(queue_timeout) = entry.queue_timeout {
                    self.manage(timer.key, Change::Expire { queue_timeout });
                }
            }
            (TimerKind::Delay, TaskState::Queued) if entry.place == Place::Delayed && self.now >= entry.not_before => {
                self.queue.enqueue(&timer.key);
            }
            _ => {}
        }
    }

    /// Forgets instances that nobody will ask for again, now and then.
    pub(super) fn forget_instances(&mut self) {
        if self.now < self.forgot_at.after(FORGET_EVERY) {
            return;
        }
        self.forgot_at = self.now;
        let before = StoreTime::from_millis(
            self.now
                .millis()
                .saturating_sub(i64::try_from(REMEMBER_INSTANCES.as_millis()).unwrap_or(0)),
        );
        self.fleet.forget(before);
        self.batch.push(Op::ForgetInstances { before }, Origin::Quiet);
    }
}
