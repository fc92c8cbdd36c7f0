//! One attempt's log between its writers and the uploader. Called by the spool and its writers.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use deputy_task::attempt::AttemptRef;
use deputy_task::log_record::{self, LogStream};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::limits::{SpoolShared, lock};
use crate::piece::{LogPiece, LogStatus, LogTotal, ReadError};
use crate::segment::{self, Place, Segment};

/// Under pressure of memory a buffer of this size goes to disk before it is a whole segment.
const SMALL_SEGMENT_BYTES: u64 = 64 * 1024;

/// A reader that has acknowledged nothing for so long is away; writers do not wait for it.
const READER_AWAY: Duration = Duration::from_secs(2);

/// Writers wait when this part of the cap is used and the reader keeps up.
const SOFT_CAP_DIVISOR: u64 = 4;

/// One attempt's log.
pub(crate) struct LogQueue {
    pub(crate) attempt: AttemptRef,
    /// The reader has been told and has not asked since.
    pub(crate) announced: AtomicBool,
    shared: Arc<SpoolShared>,
    state: Mutex<State>,
    freed: Notify,
}

struct State {
    segments: VecDeque<Segment>,
    /// The records after the last segment.
    active: Vec<u8>,
    /// Where the log ends.
    end: u64,
    acked: u64,
    last_ack: Instant,
    crc: crc32fast::Hasher,
    /// Output dropped since the last record.
    gap_bytes: u64,
    total: Option<LogTotal>,
    forgotten: bool,
}

impl LogQueue {
    pub(crate) fn new(attempt: AttemptRef, shared: Arc<SpoolShared>) -> Self {
        let state = State {
            segments: VecDeque::new(),
            active: Vec::new(),
            end: 0,
            acked: 0,
            last_ack: Instant::now(),
            crc: crc32fast::Hasher::new(),
            gap_bytes: 0,
            total: None,
            forgotten: false,
        };
        Self {
            attempt,
            announced: AtomicBool::new(false),
            shared,
            state: Mutex::new(state),
            freed: Notify::new(),
        }
    }

    /// Adds output, or counts it as dropped if there is no room.
    pub(crate) fn append(&self, stream: LogStream, step: &str, at_ms: i64, data: &[u8]) {
        let mut state = self.lock();
        if state.total.is_some() || state.forgotten {
            return;
        }
        let need = to_u64(log_record::encoded_len(step, data.len()));
        if !self.make_room(&mut state, need) {
            state.gap_bytes = state.gap_bytes.saturating_add(to_u64(data.len()));
            return;
        }
        self.write_gap(&mut state, at_ms);
        self.prepare(&mut state);
        let from = state.active.len();
        log_record::encode_output(&mut state.active, stream, step, at_ms, data);
        self.account(&mut state, from);
        drop(state);
        self.shared.announce(&self.announced, &self.attempt);
    }

    /// Nothing more is written.
    pub(crate) fn finish(&self, at_ms: i64) {
        let mut state = self.lock();
        if state.total.is_some() {
            return;
        }
        self.write_gap(&mut state, at_ms);
        state.total = Some(LogTotal {
            bytes: state.end,
            crc32: state.crc.clone().finalize(),
        });
        if self.memory_is_scarce() {
            self.seal(&mut state);
            self.spill_newest(&mut state);
        } else {
            state.active.shrink_to_fit();
        }
        drop(state);
        self.shared.announce(&self.announced, &self.attempt);
    }

    pub(crate) fn status(&self) -> LogStatus {
        let state = self.lock();
        LogStatus {
            acked: state.acked,
            end: state.end,
            total: state.total,
        }
    }

