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
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use deputy_task::attempt::AttemptRef;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::instance_folder::InstanceFolder;
use crate::queue::LogQueue;

const MIB: u64 = 1024 * 1024;

/// How long a disk that refused a segment is left alone.
const DISK_RETRY: Duration = Duration::from_secs(5);

/// Where the spool is and how large it may become. All sizes are bytes of encoded records.
#[derive(Debug, Clone)]
pub struct SpoolConfig {
    /// The folder that all agents of this machine may share; each makes its own within.
    pub folder: PathBuf,
    /// One attempt's log that is not acknowledged yet.
    pub attempt_cap_bytes: u64,
    /// All logs together.
    pub total_cap_bytes: u64,
    /// What goes to disk at once.
    pub segment_bytes: u64,
    /// What one attempt keeps in memory before segments go to disk.
    pub attempt_memory_bytes: u64,
    /// What all attempts together keep in memory.
    pub total_memory_bytes: u64,
}

impl SpoolConfig {
    /// The usual sizes: 256 MiB an attempt, 2 GiB in all, of which 32 MiB in memory.
    #[must_use]
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            attempt_cap_bytes: 256 * MIB,
            total_cap_bytes: 2048 * MIB,
            segment_bytes: MIB,
            attempt_memory_bytes: 4 * MIB,
            total_memory_bytes: 32 * MIB,
        }
    }
}

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

/// How far one attempt's log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogStatus {
    /// Everything before it is acknowledged.
    pub acked: u64,
    /// Everything before it has been written.
    pub end: u64,
    /// Given when nothing more will be written.
    pub total: Option<LogTotal>,
}

/// The whole of a finished log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogTotal {
    /// Bytes of records.
    pub bytes: u64,
    /// CRC-32 (IEEE) over all of them.
    pub crc32: u32,
}

/// Whole records from somewhere in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPiece {
    /// Where `data` begins.
    pub offset: u64,
    /// Whole records; empty if there is nothing new.
    pub data: Bytes,
    /// Given if the log is finished and `data` reaches its end.
    pub total: Option<LogTotal>,
}

/// A piece of log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is no log of this attempt (nothing written, or forgotten).
    #[error("there is no log of attempt {attempt}")]
    NoLog {
        /// Whose.
        attempt: AttemptRef,
    },
    /// It was acknowledged before and is gone; the reader asks for what it had confirmed.
    #[error("log offset {offset} is gone; the oldest that is kept is {oldest}")]
    Gone {
        /// As asked.
        offset: u64,
        /// The oldest offset that can be read.
        oldest: u64,
    },
    /// It has not been written.
    #[error("log offset {offset} is past the end, which is {end}")]
    PastEnd {
        /// As asked.
        offset: u64,
        /// The end.
        end: u64,
    },
    /// The offset is not where a record begins, or the file was damaged.
    #[error("no log record begins at offset {offset}")]
    NotARecord {
        /// As asked.
        offset: u64,
    },
    /// A segment cannot be read back from disk.
    #[error("cannot read the log spool")]
    Disk(#[source] io::Error),
}

/// The queue. Cheap to clone; clones are the same spool.
#[derive(Clone)]
pub struct Spool {
    shared: Arc<SpoolShared>,
    /// Apart from `shared`, which every queue holds: the folder goes with the last of them.
    queues: Arc<Mutex<HashMap<AttemptRef, Arc<LogQueue>>>>,
}

/// What the queues of all attempts share.
pub(crate) struct SpoolShared {
    pub(crate) config: SpoolConfig,
    folder: InstanceFolder,
    changed: Mutex<Vec<AttemptRef>>,
    wake: Notify,
    /// Bytes kept, in memory and on disk.
    pub(crate) kept: AtomicU64,
    /// Of these, in memory.
    pub(crate) in_memory: AtomicU64,
    /// Bytes not acknowledged.
    pub(crate) unacked: AtomicU64,
    next_file: AtomicU64,
    disk_trouble: Mutex<Option<(Instant, String)>>,
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
        let shared = SpoolShared {
            config,
            folder,
            changed: Mutex::default(),
            wake: Notify::new(),
            kept: AtomicU64::new(0),
            in_memory: AtomicU64::new(0),
            unacked: AtomicU64::new(0),
            next_file: AtomicU64::new(0),
            disk_trouble: Mutex::new(None),
        };
        Ok(Self {
            shared: Arc::new(shared),
            queues: Arc::default(),
        })
    }

    /// The attempts that were written to or finished since the last call; waits for one. For one
    /// reader. Cancel-safe.
    pub async fn changed(&self) -> Vec<AttemptRef> {
        loop {
            let wake = self.shared.wake.notified();
            let changed = std::mem::take(&mut *lock(&self.shared.changed));
            if !changed.is_empty() {
                let queues = lock(&self.queues);
                for attempt in &changed {
                    if let Some(queue) = queues.get(attempt) {
                        queue.announced.store(false, Ordering::Release);
                    }
                }
                return changed;
            }
            wake.await;
        }
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
        lock(&self.shared.disk_trouble)
            .as_ref()
            .map(|(_, warning)| warning.clone())
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

impl SpoolShared {
    /// Tells the reader, once until it has asked.
    pub(crate) fn announce(&self, queue: &LogQueue) {
        if !queue.announced.swap(true, Ordering::AcqRel) {
            lock(&self.changed).push(queue.attempt.clone());
            self.wake.notify_one();
        }
    }

    /// A name that no segment has had.
    pub(crate) fn new_segment_path(&self) -> PathBuf {
        self.folder.path().join(format!(
            "{:016}.segment",
            self.next_file.fetch_add(1, Ordering::Relaxed)
        ))
    }

    /// May the disk be tried? Not right after it refused.
    pub(crate) fn disk_may_work(&self) -> bool {
        lock(&self.disk_trouble)
            .as_ref()
            .is_none_or(|(since, _)| since.elapsed() >= DISK_RETRY)
    }

    /// Remembers how the disk answered, and warns when that changes.
    pub(crate) fn disk_answered(&self, answer: &io::Result<()>) {
        let mut trouble = lock(&self.disk_trouble);
        match answer {
            Ok(()) => {
                if trouble.take().is_some() {
                    tracing::info!(folder = %self.folder.path().display(), "the log spool can write again");
                }
            }
            Err(error) => {
                let warning = format!(
                    "the log spool cannot write to {}: {error}; logs may get gaps",
                    self.folder.path().display()
                );
                if trouble.is_none() {
                    tracing::warn!("{warning}");
                }
                *trouble = Some((Instant::now(), warning));
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
