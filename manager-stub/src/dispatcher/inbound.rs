//! Everything that reaches the dispatcher.

use std::time::Duration;

use deputy_proto::v1;
use deputy_task::id::{AgentId, InstanceId};
use tokio::sync::oneshot;

use crate::scheduler::{Entry, Vouched};
use crate::store::op::{Change, Missed, Op};
use crate::store::task::{TaskKey, TaskSpec};

use super::outbound::Outbound;

/// Names one connection of an agent. Unique per manager process.
pub type SessionId = u64;

/// What carries the frames of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// A stream of HTTP/2.
    Stream,
    /// Long polls, where HTTP/2 is broken on the way.
    Exchange,
}

impl Carrier {
    /// The word for it on the wire.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Exchange => "exchange",
        }
    }
}

/// One message to the dispatcher.
#[derive(Debug)]
pub enum Inbound {
    /// An agent has said hello.
    Hello {
        /// The connection.
        session: SessionId,
        /// What carries its frames.
        carrier: Carrier,
        /// What it said.
        hello: Box<v1::Hello>,
        /// What is known of it by its join.
        vouched: Vouched,
        /// The way back.
        outbound: Outbound,
    },
    /// A later frame of a session.
    Frame {
        /// The connection.
        session: SessionId,
        /// The frame.
        frame: Box<v1::session_request::Frame>,
    },
    /// The connection is gone.
    Closed {
        /// The connection.
        session: SessionId,
    },
    /// A user submits a task.
    Submit {
        /// The submission.
        submission: Box<Submission>,
        /// The answer, after the commit.
        reply: oneshot::Sender<Result<Submitted, Refused>>,
    },
    /// A user wants something of a task.
    Manage {
        /// Which task.
        key: TaskKey,
        /// What.
        change: Change,
        /// The answer, after the commit.
        reply: oneshot::Sender<Result<(), Refused>>,
    },
    /// The log store or the blob store has something to commit.
    Commit {
        /// What.
        ops: Vec<Op>,
        /// The answer, after the commit.
        reply: oneshot::Sender<Result<(), Refused>>,
    },
    /// Why does a task wait?
    Explain {
        /// Which task.
        key: TaskKey,
        /// The answer.
        reply: oneshot::Sender<Explained>,
    },
    /// How does the fleet stand?
    Fleet {
        /// The answer, by agent id.
        reply: oneshot::Sender<Vec<FleetLine>>,
    },
    /// Who speaks under an agent id?
    Presence {
        /// The agent.
        agent: AgentId,
        /// The answer.
        reply: oneshot::Sender<Presence>,
    },
    /// Whose is an instance?
    Holding {
        /// The instance.
        instance: InstanceId,
        /// The answer; none if it is not remembered.
        reply: oneshot::Sender<Option<Holding>>,
    },
    /// Wish that an agent drain.
    Drain {
        /// The agent.
        agent: AgentId,
        /// For people.
        reason: String,
        /// The answer, after the commit.
        reply: oneshot::Sender<Result<(), Refused>>,
    },
    /// End the session of an agent that may not be here any more. Its leases end by themselves, like those of any agent
    /// that is gone.
    Expel {
        /// The agent.
        agent: AgentId,
        /// For programs.
        code: &'static str,
        /// For people.
        reason: String,
        /// A session of this line of keys stays.
        spared: Option<String>,
    },
    /// Time has passed.
    Tick,
    /// End every session, then end.
    Shutdown,
}

/// A task that was checked and waits to be stored.
#[derive(Debug)]
pub struct Submission {
    /// The client's id for it.
    pub request: String,
    /// SHA-256 of everything that was submitted.
    pub content: [u8; 32],
    /// The task. Its time of submission is set by the dispatcher.
    pub spec: TaskSpec,
    /// The task as the scheduler sees it.
    pub entry: Entry,
}

/// The task is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submitted {
    /// The task.
    pub key: TaskKey,
    /// It had been submitted before.
    pub existed: bool,
}

/// Something was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// The request id was used for another task.
    OtherContent(TaskKey),
    /// The store said no.
    Missed(Missed),
    /// No agent has this id.
    NoSuchAgent(AgentId),
    /// The disk is full.
    DiskFull,
    /// The store does not work; the text says why.
    StoreFailed(String),
}

/// Why a task is where it is, as far as agents have to do with it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Explained {
    /// Every agent, and what keeps it from taking the task.
    pub agents: Vec<v1::AgentVerdict>,
    /// What is known of the process that has it; none if none has.
    pub holder: Option<Holder>,
}

/// What is known of the process that has a task. Only that process can go on with a lost one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// It may be running and come back.
    Awaited,
    /// It has ended, or does not have the task any more.
    Gone,
    /// Another process has its agent's id now.
    Replaced,
}

/// Who speaks under an agent id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence {
    /// The process that spoke last; none if none is remembered.
    pub newest: Option<Holding>,
    /// Whoever was not heard of for so long is gone.
    pub silence: Duration,
}

/// An instance, and the line of keys that it is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// The instance.
    pub instance: InstanceId,
    /// The line; empty where nobody is asked who he is.
    pub line: String,
    /// It is taken for gone after so long, if nothing more is heard of it; zero if it is gone.
    pub gone_in: Duration,
}

/// One agent, with one sentence each about what it can and cannot do.
#[derive(Debug, Clone, PartialEq)]
pub struct FleetLine {
    /// The agent.
    pub info: v1::AgentInfo,
    /// About it.
    pub notes: Vec<String>,
}
