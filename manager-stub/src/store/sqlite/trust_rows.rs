//! The rows of `trust`: what the manager remembers of people, rules and agents.

use rusqlite::{Connection, OptionalExtension};

use crate::store::contract::StoreError;
use crate::store::op::{Missed, OpResult, TrustChange, TrustRow};

/// All changes, or none if one of them is about something else than was seen.
pub(super) fn apply(connection: &Connection, changes: &[TrustChange]) -> Result<OpResult, StoreError> {
    for change in changes {
        let found: Option<Vec<u8>> = connection
            .prepare_cached("SELECT body FROM trust WHERE project = '' AND kind = ?1 AND name = ?2")?
            .query_row((change.kind, &change.name), |row| row.get(0))
            .optional()?;
        if found.as_deref() != change.before.as_deref() {
            return Ok(OpResult::Missed(Missed::NotNow(format!(
                "the {} {} was changed at the same time; try again",
                change.kind, change.name
            ))));
        }
    }
    for change in changes {
        match &change.after {
            Some(body) => connection
                .prepare_cached("INSERT OR REPLACE INTO trust (project, kind, name, body) VALUES ('', ?1, ?2, ?3)")?
                .execute((change.kind, &change.name, body.as_ref()))?,
            None => connection
                .prepare_cached("DELETE FROM trust WHERE project = '' AND kind = ?1 AND name = ?2")?
                .execute((change.kind, &change.name))?,
        };
    }
    Ok(OpResult::Done)
}

/// Everything.
pub(super) fn all(connection: &Connection) -> Result<Vec<TrustRow>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT kind, name, body FROM trust ORDER BY kind, name")?;
    let rows = statement.query_map([], |row| {
        let body: Vec<u8> = row.get(2)?;
        Ok(TrustRow {
            kind: row.get(0)?,
            name: row.get(1)?,
            body: body.into(),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}
