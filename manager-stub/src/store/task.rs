//! A task as the store keeps it: what never changes ([`TaskSpec`]) and what does ([`TaskHead`]).

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use deputy_task::attempt::{AttemptRef, Epoch, Run};
use deputy_task::document::OnAgentLoss;
use deputy_task::id::{AgentId, InstanceId, Project, TaskId};
use deputy_task::state::TaskState;
use serde::{Deserialize, Serialize};

use super::clock::StoreTime;

/// Names a task; the tenant comes first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskKey {
    /// The tenant.
    pub project: Project,
    /// The task.
    pub task: TaskId,
}

impl TaskKey {
    /// The task of an attempt.
    #[must_use]
    pub fn of(attempt: &AttemptRef) -> Self {
        Self {
            project: attempt.project.clone(),
            task: attempt.task.clone(),
        }
    }
}

impl fmt::Display for TaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.project, self.task)
    }
}

/// What a task needs of an agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Needs {
    /// An expression over agent labels; empty for any agent.
    pub selector: String,
    /// Step kinds, sorted, each once.
    pub steps: Vec<String>,
    /// Tools that must work, sorted, each once.
    pub tools: Vec<String>,
}

/// A packed folder that a task uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskBundle {
    /// The source's name in the document.
    pub name: String,
    /// SHA-256 of the packed bytes, lower-case hex.
    pub sha256: String,
    /// Packed size.
    pub size_bytes: u64,
}

/// What never changes about a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskSpec {
    /// Its key.
    pub key: TaskKey,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// Who submitted it.
    pub submitter: String,
    /// When.
    pub submitted_at: StoreTime,
    /// At most one live task per key; empty for no limit.
    pub exclusive_key: String,
    /// What happens when the agent is lost.
    pub on_agent_loss: OnAgentLoss,
    /// How long it may wait in the queue.
    pub queue_timeout: Option<Duration>,
    /// What it needs of an agent.
    pub needs: Needs,
    /// Its packed folders.
    pub bundles: Vec<TaskBundle>,
    /// The canonical document.
    pub document: Bytes,
}

/// What an operator has decided about a lost task and is carried out as soon as nothing can be in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolve {
    /// Go on elsewhere; an interrupted held effect is run again.
    Resume,
    /// Undo elsewhere.
    Rollback,
}

/// What changes about a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskHead {
    /// Where it stands.
    pub state: TaskState,
    /// Its run.
    pub run: Run,
    /// Its newest attempt; 0 before the first.
    pub epoch: Epoch,
    /// The agent of the newest attempt.
    pub agent: Option<AgentId>,
    /// The instance of the newest attempt: part of the fence.
    pub instance: Option<InstanceId>,
    /// A condition beside the state, for people.
    pub condition: String,
    /// A cancel is wished; empty for none.
    pub cancel: String,
    /// Counts the task's events.
    pub revision: u64,
    /// When it last entered the queue: submitted, retried, or handed back in the middle of its run.
    /// An offer that led to no start does not count.
    pub queued_at: StoreTime,
    /// When this run was first started; zero if not yet.
    pub started_at: StoreTime,
    /// When it ended; zero if not yet.
    pub finished_at: StoreTime,
    /// ASSIGNED: without Start by then it is offered to another agent. QUEUED: until then a request
    /// of the attempt that released it may be in flight. Zero otherwise.
    pub deadline_at: StoreTime,
    /// LOST: what an operator has decided.
    pub resolve: Option<Resolve>,
    /// The encoded `deputy.v1.Result`; empty while the task lives.
    pub result: Bytes,
    /// Attempts that ended with their agents, one after the other up to the newest but one, without
    /// anything new in the journal.
    pub losses: u32,
}

impl TaskHead {
    /// A task that was just submitted.
    #[must_use]
    pub fn queued(now: StoreTime) -> Self {
        Self {
            state: TaskState::Queued,
            run: 1,
            epoch: 0,
            agent: None,
            instance: None,
            condition: String::new(),
            cancel: String::new(),
            revision: 0,
            queued_at: now,
            started_at: StoreTime::ZERO,
            finished_at: StoreTime::ZERO,
            deadline_at: StoreTime::ZERO,
            resolve: None,
            result: Bytes::new(),
            losses: 0,
        }
    }

    /// Does the task hold its exclusive key? From its assignment to its end, and in the queue too
    /// when its run has been started: what is half done keeps others out.
    #[must_use]
    pub fn holds_key(&self) -> bool {
        match self.state {
            TaskState::Queued => self.started_at > StoreTime::ZERO,
            TaskState::Assigned | TaskState::Running | TaskState::Lost | TaskState::Ended(_) => self.state.holds_key(),
        }
    }

    /// The newest attempt.
    #[must_use]
    pub fn attempt(&self, key: &TaskKey) -> AttemptRef {
        AttemptRef {
            project: key.project.clone(),
            task: key.task.clone(),
            run: self.run,
            epoch: self.epoch,
        }
    }
}
