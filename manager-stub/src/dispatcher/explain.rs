//! Exact reasons: why a task waits, agent by agent, and what an agent can and cannot do.

use deputy_proto::v1;
use deputy_task::id::InstanceId;

use super::core::Core;
use super::inbound::{Explained, FleetLine, Holder};
use crate::scheduler::{Member, Place, Selector, refusals};
use crate::store::task::TaskKey;

impl Core {
    /// Every agent, and every reason why it was not given the task.
    pub(super) fn explain(&self, key: &TaskKey) -> Explained {
        let Some(entry) = self.queue.get(key) else {
            return Explained::default();
        };
        let holder = entry.instance.as_ref().map(|instance| self.holder(instance, key));
        let selector = Selector::read(&entry.requirement.needs.selector).unwrap_or_default();
        let waits = match entry.place {
            Place::BehindKey => {
                let holder = self
                    .queue
                    .key_holder(key)
                    .map_or_else(String::new, |holder| holder.task.to_string());
                Some(format!("task {holder} holds the exclusive key {}", entry.exclusive))
            }
            Place::Delayed if entry.not_before > self.now => Some(format!(
                "a request of the attempt that released it may be in flight; it is offered again in {:?}",
                entry.not_before.remaining(self.now)
            )),
            Place::Delayed => Some("an agent has just declined it; it is offered again in a moment".into()),
            Place::Ready | Place::Held => None,
        };
        let mut verdicts: Vec<v1::AgentVerdict> = self
            .newest_members()
            .map(|(_, member)| {
                let mut reasons = refusals(&entry.requirement, &selector, member);
                reasons.extend(member.busy());
                reasons.extend(waits.clone());
                v1::AgentVerdict {
                    agent_id: member.agent.to_string(),
                    eligible: reasons.is_empty(),
                    reasons,
                }
            })
            .collect();
        verdicts.sort_by(|a, b| a.agent_id.cmp(&b.agent_id));
        Explained {
            agents: verdicts,
            holder,
        }
    }

    /// Is the process that has this task to be expected back?
    fn holder(&self, instance: &InstanceId, key: &TaskKey) -> Holder {
        let Some(member) = self.fleet.get(instance) else {
            return Holder::Gone;
        };
        if member.gone || member.disowned.contains_key(key) {
            return Holder::Gone;
        }
        let newest = self.agents.get(&member.agent).and_then(|state| state.newest.as_ref());
        if newest.is_some_and(|newest| newest != instance) {
            Holder::Replaced
        } else {
            Holder::Awaited
        }
    }

    /// Members that are their agent's newest instance.
    fn newest_members(&self) -> impl Iterator<Item = (&InstanceId, &Member)> {
        self.fleet.iter().filter(|(instance, member)| {
            self.agents.get(&member.agent).and_then(|state| state.newest.as_ref()) == Some(instance)
        })
    }

    /// The fleet, by agent id.
    pub(super) fn fleet_lines(&self) -> Vec<FleetLine> {
        let mut lines: Vec<FleetLine> = self
            .newest_members()
            .map(|(instance, member)| self.line(instance, member))
            .collect();
        lines.sort_by(|a, b| a.info.agent_id.cmp(&b.info.agent_id));
        lines
    }

    /// What carries the session of an instance; empty if it has none.
    fn carrier_of(&self, instance: &InstanceId) -> &'static str {
        let session = self
            .session_of(instance)
            .and_then(|session| self.sessions.get(&session));
        session.map_or("", |session| session.carrier.word())
    }

    fn line(&self, instance: &InstanceId, member: &Member) -> FleetLine {
        let draining = !member.draining.is_empty() || !member.drain_wish.is_empty();
        let remaining = self.lease_remaining_ms(member.lease_until);
        let status = match (member.connected, draining, remaining > 0 && !member.gone) {
            (true, true, _) => v1::AgentStatus::Draining,
            (true, false, _) => v1::AgentStatus::Online,
            (false, _, true) => v1::AgentStatus::Disconnected,
            (false, _, false) => v1::AgentStatus::Gone,
        };
        let attempts = member.held.iter().filter_map(|key| {
            let entry = self.queue.get(key)?;
            Some(v1::AttemptRef {
                project: key.project.to_string(),
                task_id: key.task.to_string(),
                run: entry.run,
                epoch: entry.epoch,
            })
        });
        let mut notes: Vec<String> = Vec::new();
        match member.busy() {
            None => notes.push(format!("it can take {} more tasks", member.free())),
            Some(why) => notes.push(format!("it takes nothing: {why}")),
        }
        for tool in member.offered.tools.iter().filter(|tool| !tool.problem.is_empty()) {
            notes.push(format!(
                "its {} ({}) cannot be used: {}",
                tool.name, tool.path, tool.problem
            ));
        }
        notes.extend(member.offered.warnings.iter().cloned());
        FleetLine {
            info: v1::AgentInfo {
                agent_id: member.agent.to_string(),
                instance_id: instance.to_string(),
                status: status.into(),
                version: member.version.clone(),
                capabilities: Some(member.offered.clone()),
                free_slots: if member.busy().is_none() {
                    u32::try_from(member.free()).unwrap_or(u32::MAX)
                } else {
                    0
                },
                attempts: attempts.collect(),
                lease_remaining_ms: remaining,
                last_seen_ms: member.seen_at.millis(),
                spool_bytes: member.spool_bytes,
                transport: self.carrier_of(instance).to_owned(),
                ..v1::AgentInfo::default()
            },
            notes,
        }
    }
}
