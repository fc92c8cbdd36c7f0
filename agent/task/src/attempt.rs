//! Which attempt a write belongs to: the fence of every operation.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{Project, TaskId};

/// One life of a task from an empty journal; counts from 1.
pub type Run = u32;

/// Counts the attempts of a task over all its runs, from 1. The manager raises it with every
/// assignment, so an old epoch is always a stale one.
pub type Epoch = u64;

/// One agent instance working on one run of one task.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptRef {
    /// The tenant.
    pub project: Project,
    /// The task.
    pub task: TaskId,
    /// The run.
    pub run: Run,
    /// The attempt.
    pub epoch: Epoch,
}

impl fmt::Display for AttemptRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}#{}.{}", self.project, self.task, self.run, self.epoch)
    }
}
