//! Our words become wire messages here and nowhere else. Total: every value of ours has a wire form.

use bytes::Bytes;
use deputy_proto::v1;
use deputy_task::attempt::AttemptRef;
use deputy_task::capability::Capabilities;
use deputy_task::message::WriteOp;
use deputy_task::outcome::{Completion, Failure, Outcome, World};
use deputy_task::progress::{StepProgress, StepStatus};
use deputy_task::record::{Direction, EffectClass, Record, RecordBody};
use serde::Serialize;

pub(crate) fn attempt(attempt: &AttemptRef) -> v1::AttemptRef {
    v1::AttemptRef {
        project: attempt.project.as_str().to_owned(),
        task_id: attempt.task.as_str().to_owned(),
        run: attempt.run,
        epoch: attempt.epoch,
    }
}

pub(crate) fn write_op(of: &AttemptRef, op: WriteOp) -> v1::WriteOp {
    use v1::write_op::Op;
    let op = match op {
        WriteOp::Start => Op::Start(v1::StartOp {}),
        WriteOp::Append(entry) => Op::Append(record(entry)),
        WriteOp::Complete(end) => Op::Complete(completion(*end)),
        WriteOp::Release { reason } => Op::Release(v1::ReleaseOp { reason }),
        WriteOp::Refuse { reason, permanent } => Op::Refuse(v1::RefuseOp {
            reason,
            permanent: permanent.is_some(),
            failure: permanent.map(failure),
        }),
    };
    v1::WriteOp {
        attempt: Some(attempt(of)),
        op: Some(op),
    }
}

/// The payload is JSON: the value of a result or fact, the decision itself, nothing for an intent,
/// whose fields are the message's own.
pub(crate) fn record(record: Record) -> v1::Record {
    let mut wire = v1::Record {
        key: record.key.as_str().to_owned(),
        program_version: record.program_version,
        step_kind: record.step_kind,
        epoch: record.epoch,
        seal: record.sealing.sealed.into(),
        ..v1::Record::default()
    };
    if let Some(mac) = record.sealing.mac {
        wire.mac = Bytes::copy_from_slice(&mac.tag);
        wire.position = mac.position;
        wire.pool_key = mac.key.as_str().to_owned();
    }
    match record.body {
        RecordBody::Intent(intent) => {
            wire.set_kind(v1::RecordKind::Intent);
            match intent.class {
                EffectClass::Bounded { budget } => {
                    wire.set_effect_class(v1::EffectClass::Bounded);
                    wire.budget_ms = u32::try_from(budget.as_millis()).unwrap_or(u32::MAX);
                }
                EffectClass::Held { retry_safe } => {
                    wire.set_effect_class(v1::EffectClass::Held);
                    wire.retry_safe = retry_safe;
                }
            }
            wire.plan_digest = hex::decode(&intent.plan_digest).map(Bytes::from).unwrap_or_default();
            wire.undo = intent.direction == Direction::Undo;
            wire.summary = intent.summary;
        }
        RecordBody::Done(value) => {
            wire.set_kind(v1::RecordKind::Done);
            wire.payload = if wire.seal.is_empty() {
                Bytes::copy_from_slice(value.text().as_bytes())
            } else {
                Bytes::new()
            };
        }
        RecordBody::Fact(value) => {
            wire.set_kind(v1::RecordKind::Fact);
            wire.payload = if wire.seal.is_empty() {
                Bytes::copy_from_slice(value.text().as_bytes())
            } else {
                Bytes::new()
            };
        }
        RecordBody::Decision(decision) => {
            wire.set_kind(v1::RecordKind::Decision);
            wire.payload = json(&decision);
        }
    }
    wire
}

fn completion(completion: Completion) -> v1::Result {
    let mut wire = v1::Result {
        failure: completion.failure.map(failure),
        remains: completion.remains,
        repair: completion.repair,
        steps: completion.steps.into_iter().map(step).collect(),
        ..v1::Result::default()
    };
    wire.set_state(match completion.outcome {
        Outcome::Succeeded => v1::TaskState::Succeeded,
        Outcome::Failed => v1::TaskState::Failed,
        Outcome::Cancelled => v1::TaskState::Cancelled,
        Outcome::TimedOut => v1::TaskState::TimedOut,
        Outcome::Expired => v1::TaskState::Expired,
        Outcome::Rejected => v1::TaskState::Rejected,
    });
    wire.set_world(match completion.world {
        World::Unchanged => v1::World::Unchanged,
        World::Changed => v1::World::Changed,
        World::RolledBack => v1::World::RolledBack,
        World::RollbackFailed => v1::World::RollbackFailed,
        World::Unknown => v1::World::Unknown,
    });
    wire
}

fn failure(failure: Failure) -> v1::Failure {
    v1::Failure {
        class: failure.class,
        summary: failure.summary,
        hint: failure.hint,
        detail: failure.detail,
        step: failure.step,
    }
}

pub(crate) fn step(step: StepProgress) -> v1::StepProgress {
    let mut wire = v1::StepProgress {
        name: step.name,
        kind: step.kind,
        waiting_for: step.waiting_for,
        started_at_ms: step.started_at_ms,
        finished_at_ms: step.finished_at_ms,
        outputs: if step.outputs.is_empty() {
            Bytes::new()
        } else {
            json(&step.outputs)
        },
        ..v1::StepProgress::default()
    };
    wire.set_status(match step.status {
        StepStatus::Pending => v1::StepStatus::Pending,
        StepStatus::Running => v1::StepStatus::Running,
        StepStatus::Succeeded => v1::StepStatus::Succeeded,
        StepStatus::Failed => v1::StepStatus::Failed,
        StepStatus::Skipped => v1::StepStatus::Skipped,
        StepStatus::Undoing => v1::StepStatus::Undoing,
        StepStatus::Undone => v1::StepStatus::Undone,
        StepStatus::Interrupted => v1::StepStatus::Interrupted,
    });
    wire
}

pub(crate) fn capabilities(capabilities: &Capabilities) -> v1::Capabilities {
    v1::Capabilities {
        slots: capabilities.slots,
        labels: capabilities.labels.clone().into_iter().collect(),
        steps: capabilities
            .steps
            .iter()
            .map(|support| v1::StepSupport {
                kind: support.kind.clone(),
                min_version: support.min_version,
                max_version: support.max_version,
            })
            .collect(),
        tools: capabilities
            .tools
            .iter()
            .map(|tool| v1::Tool {
                name: tool.name.clone(),
                version: tool.version.clone(),
                path: tool.path.clone(),
                problem: tool.problem.clone(),
            })
            .collect(),
        features: capabilities.features.clone(),
        ambient: capabilities.ambient.clone(),
        platform: capabilities.platform.clone(),
        warnings: capabilities.warnings.clone(),
        holds_back: capabilities.holds_back.clone(),
        pool_keys: capabilities.pool_keys.clone(),
    }
}

/// Values of ours always serialise: their maps have string keys and they hold no custom serialisers.
fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).map(Bytes::from).unwrap_or_default()
}
