//! The log writer's thread, and the thread that answers when its commits are on disk. While one
//! group is being committed the next is already written.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc as std_mpsc;
use std::thread::JoinHandle;

use bytes::Bytes;
use deputy_task::attempt::AttemptRef;
use tokio::sync::{mpsc, oneshot};

use super::segment::SegmentWriter;
use super::streams::{Fit, Streams};
use crate::dispatcher::DispatcherHandle;
use crate::dispatcher::inbound::{Inbound, Refused};
use crate::store::contract::{Reads, StoreError};
use crate::store::op::{LogExtent, Op};
use crate::vital::Vitals;

/// Pieces that may wait for the writer: at most 512 KiB each.
const WAITING_PIECES: usize = 64;

/// Bytes written with one sync.
const GROUP_BYTES: usize = 8 * 1024 * 1024;

/// Groups whose commit is under way.
const GROUPS_IN_FLIGHT: usize = 2;

/// A piece of an attempt's log, on its way to disk.
#[derive(Debug)]
pub struct LogPiece {
    /// Whose.
    pub attempt: AttemptRef,
    /// Where it begins in the attempt's log.
    pub offset: u64,
    /// The bytes.
    pub data: Bytes,
    /// Set on the last piece: CRC-32 of the whole log.
    pub total_crc32: Option<u32>,
    /// Where the answer goes.
    pub answer: mpsc::Sender<PieceAnswer>,
}

/// The answer to a piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PieceAnswer {
    /// Everything before the offset is on disk.
    Committed {
        /// Whose.
        attempt: AttemptRef,
        /// The end of what is on disk.
        offset: u64,
        /// The log is complete and its checksum agrees.
        complete: bool,
    },
    /// This log is not taken.
    Refused {
        /// Whose.
        attempt: AttemptRef,
        /// Why.
        reason: String,
    },
    /// It could not be written now: come back later.
    Failed(String),
}

/// The way to the log writer. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LogStoreHandle {
    pieces: mpsc::Sender<LogPiece>,
}

/// The log store's threads; joined by their owner after the last handle is gone.
#[derive(Debug)]
pub struct LogStore {
    writer: JoinHandle<()>,
    answerer: JoinHandle<()>,
}

struct Group {
    /// How many commits were known to have failed when it was put together: what it takes to be written already may
    /// have been in one that failed since.
    failures: u64,
    commit: oneshot::Receiver<Result<(), Refused>>,
    answers: Vec<(mpsc::Sender<PieceAnswer>, PieceAnswer)>,
}

impl LogStoreHandle {
    /// Brings a piece; waits while the writer is behind. False if the manager is ending.
    pub async fn push(&self, piece: LogPiece) -> bool {
        self.pieces.send(piece).await.is_ok()
    }
}

impl LogStore {
    /// Cuts the newest segment back to what was committed and starts the threads.
    ///
    /// # Errors
    /// If the segments cannot be opened or a thread cannot be started.
    pub fn start(
        folder: &Path,
        reads: Arc<dyn Reads>,
        dispatcher: DispatcherHandle,
        vitals: &Vitals,
    ) -> Result<(Self, LogStoreHandle), StoreError> {
        let failed = |what, source| StoreError::File {
            what,
            path: folder.display().to_string(),
            source,
        };
        let segment = SegmentWriter::open(folder, reads.log_end()?)
            .map_err(|source| failed("open the log segments in", source))?;
        let (pieces, waiting) = mpsc::channel(WAITING_PIECES);
        let (groups, committed) = std_mpsc::sync_channel(GROUPS_IN_FLIGHT);
        let failures = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            segment,
            reads,
            dispatcher,
            streams: Streams::default(),
            groups,
            failures: failures.clone(),
            known_failures: 0,
        };
        let start = |name: &'static str, run: Box<dyn FnOnce() + Send>| {
            let pulse = vitals.pulse(name);
            std::thread::Builder::new()
                .name(name.into())
                .spawn(move || {
                    let _pulse = pulse;
                    run();
                })
                .map_err(|source| failed("start a thread for", source))
        };
        let writer = start("log-writer", Box::new(move || writer.run(waiting)))?;
        let answerer = start("log-answerer", Box::new(move || answer_all(&committed, &failures)))?;
        Ok((Self { writer, answerer }, LogStoreHandle { pieces }))
    }

    /// Waits until both threads have ended.
    pub fn join(self) {
        for (name, thread) in [("log-writer", self.writer), ("log-answerer", self.answerer)] {
            if thread.join().is_err() {
                tracing::error!(thread = name, "a thread of the log store panicked");
            }
        }
    }
}

