//! The one writer: applies batches, one transaction each, with the heads and journals of live tasks
//! at hand so that a compare-and-set costs no read. The cache is safe because nobody else writes
//! (the lock file) and is thrown away whenever a transaction fails.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use deputy_task::attempt::AttemptRef;
use deputy_task::document::OnAgentLoss;
use deputy_task::id::{AgentId, InstanceId};
use rusqlite::Connection;

use super::reader::SqliteReads;
use super::{migration, open, trust_rows, writer_rows};
use crate::store::clock::StoreTime;
use crate::store::contract::{Reads, Store, StoreError};
use crate::store::event::{NewEvent, Sequence, kind};
use crate::store::journal::Journal;
use crate::store::op::{Applied, Change, Missed, Op, OpResult, Verdict, Write};
use crate::store::rules::Hand;
use crate::store::task::{TaskHead, TaskKey, TaskSpec};

/// The embedded store.
pub struct SqliteStore {
    connection: Connection,
    reads: Arc<SqliteReads>,
    tasks: HashMap<TaskKey, Cached>,
    dirty: Vec<TaskKey>,
    leases: HashMap<(AgentId, InstanceId), StoreTime>,
    events: Vec<NewEvent>,
    sequence: Sequence,
    _lock: File,
}

/// Where the head of a cached task is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    Nowhere,
    Live,
    History,
}

pub(super) struct Cached {
    pub(super) head: TaskHead,
    pub(super) exclusive_key: String,
    pub(super) on_agent_loss: OnAgentLoss,
    pub(super) journal: Option<Journal>,
    pub(super) stored: Stored,
    pub(super) dirty: bool,
}

impl SqliteStore {
    /// Opens or makes the database, takes the lock, and migrates.
    ///
    /// # Errors
    /// If another manager has it, or it cannot be opened, migrated or read.
    pub fn open(database: &Path) -> Result<Self, StoreError> {
        let lock = open::lock(database)?;
        let mut connection = open::writer(database)?;
        migration::migrate(&mut connection)?;
        writer_rows::first_meta(&connection)?;
        let sequence = writer_rows::newest_sequence(&connection)?;
        let reads = Arc::new(SqliteReads::new(database));
        Ok(Self {
            connection,
            reads,
            tasks: HashMap::new(),
            dirty: Vec::new(),
            leases: HashMap::new(),
            events: Vec::new(),
            sequence,
            _lock: lock,
        })
    }

