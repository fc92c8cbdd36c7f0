//! The readers: a few connections that only read, lent to one caller at a time.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use deputy_proto::v1;
use deputy_task::attempt::{Epoch, Run};
use deputy_task::id::{AgentId, Project, TaskId};
use deputy_task::state::TaskState;
use prost::Message;
use rusqlite::{Connection, Row, params_from_iter};

use super::rows::{self, number};
use super::writer_rows::LOG_END_BITS;
use super::{open, trust_rows, writer_rows};
use crate::store::clock::StoreTime;
use crate::store::contract::{EventQuery, ListQuery, LogStreamRow, Meta, Reads, StoreError, TaskRow};
use crate::store::event::{Event, Sequence, kind};
use crate::store::oidc_key::OidcKeyRow;
use crate::store::op::{InstanceRow, LogExtent, TrustRow};
use crate::store::task::{TaskKey, TaskSpec};

/// Connections kept open when nobody reads.
const IDLE_CONNECTIONS: usize = 4;

/// Documents up to this size are read with the live tasks at start.
const SMALL_DOCUMENT_BYTES: u32 = 16 * 1024;

/// The reading side of the embedded store.
pub(super) struct SqliteReads {
    database: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

const SPEC: &str = "task.project, task.task, name, labels, submitter, submitted_at, exclusive_key, on_agent_loss, queue_timeout_ms, needs, bundles";

impl SqliteReads {
    pub(super) fn new(database: &Path) -> Self {
        Self {
            database: database.to_owned(),
            idle: Mutex::new(Vec::new()),
        }
    }

    fn read<T>(&self, read: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => open::reader(&self.database)?,
        };
        let answer = read(&connection);
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if answer.is_ok() && idle.len() < IDLE_CONNECTIONS {
            idle.push(connection);
        }
        answer
    }
}

fn spec(row: &Row<'_>) -> Result<TaskSpec, StoreError> {
    let json = |column: usize| -> Result<String, StoreError> { Ok(row.get(column)?) };
    let queue_timeout: Option<i64> = row.get(8)?;
    Ok(TaskSpec {
        key: TaskKey {
            project: rows::parsed(row, 0, "project")?,
            task: rows::parsed(row, 1, "task id")?,
        },
        name: row.get(2)?,
        labels: serde_json::from_str(&json(3)?).map_err(|error| rows::corrupt("labels", error))?,
        submitter: row.get(4)?,
        submitted_at: rows::time(row, 5)?,
        exclusive_key: row.get(6)?,
        on_agent_loss: rows::on_agent_loss(&json(7)?)?,
        queue_timeout: queue_timeout.map(|millis| Duration::from_millis(u64::try_from(millis).unwrap_or(0))),
        needs: serde_json::from_str(&json(9)?).map_err(|error| rows::corrupt("needs", error))?,
        bundles: serde_json::from_str(&json(10)?).map_err(|error| rows::corrupt("bundles", error))?,
        document: Bytes::new(),
    })
}

fn event(row: &Row<'_>) -> Result<Event, StoreError> {
    let record = rows::bytes(row, 12)?;
    Ok(Event {
        key: TaskKey {
            project: rows::parsed(row, 0, "project")?,
            task: rows::parsed(row, 2, "task id")?,
        },
        sequence: rows::unsigned(row, 1)?,
        revision: rows::unsigned(row, 3)?,
        at: rows::time(row, 4)?,
        kind: row.get(5)?,
        message: row.get(6)?,
        run: rows::run(row, 7)?,
        epoch: rows::unsigned(row, 8)?,
        state: rows::state(row.get(9)?)?,
        agent: rows::parsed_opt(row, 10, "agent id")?,
        condition: row.get(11)?,
        record: (!record.is_empty()).then_some(record),
    })
}

impl Reads for SqliteReads {
    fn meta(&self) -> Result<Meta, StoreError> {
        self.read(|connection| {
            let get = |name: &str| writer_rows::get_meta(connection, name);
            Ok(Meta {
                generation: get("generation")?,
                high_water: StoreTime::from_millis(number(get("high_water_ms")?)),
                longest_lease: Duration::from_millis(get("longest_lease_ms")?),
            })
        })
    }

