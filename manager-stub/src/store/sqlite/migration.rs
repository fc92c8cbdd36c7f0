//! Numbered migrations. A released one is never edited; the next one is added below it.

use rusqlite::Connection;

use crate::store::contract::StoreError;

/// Applied in order; the database remembers the number of the last one in `user_version`.
const MIGRATIONS: [&str; 6] = [
    include_str!("0001_first.sql"),
    include_str!("0002_kept_wishes.sql"),
    include_str!("0003_losses.sql"),
    include_str!("0004_trust.sql"),
    include_str!("0006_oidc_keys.sql"),
    include_str!("0007_instance_line.sql"),
];

/// Brings the database to the newest schema.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let found: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let known = u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX);
    if found > known {
        return Err(StoreError::TooNew { found, known });
    }
    for (number, sql) in (1..).zip(MIGRATIONS) {
        if number > found {
            let transaction = connection.transaction()?;
            transaction.execute_batch(sql)?;
            transaction.pragma_update(None, "user_version", number)?;
            transaction.commit()?;
        }
    }
    Ok(())
}
