//! What the queues of all attempts share: limits, counters, the folder, and who has to be told.
//! Called by the spool and by its queues.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deputy_task::attempt::AttemptRef;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::instance_folder::InstanceFolder;

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

impl SpoolShared {
    pub(crate) fn new(config: SpoolConfig, folder: InstanceFolder) -> Self {
        Self {
            config,
            folder,
            changed: Mutex::default(),
            wake: Notify::new(),
            kept: AtomicU64::new(0),
            in_memory: AtomicU64::new(0),
            unacked: AtomicU64::new(0),
            next_file: AtomicU64::new(0),
            disk_trouble: Mutex::new(None),
        }
    }

    /// Tells the reader, once until it has asked.
    pub(crate) fn announce(&self, announced: &AtomicBool, attempt: &AttemptRef) {
        if !announced.swap(true, Ordering::AcqRel) {
            lock(&self.changed).push(attempt.clone());
            self.wake.notify_one();
        }
    }

    /// The attempts that were announced since the last call; waits for one.
    pub(crate) async fn announced(&self) -> Vec<AttemptRef> {
        loop {
            let wake = self.wake.notified();
            let changed = std::mem::take(&mut *lock(&self.changed));
            if !changed.is_empty() {
                return changed;
            }
            wake.await;
        }
    }

    /// What people should see: the disk refuses the spool.
    pub(crate) fn warning(&self) -> Option<String> {
        lock(&self.disk_trouble).as_ref().map(|(_, warning)| warning.clone())
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

/// What a panicking thread left is still counters and lists.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
