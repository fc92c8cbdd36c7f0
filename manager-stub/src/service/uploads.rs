//! How many blobs and bundles may come in at the same time, and for how long. Without bounds a caller that
//! stalls keeps a file and a connection for ever, and a hundred of them fill the disk with halves.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::Status;

/// How long an upload may take, and how many there may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadLimits {
    /// Between two pieces, and before the first. Also how long an upload waits for its turn.
    pub idle: Duration,
    /// From the first piece to the last.
    pub total: Duration,
    /// At the same time; each has a file and up to one stream window in memory.
    pub at_once: usize,
}

impl Default for UploadLimits {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(30),
            // The largest blob, 1 GiB, at 5 Mbit/s.
            total: Duration::from_secs(30 * 60),
            at_once: 16,
        }
    }
}

/// The places of uploads. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Uploads {
    limits: UploadLimits,
    places: Arc<Semaphore>,
}

impl Uploads {
    /// As many places as the limits say.
    #[must_use]
    pub fn new(limits: UploadLimits) -> Self {
        let places = Arc::new(Semaphore::new(limits.at_once));
        Self { limits, places }
    }

    pub(super) fn limits(&self) -> &UploadLimits {
        &self.limits
    }

    /// Waits for a place, not for ever.
    pub(super) async fn place(&self) -> Result<SemaphorePermit<'_>, Status> {
        match tokio::time::timeout(self.limits.idle, self.places.acquire()).await {
            Ok(Ok(place)) => Ok(place),
            // The places are never closed; to a caller both mean the same.
            Ok(Err(_)) | Err(_) => Err(Status::resource_exhausted(format!(
                "{} uploads are under way already; nothing was stored, try again in a moment",
                self.limits.at_once
            ))),
        }
    }
}
