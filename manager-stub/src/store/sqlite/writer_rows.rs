//! The statements of the writer, each prepared once.

use std::time::Duration;

use bytes::Bytes;
use deputy_proto::v1;
use deputy_task::attempt::{AttemptRef, Run};
use deputy_task::id::{AgentId, InstanceId, Project, TaskId};
use prost::Message;
use rusqlite::{Connection, OptionalExtension, params};

use super::rows::{self, number};
use super::writer::{Cached, Stored};
use crate::store::clock::StoreTime;
use crate::store::contract::StoreError;
use crate::store::event::{NewEvent, Sequence};
use crate::store::journal::Journal;
use crate::store::oidc_key::OidcKeyRow;
use crate::store::op::{InstanceRow, LogExtent};
use crate::store::task::{TaskHead, TaskKey, TaskSpec};

/// A segment's number and the end of its committed bytes, in one number that only grows.
pub(super) const LOG_END_BITS: u32 = 32;

pub(super) fn first_meta(connection: &Connection) -> Result<(), StoreError> {
    let generation = i64::from(rand::random::<u32>()) + 1;
    for (name, value) in [
        ("generation", generation),
        ("high_water_ms", 0),
        ("longest_lease_ms", 0),
        ("sequence", 0),
        ("log_end", 0),
    ] {
        connection.execute(
            "INSERT OR IGNORE INTO meta (project, name, value) VALUES ('', ?1, ?2)",
            (name, value),
        )?;
    }
    Ok(())
}

pub(super) fn set_meta(connection: &Connection, name: &str, value: i64) -> Result<(), StoreError> {
    connection
        .prepare_cached("UPDATE meta SET value = ?2 WHERE project = '' AND name = ?1 AND value < ?2")?
        .execute((name, value))?;
    Ok(())
}

pub(super) fn remember_lease(connection: &Connection, ttl: Duration) -> Result<(), StoreError> {
    set_meta(
        connection,
        "longest_lease_ms",
        i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX),
    )
}

pub(super) fn get_meta(connection: &Connection, name: &str) -> Result<u64, StoreError> {
    let mut statement = connection.prepare_cached("SELECT value FROM meta WHERE project = '' AND name = ?1")?;
    let mut found = statement.query([name])?;
    found.next()?.map_or(Ok(0), |row| rows::unsigned(row, 0))
}

pub(super) fn newest_sequence(connection: &Connection) -> Result<Sequence, StoreError> {
    get_meta(connection, "sequence")
}

pub(super) fn request(
    connection: &Connection,
    project: &Project,
    request: &str,
) -> Result<Option<(TaskId, Vec<u8>)>, StoreError> {
    let mut statement =
        connection.prepare_cached("SELECT task, content FROM request WHERE project = ?1 AND request = ?2")?;
    let mut found = statement.query((project.as_str(), request))?;
    match found.next()? {
        None => Ok(None),
        Some(row) => Ok(Some((rows::parsed(row, 0, "task id")?, row.get(1)?))),
    }
}

pub(super) fn insert_request(
    connection: &Connection,
    (key, request): (&TaskKey, &str),
    content: &[u8; 32],
) -> Result<(), StoreError> {
    connection
        .prepare_cached("INSERT INTO request (project, request, task, content) VALUES (?1, ?2, ?3, ?4)")?
        .execute((key.project.as_str(), request, key.task.as_str(), content.as_slice()))?;
    Ok(())
}

pub(super) fn insert_spec(connection: &Connection, spec: &TaskSpec) -> Result<(), StoreError> {
    let json = |value: Result<String, serde_json::Error>| value.map_err(|error| rows::corrupt("task", error));
    let queue_timeout = spec
        .queue_timeout
        .map(|timeout| i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX));
    connection
        .prepare_cached(
            "INSERT INTO task (project, task, name, labels, submitter, submitted_at, exclusive_key, on_agent_loss, \
             queue_timeout_ms, needs, bundles, document) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        )?
        .execute((
            spec.key.project.as_str(),
            spec.key.task.as_str(),
            &spec.name,
            json(serde_json::to_string(&spec.labels))?,
            &spec.submitter,
            spec.submitted_at.millis(),
            &spec.exclusive_key,
            rows::on_agent_loss_code(spec.on_agent_loss),
            queue_timeout,
            json(serde_json::to_string(&spec.needs))?,
            json(serde_json::to_string(&spec.bundles))?,
            spec.document.as_ref(),
        ))?;
    Ok(())
}

