//! Hello, the end of a session, and who may speak for an agent.
//!
//! An instance that is heard of keeps its agent's id: another process with that id is refused, so
//! that a copied identity cannot end what runs. An instance belongs to the line of keys that it said hello with first. Once the older one has been silent for two
//! heartbeats, the newcomer gets the session. The lease of the instance before is *not* ended by
//! that: it may still be running elsewhere (a half-dead container), and only its own lease tells
//! when it cannot act any more.

use std::time::Duration;

use deputy_proto::v1;
use deputy_proto::v1::session_response::Frame;
use deputy_proto::version::{PROTOCOL_MAX, PROTOCOL_MIN};
use deputy_task::id::{AgentId, InstanceId};
use deputy_task::state::TaskState;
use prost::Message;

use super::batch::Origin;
use super::core::{Core, Session};
use super::frames::read_attempt;
use super::inbound::{Carrier, Holding, Presence, Refused, SessionId};
use super::outbound::Outbound;
use crate::scheduler::{Member, Vouched};
use crate::store::clock::StoreTime;
use crate::store::op::{Change, InstanceRow, Op};
use crate::store::task::TaskKey;

/// An instance of which a frame came within so many heartbeats is alive.
const ALIVE_HEARTBEATS: u32 = 2;
/// And so long it keeps its agent's id from other keys.
const HELD_HEARTBEATS: u32 = 3;
/// An agent that cannot be taken as it is stays away for so long.
const STAY_AWAY: Duration = Duration::from_secs(60);

