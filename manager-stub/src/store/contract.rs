//! The contract of a store.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use deputy_task::attempt::{Epoch, Run};
use deputy_task::id::{AgentId, Project, TaskId};
use deputy_task::state::TaskState;

use super::clock::StoreTime;
use super::event::{Event, Sequence};
use super::oidc_key::OidcKeyRow;
use super::op::{Applied, InstanceRow, LogExtent, Op, TrustRow};
use super::task::{TaskHead, TaskKey, TaskSpec};

/// The writing side of a store. There is one per store, in one thread.
pub trait Store: Send {
    /// Applies the operations in order, in one transaction, and answers each when all are on disk.
    ///
    /// # Errors
    /// Nothing was changed. The store can be used again: the next call may succeed.
    fn apply(&mut self, now: StoreTime, batch: Vec<Op>) -> Result<Applied, StoreError>;

    /// The reading side. Reads see everything that was answered before they began.
    fn reads(&self) -> Arc<dyn Reads>;
}

/// The reading side of a store; shared by everyone, blocking.
pub trait Reads: Send + Sync {
    /// What is known about the store itself.
    ///
    /// # Errors
    /// If the store cannot be read. The same for every method.
    fn meta(&self) -> Result<Meta, StoreError>;
    /// Every live task, oldest first. Small documents are included, large ones are empty.
    fn live(&self) -> Result<Vec<TaskRow>, StoreError>;
    /// One task, without its document.
    fn task(&self, key: &TaskKey) -> Result<Option<TaskRow>, StoreError>;
    /// The run and the agent of an attempt, however long ago it was; `None` if there was none.
    fn assignee(&self, key: &TaskKey, epoch: Epoch) -> Result<Option<(Run, AgentId)>, StoreError>;
    /// The tasks of a project whose newest attempt is this agent's and has not ended, without their documents.
    fn held_by(&self, project: &Project, agent: &AgentId) -> Result<Vec<TaskRow>, StoreError>;
    /// The canonical document of a task.
    fn document(&self, key: &TaskKey) -> Result<Option<Bytes>, StoreError>;
    /// At most two tasks whose id begins with `prefix`.
    fn find(&self, project: &Project, prefix: &str) -> Result<Vec<TaskId>, StoreError>;
    /// Tasks, newest first, without their documents.
    fn list(&self, query: &ListQuery) -> Result<Vec<TaskRow>, StoreError>;
    /// The encoded records of a run, in commit order; of repetitions only the last.
    fn journal(&self, key: &TaskKey, run: Run) -> Result<Vec<Bytes>, StoreError>;
    /// Events after a place in the sequence, in order.
    fn events(&self, query: &EventQuery) -> Result<Vec<Event>, StoreError>;
    /// The newest event of all.
    fn newest_event(&self) -> Result<Sequence, StoreError>;
    /// Every agent instance that is remembered.
    fn instances(&self) -> Result<Vec<InstanceRow>, StoreError>;
    /// The logs of a task's attempts, by epoch.
    fn log_streams(&self, key: &TaskKey) -> Result<Vec<LogStreamRow>, StoreError>;
    /// Pieces of an attempt's log that end after `offset`, in order.
    fn log_extents(&self, key: &TaskKey, epoch: Epoch, offset: u64) -> Result<Vec<LogExtent>, StoreError>;
    /// The newest segment and the end of its committed bytes.
    fn log_end(&self) -> Result<Option<(u64, u64)>, StoreError>;
    /// Everything that is remembered of people, rules and agents.
    fn trust(&self) -> Result<Vec<TrustRow>, StoreError>;
    /// The size of a blob.
    fn blob(&self, project: &Project, sha256: &str) -> Result<Option<u64>, StoreError>;
    /// The signing keys of the OIDC issuer, in the order in which they sign.
    fn oidc_keys(&self) -> Result<Vec<OidcKeyRow>, StoreError>;
}

/// What is known about a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Another one after a restore.
    pub generation: u64,
    /// No commit was made later than then.
    pub high_water: StoreTime,
    /// The longest lease ever given.
    pub longest_lease: Duration,
}

/// A task as it is read.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskRow {
    /// What never changes.
    pub spec: TaskSpec,
    /// What does.
    pub head: TaskHead,
}

/// The log of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogStreamRow {
    /// The run.
    pub run: Run,
    /// The attempt.
    pub epoch: Epoch,
    /// Everything before it is on disk.
    pub committed: u64,
    /// CRC-32 of the log so far.
    pub crc32: u32,
    /// It is complete, and its checksum agrees.
    pub complete: bool,
}

/// Which tasks to list.
#[derive(Debug, Clone)]
pub struct ListQuery {
    /// The tenant.
    pub project: Project,
    /// Only these; empty for all.
    pub states: Vec<TaskState>,
    /// Only tasks that are older than this one.
    pub before: Option<TaskId>,
    /// At most this many.
    pub limit: usize,
}

/// Which events to read.
#[derive(Debug, Clone)]
pub struct EventQuery {
    /// The tenant.
    pub project: Project,
    /// Only this task's.
    pub task: Option<TaskId>,
    /// Only later ones.
    pub after: Sequence,
    /// At most this many.
    pub limit: usize,
}

/// The store could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk is full. Everything that was answered is safe; try again when there is space.
    #[error("the disk under the manager's database is full")]
    Full,
    /// Another process has the database. End it, or use another data folder.
    #[error("another manager is using {0}; end it, or give this one a data folder of its own")]
    InUse(String),
    /// The database was written by a newer manager. Use that one.
    #[error("the database has schema version {found}, this manager knows versions up to {known}")]
    TooNew {
        /// What was found.
        found: u32,
        /// What is known.
        known: u32,
    },
    /// The SQLite that was linked has a known fault.
    #[error("SQLite {0} is linked; 3.51.3 or later is needed (older ones can corrupt a WAL database)")]
    OldSqlite(&'static str),
    /// A stored value cannot be read.
    #[error("the stored {what} {value:?} cannot be read")]
    Corrupt {
        /// What it should be.
        what: &'static str,
        /// What was found.
        value: String,
    },
    /// What was committed is gone from disk. Reading it again does not bring it back.
    #[error("{what} of {path} is gone from the manager's disk")]
    Gone {
        /// What of the file.
        what: &'static str,
        /// Which file.
        path: String,
        /// How that was seen.
        #[source]
        source: std::io::Error,
    },
    /// A file of the store cannot be used.
    #[error("cannot {what} {path}")]
    File {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// SQLite failed.
    #[error("SQLite failed: {0}")]
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::Full,
            _ => Self::Sqlite(error),
        }
    }
}