    pub(crate) fn read_from(&self, offset: u64, max: usize) -> Result<LogPiece, ReadError> {
        let max = max.max(log_record::MAX_RECORD_BYTES);
        let state = self.lock();
        if offset > state.end {
            return Err(ReadError::PastEnd { offset, end: state.end });
        }
        if offset < state.start() {
            return Err(ReadError::Gone {
                offset,
                oldest: state.start(),
            });
        }
        let holding = state.segments.partition_point(|segment| segment.end() <= offset);
        let (end, total) = (state.end, state.total);
        let bytes = match state.segments.get(holding) {
            None => state.read_active(offset, max),
            Some(Segment {
                start,
                place: Place::Memory(bytes),
                ..
            }) => {
                let place = Place::Memory(bytes.clone());
                let skip = offset - start;
                drop(state);
                segment::read(&place, skip, max).map_err(ReadError::Disk)?
            }
            Some(Segment {
                start,
                place: Place::Disk(path),
                ..
            }) => {
                let place = Place::Disk(path.clone());
                let skip = offset - start;
                drop(state);
                segment::read(&place, skip, max).map_err(ReadError::Disk)?
            }
        };
        let whole = log_record::whole_records_len(&bytes, max).map_err(|_| ReadError::NotARecord { offset })?;
        if whole == 0 && !bytes.is_empty() {
            return Err(ReadError::NotARecord { offset });
        }
        let data = bytes.slice(..whole);
        let total = total.filter(|_| offset + to_u64(data.len()) == end);
        Ok(LogPiece { offset, data, total })
    }

    pub(crate) fn acked(&self, offset: u64) {
        let mut state = self.lock();
        let offset = offset.min(state.end);
        if offset <= state.acked {
            return;
        }
        self.shared.unacked.fetch_sub(offset - state.acked, Ordering::Relaxed);
        state.acked = offset;
        state.last_ack = Instant::now();
        let mut removed = Vec::new();
        while state.segments.front().is_some_and(|segment| segment.end() <= offset) {
            removed.extend(state.segments.pop_front());
        }
        if offset == state.end && !state.active.is_empty() {
            let active = to_u64(state.active.len());
            self.shared.kept.fetch_sub(active, Ordering::Relaxed);
            self.shared.in_memory.fetch_sub(active, Ordering::Relaxed);
            if state.total.is_some() {
                state.active = Vec::new();
            } else {
                // Kept for what comes next: a fast log fills it again at once.
                state.active.clear();
            }
        }
        drop(state);
        self.free(removed);
        self.freed.notify_waiters();
    }

    /// Frees everything; later writes are dropped.
    pub(crate) fn forget(&self) {
        let mut state = self.lock();
        state.forgotten = true;
        let unacked = state.end - state.acked;
        state.acked = state.end;
        let active = to_u64(std::mem::take(&mut state.active).len());
        let removed = state.segments.drain(..).collect();
        drop(state);
        self.shared.unacked.fetch_sub(unacked, Ordering::Relaxed);
        self.shared.kept.fetch_sub(active, Ordering::Relaxed);
        self.shared.in_memory.fetch_sub(active, Ordering::Relaxed);
        self.free(removed);
        self.freed.notify_waiters();
    }

    /// Waits while much is unacknowledged and the reader keeps acknowledging.
    pub(crate) async fn room(&self) {
        let soft_cap = self.shared.config.attempt_cap_bytes / SOFT_CAP_DIVISOR;
        loop {
            let freed = self.freed.notified();
            {
                let state = self.lock();
                let crowded = state.kept() > soft_cap || state.gap_bytes > 0;
                if !crowded || state.total.is_some() || state.forgotten || state.last_ack.elapsed() >= READER_AWAY {
                    return;
                }
            }
            // Whatever happens, the question is asked again: no reader, no wait.
            let _ = tokio::time::timeout(READER_AWAY, freed).await;
        }
    }

