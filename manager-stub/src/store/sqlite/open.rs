//! Opening the database: the lock against a second manager, the pragmas, and the connections.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use crate::data_folder;
use crate::store::contract::StoreError;

/// SQLite 3.51.3: the first without the fault that could corrupt a WAL database at its reset.
const OLDEST_SQLITE: i32 = 3_051_003;

/// Statements kept prepared per connection: more than the store has.
const STATEMENTS: usize = 64;

/// Takes the lock file beside the database; held until the file is dropped, by the kernel even
/// after `kill -9`.
pub(super) fn lock(database: &Path) -> Result<File, StoreError> {
    let path = database.with_extension("lock");
    let shown = path.display().to_string();
    let file = data_folder::writing().open(&path).map_err(|source| StoreError::File {
        what: "open",
        path: shown.clone(),
        source,
    })?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::InUse(database.display().to_string())),
        Err(errno) => Err(StoreError::File {
            what: "lock",
            path: shown,
            source: errno.into(),
        }),
    }
}

/// The writer's connection.
pub(super) fn writer(database: &Path) -> Result<Connection, StoreError> {
    if rusqlite::version_number() < OLDEST_SQLITE {
        return Err(StoreError::OldSqlite(rusqlite::version()));
    }
    // SQLite gives what it puts beside a database the permissions of the database. Made before SQLite has it: closing
    // a file takes away every lock that this process has on it.
    data_folder::writing()
        .open(database)
        .map_err(|source| StoreError::File {
            what: "open",
            path: database.display().to_string(),
            source,
        })?;
    let connection = Connection::open(database)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // 16 MiB between checkpoints: each costs two syncs and copies every page once.
    connection.pragma_update(None, "wal_autocheckpoint", 4096)?;
    connection.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024)?;
    connection.pragma_update(None, "cache_size", -32 * 1024)?;
    prepare(&connection)?;
    Ok(connection)
}

/// A connection that only reads.
pub(super) fn reader(database: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(database, flags)?;
    prepare(&connection)?;
    Ok(connection)
}

fn prepare(connection: &Connection) -> Result<(), StoreError> {
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.busy_timeout(Duration::from_secs(5))?;
    Ok(())
}