    /// Plays a full disk: no more pages than these.
    #[cfg(test)]
    pub(super) fn limit_pages(&self, pages: Option<u32>) {
        let pages = pages.unwrap_or(u32::MAX >> 1);
        self.connection
            .query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))
            .expect("limited");
    }

    fn transact(&mut self, now: StoreTime, batch: Vec<Op>) -> Result<Applied, StoreError> {
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let mut applied = Applied {
            results: Vec::with_capacity(batch.len()),
            ..Applied::default()
        };
        for op in batch {
            let result = self.one(now, op, &mut applied.touched)?;
            applied.results.push(result);
        }
        for key in self.dirty.drain(..) {
            if let Some(cached) = self.tasks.get_mut(&key)
                && cached.dirty
            {
                writer_rows::save_head(&self.connection, &key, cached)?;
                cached.dirty = false;
                if cached.stored == Stored::History {
                    self.tasks.remove(&key);
                }
            }
        }
        for ((agent, instance), until) in self.leases.drain() {
            writer_rows::renew_lease(&self.connection, (&agent, &instance), until, now)?;
        }
        writer_rows::set_meta(&self.connection, "high_water_ms", now.millis())?;
        writer_rows::set_meta(
            &self.connection,
            "sequence",
            i64::try_from(self.sequence).unwrap_or(i64::MAX),
        )?;
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        applied.newest = self.sequence;
        Ok(applied)
    }

    fn one(&mut self, now: StoreTime, op: Op, touched: &mut Vec<TaskKey>) -> Result<OpResult, StoreError> {
        match op {
            Op::Submit { request, content, spec } => self.submit(now, (&request, &content), *spec, touched),
            Op::Assign {
                key,
                epoch,
                agent,
                instance,
                start_deadline,
            } => {
                let deadline_at = now.after(start_deadline);
                self.hold_key_and(now, &key, touched, |hand| {
                    hand.assign(epoch, agent, instance, deadline_at)
                })
            }
            Op::Write {
                attempt,
                instance,
                write,
            } => self.write(now, (&attempt, &instance), write, touched),
            Op::Manage { key, change } => self.manage(now, &key, change, touched),
            Op::RegisterInstance(row) => {
                writer_rows::register_instance(&self.connection, &row)?;
                writer_rows::remember_lease(&self.connection, row.lease_until.remaining(now))?;
                Ok(OpResult::Done)
            }
            Op::RenewLease { agent, instance, until } => {
                let lease = self.leases.entry((agent, instance)).or_insert(until);
                *lease = (*lease).max(until);
                Ok(OpResult::Done)
            }
            Op::WishDrain {
                agent,
                instance,
                reason,
            } => Ok(
                if writer_rows::wish_drain(&self.connection, (&agent, &instance), &reason)? {
                    OpResult::Done
                } else {
                    OpResult::Missed(Missed::NotNow(format!(
                        "the instance {instance} of {agent} is forgotten"
                    )))
                },
            ),
            Op::AppendLog(extent) => {
                let committed = writer_rows::log_committed(&self.connection, &extent.attempt)?;
                if committed != extent.offset {
                    return Ok(OpResult::Missed(Missed::NotNow(format!(
                        "the log is at {committed} and not {}",
                        extent.offset
                    ))));
                }
                writer_rows::append_log(&self.connection, &extent)?;
                touched.push(TaskKey::of(&extent.attempt));
                Ok(OpResult::Done)
            }
            Op::PutBlob {
                project,
                sha256,
                size_bytes,
            } => {
                writer_rows::put_blob(&self.connection, (&project, &sha256), size_bytes, now)?;
                Ok(OpResult::Done)
            }
            Op::Trust(changes) => trust_rows::apply(&self.connection, &changes),
            Op::PutOidcKey(row) => {
                writer_rows::put_oidc_key(&self.connection, &row)?;
                Ok(OpResult::Done)
            }
            Op::ForgetOidcKey { kid } => {
                writer_rows::forget_oidc_key(&self.connection, &kid)?;
                Ok(OpResult::Done)
            }
            Op::ForgetInstances { before } => {
                writer_rows::forget_instances(&self.connection, before)?;
                Ok(OpResult::Done)
            }
        }
    }

    fn submit(
        &mut self,
        now: StoreTime,
        (request, content): (&str, &[u8; 32]),
        spec: TaskSpec,
        touched: &mut Vec<TaskKey>,
    ) -> Result<OpResult, StoreError> {
        if let Some((task, known)) = writer_rows::request(&self.connection, &spec.key.project, request)? {
            return Ok(if known == content {
                OpResult::Submitted { task, existed: true }
            } else {
                OpResult::OtherContent { task }
            });
        }
        writer_rows::insert_request(&self.connection, (&spec.key, request), content)?;
        writer_rows::insert_spec(&self.connection, &spec)?;
        let key = spec.key.clone();
        let cached = Cached {
            head: TaskHead::queued(now),
            exclusive_key: spec.exclusive_key,
            on_agent_loss: spec.on_agent_loss,
            journal: Some(Journal::default()),
            stored: Stored::Nowhere,
            dirty: true,
        };
        self.tasks.insert(key.clone(), cached);
        self.dirty.push(key.clone());
        let message = if spec.submitter.is_empty() {
            String::new()
        } else {
            format!("by {}", spec.submitter)
        };
        self.events.push(NewEvent {
            kind: kind::SUBMITTED,
            message,
            record: None,
        });
        self.save_events(now, &key)?;
        let task = key.task.clone();
        touched.push(key);
        Ok(OpResult::Submitted { task, existed: false })
    }

    fn write(
        &mut self,
        now: StoreTime,
        (attempt, instance): (&AttemptRef, &InstanceId),
        write: Write,
        touched: &mut Vec<TaskKey>,
    ) -> Result<OpResult, StoreError> {
        let key = TaskKey::of(attempt);
        let verdict = self.with_task(now, &key, touched, |hand| hand.write(attempt, instance, write))?;
        Ok(match verdict {
            None => OpResult::Written {
                verdict: Verdict::StaleEpoch,
                head: None,
            },
            Some(verdict) => OpResult::Written {
                verdict,
                head: self.tasks.get(&key).map(|cached| Box::new(cached.head.clone())),
            },
        })
    }

    fn manage(
        &mut self,
        now: StoreTime,
        key: &TaskKey,
        change: Change,
        touched: &mut Vec<TaskKey>,
    ) -> Result<OpResult, StoreError> {
        match self.with_task(now, key, touched, |hand| hand.change(change))? {
            None => Ok(OpResult::Missed(Missed::NoSuchTask)),
            Some(Err(missed)) => Ok(OpResult::Missed(missed)),
            Some(Ok(())) => Ok(self.answer(key)),
        }
    }

    fn hold_key_and(
        &mut self,
        now: StoreTime,
        key: &TaskKey,
        touched: &mut Vec<TaskKey>,
        assign: impl FnOnce(&mut Hand<'_>) -> Result<(), Missed>,
    ) -> Result<OpResult, StoreError> {
        if !self.load(key)? {
            return Ok(OpResult::Missed(Missed::NoSuchTask));
        }
        let exclusive = self
            .tasks
            .get(key)
            .map(|cached| cached.exclusive_key.clone())
            .unwrap_or_default();
        if !exclusive.is_empty()
            && let Some(holder) = writer_rows::key_holder(&self.connection, &key.project, &exclusive)?
            && holder != key.task
        {
            return Ok(OpResult::Missed(Missed::KeyHeld(holder)));
        }
        match self.with_task(now, key, touched, assign)? {
            None => Ok(OpResult::Missed(Missed::NoSuchTask)),
            Some(Err(missed)) => Ok(OpResult::Missed(missed)),
            Some(Ok(())) => Ok(self.answer(key)),
        }
    }

    fn answer(&self, key: &TaskKey) -> OpResult {
        match self.tasks.get(key) {
            None => OpResult::Missed(Missed::NoSuchTask),
            Some(cached) => OpResult::Task {
                head: Box::new(cached.head.clone()),
                journal_records: cached.journal.as_ref().map_or(0, Journal::len),
            },
        }
    }

    /// Brings a task into the cache; false if there is none.
    fn load(&mut self, key: &TaskKey) -> Result<bool, StoreError> {
        if !self.tasks.contains_key(key) {
            let Some(cached) = writer_rows::load(&self.connection, key)? else {
                return Ok(false);
            };
            self.tasks.insert(key.clone(), cached);
        }
        Ok(true)
    }

    fn with_task<R>(
        &mut self,
        now: StoreTime,
        key: &TaskKey,
        touched: &mut Vec<TaskKey>,
        act: impl FnOnce(&mut Hand<'_>) -> R,
    ) -> Result<Option<R>, StoreError> {
        if !self.load(key)? {
            return Ok(None);
        }
        let Some(cached) = self.tasks.get_mut(key) else {
            return Ok(None);
        };
        let journal = match &mut cached.journal {
            Some(journal) => journal,
            empty => empty.insert(writer_rows::journal(&self.connection, key, cached.head.run)?),
        };
        let held_key = cached.head.holds_key();
        let answer = act(&mut Hand {
            key,
            on_agent_loss: cached.on_agent_loss,
            head: &mut cached.head,
            journal,
            events: &mut self.events,
            now,
        });
        if !cached.exclusive_key.is_empty() && held_key != cached.head.holds_key() {
            writer_rows::set_key_holder(&self.connection, key, &cached.exclusive_key, &cached.head)?;
        }
        if self.events.is_empty() {
            if cached.stored == Stored::History {
                self.dirty.push(key.clone());
                cached.dirty = true;
            }
        } else {
            if !cached.dirty {
                cached.dirty = true;
                self.dirty.push(key.clone());
            }
            self.save_events(now, key)?;
            touched.push(key.clone());
        }
        Ok(Some(answer))
    }

    fn save_events(&mut self, now: StoreTime, key: &TaskKey) -> Result<(), StoreError> {
        let Some(cached) = self.tasks.get_mut(key) else {
            return Ok(());
        };
        for event in self.events.drain(..) {
            self.sequence += 1;
            cached.head.revision += 1;
            writer_rows::insert_event(&self.connection, (key, &cached.head), (self.sequence, now), &event)?;
        }
        Ok(())
    }
}

impl Store for SqliteStore {
    fn apply(&mut self, now: StoreTime, batch: Vec<Op>) -> Result<Applied, StoreError> {
        let before = self.sequence;
        let outcome = self.transact(now, batch);
        if outcome.is_err() {
            self.sequence = before;
            self.tasks.clear();
            self.dirty.clear();
            self.leases.clear();
            self.events.clear();
            // SQLite rolls back by itself after some errors; then this one has nothing to do.
            if !self.connection.is_autocommit() {
                self.connection.execute_batch("ROLLBACK")?;
            }
        }
        outcome
    }

    fn reads(&self) -> Arc<dyn Reads> {
        self.reads.clone()
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        // A clean end leaves no WAL behind; after an unclean one the next open replays it.
        if let Err(error) = self.connection.busy_timeout(Duration::from_millis(200)) {
            tracing::debug!(error = %error, "closing the database");
        }
    }
}
