//! Log bytes: appended to segment files beside the database, synced, and only then committed by
//! their offsets. One thread writes, for all attempts together, so that many small logs share one
//! sync. After a crash the newest segment is cut back to what was committed.

mod writer;
mod streams;
mod segment;

pub use segment::SegmentReader;
pub use writer::{LogPiece, LogStore, LogStoreHandle, PieceAnswer};