    fn live(&self) -> Result<Vec<TaskRow>, StoreError> {
        self.read(|connection| {
            let sql = format!(
                "SELECT {SPEC}, {}, CASE WHEN length(document) <= {SMALL_DOCUMENT_BYTES} THEN document END \
                 FROM live JOIN task USING (project, task) ORDER BY live.task",
                rows::HEAD
            );
            let mut statement = connection.prepare(&sql)?;
            let mut found = statement.query([])?;
            let mut tasks = Vec::new();
            while let Some(row) = found.next()? {
                let mut spec = spec(row)?;
                spec.document = rows::bytes(row, 26)?;
                tasks.push(TaskRow {
                    spec,
                    head: rows::head(row, 11)?,
                });
            }
            Ok(tasks)
        })
    }

    fn task(&self, key: &TaskKey) -> Result<Option<TaskRow>, StoreError> {
        self.read(|connection| {
            for table in ["live", "history"] {
                let sql = format!(
                    "SELECT {SPEC}, {} FROM {table} JOIN task USING (project, task) WHERE project = ?1 AND task = ?2",
                    rows::HEAD
                );
                let mut statement = connection.prepare_cached(&sql)?;
                let mut found = statement.query((key.project.as_str(), key.task.as_str()))?;
                if let Some(row) = found.next()? {
                    return Ok(Some(TaskRow {
                        spec: spec(row)?,
                        head: rows::head(row, 11)?,
                    }));
                }
            }
            Ok(None)
        })
    }

