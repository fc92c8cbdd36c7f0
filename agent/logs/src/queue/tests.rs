//! The spool as its writers and its reader see it, on a real disk.

use std::path::Path;

use deputy_task::id::{Project, TaskId};
use deputy_task::log_record::{LogRecord, records};
use proptest::prelude::*;

use crate::attempt_log::Logs;
use crate::limits::SpoolConfig;
use crate::piece::{LogPiece, ReadError};
use crate::spool::Spool;

use super::*;

fn attempt(epoch: u64) -> AttemptRef {
    let task: TaskId = "task".parse().expect("id");
    AttemptRef {
        project: Project::default_project(),
        task,
        run: 1,
        epoch,
    }
}

/// Small sizes, so that every limit is met.
fn config(folder: &Path) -> SpoolConfig {
    SpoolConfig {
        folder: folder.to_owned(),
        attempt_cap_bytes: 64 * 1024,
        total_cap_bytes: 96 * 1024,
        segment_bytes: 4 * 1024,
        attempt_memory_bytes: 8 * 1024,
        total_memory_bytes: 16 * 1024,
    }
}

fn spool(folder: &Path) -> Spool {
    Spool::open(config(folder)).expect("spool")
}

fn files(folder: &Path) -> usize {
    let agents = std::fs::read_dir(folder).expect("folder").filter_map(Result::ok);
    let inner = agents
        .filter_map(|agent| std::fs::read_dir(agent.path()).ok())
        .flatten()
        .filter_map(Result::ok);
    inner
        .filter(|entry| entry.path().extension().is_some_and(|end| end == "segment"))
        .count()
}

/// Reads what is not acknowledged of a log as an uploader does, acknowledging as it goes.
fn drain(spool: &Spool, attempt: &AttemptRef) -> (Vec<u8>, Option<LogTotal>) {
    let mut log = Vec::new();
    let from = spool.status(attempt).expect("a log").acked;
    loop {
        let offset = from + to_u64(log.len());
        let LogPiece { data, total, .. } = spool.read_from(attempt, offset, 70_000).expect("a piece");
        log.extend_from_slice(&data);
        spool.acked(attempt, from + to_u64(log.len()));
        if total.is_some() || data.is_empty() {
            return (log, total);
        }
    }
}

/// Output bytes, dropped bytes.
fn output(log: &[u8]) -> (Vec<u8>, u64) {
    let mut bytes = Vec::new();
    let mut dropped = 0;
    for record in records(log) {
        match record.expect("a record") {
            LogRecord::Output { data, .. } => bytes.extend_from_slice(data),
            LogRecord::Gap { bytes, .. } => dropped += bytes,
        }
    }
    (bytes, dropped)
}

#[test]
fn an_attempt_that_writes_nothing_costs_nothing() {
    let folder = tempfile::tempdir().expect("folder");
    let spool = spool(folder.path());
    let log = Logs::spooled(spool.clone()).open(attempt(1));
    log.writer("step").stdout(b"");
    log.finish();
    assert!(spool.open_logs().is_empty() && spool.pending_bytes() == 0 && files(folder.path()) == 0);
}

#[test]
fn a_small_log_never_touches_the_disk_and_is_whole() {
    let folder = tempfile::tempdir().expect("folder");
    let spool = spool(folder.path());
    let log = Logs::spooled(spool.clone()).open(attempt(1));
    log.add_secret(b"hunter2").expect("a secret");
    let writer = log.writer("build");
    writer.narrate("password is hunter2");
    writer.stdout(b"a hun");
    writer.stdout(b"ter2 b hunt");
    log.finish();
    let (bytes, total) = drain(&spool, &attempt(1));
    assert_eq!(output(&bytes), (b"password is ***\na *** b hunt".to_vec(), 0));
    assert_eq!(
        total,
        Some(LogTotal {
            bytes: to_u64(bytes.len()),
            crc32: crc32fast::hash(&bytes)
        })
    );
    assert_eq!((files(folder.path()), spool.pending_bytes()), (0, 0));
    spool.forget(&attempt(1));
    assert!(matches!(
        spool.read_from(&attempt(1), 0, 10),
        Err(ReadError::NoLog { .. })
    ));
}

