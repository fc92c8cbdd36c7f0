//! What the reader of a log gets: pieces of whole records, how far a log is, and why not.
//! Made by the queue for the session's uploader.

use std::io;

use bytes::Bytes;
use deputy_task::attempt::AttemptRef;

/// How far one attempt's log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogStatus {
    /// Everything before it is acknowledged.
    pub acked: u64,
    /// Everything before it has been written.
    pub end: u64,
    /// Given when nothing more will be written.
    pub total: Option<LogTotal>,
}

/// The whole of a finished log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogTotal {
    /// Bytes of records.
    pub bytes: u64,
    /// CRC-32 (IEEE) over all of them.
    pub crc32: u32,
}

/// Whole records from somewhere in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPiece {
    /// Where `data` begins.
    pub offset: u64,
    /// Whole records; empty if there is nothing new.
    pub data: Bytes,
    /// Given if the log is finished and `data` reaches its end.
    pub total: Option<LogTotal>,
}

/// A piece of log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is no log of this attempt (nothing written, or forgotten).
    #[error("there is no log of attempt {attempt}")]
    NoLog {
        /// Whose.
        attempt: AttemptRef,
    },
    /// It was acknowledged before and is gone; the reader asks for what it had confirmed.
    #[error("log offset {offset} is gone; the oldest that is kept is {oldest}")]
    Gone {
        /// As asked.
        offset: u64,
        /// The oldest offset that can be read.
        oldest: u64,
    },
    /// It has not been written.
    #[error("log offset {offset} is past the end, which is {end}")]
    PastEnd {
        /// As asked.
        offset: u64,
        /// The end.
        end: u64,
    },
    /// The offset is not where a record begins, or the file was damaged.
    #[error("no log record begins at offset {offset}")]
    NotARecord {
        /// As asked.
        offset: u64,
    },
    /// A segment cannot be read back from disk.
    #[error("cannot read the log spool")]
    Disk(#[source] io::Error),
}
