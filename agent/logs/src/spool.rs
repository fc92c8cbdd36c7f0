//! The agent's bounded queue of redacted log records, drained by acknowledged offsets.
//!
//! Memory first, disk behind: while the uploader keeps up nothing touches the disk, and what does
//! goes there in segments of a mebibyte. Nothing is synced: the spool is lost with its agent, by
//! design. When a cap is reached the head of the log is kept and a gap record says exactly how much
//! is missing after it. A full disk is such a cap, and never stops a task.
//!
//! Written by [`crate::attempt_log`], read by the session's uploader.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use deputy_task::attempt::AttemptRef;

use crate::instance_folder::InstanceFolder;
use crate::limits::{SpoolConfig, SpoolShared, lock};
use crate::piece::{LogPiece, LogStatus, ReadError};
use crate::queue::LogQueue;

/// The spool's folder cannot be used; the caller should stop at start-up and name it.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {} for the log spool", folder.display())]
pub struct SpoolError {
    /// Which folder.
    pub folder: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// The queue. Cheap to clone; clones are the same spool.
#[derive(Clone)]
pub struct Spool {
    shared: Arc<SpoolShared>,
    /// Apart from `shared`, which every queue holds: the folder goes with the last of them.
    queues: Arc<Mutex<HashMap<AttemptRef, Arc<LogQueue>>>>,
}

impl Spool {
    /// Makes this agent's folder and removes those of agents that are dead.
    ///
    /// # Errors
    /// If the folder cannot be made or locked.
    pub fn open(config: SpoolConfig) -> Result<Self, SpoolError> {
        let folder = InstanceFolder::make(&config.folder).map_err(|source| SpoolError {
            folder: config.folder.clone(),
            source,
        })?;
        let shared = SpoolShared::new(config, folder);
        Ok(Self {
            shared: Arc::new(shared),
            queues: Arc::default(),
        })
    }

    /// The attempts that were written to or finished since the last call; waits for one. For one
    /// reader. Cancel-safe.
    pub async fn changed(&self) -> Vec<AttemptRef> {
        let changed = self.shared.announced().await;
        let queues = lock(&self.queues);
        for attempt in &changed {
            if let Some(queue) = queues.get(attempt) {
                queue.announced.store(false, Ordering::Release);
            }
        }
        changed
    }

    /// Every attempt that has a log here: what to go on with after a reconnect.
    #[must_use]
    pub fn open_logs(&self) -> Vec<AttemptRef> {
        lock(&self.queues).keys().cloned().collect()
    }

    /// How far a log is; `None` if there is none.
    #[must_use]
    pub fn status(&self, attempt: &AttemptRef) -> Option<LogStatus> {
        self.find(attempt).map(|queue| queue.status())
    }

    /// Whole records from `offset` on, at most `max` bytes of them and at least one record.
    /// `offset` is 0 or where an earlier piece ended.
    ///
    /// # Errors
    /// If there is no such log, offset, or the disk cannot be read.
    pub fn read_from(&self, attempt: &AttemptRef, offset: u64, max: usize) -> Result<LogPiece, ReadError> {
        match self.find(attempt) {
            Some(queue) => queue.read_from(offset, max),
            None => Err(ReadError::NoLog {
                attempt: attempt.clone(),
            }),
        }
    }

    /// Everything before `offset` is committed elsewhere: its space is free.
    pub fn acked(&self, attempt: &AttemptRef, offset: u64) {
        if let Some(queue) = self.find(attempt) {
            queue.acked(offset);
        }
    }

    /// The log is complete elsewhere, or refused for good: nothing of it is kept.
    pub fn forget(&self, attempt: &AttemptRef) {
        if let Some(queue) = lock(&self.queues).remove(attempt) {
            queue.forget();
        }
    }

    /// Bytes not acknowledged yet, over all attempts.
    #[must_use]
    pub fn pending_bytes(&self) -> u64 {
        self.shared.unacked.load(Ordering::Relaxed)
    }

    /// Bytes of records that are in memory, over all attempts.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.shared.in_memory.load(Ordering::Relaxed)
    }

    /// What people should see: the disk refuses the spool.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        self.shared.warning()
    }

    /// The queue of an attempt, made on first use.
    pub(crate) fn queue(&self, attempt: &AttemptRef) -> Arc<LogQueue> {
        let mut queues = lock(&self.queues);
        let queue = queues
            .entry(attempt.clone())
            .or_insert_with(|| Arc::new(LogQueue::new(attempt.clone(), Arc::clone(&self.shared))));
        Arc::clone(queue)
    }

    fn find(&self, attempt: &AttemptRef) -> Option<Arc<LogQueue>> {
        lock(&self.queues).get(attempt).cloned()
    }
}