pub(super) fn load(connection: &Connection, key: &TaskKey) -> Result<Option<Cached>, StoreError> {
    let columns = rows::HEAD;
    for (table, stored) in [("live", Stored::Live), ("history", Stored::History)] {
        let sql = format!(
            "SELECT exclusive_key, on_agent_loss, {columns} FROM {table} JOIN task USING (project, task) WHERE project = ?1 AND task = ?2"
        );
        let mut statement = connection.prepare_cached(&sql)?;
        let mut found = statement.query((key.project.as_str(), key.task.as_str()))?;
        if let Some(row) = found.next()? {
            return Ok(Some(Cached {
                exclusive_key: row.get(0)?,
                on_agent_loss: rows::on_agent_loss(row.get_ref(1)?.as_str().unwrap_or_default())?,
                head: rows::head(row, 2)?,
                journal: None,
                stored,
                dirty: false,
            }));
        }
    }
    Ok(None)
}

pub(super) fn journal(connection: &Connection, key: &TaskKey, run: Run) -> Result<Journal, StoreError> {
    let mut journal = Journal::default();
    for encoded in records(connection, key, run)? {
        let record = v1::Record::decode(encoded.clone()).map_err(|error| rows::corrupt("record", error))?;
        journal.take(&record, encoded.len(), StoreTime::from_millis(record.committed_at_ms));
    }
    Ok(journal)
}

pub(super) fn records(connection: &Connection, key: &TaskKey, run: Run) -> Result<Vec<Bytes>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT record FROM event WHERE project = ?1 AND task = ?2 AND run = ?3 AND kind IN ('intent', 'done', 'fact', 'decision') ORDER BY sequence",
    )?;
    let mut found = statement.query((key.project.as_str(), key.task.as_str(), run))?;
    let mut records = Vec::new();
    while let Some(row) = found.next()? {
        records.push(rows::bytes(row, 0)?);
    }
    Ok(records)
}

const INSERT_LIVE: &str = "INSERT INTO live (project, task, state, run, epoch, agent, instance, condition, cancel, revision, queued_at, started_at, finished_at, deadline_at, resolve, result, losses) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)";
const INSERT_HISTORY: &str = "INSERT INTO history (project, task, state, run, epoch, agent, instance, condition, cancel, revision, queued_at, started_at, finished_at, deadline_at, resolve, result, losses) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)";
const UPDATE_LIVE: &str = "UPDATE live SET state = ?3, run = ?4, epoch = ?5, agent = ?6, instance = ?7, condition = ?8, cancel = ?9, revision = ?10, queued_at = ?11, started_at = ?12, \
     finished_at = ?13, deadline_at = ?14, resolve = ?15, result = ?16, losses = ?17 WHERE project = ?1 AND task = ?2";
const UPDATE_HISTORY: &str = "UPDATE history SET state = ?3, run = ?4, epoch = ?5, agent = ?6, instance = ?7, condition = ?8, cancel = ?9, revision = ?10, queued_at = ?11, started_at = ?12, \
     finished_at = ?13, deadline_at = ?14, resolve = ?15, result = ?16, losses = ?17 WHERE project = ?1 AND task = ?2";

