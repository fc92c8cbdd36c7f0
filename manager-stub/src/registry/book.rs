//! The registry: every question is answered from memory, every change is one commit of the store that is seen only
//! when it is on disk.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio_util::task::TaskTracker;

use super::agents::{AgentRecord, CertificateRecord};
use super::grants::Grant;
use super::join_tokens::JoinToken;
use super::table::{Pending, Remembered, Table};
use crate::dispatcher::DispatcherHandle;
use crate::dispatcher::inbound::Refused;
use crate::join::JoinRule;
use crate::store::contract::{Reads, StoreError};
use crate::store::op::{Op, TrustChange};
use crate::trust::authority::Issued;
use crate::trust::peer::Peer;

/// Rules, join tokens and bearer tokens that are remembered, each.
pub(super) const MAX_ROWS: usize = 10_000;

impl Remembered for JoinRule {
    const KIND: &'static str = "join-rule";
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) dispatcher: DispatcherHandle,
    /// What goes on although whoever asked for it has gone; the manager waits for it when it ends.
    pub(super) tasks: TaskTracker,
    pub(super) known: RwLock<Known>,
    /// One change at a time: each is made of what the one before left.
    pub(super) changing: Arc<tokio::sync::Mutex<()>>,
    pub(super) connections: Mutex<HashMap<String, Vec<Peer>>>,
    /// Told after every change of a grant.
    pub(super) grants_changed: tokio::sync::watch::Sender<()>,
}

pub(super) struct Known {
    pub(super) grants: Table<Grant>,
    pub(super) rules: Table<JoinRule>,
    pub(super) join_tokens: Table<JoinToken>,
    pub(super) agents: Table<AgentRecord>,
}

/// A change was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BookError {
    /// There is no such thing.
    #[error("{0}")]
    Missing(String),
    /// There is one already.
    #[error("{0}")]
    Exists(String),
    /// It may not be; the text says why and what to do.
    #[error("{0}")]
    Denied(String),
    /// The agent id is another key's that is heard of; come again after so long.
    #[error("{why}")]
    InUse {
        /// What to do.
        why: String,
        /// When to ask again.
        again: std::time::Duration,
    },
    /// What was asked for makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Too many of them.
    #[error("{0}")]
    Full(String),
    /// The store did not take it.
    #[error("nothing was stored")]
    Store(Refused),
}

/// Changes to several things that are made together.
#[derive(Default)]
pub(super) struct Edit {
    pub(super) grants: Vec<Pending<Grant>>,
    pub(super) rules: Vec<Pending<JoinRule>>,
    pub(super) join_tokens: Vec<Pending<JoinToken>>,
    pub(super) agents: Vec<Pending<AgentRecord>>,
}

impl Edit {
    fn changes(&self) -> Vec<TrustChange> {
        let mut changes: Vec<TrustChange> = Vec::new();
        changes.extend(self.grants.iter().map(|pending| pending.change.clone()));
        changes.extend(self.rules.iter().map(|pending| pending.change.clone()));
        changes.extend(self.join_tokens.iter().map(|pending| pending.change.clone()));
        changes.extend(self.agents.iter().map(|pending| pending.change.clone()));
        changes
    }
}

impl Registry {
    /// Everything that the store remembers.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn load(reads: &dyn Reads, dispatcher: DispatcherHandle, tasks: TaskTracker) -> Result<Self, StoreError> {
        let rows = reads.trust()?;
        let known = Known {
            grants: Table::load(&rows)?,
            rules: Table::load(&rows)?,
            join_tokens: Table::load(&rows)?,
            agents: Table::load(&rows)?,
        };
        Ok(Self {
            shared: Arc::new(Shared {
                dispatcher,
                tasks,
                known: RwLock::new(known),
                changing: Arc::default(),
                connections: Mutex::default(),
                grants_changed: tokio::sync::watch::Sender::new(()),
            }),
        })
    }

    pub(super) fn look<T>(&self, look: impl FnOnce(&Known) -> T) -> T {
        look(&self.shared.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes one change: decided on what is known, stored, then seen. What was stored is seen, although whoever asked for
    /// it has gone.
    pub(super) async fn change<T>(
        &self,
        decide: impl FnOnce(&Known) -> Result<(Edit, T), BookError> + Send,
    ) -> Result<T, BookError> {
        let one = Arc::clone(&self.shared.changing).lock_owned().await;
        let (edit, answer) = self.look(decide)?;
        let registry = self.clone();
        self.whole(async move {
            let made = registry.make(edit).await;
            drop(one);
            made
        })
        .await?;
        Ok(answer)
    }

    async fn make(&self, edit: Edit) -> Result<(), BookError> {
        let changes = edit.changes();
        if !changes.is_empty() {
            let stored = self.shared.dispatcher.commit(vec![Op::Trust(changes)]).await;
            stored.map_err(BookError::Store)?;
        }
        let is_of_grants = !edit.grants.is_empty();
        let mut known = self.shared.known.write().unwrap_or_else(PoisonError::into_inner);
        edit.grants.into_iter().for_each(|pending| known.grants.see(pending));
        edit.rules.into_iter().for_each(|pending| known.rules.see(pending));
        edit.join_tokens
            .into_iter()
            .for_each(|pending| known.join_tokens.see(pending));
        edit.agents.into_iter().for_each(|pending| known.agents.see(pending));
        drop(known);
        if is_of_grants {
            self.shared.grants_changed.send_replace(());
        }
        Ok(())
    }

    /// Goes on to its end, although whoever waits for it is broken off.
    pub(super) async fn whole<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        match self.shared.tasks.spawn(work).await {
            Ok(done) => done,
            Err(failed) => match failed.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Nobody aborts it: the runtime itself ends.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

pub(super) fn missing(what: &str, name: &str) -> BookError {
    BookError::Missing(format!("there is no {what} {name}"))
}

pub(super) fn room(have: usize, most: usize, what: &str) -> Result<(), BookError> {
    if have < most {
        return Ok(());
    }
    Err(BookError::Full(format!("this manager remembers at most {most} {what}")))
}

pub(super) fn recorded(issued: &Issued) -> CertificateRecord {
    CertificateRecord {
        serial: issued.serial.clone(),
        key: issued.key.clone(),
        line: issued.line.clone(),
        not_before_ms: issued.not_before_ms,
        not_after_ms: issued.not_after_ms,
        used: false,
        superseded_at_ms: None,
        revoked: false,
        token: None,
        repeats: 0,
        admission: None,
    }
}
