//! A batch under way: the operations, who waits for each, and what is said when all are on disk.

use deputy_proto::v1;
use deputy_proto::v1::session_response::Frame;
use deputy_task::id::InstanceId;
use tokio::sync::oneshot;

use crate::scheduler::Pick;
use crate::store::op::{Missed, Op};
use crate::store::task::TaskKey;

use super::inbound::{Refused, SessionId, Submitted};

/// Who waits for an operation.
#[derive(Debug)]
pub(super) enum Origin {
    /// A submission.
    Submit {
        key: TaskKey,
        reply: oneshot::Sender<Result<Submitted, Refused>>,
    },
    /// The operation at this place of a Write frame.
    Write { frame: usize, place: usize, key: TaskKey },
    /// The scheduler.
    Assign(Pick),
    /// The manager itself.
    Manage { key: TaskKey },
    /// A user.
    User {
        key: TaskKey,
        reply: oneshot::Sender<Result<(), Refused>>,
    },
    /// A user who wishes that an instance drain.
    Drain {
        instance: InstanceId,
        reason: String,
        reply: oneshot::Sender<Result<(), Refused>>,
    },
    /// The log store or the blob store, by its place in `commits`.
    Stored(usize),
    /// Nobody.
    Quiet,
}

/// A Write frame whose operations are in the batch.
#[derive(Debug)]
pub(super) struct PendingWrite {
    pub(super) session: SessionId,
    pub(super) seq: u64,
    pub(super) results: Vec<v1::WriteResult>,
}

/// Operations of the log store or the blob store that are in the batch.
#[derive(Debug)]
pub(super) struct PendingCommit {
    pub(super) reply: oneshot::Sender<Result<(), Refused>>,
    pub(super) missed: Option<Missed>,
}

/// A batch under way.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) ops: Vec<Op>,
    pub(super) origins: Vec<Origin>,
    pub(super) writes: Vec<PendingWrite>,
    pub(super) frames: Vec<(SessionId, Frame)>,
    pub(super) commits: Vec<PendingCommit>,
}

impl Batch {
    pub(super) fn push(&mut self, op: Op, origin: Origin) {
        self.ops.push(op);
        self.origins.push(origin);
    }

    /// Is there nothing to commit and nothing to say?
    pub(super) fn is_empty(&self) -> bool {
        self.ops.is_empty() && self.writes.is_empty() && self.frames.is_empty() && self.commits.is_empty()
    }
}