/// Writes a head to where it belongs: `live` while the task lives, `history` when it has ended.
pub(super) fn save_head(connection: &Connection, key: &TaskKey, cached: &mut Cached) -> Result<(), StoreError> {
    let place = if cached.head.state.is_ended() {
        Stored::History
    } else {
        Stored::Live
    };
    let row_key = (key.project.as_str(), key.task.as_str());
    match (cached.stored, place) {
        (Stored::Live, Stored::History) => {
            connection
                .prepare_cached("DELETE FROM live WHERE project = ?1 AND task = ?2")?
                .execute(row_key)?;
        }
        (Stored::History, Stored::Live) => {
            connection
                .prepare_cached("DELETE FROM history WHERE project = ?1 AND task = ?2")?
                .execute(row_key)?;
        }
        _ => {}
    }
    let sql = match (cached.stored, place) {
        (Stored::Live, Stored::Live) => UPDATE_LIVE,
        (Stored::History, Stored::History) => UPDATE_HISTORY,
        (_, Stored::History) => INSERT_HISTORY,
        (_, Stored::Live | Stored::Nowhere) => INSERT_LIVE,
    };
    let head = &cached.head;
    connection.prepare_cached(sql)?.execute(params![
        row_key.0,
        row_key.1,
        rows::state_code(head.state),
        head.run,
        number(head.epoch),
        head.agent.as_ref().map(AgentId::as_str),
        head.instance.as_ref().map(InstanceId::as_str),
        &head.condition,
        &head.cancel,
        number(head.revision),
        head.queued_at.millis(),
        head.started_at.millis(),
        head.finished_at.millis(),
        head.deadline_at.millis(),
        rows::resolve_code(head.resolve),
        head.result.as_ref(),
        head.losses,
    ])?;
    cached.stored = place;
    Ok(())
}

pub(super) fn insert_event(
    connection: &Connection,
    (key, head): (&TaskKey, &TaskHead),
    (sequence, now): (Sequence, StoreTime),
    event: &NewEvent,
) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO event (project, sequence, task, revision, at, kind, message, run, epoch, state, agent, condition, record) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
        )?
        .execute((
            key.project.as_str(),
            number(sequence),
            key.task.as_str(),
            number(head.revision),
            now.millis(),
            event.kind,
            &event.message,
            head.run,
            number(head.epoch),
            rows::state_code(head.state),
            head.agent.as_ref().map(AgentId::as_str),
            &head.condition,
            event.record.as_deref(),
        ))?;
    Ok(())
}

pub(super) fn key_holder(connection: &Connection, project: &Project, key: &str) -> Result<Option<TaskId>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT task FROM exclusive WHERE project = ?1 AND key = ?2")?;
    let mut found = statement.query((project.as_str(), key))?;
    found.next()?.map(|row| rows::parsed(row, 0, "task id")).transpose()
}

pub(super) fn set_key_holder(
    connection: &Connection,
    key: &TaskKey,
    exclusive: &str,
    head: &TaskHead,
) -> Result<(), StoreError> {
    let sql = if head.holds_key() {
        "INSERT INTO exclusive (project, key, task) VALUES (?1, ?2, ?3)"
    } else {
        "DELETE FROM exclusive WHERE project = ?1 AND key = ?2 AND task = ?3"
    };
    connection
        .prepare_cached(sql)?
        .execute((key.project.as_str(), exclusive, key.task.as_str()))?;
    Ok(())
}

pub(super) fn register_instance(connection: &Connection, row: &InstanceRow) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO instance (project, agent, instance, lease_until, seen_at, version, capabilities, drain_wish, line) VALUES ('', ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) \
             ON CONFLICT DO UPDATE SET lease_until = max(lease_until, excluded.lease_until), seen_at = excluded.seen_at, \
             version = excluded.version, capabilities = excluded.capabilities",
        )?
        .execute((
            row.agent.as_str(),
            row.instance.as_str(),
            row.lease_until.millis(),
            row.seen_at.millis(),
            &row.version,
            row.capabilities.as_ref(),
            &row.drain_wish,
            &row.line,
        ))?;
    Ok(())
}