    /// Is there room for so many bytes more? Moves segments to disk to make it.
    fn make_room(&self, state: &mut State, need: u64) -> bool {
        let config = &self.shared.config;
        // After a gap some space must be free, so that a log at its cap is not all gaps.
        let slack = if state.gap_bytes > 0 {
            config.segment_bytes.min(config.attempt_cap_bytes / 4)
        } else {
            0
        };
        if state.kept() + need + slack > config.attempt_cap_bytes
            || self.shared.kept.load(Ordering::Relaxed) + need + slack > config.total_cap_bytes
        {
            return false;
        }
        let scarce = self.memory_is_scarce();
        let active = to_u64(state.active.len());
        if active >= config.segment_bytes || (scarce && active >= SMALL_SEGMENT_BYTES.min(config.segment_bytes)) {
            self.seal(state);
        }
        let over = |state: &State| {
            state.sealed_memory() > config.attempt_memory_bytes || (scarce && state.sealed_memory() > 0)
        };
        while over(state) && self.spill_newest(state) {}
        // What the disk did not take stays in memory; nothing is added to it.
        !over(state)
    }

    /// A log that has become large gets the space of a whole segment at once.
    fn prepare(&self, state: &mut State) {
        let segment = usize::try_from(self.shared.config.segment_bytes).unwrap_or(usize::MAX);
        let len = state.active.len();
        if len >= log_record::MAX_PAYLOAD_BYTES && state.active.capacity() < segment {
            state
                .active
                .reserve_exact((segment + 4 * log_record::MAX_PAYLOAD_BYTES).saturating_sub(len));
        }
    }

    fn memory_is_scarce(&self) -> bool {
        self.shared.in_memory.load(Ordering::Relaxed) > self.shared.config.total_memory_bytes
    }

    fn seal(&self, state: &mut State) {
        if state.active.is_empty() {
            return;
        }
        let start = state.end - to_u64(state.active.len());
        let bytes = std::mem::take(&mut state.active);
        state.segments.push_back(Segment::in_memory(start, bytes));
    }

    /// Moves the newest segment that is in memory to disk; the oldest are read next.
    fn spill_newest(&self, state: &mut State) -> bool {
        let Some(newest) = state.segments.iter_mut().rev().find(|segment| segment.memory() > 0) else {
            return false;
        };
        if !self.shared.disk_may_work() {
            return false;
        }
        let answer = newest.spill(self.shared.new_segment_path());
        self.shared.disk_answered(&answer);
        if answer.is_ok() {
            self.shared.in_memory.fetch_sub(newest.len, Ordering::Relaxed);
        }
        answer.is_ok()
    }

    fn write_gap(&self, state: &mut State, at_ms: i64) {
        if state.gap_bytes > 0 {
            let from = state.active.len();
            let gap_bytes = std::mem::take(&mut state.gap_bytes);
            log_record::encode_gap(&mut state.active, at_ms, gap_bytes);
            self.account(state, from);
        }
    }

    /// Counts what was encoded from `from` on.
    fn account(&self, state: &mut State, from: usize) {
        let new = state.active.get(from..).unwrap_or_default();
        state.crc.update(new);
        let len = to_u64(new.len());
        state.end += len;
        self.shared.kept.fetch_add(len, Ordering::Relaxed);
        self.shared.in_memory.fetch_add(len, Ordering::Relaxed);
        self.shared.unacked.fetch_add(len, Ordering::Relaxed);
    }

    fn free(&self, removed: Vec<Segment>) {
        for segment in removed {
            self.shared.kept.fetch_sub(segment.len, Ordering::Relaxed);
            self.shared.in_memory.fetch_sub(segment.memory(), Ordering::Relaxed);
            segment.remove();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    /// The oldest offset that is kept.
    fn start(&self) -> u64 {
        self.segments
            .front()
            .map_or(self.end - to_u64(self.active.len()), |segment| segment.start)
    }

    fn kept(&self) -> u64 {
        self.end - self.start()
    }

    fn sealed_memory(&self) -> u64 {
        self.segments.iter().map(Segment::memory).sum()
    }

    fn read_active(&self, offset: u64, max: usize) -> Bytes {
        let back = usize::try_from(self.end - offset).unwrap_or(usize::MAX);
        let from = self.active.len().saturating_sub(back);
        let rest = self.active.get(from..).unwrap_or_default();
        Bytes::copy_from_slice(rest.get(..max).unwrap_or(rest))
    }
}

fn to_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
