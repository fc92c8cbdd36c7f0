//! The identity that is in use, and the one that takes its place. Where identities are kept over restarts, the next one
//! is on disk before it is used: its first use ends the one before it at the manager, and what is on disk has to let
//! the agent in again, whenever it is killed. What cannot be written is tried again, and told of, for as long as the one
//! before it lasts; in the last tenth of that one's life the next is used all the same, for an agent that works until
//! it is started again is better than none.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tracing::{error, info, warn};
use zeroize::Zeroizing;

use crate::identity::{Identity, unix_now};
use crate::join_proof::ProofSource;

/// A write that failed is tried again after this, and each further one after twice as long, up to the longest.
const TRY_AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));

/// A disk that has not answered by then counts as one that refuses.
pub(crate) const WRITTEN_WITHIN: Duration = Duration::from_secs(10);

/// Where an identity is kept over restarts.
#[async_trait]
pub trait Keeper: Send + Sync {
    /// Writes it, so that it is there after a crash of the machine too.
    ///
    /// # Errors
    /// Why it is not there, for people, with the place.
    async fn keep(&self, identity: Arc<Identity>) -> Result<(), String>;

    /// Writes the key of a join (PKCS #8) that is not answered yet. It is there until the identity is.
    ///
    /// # Errors
    /// As for [`Keeper::keep`].
    async fn keep_key(&self, key: Zeroizing<Vec<u8>>) -> Result<(), String>;
}

/// What is there from before, and where what comes is kept.
#[derive(Default)]
pub struct Keeping {
    /// The last identity.
    pub identity: Option<Identity>,
    /// The key (PKCS #8) of a join whose answer was not kept.
    pub joining_key: Option<Zeroizing<Vec<u8>>>,
    /// None: in memory only.
    pub keeper: Option<Arc<dyn Keeper>>,
}

/// How an identity was obtained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// By what can be given again: without it the agent comes back all the same.
    WhatLasts,
    /// By what may be good for no second time: a join token, or a certificate that has ended and is exchanged only until
    /// what it was exchanged for is used.
    WhatIsUsedUp,
}

impl By {
    pub(crate) fn of(proof: &dyn ProofSource) -> Self {
        if proof.lasts() {
            Self::WhatLasts
        } else {
            Self::WhatIsUsedUp
        }
    }
}

/// An identity that is not on disk yet.
#[derive(Clone)]
struct Next {
    identity: Arc<Identity>,
    by: By,
    /// Since 1970: from then on it is used all the same.
    use_at: Duration,
    is_used: bool,
    /// Why it could not be written; empty: not tried yet.
    why: String,
}

/// See the module.
pub(crate) struct Held {
    in_use: watch::Sender<Option<Arc<Identity>>>,
    /// The manager has refused it: it has to be exchanged before it is used again.
    doubted: Mutex<bool>,
    keeper: Option<Arc<dyn Keeper>>,
    next: watch::Sender<Option<Next>>,
    /// What was obtained later is written later.
    writing: tokio::sync::Mutex<()>,
}