struct Writer {
    segment: SegmentWriter,
    reads: Arc<dyn Reads>,
    dispatcher: DispatcherHandle,
    streams: Streams,
    groups: std_mpsc::SyncSender<Group>,
    /// Commits that failed, counted by the answerer.
    failures: Arc<AtomicU64>,
    /// Those after which the streams were read from the store again.
    known_failures: u64,
}

impl Writer {
    fn run(mut self, mut waiting: mpsc::Receiver<LogPiece>) {
        while let Some(first) = waiting.blocking_recv() {
            let mut bytes = first.data.len();
            let mut pieces = vec![first];
            while bytes < GROUP_BYTES {
                let Ok(next) = waiting.try_recv() else { break };
                bytes += next.data.len();
                pieces.push(next);
            }
            if !self.group(pieces) {
                return;
            }
        }
    }

    /// Writes one group and hands it over for its commit; false if the manager is ending.
    fn group(&mut self, pieces: Vec<LogPiece>) -> bool {
        let failures = self.failures.load(Ordering::Acquire);
        if failures != self.known_failures {
            self.known_failures = failures;
            self.streams.clear();
        }
        if let Err(error) = self.segment.roll() {
            return self.fail(pieces.into_iter().map(|piece| piece.answer), &error.to_string());
        }
        let (segment, mut position) = self.segment.end();
        let mut data = Vec::with_capacity(pieces.len());
        let mut ops: Vec<Op> = Vec::new();
        let mut answers = Vec::with_capacity(pieces.len());
        for LogPiece {
            attempt,
            offset,
            data: bytes,
            total_crc32,
            answer,
        } in pieces
        {
            let fit = match self.streams.fit(&self.reads, &attempt, (offset, bytes), total_crc32) {
                Ok(fit) => fit,
                Err(error) => {
                    answers.push((answer, PieceAnswer::Failed(error.to_string())));
                    continue;
                }
            };
            let said = match fit {
                Fit::Append {
                    offset,
                    data: bytes,
                    crc32,
                    complete,
                } => {
                    let length = u64::try_from(bytes.len()).unwrap_or(0);
                    ops.push(Op::AppendLog(Box::new(LogExtent {
                        attempt: attempt.clone(),
                        offset,
                        length,
                        segment,
                        position,
                        crc32,
                        complete,
                    })));
                    position += length;
                    data.push(bytes);
                    PieceAnswer::Committed {
                        attempt,
                        offset: offset + length,
                        complete,
                    }
                }
                Fit::Known { end, complete } => PieceAnswer::Committed {
                    attempt,
                    offset: end,
                    complete,
                },
                Fit::Gap { end } => PieceAnswer::Committed {
                    attempt,
                    offset: end,
                    complete: false,
                },
                Fit::Refused(reason) => PieceAnswer::Refused { attempt, reason },
            };
            answers.push((answer, said));
        }
        if !data.is_empty()
            && let Err(error) = self.segment.append(&data)
        {
            tracing::error!(error = %error, "the log cannot be written");
            self.streams.clear();
            return self.fail(answers.into_iter().map(|(answer, _)| answer), &error.to_string());
        }
        let (reply, commit) = oneshot::channel();
        self.dispatcher
            .send_blocking(Inbound::Commit {
                ops: merged(ops),
                reply,
            })
            .is_ok()
            && self
                .groups
                .send(Group {
                    failures,
                    commit,
                    answers,
                })
                .is_ok()
    }

    fn fail(&self, answers: impl Iterator<Item = mpsc::Sender<PieceAnswer>>, reason: &str) -> bool {
        for answer in answers {
            say(&answer, PieceAnswer::Failed(reason.into()));
        }
        true
    }
}

/// Extents that follow one another become one.
fn merged(ops: Vec<Op>) -> Vec<Op> {
    let mut merged: Vec<Op> = Vec::with_capacity(ops.len());
    for op in ops {
        if let (Some(Op::AppendLog(last)), Op::AppendLog(next)) = (merged.last_mut(), &op)
            && last.attempt == next.attempt
            && last.position + last.length == next.position
        {
            last.length += next.length;
            last.crc32 = next.crc32;
            last.complete = next.complete;
            continue;
        }
        merged.push(op);
    }
    merged
}

