//! The dispatcher's state and the life of a batch: take, schedule, commit, answer.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use deputy_proto::v1;
use deputy_proto::v1::session_response::Frame;
use deputy_task::id::{AgentId, InstanceId};

use super::batch::{Batch, Origin, PendingCommit};
use super::board::Board;
use super::hub::Hub;
use super::inbound::{Carrier, Inbound, Refused, SessionId, Submission, Submitted};
use super::outbound::Outbound;
use super::timers::Timer;
use super::timing::Timing;
use crate::scheduler::{Fleet, Queue};
use crate::store::clock::{StoreClock, StoreTime};
use crate::store::contract::{Reads, Store, StoreError};
use crate::store::op::{Applied, Missed, Op, OpResult, Verdict};
use crate::store::task::{TaskHead, TaskKey};

/// A session that is up.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) agent: AgentId,
    pub(super) instance: InstanceId,
    pub(super) carrier: Carrier,
    pub(super) outbound: Outbound,
}

/// What is known about an agent over all its instances.
#[derive(Debug, Default)]
pub(super) struct AgentState {
    pub(super) session: Option<SessionId>,
    pub(super) newest: Option<InstanceId>,
}

/// The dispatcher's state.
pub(super) struct Core {
    pub(super) store: Box<dyn Store>,
    pub(super) reads: Arc<dyn Reads>,
    pub(super) clock: StoreClock,
    pub(super) timing: Timing,
    pub(super) hub: Hub,
    pub(super) board: Board,
    pub(super) queue: Queue,
    pub(super) fleet: Fleet,
    pub(super) sessions: HashMap<SessionId, Session>,
    pub(super) agents: HashMap<AgentId, AgentState>,
    pub(super) timers: BinaryHeap<Reverse<Timer>>,
    /// When this manager started.
    pub(super) started_at: StoreTime,
    /// Until then no lease ends: the manager has just started, or could not write.
    pub(super) grace_until: StoreTime,
    pub(super) generation: u64,
    pub(super) batch: Batch,
    pub(super) now: StoreTime,
    /// When instances were last forgotten.
    pub(super) forgot_at: StoreTime,
    failing: bool,
}

impl Core {
    pub(super) fn new(
        store: Box<dyn Store>,
        clock: StoreClock,
        timing: Timing,
        (hub, board): (Hub, Board),
    ) -> Result<Self, StoreError> {
        let reads = store.reads();
        let meta = reads.meta()?;
        let now = clock.now();
        let mut core = Self {
            store,
            reads,
            clock,
            started_at: now,
            grace_until: now.after(meta.longest_lease.max(timing.lease_ttl)),
            timing,
            hub,
            board,
            queue: Queue::default(),
            fleet: Fleet::default(),
            sessions: HashMap::new(),
            agents: HashMap::new(),
            timers: BinaryHeap::new(),
            generation: meta.generation,
            batch: Batch::default(),
            now,
            forgot_at: now,
            failing: false,
        };
        core.remember_fleet()?;
        core.rebuild()?;
        Ok(core)
    }

    /// Takes one message into the batch; true if the dispatcher has to end after it.
    pub(super) fn take(&mut self, message: Inbound) -> bool {
        self.now = self.clock.now();
        match message {
            Inbound::Frame { session, frame } => self.frame(session, *frame),
            Inbound::Submit { submission, reply } => self.submit(*submission, reply),
            Inbound::Hello {
                session,
                carrier,
                hello,
                vouched,
                outbound,
            } => self.hello((session, carrier), *hello, vouched, outbound),
            Inbound::Closed { session } => self.closed(session),
            Inbound::Manage { key, change, reply } => {
                self.batch.push(
                    Op::Manage {
                        key: key.clone(),
                        change,
                    },
                    Origin::User { key, reply },
                );
            }
            Inbound::Commit { ops, reply } => {
                let place = self.batch.commits.len();
                for op in ops {
                    self.batch.push(op, Origin::Stored(place));
                }
                self.batch.commits.push(PendingCommit { reply, missed: None });
            }
            Inbound::Explain { key, reply } => drop(reply.send(self.explain(&key))),
            Inbound::Fleet { reply } => drop(reply.send(self.fleet_lines())),
            Inbound::Presence { agent, reply } => drop(reply.send(self.presence(&agent))),
            Inbound::Holding { instance, reply } => drop(reply.send(self.holding(&instance))),
            Inbound::Drain { agent, reason, reply } => self.wish_drain(&agent, &reason, reply),
            Inbound::Expel {
                agent,
                code,
                reason,
                spared,
            } => self.expel(&agent, (code, &reason), spared.as_deref()),
            Inbound::Tick => self.tick(),
            Inbound::Shutdown => {
                for (_, session) in self.sessions.drain() {
                    session
                        .outbound
                        .disconnect("shutting_down", "the manager is shutting down", 0);
                }
                return true;
            }
        }
        false
    }

