//! Slots: how many attempts at the same time. A slot is free again before the result is sent, so
//! that the next assignment, which may come with its acknowledgement, is not refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The slots of an executor.
#[derive(Debug, Clone)]
pub(crate) struct Slots {
    taken: Arc<AtomicU32>,
    limit: u32,
}

/// A slot in use; free again when dropped.
#[derive(Debug)]
pub(crate) struct Slot(Arc<AtomicU32>);

impl Slots {
    pub(crate) fn new(limit: u32) -> Self {
        Self {
            taken: Arc::new(AtomicU32::new(0)),
            limit,
        }
    }

    /// One more, if there is one. Called by one owner only.
    pub(crate) fn take(&self) -> Option<Slot> {
        if self.free() == 0 {
            return None;
        }
        self.taken.fetch_add(1, Ordering::AcqRel);
        Some(Slot(Arc::clone(&self.taken)))
    }

    /// How many are free.
    pub(crate) fn free(&self) -> u32 {
        self.limit.saturating_sub(self.taken.load(Ordering::Acquire))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