    fn assignee(&self, key: &TaskKey, epoch: Epoch) -> Result<Option<(Run, AgentId)>, StoreError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT run, agent FROM event WHERE project = ?1 AND task = ?2 AND epoch = ?3 AND kind = ?4 LIMIT 1",
            )?;
            let wanted = (key.project.as_str(), key.task.as_str(), number(epoch), kind::ASSIGNED);
            let mut found = statement.query(wanted)?;
            let Some(row) = found.next()? else { return Ok(None) };
            let agent: Option<AgentId> = rows::parsed_opt(row, 1, "agent id")?;
            let run = rows::run(row, 0)?;
            Ok(agent.map(|agent| (run, agent)))
        })
    }

    fn held_by(&self, project: &Project, agent: &AgentId) -> Result<Vec<TaskRow>, StoreError> {
        self.read(|connection| {
            let sql = format!(
                "SELECT {SPEC}, {} FROM live JOIN task USING (project, task) WHERE live.project = ?1 AND agent = ?2",
                rows::HEAD
            );
            let mut statement = connection.prepare_cached(&sql)?;
            let mut found = statement.query((project.as_str(), agent.as_str()))?;
            let mut tasks = Vec::new();
            while let Some(row) = found.next()? {
                let head = rows::head(row, 11)?;
                if matches!(head.state, TaskState::Assigned | TaskState::Running | TaskState::Lost) {
                    tasks.push(TaskRow { spec: spec(row)?, head });
                }
            }
            Ok(tasks)
        })
    }

    fn document(&self, key: &TaskKey) -> Result<Option<Bytes>, StoreError> {
        self.read(|connection| {
            let mut statement =
                connection.prepare_cached("SELECT document FROM task WHERE project = ?1 AND task = ?2")?;
            let mut found = statement.query((key.project.as_str(), key.task.as_str()))?;
            found.next()?.map(|row| rows::bytes(row, 0)).transpose()
        })
    }

    fn find(&self, project: &Project, prefix: &str) -> Result<Vec<TaskId>, StoreError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT task FROM task WHERE project = ?1 AND task >= ?2 AND task < ?3 ORDER BY task LIMIT 2",
            )?;
            let mut found = statement.query((project.as_str(), prefix, format!("{prefix}\u{7f}")))?;
            let mut tasks = Vec::new();
            while let Some(row) = found.next()? {
                tasks.push(rows::parsed(row, 0, "task id")?);
            }
            Ok(tasks)
        })
    }

    fn list(&self, query: &ListQuery) -> Result<Vec<TaskRow>, StoreError> {
        let codes: Vec<i64> = query.states.iter().map(|state| rows::state_code(*state)).collect();
        let states = if codes.is_empty() {
            "1".into()
        } else {
            format!("state IN ({})", vec!["?"; codes.len()].join(","))
        };
        let live = codes.is_empty() || query.states.iter().any(|state| !state.is_ended());
        let ended = codes.is_empty() || query.states.iter().any(|state| TaskState::is_ended(*state));
        let mut tasks = Vec::new();
        self.read(|connection| {
            for (table, wanted) in [("live", live), ("history", ended)] {
                if !wanted {
                    continue;
                }
                let sql = format!(
                    "SELECT {SPEC}, {} FROM {table} JOIN task USING (project, task) \
                     WHERE project = ? AND task < ? AND {states} ORDER BY {table}.task DESC LIMIT ?",
                    rows::HEAD
                );
                let mut statement = connection.prepare_cached(&sql)?;
                let before = query.before.as_ref().map_or("\u{7f}", TaskId::as_str);
                let mut values: Vec<rusqlite::types::Value> =
                    vec![query.project.as_str().to_owned().into(), before.to_owned().into()];
                values.extend(codes.iter().map(|code| (*code).into()));
                values.push(i64::try_from(query.limit).unwrap_or(i64::MAX).into());
                let mut found = statement.query(params_from_iter(values))?;
                while let Some(row) = found.next()? {
                    tasks.push(TaskRow {
                        spec: spec(row)?,
                        head: rows::head(row, 11)?,
                    });
                }
            }
            Ok(())
        })?;
        tasks.sort_by(|a, b| b.spec.key.task.cmp(&a.spec.key.task));
        tasks.truncate(query.limit);
        Ok(tasks)
    }

    fn journal(&self, key: &TaskKey, run: Run) -> Result<Vec<Bytes>, StoreError> {
        let encoded = self.read(|connection| writer_rows::records(connection, key, run))?;
        let mut places: HashMap<(String, i32), usize> = HashMap::new();
        let mut records: Vec<Bytes> = Vec::with_capacity(encoded.len());
        for bytes in encoded {
            let record = v1::Record::decode(bytes.clone()).map_err(|error| rows::corrupt("record", error))?;
            match places.entry((record.key, record.kind)) {
                std::collections::hash_map::Entry::Occupied(place) => records[*place.get()] = bytes,
                std::collections::hash_map::Entry::Vacant(place) => {
                    place.insert(records.len());
                    records.push(bytes);
                }
            }
        }
        Ok(records)
    }

    fn events(&self, query: &EventQuery) -> Result<Vec<Event>, StoreError> {
        const COLUMNS: &str =
            "project, sequence, task, revision, at, kind, message, run, epoch, state, agent, condition, record";
        self.read(|connection| {
            let (by_task, task) = match &query.task {
                None => ("", ""),
                Some(task) => ("AND task = ?4", task.as_str()),
            };
            let sql = format!(
                "SELECT {COLUMNS} FROM event WHERE project = ?1 AND sequence > ?2 {by_task} ORDER BY sequence LIMIT ?3"
            );
            let mut statement = connection.prepare_cached(&sql)?;
            let limit = i64::try_from(query.limit).unwrap_or(i64::MAX);
            let mut found = if by_task.is_empty() {
                statement.query((query.project.as_str(), number(query.after), limit))?
            } else {
                statement.query((query.project.as_str(), number(query.after), limit, task))?
            };
            let mut events = Vec::new();
            while let Some(row) = found.next()? {
                events.push(event(row)?);
            }
            Ok(events)
        })
    }

    fn newest_event(&self) -> Result<Sequence, StoreError> {
        self.read(writer_rows::newest_sequence)
    }

    fn instances(&self) -> Result<Vec<InstanceRow>, StoreError> {
        self.read(|connection| {
            let mut statement = connection
                .prepare_cached("SELECT agent, instance, lease_until, seen_at, version, capabilities, drain_wish, line FROM instance WHERE project = '' ORDER BY agent, seen_at")?;
            let mut found = statement.query([])?;
            let mut instances = Vec::new();
            while let Some(row) = found.next()? {
                instances.push(InstanceRow {
                    agent: rows::parsed(row, 0, "agent id")?,
                    instance: rows::parsed(row, 1, "instance id")?,
                    lease_until: rows::time(row, 2)?,
                    seen_at: rows::time(row, 3)?,
                    version: row.get(4)?,
                    capabilities: rows::bytes(row, 5)?,
                    drain_wish: row.get(6)?,
                    line: row.get(7)?,
                });
            }
            Ok(instances)
        })
    }

    fn log_streams(&self, key: &TaskKey) -> Result<Vec<LogStreamRow>, StoreError> {
        self.read(|connection| {
            let mut statement = connection
                .prepare_cached("SELECT run, epoch, committed, crc32, complete FROM log_stream WHERE project = ?1 AND task = ?2 ORDER BY epoch")?;
            let mut found = statement.query((key.project.as_str(), key.task.as_str()))?;
            let mut streams = Vec::new();
            while let Some(row) = found.next()? {
                streams.push(LogStreamRow {
                    run: rows::run(row, 0)?,
                    epoch: rows::unsigned(row, 1)?,
                    committed: rows::unsigned(row, 2)?,
                    crc32: row.get(3)?,
                    complete: row.get(4)?,
                });
            }
            Ok(streams)
        })
    }

    fn log_extents(&self, key: &TaskKey, epoch: Epoch, offset: u64) -> Result<Vec<LogExtent>, StoreError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT offset, length, segment, position FROM log_extent \
                 WHERE project = ?1 AND task = ?2 AND epoch = ?3 AND offset + length > ?4 ORDER BY offset",
            )?;
            let mut found =
                statement.query((key.project.as_str(), key.task.as_str(), number(epoch), number(offset)))?;
            let mut extents = Vec::new();
            while let Some(row) = found.next()? {
                extents.push(LogExtent {
                    attempt: deputy_task::attempt::AttemptRef {
                        project: key.project.clone(),
                        task: key.task.clone(),
                        run: 0,
                        epoch,
                    },
                    offset: rows::unsigned(row, 0)?,
                    length: rows::unsigned(row, 1)?,
                    segment: rows::unsigned(row, 2)?,
                    position: rows::unsigned(row, 3)?,
                    crc32: 0,
                    complete: false,
                });
            }
            Ok(extents)
        })
    }

    fn log_end(&self) -> Result<Option<(u64, u64)>, StoreError> {
        self.read(|connection| {
            let end = writer_rows::get_meta(connection, "log_end")?;
            Ok((end > 0).then_some((end >> LOG_END_BITS, end & ((1 << LOG_END_BITS) - 1))))
        })
    }

    fn trust(&self) -> Result<Vec<TrustRow>, StoreError> {
        self.read(trust_rows::all)
    }

    fn blob(&self, project: &Project, sha256: &str) -> Result<Option<u64>, StoreError> {
        self.read(|connection| {
            let mut statement =
                connection.prepare_cached("SELECT size_bytes FROM blob WHERE project = ?1 AND sha256 = ?2")?;
            let mut found = statement.query((project.as_str(), sha256))?;
            found.next()?.map(|row| rows::unsigned(row, 0)).transpose()
        })
    }

    fn oidc_keys(&self) -> Result<Vec<OidcKeyRow>, StoreError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT kid, pkcs8, created_ms, signs_from_ms FROM oidc_key ORDER BY signs_from_ms, kid",
            )?;
            let keys = statement.query_map([], |row| {
                Ok(OidcKeyRow {
                    kid: row.get(0)?,
                    pkcs8: row.get(1)?,
                    created_ms: row.get(2)?,
                    signs_from_ms: row.get(3)?,
                })
            })?;
            Ok(keys.collect::<Result<_, _>>()?)
        })
    }
}