/// False if there is no such instance.
pub(super) fn wish_drain(
    connection: &Connection,
    (agent, instance): (&AgentId, &InstanceId),
    reason: &str,
) -> Result<bool, StoreError> {
    let changed = connection
        .prepare_cached("UPDATE instance SET drain_wish = ?3 WHERE project = '' AND agent = ?1 AND instance = ?2")?
        .execute((agent.as_str(), instance.as_str(), reason))?;
    Ok(changed > 0)
}

pub(super) fn renew_lease(
    connection: &Connection,
    (agent, instance): (&AgentId, &InstanceId),
    until: StoreTime,
    now: StoreTime,
) -> Result<(), StoreError> {
    connection
        .prepare_cached("UPDATE instance SET lease_until = max(lease_until, ?3), seen_at = ?4 WHERE project = '' AND agent = ?1 AND instance = ?2")?
        .execute((agent.as_str(), instance.as_str(), until.millis(), now.millis()))?;
    Ok(())
}

pub(super) fn forget_instances(connection: &Connection, before: StoreTime) -> Result<(), StoreError> {
    connection.execute(
        "DELETE FROM instance WHERE project = '' AND lease_until < ?1 AND instance NOT IN (SELECT instance FROM live WHERE instance IS NOT NULL)",
        [before.millis()],
    )?;
    Ok(())
}

pub(super) fn log_committed(connection: &Connection, attempt: &AttemptRef) -> Result<u64, StoreError> {
    let mut statement = connection
        .prepare_cached("SELECT committed FROM log_stream WHERE project = ?1 AND task = ?2 AND epoch = ?3")?;
    let mut found = statement.query((attempt.project.as_str(), attempt.task.as_str(), number(attempt.epoch)))?;
    found.next()?.map_or(Ok(0), |row| rows::unsigned(row, 0))
}

pub(super) fn append_log(connection: &Connection, extent: &LogExtent) -> Result<(), StoreError> {
    let (project, task) = (extent.attempt.project.as_str(), extent.attempt.task.as_str());
    if extent.length > 0 {
        set_meta(
            connection,
            "log_end",
            number((extent.segment << LOG_END_BITS) | (extent.position + extent.length)),
        )?;
        connection
            .prepare_cached("INSERT INTO log_extent (project, task, epoch, offset, length, segment, position) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
            .execute((
                project,
                task,
                number(extent.attempt.epoch),
                number(extent.offset),
                number(extent.length),
                number(extent.segment),
                number(extent.position),
            ))?;
    }
    connection
        .prepare_cached(
            "INSERT INTO log_stream (project, task, epoch, run, committed, crc32, complete) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) \
             ON CONFLICT DO UPDATE SET committed = excluded.committed, crc32 = excluded.crc32, complete = excluded.complete",
        )?
        .execute((
            project,
            task,
            number(extent.attempt.epoch),
            extent.attempt.run,
            number(extent.offset + extent.length),
            extent.crc32,
            extent.complete,
        ))?;
    Ok(())
}

pub(super) fn put_oidc_key(connection: &Connection, row: &OidcKeyRow) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT OR IGNORE INTO oidc_key (kid, pkcs8, created_ms, signs_from_ms) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute((&row.kid, &row.pkcs8, row.created_ms, row.signs_from_ms))?;
    Ok(())
}

pub(super) fn forget_oidc_key(connection: &Connection, kid: &str) -> Result<(), StoreError> {
    connection
        .prepare_cached("DELETE FROM oidc_key WHERE kid = ?1")?
        .execute([kid])?;
    Ok(())
}

pub(super) fn put_blob(
    connection: &Connection,
    (project, sha256): (&Project, &str),
    size_bytes: u64,
    now: StoreTime,
) -> Result<(), StoreError> {
    connection
        .prepare_cached("INSERT OR IGNORE INTO blob (project, sha256, size_bytes, stored_at) VALUES (?1, ?2, ?3, ?4)")?
        .execute((project.as_str(), sha256, number(size_bytes), now.millis()))
        .optional()?;
    Ok(())
}