    fn submit(&mut self, submission: Submission, reply: tokio::sync::oneshot::Sender<Result<Submitted, Refused>>) {
        let Submission {
            request,
            content,
            mut spec,
            mut entry,
        } = submission;
        spec.submitted_at = self.now;
        entry.submitted_at = self.now;
        entry.queue_timeout = spec.queue_timeout;
        let key = spec.key.clone();
        if let Some(timeout) = spec.queue_timeout {
            self.timers
                .push(Reverse(Timer::queue_timeout(self.now.after(timeout), key.clone())));
        }
        self.queue.insert(key.clone(), entry);
        self.queue.enqueue(&key);
        self.batch.push(
            Op::Submit {
                request,
                content,
                spec: Box::new(spec),
            },
            Origin::Submit { key, reply },
        );
    }

    /// Adds the scheduler's decisions, commits, and answers everyone.
    pub(super) fn commit(&mut self) {
        if !self.failing {
            for pick in self.queue.schedule(&mut self.fleet) {
                let op = Op::Assign {
                    key: pick.key.clone(),
                    epoch: pick.epoch,
                    agent: pick.agent.clone(),
                    instance: pick.instance.clone(),
                    start_deadline: self.timing.start_deadline,
                };
                self.batch.push(op, Origin::Assign(pick));
            }
        }
        if self.batch.is_empty() {
            return;
        }
        let mut batch = std::mem::take(&mut self.batch);
        let ops = std::mem::take(&mut batch.ops);
        let applied = if ops.is_empty() {
            Ok(Applied::default())
        } else {
            self.now = self.clock.now();
            self.store.apply(self.now, ops)
        };
        self.answer(batch, applied);
    }

    fn answer(&mut self, batch: Batch, applied: Result<Applied, StoreError>) {
        match applied {
            Ok(applied) => {
                if self.failing {
                    tracing::info!("the store works again");
                    self.failing = false;
                    self.grace_until = self.grace_until.max(self.now.after(self.timing.lease_ttl));
                }
                self.answer_committed(batch, applied);
            }
            Err(error) => self.answer_failed(batch, &error),
        }
    }

    fn answer_committed(&mut self, batch: Batch, applied: Applied) {
        let Batch {
            origins,
            mut writes,
            frames,
            mut commits,
            ..
        } = batch;
        // What a hello changed is told to the agent too, but not before the session has begun.
        let is_welcome = |(_, frame): &(SessionId, Frame)| matches!(frame, Frame::Welcome(_));
        let (welcomes, frames): (Vec<_>, Vec<_>) = frames.into_iter().partition(is_welcome);
        for (session, welcome) in welcomes {
            self.send(session, welcome);
        }
        let mut heads: Vec<(TaskKey, TaskHead)> = Vec::new();
        let mut picks = Vec::new();
        for (origin, result) in origins.into_iter().zip(applied.results) {
            match origin {
                Origin::Quiet => {}
                Origin::Stored(place) => {
                    if let (OpResult::Missed(missed), Some(commit)) = (result, commits.get_mut(place)) {
                        commit.missed = Some(missed);
                    }
                }
                Origin::Submit { key, reply } => self.answer_submit(key, result, reply),
                Origin::Write { frame, place, key } => {
                    if let OpResult::Written { verdict, head } = result {
                        if let Some(slot) = writes.get_mut(frame).and_then(|write| write.results.get_mut(place)) {
                            *slot = write_result(verdict);
                        }
                        if let Some(head) = head {
                            heads.push((key, *head));
                        }
                    }
                }
                Origin::Assign(pick) => match result {
                    OpResult::Task { head, .. } => {
                        heads.push((pick.key.clone(), (*head).clone()));
                        picks.push((pick, *head));
                    }
                    OpResult::Missed(missed) => self.not_assigned(&pick, &missed),
                    _ => {}
                },
                Origin::Manage { key } => match result {
                    OpResult::Task { head, .. } => heads.push((key, *head)),
                    OpResult::Missed(Missed::NotBefore(at)) => self.look_again_at(&key, at),
                    _ => {}
                },
                Origin::Drain {
                    instance,
                    reason,
                    reply,
                } => {
                    let answer = match result {
                        OpResult::Missed(missed) => Err(Refused::Missed(missed)),
                        _ => {
                            self.drain_wished(&instance, reason);
                            Ok(())
                        }
                    };
                    drop(reply.send(answer));
                }
                Origin::User { key, reply } => {
                    let answer = match result {
                        OpResult::Task { head, .. } => {
                            self.wish_cancel_now(&key, &head);
                            heads.push((key, *head));
                            Ok(())
                        }
                        OpResult::Missed(missed) => Err(Refused::Missed(missed)),
                        _ => Ok(()),
                    };
                    drop(reply.send(answer));
                }
            }
        }
        self.settle_all(heads);
        self.hub.wake(&applied.touched);
        for (session, frame) in frames {
            self.send(session, frame);
        }
        for write in writes {
            self.send(
                write.session,
                Frame::WriteAck(v1::WriteAck {
                    seq: write.seq,
                    results: write.results,
                }),
            );
        }
        for (pick, head) in picks {
            self.push_assignment(&pick, &head);
        }
        for commit in commits {
            drop(
                commit
                    .reply
                    .send(commit.missed.map_or(Ok(()), |missed| Err(Refused::Missed(missed)))),
            );
        }
    }