#[test]
fn a_log_that_nobody_reads_keeps_its_head_and_says_what_is_missing() {
    let folder = tempfile::tempdir().expect("folder");
    let spool = spool(folder.path());
    let log = Logs::spooled(spool.clone()).open(attempt(1));
    let writer = log.writer("flood");
    let line = [b'x'; 1000];
    for _ in 0..200 {
        writer.stdout(&line);
    }
    assert!(files(folder.path()) > 5, "most of it is on disk");
    let in_memory = spool.memory_bytes();
    assert!(in_memory <= 16 * 1024, "{in_memory}");
    log.finish();
    let (bytes, _) = drain(&spool, &attempt(1));
    let (kept, dropped) = output(&bytes);
    assert!(kept.len() > 60_000 && kept.len() <= 64 * 1024);
    assert_eq!(to_u64(kept.len()) + dropped, 200_000);
    assert!(matches!(records(&bytes).last(), Some(Ok(LogRecord::Gap { .. }))));
    assert_eq!(
        (files(folder.path()), spool.pending_bytes(), spool.memory_bytes()),
        (0, 0, 0)
    );
}

#[test]
fn a_log_goes_on_after_a_gap_when_its_reader_is_back() {
    let folder = tempfile::tempdir().expect("folder");
    let spool = spool(folder.path());
    let log = Logs::spooled(spool.clone()).open(attempt(1));
    let writer = log.writer("flood");
    for _ in 0..100 {
        writer.stdout(&[b'a'; 1000]);
    }
    let (mut bytes, total) = drain(&spool, &attempt(1));
    assert_eq!(total, None);
    writer.stdout(b"after");
    log.finish();
    let rest = spool
        .read_from(&attempt(1), to_u64(bytes.len()), 70_000)
        .expect("a piece");
    bytes.extend_from_slice(&rest.data);
    let order: Vec<_> = records(&rest.data)
        .map(|record| matches!(record.expect("a record"), LogRecord::Gap { .. }))
        .collect();
    assert_eq!(order, [true, false]);
    let (kept, dropped) = output(&bytes);
    assert_eq!(to_u64(kept.len()) + dropped, 100_005);
    assert_eq!(rest.total.expect("total").crc32, crc32fast::hash(&bytes));
}

#[test]
fn a_disk_that_takes_nothing_makes_gaps_and_stops_nobody() {
    let folder = tempfile::tempdir().expect("folder");
    let spool = spool(folder.path());
    // Whoever runs this may write anywhere, so the folder has to be gone.
    for entry in std::fs::read_dir(folder.path()).expect("folder").filter_map(Result::ok) {
        std::fs::remove_dir_all(entry.path()).expect("removed");
    }
    let log = Logs::spooled(spool.clone()).open(attempt(1));
    let writer = log.writer("flood");
    for _ in 0..100 {
        writer.stdout(&[b'a'; 1000]);
    }
    assert!(spool.warning().expect("a warning").contains("cannot write"));
    assert!(spool.memory_bytes() <= 24 * 1024, "{}", spool.memory_bytes());
    log.finish();
    let (kept, dropped) = output(&drain(&spool, &attempt(1)).0);
    assert!(dropped > 0);
    assert_eq!(to_u64(kept.len()) + dropped, 100_000);
}

#[test]
fn all_logs_together_have_a_cap() {
    let folder = tempfile::tempdir().expect("folder");
    let spool = spool(folder.path());
    let logs = Logs::spooled(spool.clone());
    for epoch in 1..=4 {
        let log = logs.open(attempt(epoch));
        for _ in 0..60 {
            log.writer("s").stdout(&[b'a'; 1000]);
        }
        log.finish();
    }
    assert!(spool.pending_bytes() <= 97 * 1024);
    for epoch in 1..=3 {
        let (kept, dropped) = output(&drain(&spool, &attempt(epoch)).0);
        assert_eq!(to_u64(kept.len()) + dropped, 60_000);
    }
}