impl Held {
    pub(crate) fn new(identity: Option<Identity>, keeper: Option<Arc<dyn Keeper>>) -> Self {
        Self {
            in_use: watch::Sender::new(identity.map(Arc::new)),
            doubted: Mutex::new(false),
            keeper,
            next: watch::Sender::new(None),
            writing: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn in_use(&self) -> Option<Arc<Identity>> {
        self.in_use.borrow().clone()
    }

    pub(crate) fn keeper(&self) -> Option<&dyn Keeper> {
        self.keeper.as_deref()
    }

    /// The manager does not take it any more.
    pub(crate) fn doubt(&self) {
        *self.doubted.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// Can what is in use be shown?
    pub(crate) fn is_good(&self) -> bool {
        let is_doubted = *self.doubted.lock().unwrap_or_else(PoisonError::into_inner);
        !is_doubted && self.in_use().is_some_and(|identity| !identity.is_over(unix_now()))
    }

    /// Takes what was obtained: to disk, and then to use.
    ///
    /// # Errors
    /// It is not on disk, and is not used before. It is tried again without the caller.
    pub(crate) async fn put(&self, identity: Identity, by: By) -> Result<(), String> {
        let use_at = match (by, self.in_use()) {
            (By::WhatLasts, Some(now)) if self.is_good() => now.last_tenth(),
            (By::WhatLasts, _) => Duration::ZERO,
            (By::WhatIsUsedUp, _) => identity.last_tenth(),
        };
        self.next.send_replace(Some(Next {
            identity: Arc::new(identity),
            by,
            use_at,
            is_used: false,
            why: String::new(),
        }));
        let written = self.write().await;
        if self.next.borrow().as_ref().is_none_or(|next| next.is_used) {
            return Ok(());
        }
        written
    }

    /// Uses what is not on disk yet where nothing that is in use is good any more; answers whether something is used now.
    ///
    /// # Errors
    /// There is something, and it is not used before it is on disk.
    pub(crate) fn make_do(&self) -> Result<bool, String> {
        let next = self.next.borrow().clone();
        let Some(next) = next.filter(|next| !next.is_used) else {
            return Ok(false);
        };
        let now = unix_now();
        if next.by == By::WhatIsUsedUp && now < next.use_at {
            return Err(next.why);
        }
        self.take_unwritten(&next);
        Ok(!next.identity.is_over(now))
    }

    /// Waits until what was obtained last is in use.
    pub(crate) async fn settled(&self) {
        let mut next = self.next.subscribe();
        // The sender is our own.
        let _ = next
            .wait_for(|next| next.as_ref().is_none_or(|next| next.is_used))
            .await;
    }

    /// Tries again to write what could not be written, for as long as the agent lives.
    pub(crate) async fn keep_up(&self) {
        let mut next = self.next.subscribe();
        let mut delay = TRY_AGAIN.0;
        while let Ok(waiting) = next.wait_for(Option::is_some).await.map(|next| next.clone()) {
            let is_unused = waiting.filter(|next| !next.is_used);
            let left = is_unused.map_or(Duration::MAX, |next| next.use_at.saturating_sub(unix_now()));
            // Past that moment it is in use, if it was possible at all.
            let wait = if left.is_zero() { delay } else { delay.min(left) };
            tokio::time::sleep(wait).await;
            delay = match self.write().await {
                Ok(()) => TRY_AGAIN.0,
                Err(_) => (delay * 2).min(TRY_AGAIN.1),
            };
        }
    }

    /// Writes what is not on disk yet; what is there is put to use.
    ///
    /// # Errors
    /// Why it is still not there.
    pub(crate) async fn write(&self) -> Result<(), String> {
        let _one_at_a_time = self.writing.lock().await;
        let Some(next) = self.next.borrow().clone() else {
            return Ok(());
        };
        let written = match &self.keeper {
            None => Ok(()),
            Some(keeper) => {
                let written = tokio::time::timeout(WRITTEN_WITHIN, keeper.keep(Arc::clone(&next.identity))).await;
                written.unwrap_or_else(|_| Err(format!("the disk has not answered within {WRITTEN_WITHIN:?}")))
            }
        };
        let is_same = |now: &Option<Next>| {
            now.as_ref()
                .is_some_and(|now| Arc::ptr_eq(&now.identity, &next.identity))
        };
        match &written {
            Ok(()) => {
                if self.keeper.is_some() {
                    info!(not_after_ms = next.identity.not_after_ms, "the certificate is kept");
                }
                if !next.is_used {
                    self.take(&next.identity);
                }
                self.next.send_if_modified(|now| {
                    let is_done = is_same(now);
                    if is_done {
                        *now = None;
                    }
                    is_done
                });
            }
            Err(why) => {
                error!(%why, "a new certificate is not on disk; it is tried again: make room in the state folder");
                self.next.send_if_modified(|now| match now {
                    Some(now) if Arc::ptr_eq(&now.identity, &next.identity) => {
                        now.why.clone_from(why);
                        true
                    }
                    _ => false,
                });
                if !next.is_used && next.use_at <= unix_now() {
                    self.take_unwritten(&next);
                }
            }
        }
        written
    }

    fn take_unwritten(&self, next: &Next) {
        warn!(
            "a certificate that is not on disk is used all the same, for nothing else lasts; an agent that is started \
             again before it is there has to join anew"
        );
        self.take(&next.identity);
        self.next.send_if_modified(|now| match now {
            Some(now) if Arc::ptr_eq(&now.identity, &next.identity) => {
                now.is_used = true;
                true
            }
            _ => false,
        });
    }

    fn take(&self, identity: &Arc<Identity>) {
        *self.doubted.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.in_use.send_replace(Some(Arc::clone(identity)));
    }

    /// What people should see: something is not on disk.
    pub(crate) fn warning(&self) -> Option<String> {
        let next = self.next.borrow();
        let next = next.as_ref().filter(|next| !next.why.is_empty())?;
        let then = if next.is_used {
            "it is in use, and an agent that is started again before it is written has to join anew"
        } else {
            "until it is, the one before it is used, as long as that lasts"
        };
        Some(format!(
            "the agent's new certificate is not on disk ({}): make room in the state folder; {then}",
            next.why
        ))
    }
}

#[cfg(test)]
#[path = "held_tests.rs"]
mod tests;
