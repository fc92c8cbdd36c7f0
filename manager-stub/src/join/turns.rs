//! Questions to others that strangers can cause: so many at a time, the rest wait a moment for their turn. Without that
//! anybody who reaches the manager could have it ask AWS or a cluster as often as he likes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::unproven::Unproven;

/// Questions at the same time.
const AT_A_TIME: usize = 32;
/// How long one waits for its turn. With the question itself (8 s) it is over before an agent gives up (10 s).
const WAIT: Duration = Duration::from_millis(1500);

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Turns(Arc<Semaphore>);

impl Default for Turns {
    fn default() -> Self {
        Self::new(AT_A_TIME)
    }
}

impl Turns {
    /// So many at a time.
    pub(super) fn new(at_a_time: usize) -> Self {
        Self(Arc::new(Semaphore::new(at_a_time)))
    }

    /// One's turn; it lasts as long as what is answered is kept.
    ///
    /// # Errors
    /// If it does not come soon.
    pub(super) async fn take(&self, whom: &str) -> Result<OwnedSemaphorePermit, Unproven> {
        match tokio::time::timeout(WAIT, Arc::clone(&self.0).acquire_owned()).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) | Err(_) => Err(Unproven::later(
                format!("too many who join have the manager ask {whom} at this moment"),
                "try again in a moment",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::unproven::UnprovenKind;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_more_than_may_ask_at_a_time_waits_and_is_told() {
        let turns = Turns::new(2);
        let first = turns.take("sts").await.expect("free");
        let _second = turns.take("sts").await.expect("free");
        let refused = turns.take("sts").await.expect_err("none is free");
        assert_eq!(refused.kind, UnprovenKind::Later);
        assert!(refused.what.contains("ask sts at this moment"), "{refused}");
        let (third, ()) = tokio::join!(turns.take("sts"), async {
            tokio::time::sleep(WAIT / 2).await;
            drop(first);
        });
        drop(third.expect("its turn comes"));
    }
}
