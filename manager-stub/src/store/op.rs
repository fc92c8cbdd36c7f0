//! The operations of the store, and their answers. A batch of them is applied in order, in one
//! transaction that is on disk when the answers are given.

use std::time::Duration;

use bytes::Bytes;
use deputy_proto::v1;
use deputy_task::attempt::{AttemptRef, Epoch, Run};
use deputy_task::id::{AgentId, InstanceId, Project, TaskId};

use super::clock::StoreTime;
use super::event::Sequence;
use super::oidc_key::OidcKeyRow;
use super::task::{Resolve, TaskHead, TaskKey, TaskSpec};

/// One operation.
#[derive(Debug, Clone)]
pub enum Op {
    /// Queue a task. Answered by [`OpResult::Submitted`] or [`OpResult::OtherContent`].
    Submit {
        /// The client's id for this submission; unique within the project.
        request: String,
        /// SHA-256 of everything that was submitted.
        content: [u8; 32],
        /// The task.
        spec: Box<TaskSpec>,
    },
    /// QUEUED to ASSIGNED, epoch + 1, if `epoch` is still the task's. Answered by [`OpResult::Task`].
    Assign {
        /// Which task.
        key: TaskKey,
        /// The epoch that the scheduler saw.
        epoch: Epoch,
        /// To whom.
        agent: AgentId,
        /// To which of its instances.
        instance: InstanceId,
        /// How long it may take to start.
        start_deadline: Duration,
    },
    /// A write of an attempt, fenced by (task, run, epoch, instance). Answered by [`OpResult::Written`].
    Write {
        /// Whose.
        attempt: AttemptRef,
        /// The instance that the session speaks for.
        instance: InstanceId,
        /// What.
        write: Write,
    },
    /// What the manager itself does to a task. Answered by [`OpResult::Task`].
    Manage {
        /// Which task.
        key: TaskKey,
        /// What.
        change: Change,
    },
    /// An agent instance says hello.
    RegisterInstance(Box<InstanceRow>),
    /// The lease of an instance now lasts until then (never shorter than before).
    RenewLease {
        /// The agent.
        agent: AgentId,
        /// Its instance.
        instance: InstanceId,
        /// Until when.
        until: StoreTime,
    },
    /// An instance should drain. Answered by [`OpResult::Done`].
    WishDrain {
        /// The agent.
        agent: AgentId,
        /// Its instance.
        instance: InstanceId,
        /// For people; never empty.
        reason: String,
    },
    /// Bytes of an attempt's log are in a segment. Answered by [`OpResult::Done`].
    AppendLog(Box<LogExtent>),
    /// A blob is in its file. Answered by [`OpResult::Done`].
    PutBlob {
        /// The tenant.
        project: Project,
        /// SHA-256, lower-case hex.
        sha256: String,
        /// Its size.
        size_bytes: u64,
    },
    /// Change what the manager remembers of people, rules and agents: all of it or nothing. Answered by
    /// [`OpResult::Done`], or by [`Missed::NotNow`] if something is not what the caller saw.
    Trust(Vec<TrustChange>),
    /// Keep a signing key of the OIDC issuer; its own, whatever the project. Answered by [`OpResult::Done`].
    PutOidcKey(Box<OidcKeyRow>),
    /// Forget a signing key of the OIDC issuer. Answered by [`OpResult::Done`].
    ForgetOidcKey {
        /// Its id.
        kid: String,
    },
    /// Forget instances whose lease ended before then and that no live task names.
    ForgetInstances {
        /// Before when.
        before: StoreTime,
    },
}

/// A write of an attempt.
#[derive(Debug, Clone)]
pub enum Write {
    /// ASSIGNED to RUNNING.
    Start,
    /// Append to the journal.
    Append(Box<v1::Record>),
    /// The run has ended.
    Complete(Box<v1::Result>),
    /// RUNNING to QUEUED, with the journal.
    Release {
        /// For people.
        reason: String,
    },
    /// ASSIGNED to QUEUED, or to REJECTED.
    Refuse {
        /// For people.
        reason: String,
        /// Nobody should be offered it again; tell the deployer this.
        permanent: Option<Box<v1::Failure>>,
    },
}

