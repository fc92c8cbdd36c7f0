//! Where each attempt's log stands: what has been written, what may follow, and the running checksum.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use deputy_task::attempt::AttemptRef;

use crate::store::contract::{Reads, StoreError};
use crate::store::task::TaskKey;

/// Logs of attempts that are kept at hand; the oldest are read from the store again.
const STREAMS_AT_HAND: usize = 4096;

/// The log of one attempt.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    /// The end of what was written (and is committed or about to be).
    pub(super) end: u64,
    crc: crc32fast::Hasher,
    pub(super) complete: bool,
}

/// What becomes of a piece.
#[derive(Debug)]
pub(super) enum Fit {
    /// These bytes are new; they begin at this offset.
    Append {
        offset: u64,
        data: Bytes,
        crc32: u32,
        complete: bool,
    },
    /// Nothing of it is new; this is the end.
    Known { end: u64, complete: bool },
    /// Something before it is missing; send again from this offset.
    Gap { end: u64 },
    /// The log does not agree with its checksum, or is none of ours; the text says which.
    Refused(String),
}

/// The logs at hand.
#[derive(Default)]
pub(super) struct Streams {
    known: HashMap<AttemptRef, Stream>,
}

impl Streams {
    /// Forgets everything; it is read from the store again.
    pub(super) fn clear(&mut self) {
        self.known.clear();
    }

    /// Takes a piece in; the caller writes what is to be appended.
    pub(super) fn fit(
        &mut self,
        reads: &Arc<dyn Reads>,
        attempt: &AttemptRef,
        (offset, mut data): (u64, Bytes),
        total_crc32: Option<u32>,
    ) -> Result<Fit, StoreError> {
        if !self.known.contains_key(attempt) {
            if self.known.len() >= STREAMS_AT_HAND {
                self.known.clear();
            }
            match open(reads, attempt)? {
                Ok(stream) => drop(self.known.insert(attempt.clone(), stream)),
                Err(refused) => return Ok(Fit::Refused(refused)),
            }
        }
        let Some(stream) = self.known.get_mut(attempt) else {
            return Ok(Fit::Refused("unknown".into()));
        };
        if offset > stream.end {
            return Ok(Fit::Gap { end: stream.end });
        }
        let known = usize::try_from(stream.end - offset)
            .unwrap_or(usize::MAX)
            .min(data.len());
        data.advance(known);
        if stream.complete || (data.is_empty() && total_crc32.is_none()) {
            return Ok(Fit::Known {
                end: stream.end,
                complete: stream.complete,
            });
        }
        let offset = stream.end;
        stream.crc.update(&data);
        stream.end += u64::try_from(data.len()).unwrap_or(0);
        let crc32 = stream.crc.clone().finalize();
        stream.complete = total_crc32 == Some(crc32);
        if total_crc32.is_some_and(|total| total != crc32) && data.is_empty() {
            return Ok(Fit::Refused("the log does not agree with its checksum".into()));
        }
        Ok(Fit::Append {
            offset,
            data,
            crc32,
            complete: stream.complete,
        })
    }
}

/// The stream of an attempt, or why it has none.
fn open(reads: &Arc<dyn Reads>, attempt: &AttemptRef) -> Result<Result<Stream, String>, StoreError> {
    let key = TaskKey::of(attempt);
    let Some(row) = reads.task(&key)? else {
        return Ok(Err(format!("there is no task {}", attempt.task)));
    };
    if attempt.epoch == 0 || attempt.epoch > row.head.epoch || attempt.run > row.head.run {
        return Ok(Err(format!("task {} has no attempt {}", attempt.task, attempt.epoch)));
    }
    let stored = reads
        .log_streams(&key)?
        .into_iter()
        .find(|stream| stream.epoch == attempt.epoch);
    Ok(Ok(match stored {
        None => Stream {
            end: 0,
            crc: crc32fast::Hasher::new(),
            complete: false,
        },
        Some(row) => Stream {
            end: row.committed,
            crc: crc32fast::Hasher::new_with_initial_len(row.crc32, row.committed),
            complete: row.complete,
        },
    }))
}
