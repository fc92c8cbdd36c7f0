//! Frames of a session after its hello. Unknown frames and frames of a session that has ended are ignored.

use deputy_proto::v1;
use deputy_proto::v1::session_request::Frame as Request;
use deputy_proto::v1::session_response::Frame as Response;
use deputy_task::attempt::AttemptRef;
use deputy_task::id::{AgentId, InstanceId};
use deputy_task::state::TaskState;

use super::batch::{Origin, PendingWrite};
use super::core::{Core, write_result};
use super::inbound::SessionId;
use super::settle::wire_attempt;
use crate::store::clock::StoreTime;
use crate::store::op::{Change, Op, Verdict, Write};
use crate::store::task::TaskKey;

/// Most operations in one Write frame.
const MAX_WRITE_OPS: usize = 4096;

impl Core {
    pub(super) fn frame(&mut self, session: SessionId, frame: Request) {
        let Some((agent, instance)) = self.speaker(session) else {
            return;
        };
        if let Some(member) = self.fleet.get_mut(&instance) {
            member.seen_at = self.now;
        }
        match frame {
            Request::Write(write) => self.write(session, &agent, &instance, write),
            Request::Heartbeat(heartbeat) => self.heartbeat(session, (&agent, &instance), &heartbeat),
            Request::Progress(progress) => self.progress(&instance, progress),
            Request::Capabilities(offered) => self.offer(&instance, offered),
            Request::DrainNotice(notice) => self.drains(&instance, &notice.reason),
            Request::Goodbye(goodbye) => self.goodbye(session, &instance, &goodbye.reason),
            Request::Hello(_) => self.end_session(session, "protocol", "a session has one Hello", 0),
            Request::Probe(_) => self.end_session(session, "protocol", "a Probe is sent in the place of Hello", 0),
        }
    }

    fn speaker(&self, session: SessionId) -> Option<(AgentId, InstanceId)> {
        self.sessions
            .get(&session)
            .map(|session| (session.agent.clone(), session.instance.clone()))
    }

    fn write(&mut self, session: SessionId, agent: &AgentId, instance: &InstanceId, write: v1::Write) {
        if write.ops.len() > MAX_WRITE_OPS {
            self.end_session(session, "protocol", "a Write has too many operations", 0);
            return;
        }
        let frame = self.batch.writes.len();
        let mut results = Vec::with_capacity(write.ops.len());
        let mut renews = false;
        for (place, op) in write.ops.into_iter().enumerate() {
            results.push(v1::WriteResult::default());
            match read_op(op) {
                Ok((attempt, op)) => {
                    renews |= matches!(&op, Write::Append(record) if record.kind() == v1::RecordKind::Intent);
                    let key = TaskKey::of(&attempt);
                    self.free_ahead(&op, (&key, &attempt), instance);
                    let op = Op::Write {
                        attempt,
                        instance: instance.clone(),
                        write: op,
                    };
                    self.batch.push(op, Origin::Write { frame, place, key });
                }
                Err(message) => {
                    if let Some(last) = results.last_mut() {
                        *last = write_result(Verdict::Invalid(message));
                    }
                }
            }
        }
        self.batch.writes.push(PendingWrite {
            session,
            seq: write.seq,
            results,
        });
        if renews {
            self.renew(agent, instance);
        }
    }

    /// The slot and the key of a task that ends in this batch can be given away in the same batch;
    /// of one that is handed back in the middle of its run only the slot.
    fn free_ahead(&mut self, op: &Write, (key, attempt): (&TaskKey, &AttemptRef), instance: &InstanceId) {
        let Some(entry) = self.queue.get(key) else { return };
        let keeps_key = match op {
            Write::Start | Write::Append(_) => return,
            Write::Complete(_) => false,
            Write::Release { .. } | Write::Refuse { .. } => entry.started_at > StoreTime::ZERO,
        };
        if entry.epoch == attempt.epoch && entry.instance.as_ref() == Some(instance) {
            self.fleet.loosen(instance, key);
            if !keeps_key {
                self.queue.release_key(key);
            }
        }
    }

    fn renew(&mut self, agent: &AgentId, instance: &InstanceId) {
        let until = self.now.after(self.timing.lease_ttl);
        if let Some(member) = self.fleet.get_mut(instance) {
            member.lease_until = member.lease_until.max(until);
            if std::mem::take(&mut member.lapsed) {
                self.fleet.supplied();
            }
        }
        self.batch.push(
            Op::RenewLease {
                agent: agent.clone(),
                instance: instance.clone(),
                until,
            },
            Origin::Quiet,
        );
    }