/// What the manager does to a task by itself or for a user.
#[derive(Debug, Clone)]
pub enum Change {
    /// ASSIGNED to QUEUED, if the attempt is still the newest.
    Unassign {
        /// The attempt.
        epoch: Epoch,
        /// For people.
        reason: String,
    },
    /// LOST to RUNNING, if the attempt is still the newest and this instance's.
    Reattach {
        /// The run.
        run: Run,
        /// The attempt.
        epoch: Epoch,
        /// Whose.
        instance: InstanceId,
    },
    /// RUNNING to LOST, if the attempt is still the newest.
    Lose {
        /// The attempt.
        epoch: Epoch,
        /// For people.
        reason: String,
    },
    /// LOST to QUEUED, if policy or an operator says so and nothing can be in flight any more.
    GiveAway {
        /// The attempt.
        epoch: Epoch,
        /// When the lease of its instance ended.
        lease_until: StoreTime,
        /// Kept between the end of what could be in flight and the next assignment.
        guard: Duration,
        /// How long a killed child may take to be gone.
        kill_grace: Duration,
    },
    /// QUEUED to EXPIRED, if its run was never started and has waited that long.
    Expire {
        /// How long a run may wait for its first start.
        queue_timeout: Duration,
    },
    /// Wish a cancel; done at once where nobody runs it and nothing was changed.
    Cancel {
        /// For people.
        reason: String,
    },
    /// The next run of an ended task.
    Retry {
        /// The run that the caller saw; 0 for any.
        seen_run: Run,
    },
    /// An operator decides that a lost task goes on.
    Resolve {
        /// How.
        resolve: Resolve,
        /// For people.
        reason: String,
    },
    /// An operator gives a lost task up.
    GiveUp {
        /// For people.
        reason: String,
    },
}

/// An agent instance, as the store keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct InstanceRow {
    /// The agent.
    pub agent: AgentId,
    /// Its instance.
    pub instance: InstanceId,
    /// Until when its lease lasts.
    pub lease_until: StoreTime,
    /// When it was last heard of.
    pub seen_at: StoreTime,
    /// Its release version.
    pub version: String,
    /// The encoded `deputy.v1.Capabilities`.
    pub capabilities: Bytes,
    /// The wish that it drain; empty for none. Kept when the instance registers again.
    pub drain_wish: String,
    /// The line of keys that it is bound to; empty where nobody is asked who he is.
    pub line: String,
}

/// Something that the manager remembers of people, rules or agents. What is in it, the registry knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustRow {
    /// Which sort of thing, for example `agent`.
    pub kind: String,
    /// Which of them.
    pub name: String,
    /// What is remembered.
    pub body: Bytes,
}

/// One change of a [`TrustRow`]: a compare-and-set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustChange {
    /// Which sort of thing.
    pub kind: &'static str,
    /// Which of them.
    pub name: String,
    /// What it was; `None` if it was not there.
    pub before: Option<Bytes>,
    /// What it is to be; `None` removes it.
    pub after: Option<Bytes>,
}

/// A piece of an attempt's log, in a segment file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogExtent {
    /// Whose.
    pub attempt: AttemptRef,
    /// Where it begins in the attempt's log.
    pub offset: u64,
    /// Its length.
    pub length: u64,
    /// The segment.
    pub segment: u64,
    /// Where it begins in the segment.
    pub position: u64,
    /// CRC-32 of the whole log up to the end of this piece.
    pub crc32: u32,
    /// The log ends here and its checksum agrees.
    pub complete: bool,
}

/// How a write of an attempt was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Done, or had been done by this attempt before.
    Ok,
    /// The attempt is not this one's any more.
    StaleEpoch,
    /// A forward intent after `Decision(undo)`.
    UndoDecided,
    /// The same key with another digest or value.
    Nondeterministic(String),
    /// Malformed, too large, or out of order.
    Invalid(String),
}

/// Why a change of the manager did not happen; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missed {
    /// There is no such task.
    NoSuchTask,
    /// The task is not where it would have to be; the text says where it is.
    NotNow(String),
    /// Another live task holds the exclusive key.
    KeyHeld(TaskId),
    /// Not before then: something may still be in flight.
    NotBefore(StoreTime),
    /// It stays where it is until its agent is back or an operator decides.
    Held,
}

/// The answer to one operation.
#[derive(Debug, Clone, PartialEq)]
pub enum OpResult {
    /// The task is queued.
    Submitted {
        /// The task.
        task: TaskId,
        /// It had been submitted before under this request id.
        existed: bool,
    },
    /// This request id was used for something else.
    OtherContent {
        /// The task it was used for.
        task: TaskId,
    },
    /// The write was judged.
    Written {
        /// How.
        verdict: Verdict,
        /// The task afterwards; `None` if there is none.
        head: Option<Box<TaskHead>>,
    },
    /// The task afterwards.
    Task {
        /// Its head.
        head: Box<TaskHead>,
        /// Records in its journal.
        journal_records: usize,
    },
    /// Not done.
    Missed(Missed),
    /// Done.
    Done,
}

/// What a batch did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Applied {
    /// One per operation, in order.
    pub results: Vec<OpResult>,
    /// Tasks with new events, in commit order; a task may be named more than once.
    pub touched: Vec<TaskKey>,
    /// The newest event.
    pub newest: Sequence,
}
