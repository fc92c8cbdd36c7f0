//! Journaled operations on their way to the manager: queued, cut into frames, in flight, and back
//! in the queue when the connection is lost. Pure: no IO, no clock, so that every order of cut,
//! resend and acknowledgement can be tested.

use std::collections::VecDeque;

use deputy_proto::v1;
use deputy_task::attempt::AttemptRef;
use deputy_task::boot_time::BootTime;
use deputy_task::message::{RequestId, WriteOp, WriteVerdict};
use deputy_task::record::RecordBody;
use prost::Message;

use crate::{from_wire, to_wire};

/// Operations queued or in flight. When they are that many, the executor's events are not read
/// until some are acknowledged.
pub(crate) const MAX_OPS: usize = 4096;

/// Frames in flight: enough to keep the manager's group commit busy over a slow link, few enough
/// that operations gather into frames under load.
const MAX_FRAMES_IN_FLIGHT: usize = 8;

/// Operations in one frame: one commit of the manager should not take noticeably longer than another.
const MAX_OPS_PER_FRAME: usize = 256;

/// Bytes of one frame beyond which no further operation is added. One record has at most 256 KiB,
/// so a frame stays far below the limit of either side.
const FRAME_BYTES: usize = 512 * 1024;

/// What an operation is, for the inventory, the lease and the flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OpKind {
    Start,
    Intent,
    Done,
    Fact,
    Decision,
    Complete,
    Release,
    Refuse,
}

impl OpKind {
    fn of(op: &WriteOp) -> Self {
        match op {
            WriteOp::Start => Self::Start,
            WriteOp::Append(record) => match record.body {
                RecordBody::Intent(_) => Self::Intent,
                RecordBody::Done(_) => Self::Done,
                RecordBody::Fact(_) => Self::Fact,
                RecordBody::Decision(_) => Self::Decision,
            },
            WriteOp::Complete(_) => Self::Complete,
            WriteOp::Release { .. } => Self::Release,
            WriteOp::Refuse { .. } => Self::Refuse,
        }
    }

    /// Nobody waits for it, so it may ride with what follows.
    const fn is_patient(self) -> bool {
        matches!(self, Self::Done | Self::Fact)
    }
}

/// May the frame wait a moment for company?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// Nothing is queued.
    Idle,
    /// Only results and facts, for which nobody waits.
    Patient,
    /// Somebody waits.
    Urgent,
}

#[derive(Debug)]
struct Op {
    id: Option<RequestId>,
    attempt: AttemptRef,
    kind: OpKind,
    wire: v1::WriteOp,
    bytes: usize,
}

#[derive(Debug)]
struct Frame {
    seq: u64,
    sent_at: BootTime,
    ops: Vec<Op>,
}

/// The answer to one operation.
#[derive(Debug)]
pub(crate) struct Answer {
    /// None for an operation of the session itself.
    pub(crate) id: Option<RequestId>,
    pub(crate) attempt: AttemptRef,
    pub(crate) kind: OpKind,
    pub(crate) verdict: WriteVerdict,
}

/// The manager acknowledged something else than what was sent. The connection is given up; what
/// is in flight is sent again on the next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadAck {
    #[error("write {got} was acknowledged where {expected:?} was next")]
    Order { got: u64, expected: Option<u64> },
    #[error("write {seq} has {sent} operations and was answered with {answered} results")]
    Count { seq: u64, sent: usize, answered: usize },
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct WriteQueue {
    waiting: VecDeque<Op>,
    urgent: usize,
    flying: VecDeque<Frame>,
    flying_ops: usize,
    last_seq: u64,
}

impl WriteQueue {
    pub(crate) fn push(&mut self, id: Option<RequestId>, attempt: AttemptRef, op: WriteOp) {
        let kind = OpKind::of(&op);
        let wire = to_wire::write_op(&attempt, op);
        let bytes = wire.encoded_len();
        self.urgent += usize::from(!kind.is_patient());
        self.waiting.push_back(Op {
            id,
            attempt,
            kind,
            wire,
            bytes,
        });
    }

    /// How many more operations fit.
    pub(crate) fn room(&self) -> usize {
        MAX_OPS.saturating_sub(self.waiting.len() + self.flying_ops)
    }

    /// Nothing queued, nothing in flight.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.flying.is_empty()
    }

    pub(crate) fn urgency(&self) -> Urgency {
        match (self.waiting.len(), self.urgent) {
            (0, _) => Urgency::Idle,
            (_, 0) => Urgency::Patient,
            _ => Urgency::Urgent,
        }
    }

    /// May another frame be sent?
    pub(crate) fn may_send(&self) -> bool {
        self.flying.len() < MAX_FRAMES_IN_FLIGHT && !self.waiting.is_empty()
    }

    /// The next frame, which is in flight from now on.
    pub(crate) fn next_frame(&mut self, sent_at: BootTime) -> Option<v1::Write> {
        if !self.may_send() {
            return None;
        }
        let mut ops = Vec::new();
        let mut bytes = 0;
        while let Some(op) = self.waiting.front() {
            if ops.len() >= MAX_OPS_PER_FRAME || (!ops.is_empty() && bytes + op.bytes > FRAME_BYTES) {
                break;
            }
            bytes += op.bytes;
            self.urgent -= usize::from(!op.kind.is_patient());
            ops.extend(self.waiting.pop_front());
        }
        self.last_seq += 1;
        let write = v1::Write {
            seq: self.last_seq,
            ops: ops.iter().map(|op| op.wire.clone()).collect(),
        };
        self.flying_ops += ops.len();
        self.flying.push_back(Frame {
            seq: self.last_seq,
            sent_at,
            ops,
        });
        Some(write)
    }

    /// The manager acknowledged a frame. Answers come in the order of the operations.
    pub(crate) fn acknowledge(&mut self, ack: v1::WriteAck) -> Result<Vec<Answer>, BadAck> {
        let expected = self.flying.front().map(|frame| frame.seq);
        if expected != Some(ack.seq) {
            return Err(BadAck::Order { got: ack.seq, expected });
        }
        let sent = self.flying.front().map_or(0, |frame| frame.ops.len());
        if sent != ack.results.len() {
            return Err(BadAck::Count {
                seq: ack.seq,
                sent,
                answered: ack.results.len(),
            });
        }
        let Some(frame) = self.flying.pop_front() else {
            return Ok(Vec::new());
        };
        self.flying_ops -= sent;
        let answers = frame.ops.into_iter().zip(ack.results).map(|(op, result)| Answer {
            id: op.id,
            attempt: op.attempt,
            kind: op.kind,
            verdict: from_wire::verdict(result, frame.sent_at),
        });
        Ok(answers.collect())
    }

    /// Everything in flight goes back to the head of the queue, in order. Sequence numbers begin
    /// anew with the next session.
    pub(crate) fn connection_lost(&mut self) {
        while let Some(frame) = self.flying.pop_back() {
            for op in frame.ops.into_iter().rev() {
                self.urgent += usize::from(!op.kind.is_patient());
                self.waiting.push_front(op);
            }
        }
        self.flying_ops = 0;
        self.last_seq = 0;
    }
}

#[cfg(test)]
#[path = "write_queue_tests.rs"]
mod tests;
