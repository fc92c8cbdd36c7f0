//! The embedded store: SQLite in WAL mode with `synchronous=FULL`, one writer connection in one
//! thread, and read connections apart from it.

mod writer;
mod writer_rows;
mod trust_rows;
mod reader;
mod rows;
mod open;
mod migration;

pub use writer::SqliteStore;

#[cfg(test)]
mod tests;