#[tokio::test]
async fn the_reader_is_told_once_of_each_log_that_changed() {
    let folder = tempfile::tempdir().expect("folder");
    let spool = spool(folder.path());
    let log = Logs::spooled(spool.clone()).open(attempt(7));
    let write = async {
        tokio::task::yield_now().await;
        log.writer("s").narrate("one");
        log.writer("s").narrate("two");
    };
    let (told, ()) = tokio::join!(spool.changed(), write);
    assert_eq!(told, [attempt(7)]);
    log.finish();
    assert_eq!(spool.changed().await, [attempt(7)]);
    let status = spool.status(&attempt(7)).expect("a log");
    assert!(status.acked == 0 && status.total.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_writer_waits_for_a_reader_that_keeps_up_and_not_for_one_that_is_away() {
    let folder = tempfile::tempdir().expect("folder");
    let spool = spool(folder.path());
    let log = Logs::spooled(spool.clone()).open(attempt(1));
    let writer = log.writer("flood");
    for _ in 0..30 {
        writer.stdout(&[b'a'; 1000]);
    }
    let begun = Instant::now();
    writer.room().await;
    assert!(begun.elapsed() <= READER_AWAY * 2, "nobody reads");
    let first = spool.read_from(&attempt(1), 0, 70_000).expect("a piece");
    spool.acked(&attempt(1), to_u64(first.data.len()));
    let crowded = tokio::time::timeout(Duration::from_millis(100), writer.room())
        .await
        .is_err();
    drain(&spool, &attempt(1));
    let begun = Instant::now();
    writer.room().await;
    assert_eq!(begun.elapsed(), Duration::ZERO, "there is room again");
    assert!(crowded, "the reader keeps up");
}

#[test]
fn offsets_that_cannot_be_read_are_told_apart() {
    let folder = tempfile::tempdir().expect("folder");
    let spool = spool(folder.path());
    let log = Logs::spooled(spool.clone()).open(attempt(1));
    log.writer("s").stdout(b"some output");
    let end = spool.status(&attempt(1)).expect("a log").end;
    assert!(matches!(
        spool.read_from(&attempt(1), end + 1, 100),
        Err(ReadError::PastEnd { .. })
    ));
    assert!(matches!(
        spool.read_from(&attempt(1), 3, 100),
        Err(ReadError::NotARecord { offset: 3 })
    ));
    assert!(
        spool
            .read_from(&attempt(1), end, 100)
            .expect("nothing new")
            .data
            .is_empty()
    );
    spool.acked(&attempt(1), end);
    assert!(matches!(
        spool.read_from(&attempt(1), 0, 100),
        Err(ReadError::Gone { offset: 0, .. })
    ));
}

#[derive(Debug, Clone)]
enum Act {
    Write(usize),
    Read,
    Ack(usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (1_usize..5000).prop_map(Act::Write),
        2 => Just(Act::Read),
        1 => (0_usize..100).prop_map(Act::Ack),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Whatever writers and a reader do: what is read is the log, byte for byte, and every byte of
    /// output is in it or counted in a gap.
    #[test]
    fn nothing_is_lost_uncounted(acts in prop::collection::vec(act(), 1..120)) {
        let folder = tempfile::tempdir().expect("folder");
        let spool = spool(folder.path());
        let log = Logs::spooled(spool.clone()).open(attempt(1));
        let writer = log.writer("s");
        writer.stdout(b"!");
        let mut written = 1;
        let mut got = Vec::new();
        for act in acts {
            match act {
                Act::Write(len) => {
                    writer.stderr(&vec![b'x'; len]);
                    written += len;
                }
                Act::Read => {
                    let piece = spool.read_from(&attempt(1), to_u64(got.len()), 9_000).expect("a piece");
                    got.extend_from_slice(&piece.data);
                }
                Act::Ack(percent) => spool.acked(&attempt(1), to_u64(got.len() * percent / 100)),
            }
        }
        log.finish();
        loop {
            let piece = spool.read_from(&attempt(1), to_u64(got.len()), 9_000).expect("a piece");
            got.extend_from_slice(&piece.data);
            if let Some(total) = piece.total {
                prop_assert_eq!(total, LogTotal { bytes: to_u64(got.len()), crc32: crc32fast::hash(&got) });
                break;
            }
        }
        let (kept, dropped) = output(&got);
        prop_assert_eq!(to_u64(kept.len()) + dropped, to_u64(written));
        spool.acked(&attempt(1), to_u64(got.len()));
        prop_assert_eq!((spool.pending_bytes(), spool.memory_bytes(), files(folder.path())), (0, 0, 0));
    }
}