    fn heartbeat(&mut self, session: SessionId, (agent, instance): (&AgentId, &InstanceId), heartbeat: &v1::Heartbeat) {
        self.renew(agent, instance);
        self.batch
            .frames
            .push((session, Response::HeartbeatAck(v1::HeartbeatAck { seq: heartbeat.seq })));
        let Some(member) = self.fleet.get_mut(instance) else {
            return;
        };
        member.spool_bytes = heartbeat.spool_bytes;
        let withheld = heartbeat.free_slots == 0 && member.held.is_empty();
        let relaxed = member.withheld && !withheld;
        member.withheld = withheld;
        let wish = member.drain_wish.clone();
        let held: Vec<TaskKey> = member
            .held
            .iter()
            .filter(|key| !member.disowned.contains_key(*key))
            .cloned()
            .collect();
        if relaxed {
            self.fleet.supplied();
        }
        if !wish.is_empty() {
            self.batch
                .frames
                .push((session, Response::Drain(v1::DrainWish { reason: wish })));
        }
        for key in held {
            let Some(entry) = self.queue.get(&key) else { continue };
            if entry.instance.as_ref() != Some(instance) {
                continue;
            }
            if entry.state == TaskState::Lost {
                let change = Change::Reattach {
                    run: entry.run,
                    epoch: entry.epoch,
                    instance: instance.clone(),
                };
                self.manage(key.clone(), change);
            }
            self.wish_cancel(session, &key);
        }
    }

    /// Repeats the wish that a task be cancelled, if there is one and its agent holds it.
    pub(super) fn wish_cancel(&mut self, session: SessionId, key: &TaskKey) {
        let Some(entry) = self.queue.get(key) else { return };
        if entry.cancel.is_empty() {
            return;
        }
        let attempt = v1::AttemptRef {
            project: key.project.to_string(),
            task_id: key.task.to_string(),
            run: entry.run,
            epoch: entry.epoch,
        };
        let wish = v1::CancelWish {
            attempt: Some(attempt),
            reason: entry.cancel.clone(),
        };
        self.batch.frames.push((session, Response::Cancel(wish)));
    }

    /// Sends a fresh cancel wish at once.
    pub(super) fn wish_cancel_now(&mut self, key: &TaskKey, head: &crate::store::task::TaskHead) {
        if head.cancel.is_empty() || !matches!(head.state, TaskState::Assigned | TaskState::Running | TaskState::Lost) {
            return;
        }
        let session = head.instance.as_ref().and_then(|instance| self.session_of(instance));
        if let Some(session) = session {
            let wish = v1::CancelWish {
                attempt: Some(wire_attempt(key, head)),
                reason: head.cancel.clone(),
            };
            self.send(session, Response::Cancel(wish));
        }
    }

    fn progress(&mut self, instance: &InstanceId, progress: v1::Progress) {
        let Some(Ok(attempt)) = progress.attempt.map(read_attempt) else {
            return;
        };
        let key = TaskKey::of(&attempt);
        let current = self
            .queue
            .get(&key)
            .is_some_and(|entry| entry.epoch == attempt.epoch && entry.instance.as_ref() == Some(instance));
        if current {
            self.board.update(&key, attempt.epoch, progress.steps);
            self.hub.wake(&[key]);
        }
    }

    fn offer(&mut self, instance: &InstanceId, offered: v1::Capabilities) {
        if let Some(member) = self.fleet.get_mut(instance) {
            member.offer(offered);
            self.fleet.supplied();
            self.queue.offers_changed();
        }
    }

    fn drains(&mut self, instance: &InstanceId, reason: &str) {
        if let Some(member) = self.fleet.get_mut(instance) {
            member.draining = if reason.is_empty() {
                "no reason given".into()
            } else {
                reason.into()
            };
        }
    }

    fn goodbye(&mut self, session: SessionId, instance: &InstanceId, reason: &str) {
        tracing::info!(instance = %instance, reason, "an agent said goodbye");
        if let Some(member) = self.fleet.get_mut(instance) {
            member.gone = true;
            member.lease_until = self.now;
        }
        self.closed(session);
    }
}

/// A wire attempt with checked ids.
pub(super) fn read_attempt(attempt: v1::AttemptRef) -> Result<AttemptRef, String> {
    Ok(AttemptRef {
        project: attempt
            .project
            .try_into()
            .map_err(|error: deputy_task::id::BadId| error.to_string())?,
        task: attempt
            .task_id
            .try_into()
            .map_err(|error: deputy_task::id::BadId| error.to_string())?,
        run: attempt.run,
        epoch: attempt.epoch,
    })
}

/// An operation with checked ids; what it does to its task is for the store to say.
pub(crate) fn read_op(op: v1::WriteOp) -> Result<(AttemptRef, Write), String> {
    use v1::write_op::Op as Wire;
    let attempt = read_attempt(op.attempt.ok_or("an operation without an attempt")?)?;
    let write = match op.op.ok_or("an operation that this manager does not know")? {
        Wire::Start(v1::StartOp {}) => Write::Start,
        Wire::Append(record) => Write::Append(Box::new(record)),
        Wire::Complete(result) => Write::Complete(Box::new(result)),
        Wire::Release(release) => Write::Release { reason: release.reason },
        Wire::Refuse(refuse) => Write::Refuse {
            permanent: refuse
                .permanent
                .then(|| Box::new(refuse.failure.unwrap_or_else(|| refused(&refuse.reason)))),
            reason: refuse.reason,
        },
    };
    Ok((attempt, write))
}

fn refused(reason: &str) -> v1::Failure {
    v1::Failure {
        class: "agent.refused".into(),
        summary: format!("the agent refused the task: {reason}"),
        ..v1::Failure::default()
    }
}
