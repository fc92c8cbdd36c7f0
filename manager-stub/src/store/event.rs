//! What happened to a task, in commit order: the journal's records and every change of state.

use bytes::Bytes;
use deputy_task::attempt::{Epoch, Run};
use deputy_task::id::AgentId;
use deputy_task::state::TaskState;

use super::clock::StoreTime;
use super::task::TaskKey;

/// A place in the sequence of events; grows with every event, over all projects.
pub type Sequence = u64;

/// One event, as it is stored. The state beside it is the task's after the event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Where it stands in the sequence.
    pub sequence: Sequence,
    /// Whose.
    pub key: TaskKey,
    /// Counts the events of this task.
    pub revision: u64,
    /// When.
    pub at: StoreTime,
    /// What, see [`kind`].
    pub kind: String,
    /// For people.
    pub message: String,
    /// The run.
    pub run: Run,
    /// The newest attempt.
    pub epoch: Epoch,
    /// The state.
    pub state: TaskState,
    /// The agent of the newest attempt.
    pub agent: Option<AgentId>,
    /// The condition beside the state.
    pub condition: String,
    /// The encoded `deputy.v1.Record` of a journal event.
    pub record: Option<Bytes>,
}

/// An event before it has a place in the sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// What.
    pub kind: &'static str,
    /// For people.
    pub message: String,
    /// The encoded record of a journal event.
    pub record: Option<Bytes>,
}

/// The kinds of events.
pub mod kind {
    /// It was submitted.
    pub const SUBMITTED: &str = "submitted";
    /// It was offered to an agent.
    pub const ASSIGNED: &str = "assigned";
    /// The offer was not taken.
    pub const UNASSIGNED: &str = "unassigned";
    /// An agent was granted the start.
    pub const STARTED: &str = "started";
    /// An agent handed it back.
    pub const RELEASED: &str = "released";
    /// The agent's lease ran out.
    pub const LOST: &str = "lost";
    /// The lost agent is back.
    pub const REATTACHED: &str = "reattached";
    /// It stays with its lost agent until somebody decides.
    pub const HELD: &str = "held";
    /// It goes on elsewhere.
    pub const REQUEUED: &str = "requeued";
    /// An operator decided about it.
    pub const RESOLVED: &str = "resolved";
    /// Somebody wished it to be cancelled.
    pub const CANCEL_WISHED: &str = "cancelWished";
    /// The next run began.
    pub const RETRIED: &str = "retried";
    /// A journal record: an intent.
    pub const INTENT: &str = "intent";
    /// A journal record: a result.
    pub const DONE: &str = "done";
    /// A journal record: a fact.
    pub const FACT: &str = "fact";
    /// A journal record: a decision.
    pub const DECISION: &str = "decision";
    /// A result that came from an attempt that was not the current one any more.
    pub const EVIDENCE: &str = "evidence";
    /// It ended.
    pub const ENDED: [&str; 6] = ["succeeded", "failed", "cancelled", "timedOut", "expired", "rejected"];
}