    fn answer_submit(
        &mut self,
        key: TaskKey,
        result: OpResult,
        reply: tokio::sync::oneshot::Sender<Result<Submitted, Refused>>,
    ) {
        let project = key.project.clone();
        let answer = match result {
            OpResult::Submitted { task, existed } => {
                if existed {
                    self.forget_task(&key);
                }
                Ok(Submitted {
                    key: TaskKey { project, task },
                    existed,
                })
            }
            OpResult::OtherContent { task } => {
                self.forget_task(&key);
                Err(Refused::OtherContent(TaskKey { project, task }))
            }
            _ => Err(Refused::StoreFailed("the store gave no answer".into())),
        };
        drop(reply.send(answer));
    }

    /// Nothing of the batch happened. Calls are answered; sessions are ended and come back with
    /// what was not acknowledged; the model is rebuilt from what is on disk.
    fn answer_failed(&mut self, batch: Batch, error: &StoreError) {
        if !self.failing {
            tracing::error!(error = %error, "the store cannot write; nothing new is accepted until it can");
        }
        self.failing = true;
        let refused = match error {
            StoreError::Full => Refused::DiskFull,
            other => Refused::StoreFailed(other.to_string()),
        };
        let mut ended: Vec<SessionId> = batch.writes.iter().map(|write| write.session).collect();
        ended.extend(batch.frames.iter().map(|(session, _)| *session));
        for origin in batch.origins {
            match origin {
                Origin::Submit { reply, .. } => drop(reply.send(Err(refused.clone()))),
                Origin::User { reply, .. } | Origin::Drain { reply, .. } => drop(reply.send(Err(refused.clone()))),
                Origin::Write { .. }
                | Origin::Assign(_)
                | Origin::Manage { .. }
                | Origin::Stored(_)
                | Origin::Quiet => {}
            }
        }
        for commit in batch.commits {
            drop(commit.reply.send(Err(refused.clone())));
        }
        for session in ended {
            self.end_session(session, "unavailable", "the manager's store cannot write", 2_000);
        }
        if let Err(error) = self.rebuild() {
            tracing::error!(error = %error, "the store cannot be read");
        }
    }

    /// Tries an empty commit when the store has failed, so that it is noticed when it works again.
    pub(super) fn probe(&mut self) {
        if self.failing && self.batch.ops.is_empty() {
            self.batch.push(
                Op::ForgetInstances {
                    before: StoreTime::ZERO,
                },
                Origin::Quiet,
            );
        }
    }

    pub(super) fn is_failing(&self) -> bool {
        self.failing
    }

    pub(super) fn send(&mut self, session: SessionId, frame: Frame) {
        let sent = self
            .sessions
            .get(&session)
            .is_none_or(|session| session.outbound.send(frame));
        if !sent {
            self.end_session(session, "slow", "the session does not read its frames", 1_000);
        }
    }
}

pub(super) fn write_result(verdict: Verdict) -> v1::WriteResult {
    let (code, message) = match verdict {
        Verdict::Ok => (v1::WriteCode::Ok, String::new()),
        Verdict::StaleEpoch => (
            v1::WriteCode::StaleEpoch,
            "the attempt is not this instance's any more".into(),
        ),
        Verdict::UndoDecided => (v1::WriteCode::UndoDecided, "the run is being undone".into()),
        Verdict::Nondeterministic(message) => (v1::WriteCode::Nondeterministic, message),
        Verdict::Invalid(message) => (v1::WriteCode::Invalid, message),
    };
    v1::WriteResult {
        code: code.into(),
        message,
    }
}
