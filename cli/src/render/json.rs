//! Messages as JSON for programs: camelCase, words for enums, times in Unix milliseconds.

use deputy_proto::v1::{self, AgentInfo, Record, StepProgress, Task, WatchResponse};
use serde_json::{Map, Value, json};

use super::words::{state_name, step_name, world_name};

fn bytes(json: &[u8]) -> Value {
    serde_json::from_slice(json).unwrap_or(Value::Null)
}

fn step(step: &StepProgress) -> Value {
    json!({
        "name": step.name, "kind": step.kind, "status": step_name(step.status()), "waitingFor": step.waiting_for,
        "startedAtMs": step.started_at_ms, "finishedAtMs": step.finished_at_ms, "outputs": bytes(&step.outputs),
    })
}

fn result(result: &v1::Result) -> Value {
    let failure = result.failure.as_ref().map(|failure| {
        json!({ "class": failure.class, "summary": failure.summary, "hint": failure.hint, "detail": failure.detail, "step": failure.step })
    });
    json!({
        "state": state_name(result.state()), "world": world_name(result.world()), "failure": failure,
        "remains": result.remains, "repair": result.repair, "steps": result.steps.iter().map(step).collect::<Vec<_>>(),
    })
}

/// A task.
pub(crate) fn task(task: &Task) -> Value {
    let labels: std::collections::BTreeMap<_, _> = task.labels.iter().collect();
    let log_state = match task.log_state() {
        v1::LogState::Unspecified => "none",
        v1::LogState::Streaming => "streaming",
        v1::LogState::Complete => "complete",
        v1::LogState::Incomplete => "incomplete",
    };
    json!({
        "project": task.project, "taskId": task.task_id, "name": task.name, "labels": labels, "state": state_name(task.state()),
        "condition": task.condition, "run": task.run, "epoch": task.epoch, "agentId": task.agent_id, "submitter": task.submitter,
        "submittedAtMs": task.submitted_at_ms, "startedAtMs": task.started_at_ms, "finishedAtMs": task.finished_at_ms,
        "steps": task.steps.iter().map(step).collect::<Vec<_>>(), "result": task.result.as_ref().map(result),
        "logState": log_state, "cancelReason": task.cancel_reason, "exclusiveKey": task.exclusive_key, "serverTimeMs": task.server_time_ms,
    })
}

/// An event, with the task after it.
pub(crate) fn event(event: &WatchResponse, task: Option<&Task>) -> Value {
    json!({
        "type": "event", "kind": event.kind, "message": event.message, "atMs": event.at_ms,
        "task": task.map(self::task), "record": event.record.as_ref().map(record),
    })
}

/// What becomes of the connection while something is followed.
pub(crate) fn connection(message: &str) -> Value {
    json!({ "type": "connection", "message": message })
}

/// A record of a journal.
pub(crate) fn record(record: &Record) -> Value {
    let kind = match record.kind() {
        v1::RecordKind::Unspecified => "unknown",
        v1::RecordKind::Intent => "intent",
        v1::RecordKind::Done => "done",
        v1::RecordKind::Fact => "fact",
        v1::RecordKind::Decision => "decision",
    };
    let class = match record.effect_class() {
        v1::EffectClass::Unspecified => Value::Null,
        v1::EffectClass::Bounded => "bounded".into(),
        v1::EffectClass::Held => "held".into(),
    };
    json!({
        "key": record.key, "kind": kind, "stepKind": record.step_kind, "programVersion": record.program_version, "payload": bytes(&record.payload),
        "class": class, "undo": record.undo, "summary": record.summary, "epoch": record.epoch, "committedAtMs": record.committed_at_ms,
        "poolKey": record.pool_key, "sealed": !record.seal.is_empty(),
    })
}

/// An agent.
pub(crate) fn agent(agent: &AgentInfo) -> Value {
    let status = match agent.status() {
        v1::AgentStatus::Unspecified => "unknown",
        v1::AgentStatus::Online => "online",
        v1::AgentStatus::Draining => "draining",
        v1::AgentStatus::Disconnected => "disconnected",
        v1::AgentStatus::Gone => "gone",
    };
    let attempts: Vec<Value> = agent
        .attempts
        .iter()
        .map(|a| json!({ "project": a.project, "taskId": a.task_id, "run": a.run, "epoch": a.epoch }))
        .collect();
    let mut value = json!({
        "agentId": agent.agent_id, "instanceId": agent.instance_id, "status": status, "version": agent.version, "freeSlots": agent.free_slots,
        "attempts": attempts, "leaseRemainingMs": agent.lease_remaining_ms, "lastSeenMs": agent.last_seen_ms, "spoolBytes": agent.spool_bytes,
        "pool": agent.pool, "joinRule": agent.join_rule, "certificateEndsMs": agent.certificate_ends_ms,
        "transport": agent.transport,
    });
    if let (Some(capabilities), Some(map)) = (&agent.capabilities, value.as_object_mut()) {
        map.insert("capabilities".into(), Value::Object(capabilities_map(capabilities)));
    }
    value
}

fn capabilities_map(capabilities: &v1::Capabilities) -> Map<String, Value> {
    let labels: std::collections::BTreeMap<_, _> = capabilities.labels.iter().collect();
    let steps: Vec<Value> = capabilities
        .steps
        .iter()
        .map(|s| json!({ "kind": s.kind, "minVersion": s.min_version, "maxVersion": s.max_version }))
        .collect();
    let tools: Vec<Value> = capabilities
        .tools
        .iter()
        .map(|t| json!({ "name": t.name, "version": t.version, "path": t.path, "problem": t.problem }))
        .collect();
    let all = json!({
        "slots": capabilities.slots, "labels": labels, "steps": steps, "tools": tools, "features": capabilities.features,
        "ambient": capabilities.ambient, "platform": capabilities.platform, "warnings": capabilities.warnings,
    });
    all.as_object().cloned().unwrap_or_default()
}