/// Answers group by group. One whose own commit succeeded is not believed if one before it failed that it could not
/// know of: it may have had nothing to commit, because it took the bytes of that one for written.
fn answer_all(groups: &std_mpsc::Receiver<Group>, failures: &AtomicU64) {
    while let Ok(Group {
        failures: known,
        commit,
        answers,
    }) = groups.recv()
    {
        let mut committed = commit
            .blocking_recv()
            .unwrap_or_else(|_| Err(Refused::StoreFailed("the manager is shutting down".into())));
        if committed.is_err() {
            failures.fetch_add(1, Ordering::Release);
        } else if failures.load(Ordering::Relaxed) != known {
            committed = Err(Refused::StoreFailed("what came before it was not committed".into()));
        }
        for (answer, said) in answers {
            let said = match (&committed, said) {
                (Ok(()), said) => said,
                (Err(_), refused @ PieceAnswer::Refused { .. }) => refused,
                (Err(refused), _) => PieceAnswer::Failed(format!("the log could not be committed: {refused:?}")),
            };
            say(&answer, said);
        }
    }
}

/// Acknowledgements are cumulative: one that finds its session full or gone is not missed.
fn say(answer: &mpsc::Sender<PieceAnswer>, said: PieceAnswer) {
    if let Err(error) = answer.try_send(said) {
        tracing::debug!(error = %error, "an acknowledgement was not delivered");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::dispatcher::Dispatcher;
    use crate::dispatcher::timing::Timing;
    use crate::store::clock::{KernelBootClock, StoreTime};
    use crate::store::conformance::{assign, spec, submit};
    use crate::store::contract::Store;
    use crate::store::op::Applied;
    use crate::store::sqlite::SqliteStore;

    /// A store that has no room for the first log bytes: it says when they come, and fails when it is told to.
    struct FirstFails {
        store: SqliteStore,
        first: Option<(oneshot::Sender<()>, std_mpsc::Receiver<()>)>,
    }

    impl Store for FirstFails {
        fn apply(&mut self, now: StoreTime, batch: Vec<Op>) -> Result<Applied, StoreError> {
            if batch.iter().any(|op| matches!(op, Op::AppendLog(_)))
                && let Some((came, fail)) = self.first.take()
            {
                came.send(()).expect("awaited");
                fail.recv().expect("told");
                return Err(StoreError::Full);
            }
            self.store.apply(now, batch)
        }

        fn reads(&self) -> Arc<dyn Reads> {
            self.store.reads()
        }
    }

    #[tokio::test]
    async fn only_what_was_committed_is_acknowledged_when_an_earlier_commit_failed() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut store = SqliteStore::open(&folder.path().join("deputy.db")).expect("open");
        let key = spec("t1").key;
        store
            .apply(
                StoreTime::from_millis(1),
                vec![submit("r", spec("t1")), assign(&key, 0, "i1")],
            )
            .expect("applied");
        let reads = store.reads();
        let ((came, comes), (fail, told)) = (oneshot::channel(), std_mpsc::channel());
        let store = FirstFails {
            store,
            first: Some((came, told)),
        };
        let (vitals, _watch) = Vitals::watched();
        let boot = Arc::new(KernelBootClock);
        let (thread, dispatcher) =
            Dispatcher::start(Box::new(store), boot, Timing::default(), vitals.pulse("dispatcher")).expect("started");
        let (logs, handle) =
            LogStore::start(&folder.path().join("logs"), reads.clone(), dispatcher.clone(), &vitals).expect("started");
        let (answer, mut answers) = mpsc::channel(8);
        let piece = || LogPiece {
            attempt: AttemptRef {
                project: key.project.clone(),
                task: key.task.clone(),
                run: 1,
                epoch: 1,
            },
            offset: 0,
            data: Bytes::from_static(b"abc"),
            total_crc32: None,
            answer: answer.clone(),
        };
        handle.push(piece()).await;
        comes.await.expect("the first commit");
        // Sent again while that is under way, it is known, and there is nothing to commit.
        handle.push(piece()).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        fail.send(()).expect("awaited");
        let said = answers.recv().await.expect("an answer");
        assert!(matches!(said, PieceAnswer::Failed(_)), "{said:?}");
        let committed = || {
            reads
                .log_streams(&key)
                .expect("read")
                .first()
                .map_or(0, |stream| stream.committed)
        };
        match answers.recv().await.expect("an answer") {
            PieceAnswer::Failed(_) => assert_eq!(committed(), 0),
            // It came so late that it was written anew.
            PieceAnswer::Committed { offset, .. } => assert_eq!(committed(), offset),
            refused @ PieceAnswer::Refused { .. } => panic!("{refused:?}"),
        }
        // And what is sent after that is taken.
        handle.push(piece()).await;
        let said = answers.recv().await.expect("an answer");
        assert!(matches!(said, PieceAnswer::Committed { offset: 3, .. }), "{said:?}");
        assert_eq!(committed(), 3);
        drop(handle);
        logs.join();
        dispatcher.send(Inbound::Shutdown).await.expect("up");
        thread.join();
    }
}