impl Core {
    pub(super) fn hello(
        &mut self,
        (session, carrier): (SessionId, Carrier),
        hello: v1::Hello,
        vouched: Vouched,
        outbound: Outbound,
    ) {
        let (agent, instance) = match self.admit(&hello, &vouched.line) {
            Ok(who) => who,
            Err((code, reason, retry_after)) => {
                tracing::warn!(agent = hello.agent_id, code, reason, "a session was refused");
                outbound.disconnect(
                    code,
                    &reason,
                    u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX),
                );
                return;
            }
        };
        self.supersede(&agent, &instance);
        let until = self.now.after(self.timing.lease_ttl);
        let member = self.fleet.member(&agent, &instance);
        member.vouched = vouched;
        member.offer(hello.capabilities.unwrap_or_default());
        let row = InstanceRow {
            agent: agent.clone(),
            instance: instance.clone(),
            lease_until: until,
            seen_at: self.now,
            version: hello.version.clone(),
            capabilities: member.offered.encode_to_vec().into(),
            drain_wish: String::new(),
            line: member.vouched.line.clone(),
        };
        self.batch.push(Op::RegisterInstance(Box::new(row)), Origin::Quiet);
        let now = self.now;
        let member = self.fleet.member(&agent, &instance);
        member.connected = true;
        member.gone = false;
        member.withheld = false;
        member.lapsed = false;
        member.draining.clear();
        member.version = hello.version;
        member.lease_until = member.lease_until.max(until);
        member.seen_at = now;
        self.fleet.supplied();
        self.queue.offers_changed();
        let state = self.agents.entry(agent.clone()).or_default();
        state.session = Some(session);
        state.newest = Some(instance.clone());
        self.sessions.insert(
            session,
            Session {
                agent: agent.clone(),
                instance: instance.clone(),
                carrier,
                outbound,
            },
        );
        if hello.generation != 0 && hello.generation != self.generation {
            tracing::warn!(agent = %agent, seen = hello.generation, ours = self.generation, "an agent knows another store");
        }
        let stale = self.reconcile(session, &instance, hello.inventory);
        tracing::info!(agent = %agent, instance = %instance, by = carrier.word(), stale = stale.len(), "an agent said hello");
        let millis = |duration: Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
        let welcome = v1::Welcome {
            protocol: PROTOCOL_MAX.min(hello.protocol_max),
            generation: self.generation,
            heartbeat_interval_ms: millis(self.timing.heartbeat),
            lease_ttl_ms: millis(self.timing.lease_ttl),
            guard_ms: millis(self.timing.guard),
            server_time_ms: now.millis(),
            stale,
            version: env!("CARGO_PKG_VERSION").into(),
        };
        // Sent first of all, when the lease is on disk.
        self.batch.frames.push((session, Frame::Welcome(welcome)));
        self.forget_instances();
    }

    fn admit(
        &mut self,
        hello: &v1::Hello,
        line: &str,
    ) -> Result<(AgentId, InstanceId), (&'static str, String, Duration)> {
        if hello.protocol_min > PROTOCOL_MAX || hello.protocol_max < PROTOCOL_MIN {
            let reason = format!(
                "the agent speaks protocol {} to {}, this manager {PROTOCOL_MIN} to {PROTOCOL_MAX}; upgrade the older one",
                hello.protocol_min, hello.protocol_max
            );
            return Err(("version", reason, STAY_AWAY));
        }
        let bad = |error: deputy_task::id::BadId| ("bad_hello", error.to_string(), STAY_AWAY);
        let agent: AgentId = hello.agent_id.parse().map_err(bad)?;
        let instance: InstanceId = hello.instance_id.parse().map_err(bad)?;
        if self.fleet.get(&instance).is_some_and(|member| member.agent != agent) {
            return Err((
                "bad_hello",
                format!("the instance {instance} belongs to another agent"),
                STAY_AWAY,
            ));
        }
        if self
            .fleet
            .get(&instance)
            .is_some_and(|member| member.vouched.line != line)
        {
            let reason = format!(
                "this process of the agent {agent} said hello with another key before; a session goes on with the key that \
                 it began with: start the agent again"
            );
            return Err(("other_key", reason, STAY_AWAY));
        }
        self.refuse_twin(&agent, &instance)?;
        Ok((agent, instance))
    }

    /// Refuses a process whose agent id is that of another one that is alive. It comes again once a
    /// heartbeat: if the other one has crashed, it is taken in as soon as that has been silent for long enough.
    fn refuse_twin(&self, agent: &AgentId, instance: &InstanceId) -> Result<(), (&'static str, String, Duration)> {
        let older = self.agents.get(agent).and_then(|state| state.newest.as_ref());
        let Some(member) = older
            .filter(|older| *older != instance)
            .and_then(|older| self.fleet.get(older))
        else {
            return Ok(());
        };
        let silence = self.timing.heartbeat * ALIVE_HEARTBEATS;
        if !self.is_heard(member, silence) {
            return Ok(());
        }
        // Which instance it is, is told to nobody: whoever knows could speak for it.
        let reason = format!(
            "another process with the agent id {agent} is alive and was heard of within the last {silence:?}; if that one \
             has ended, wait until it has been silent for so long, else give each agent an id of its own"
        );
        Err(("identity_conflict", reason, self.timing.heartbeat))
    }

    /// Was anything heard of it within this time?
    fn is_heard(&self, member: &Member, silence: Duration) -> bool {
        !self.gone_in(member, silence).is_zero()
    }

    /// How long until it has been silent for this time; zero if it is gone.
    fn gone_in(&self, member: &Member, silence: Duration) -> Duration {
        // Who held a lease when this manager started may not have found it yet.
        let heard_at = if member.lease_until > self.started_at {
            member.seen_at.max(self.started_at)
        } else {
            member.seen_at
        };
        if member.gone {
            return Duration::ZERO;
        }
        heard_at.after(silence).remaining(self.now)
    }

    /// Who speaks under an agent id.
    pub(super) fn presence(&self, agent: &AgentId) -> Presence {
        let newest = self.agents.get(agent).and_then(|state| state.newest.as_ref());
        Presence {
            newest: newest.and_then(|instance| self.holding(instance)),
            silence: self.timing.heartbeat * HELD_HEARTBEATS,
        }
    }

    /// Whose an instance is.
    pub(super) fn holding(&self, instance: &InstanceId) -> Option<Holding> {
        let member = self.fleet.get(instance)?;
        Some(Holding {
            instance: instance.clone(),
            line: member.vouched.line.clone(),
            gone_in: self.gone_in(member, self.timing.heartbeat * HELD_HEARTBEATS),
        })
    }

    /// Ends the session of an agent, unless it is of a line that is spared.
    pub(super) fn expel(&mut self, agent: &AgentId, (code, reason): (&str, &str), spared: Option<&str>) {
        let Some(session) = self.agents.get(agent).and_then(|state| state.session) else {
            return;
        };
        let instance = self.sessions.get(&session).map(|session| &session.instance);
        let line = instance
            .and_then(|instance| self.fleet.get(instance))
            .map(|member| member.vouched.line.as_str());
        if spared.is_none() || line != spared {
            self.end_session(session, code, reason, 0);
        }
    }

    /// Ends the session before. The same instance keeps what it was offered: its inventory tells.
    fn supersede(&mut self, agent: &AgentId, instance: &InstanceId) {
        let Some(before) = self.agents.get(agent).and_then(|state| state.session) else {
            return;
        };
        let reason = "a newer session of this agent was accepted, because this one was silent";
        if self
            .sessions
            .get(&before)
            .is_some_and(|session| session.instance == *instance)
        {
            if let Some(session) = self.sessions.remove(&before) {
                session.outbound.disconnect("superseded", reason, 0);
            }
        } else {
            self.end_session(before, "superseded", reason, 0);
        }
    }

    /// Compares what an instance says it holds with what the store says; answers what is not its own any more.
    fn reconcile(
        &mut self,
        session: SessionId,
        instance: &InstanceId,
        inventory: Vec<v1::HeldAttempt>,
    ) -> Vec<v1::AttemptRef> {
        let mut stale = Vec::new();
        let mut named = std::collections::HashSet::new();
        for held in inventory {
            let Some(wire) = held.attempt else { continue };
            let Ok(attempt) = read_attempt(wire.clone()) else {
                stale.push(wire);
                continue;
            };
            let key = TaskKey::of(&attempt);
            let current = self.queue.get(&key).is_some_and(|entry| {
                entry.run == attempt.run && entry.epoch == attempt.epoch && entry.instance.as_ref() == Some(instance)
            });
            let state = self.queue.get(&key).map(|entry| entry.state);
            match state {
                Some(TaskState::Lost) if current => {
                    let change = Change::Reattach {
                        run: attempt.run,
                        epoch: attempt.epoch,
                        instance: instance.clone(),
                    };
                    self.manage(key.clone(), change);
                }
                Some(TaskState::Assigned | TaskState::Running) if current => {}
                _ if self.ended_here(&key, &attempt, instance) => {}
                _ => {
                    stale.push(wire);
                    continue;
                }
            }
            self.wish_cancel(session, &key);
            named.insert(key);
        }
        let forgotten: Vec<TaskKey> = self
            .fleet
            .get(instance)
            .map(|member| {
                member
                    .held
                    .iter()
                    .filter(|key| !named.contains(*key))
                    .cloned()
                    .collect()
            })
            .unwrap_or_default();
        let now = self.now;
        if let Some(member) = self.fleet.get_mut(instance) {
            member.disowned = forgotten.iter().map(|key| (key.clone(), now)).collect();
        }
        for key in forgotten {
            self.lose(&key, instance, "the agent is back and does not have the task");
        }
        stale
    }

    /// Its result is on disk and only the acknowledgement was lost: the agent sends it again and is told so.
    fn ended_here(&self, key: &TaskKey, attempt: &deputy_task::attempt::AttemptRef, instance: &InstanceId) -> bool {
        matches!(self.reads.task(key), Ok(Some(row)) if row.head.run == attempt.run
            && row.head.epoch == attempt.epoch
            && row.head.instance.as_ref() == Some(instance)
            && row.head.state.is_ended())
    }

    /// A connection has ended. What its agent runs goes on; what it has not started goes to others.
    pub(super) fn closed(&mut self, session: SessionId) {
        let Some(Session { agent, instance, .. }) = self.sessions.remove(&session) else {
            return;
        };
        if let Some(state) = self.agents.get_mut(&agent)
            && state.session == Some(session)
        {
            state.session = None;
        }
        let Some(member) = self.fleet.get_mut(&instance) else {
            return;
        };
        member.connected = false;
        let held: Vec<TaskKey> = member.held.iter().cloned().collect();
        for key in held {
            if self
                .queue
                .get(&key)
                .is_some_and(|entry| entry.state == TaskState::Assigned)
            {
                self.lose(&key, &instance, &format!("{agent} went away before it started it"));
            }
        }
    }

    /// Ends a session from our side.
    pub(super) fn end_session(&mut self, session: SessionId, code: &str, reason: &str, retry_after_ms: u32) {
        if let Some(known) = self.sessions.get(&session) {
            tracing::info!(agent = %known.agent, code, reason, "a session is ended");
            known.outbound.disconnect(code, reason, retry_after_ms);
            self.closed(session);
        }
    }

    pub(super) fn session_of(&self, instance: &InstanceId) -> Option<SessionId> {
        let member = self.fleet.get(instance)?;
        let session = self.agents.get(&member.agent)?.session?;
        (self.sessions.get(&session)?.instance == *instance).then_some(session)
    }

    /// Wishes that an agent drain. Answered when the wish is on disk.
    pub(super) fn wish_drain(
        &mut self,
        agent: &AgentId,
        reason: &str,
        reply: tokio::sync::oneshot::Sender<Result<(), Refused>>,
    ) {
        let newest = self.agents.get(agent).and_then(|state| state.newest.clone());
        let Some(instance) = newest.filter(|instance| self.fleet.get(instance).is_some()) else {
            drop(reply.send(Err(Refused::NoSuchAgent(agent.clone()))));
            return;
        };
        let reason = if reason.is_empty() { "no reason given" } else { reason };
        let op = Op::WishDrain {
            agent: agent.clone(),
            instance: instance.clone(),
            reason: reason.into(),
        };
        let origin = Origin::Drain {
            instance,
            reason: reason.into(),
            reply,
        };
        self.batch.push(op, origin);
    }

    /// The wish is on disk: the instance takes nothing new, and is told.
    pub(super) fn drain_wished(&mut self, instance: &InstanceId, reason: String) {
        if let Some(member) = self.fleet.get_mut(instance) {
            member.drain_wish.clone_from(&reason);
        }
        if let Some(session) = self.session_of(instance) {
            self.send(session, Frame::Drain(v1::DrainWish { reason }));
        }
    }

    /// Milliseconds until a lease is over; negative if it is.
    pub(super) fn lease_remaining_ms(&self, until: StoreTime) -> i64 {
        until.millis().saturating_sub(self.now.millis())
    }
}
