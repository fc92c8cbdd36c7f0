//! Uploads over a real socket: every byte once, whatever breaks.
#![expect(clippy::disallowed_methods, reason = "each test joins or drops what it spawns")]

use deputy_logs::{Logs, SpoolConfig};
use deputy_task::log_record;

use super::*;
use crate::scripted_manager::{ScriptedManager, ServedUpload, patiently};
use crate::way::Transport;

fn attempt() -> AttemptRef {
    AttemptRef {
        project: "p".parse().expect("id"),
        task: "t".parse().expect("id"),
        run: 1,
        epoch: 1,
    }
}

struct Agent {
    spool: Spool,
    finish: watch::Sender<Finish>,
    upload: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

fn start(manager: &ScriptedManager) -> Agent {
    start_with(manager.config())
}

fn start_with(config: SessionConfig) -> Agent {
    let folder = tempfile::tempdir().expect("folder");
    let spool = Spool::open(SpoolConfig::in_folder(folder.path())).expect("spool");
    let (finish, finish_in) = watch::channel(Finish::Never);
    let upload = tokio::spawn(upload(config, spool.clone(), finish_in));
    Agent {
        spool,
        finish,
        upload,
        _folder: folder,
    }
}

/// A log of some megabytes, so that it takes many frames.
fn write_log(spool: &Spool) {
    let log = Logs::spooled(spool.clone()).open(attempt());
    let writer = log.writer("step");
    for n in 0..4000 {
        writer.stdout(format!("line {n} {}\n", "x".repeat(700)).as_bytes());
    }
    log.finish();
}

async fn next(upload: &mut ServedUpload) -> Option<v1::PushLogsRequest> {
    patiently(upload.inbound.message()).await.ok().flatten()
}

async fn commit(upload: &ServedUpload, committed_offset: u64) {
    acknowledge(upload, committed_offset, Whole::No).await;
}

#[derive(PartialEq)]
enum Whole {
    Yes,
    No,
}

async fn acknowledge(upload: &ServedUpload, committed_offset: u64, whole: Whole) {
    let answer = v1::PushLogsResponse {
        attempt: Some(to_wire::attempt(&attempt())),
        committed_offset,
        complete: whole == Whole::Yes,
        refused: String::new(),
    };
    let _ = upload.outbound.send(Ok(answer)).await;
}

/// Takes a frame as a manager does: what it has already is skipped.
fn store(stored: &mut Vec<u8>, frame: &v1::PushLogsRequest) {
    assert_eq!(crc32fast::hash(&frame.data), frame.crc32);
    let at = usize::try_from(frame.offset).expect("small");
    assert!(at <= stored.len(), "a hole at {at}, {} stored", stored.len());
    stored.extend_from_slice(frame.data.get(stored.len() - at..).unwrap_or_default());
}

/// The connection breaks after so many frames, with the last ones stored and not acknowledged.
#[tokio::test]
async fn an_upload_cut_at_any_frame_ends_with_every_byte_once() {
    for cut in [0, 1, 2, 4] {
        let mut manager = ScriptedManager::start().await;
        let agent = start(&manager);
        write_log(&agent.spool);
        let mut stored = Vec::new();
        let mut upload = manager.upload().await;
        for n in 0..cut {
            let frame = next(&mut upload).await.expect("a frame");
            store(&mut stored, &frame);
            if n % 2 == 0 {
                commit(&upload, u64::try_from(stored.len()).expect("fits")).await;
            }
        }
        drop(upload);
        let mut upload = manager.upload().await;
        loop {
            let frame = next(&mut upload).await.expect("a frame");
            store(&mut stored, &frame);
            let offset = u64::try_from(stored.len()).expect("fits");
            if frame.complete {
                assert_eq!(crc32fast::hash(&stored), frame.total_crc32);
                acknowledge(&upload, offset, Whole::Yes).await;
                break;
            }
            commit(&upload, offset).await;
        }
        assert_eq!(
            log_record::whole_records_len(&stored, stored.len()),
            Ok(stored.len()),
            "cut after {cut}"
        );
        agent.finish.send_replace(Finish::WhenEmpty);
        assert!(
            next(&mut upload).await.is_none(),
            "the agent closes when everything is complete"
        );
        drop(upload);
        patiently(agent.upload).await.expect("no panic");
        assert_eq!(agent.spool.pending_bytes(), 0);
    }
}

/// Without HTTP/2 a call is a batch; every third answer is lost.
#[tokio::test]
async fn a_log_that_goes_by_batches_arrives_with_every_byte_once() {
    let mut manager = ScriptedManager::start().await;
    let agent = start_with(ScriptedManager::config_by(manager.address, Transport::Exchange));
    write_log(&agent.spool);
    let (mut stored, mut batches, mut is_whole) = (Vec::new(), 0, false);
    while !is_whole {
        let mut upload = manager.upload().await;
        batches += 1;
        let mut bytes = 0;
        while let Some(frame) = next(&mut upload).await {
            store(&mut stored, &frame);
            bytes += frame.data.len();
            let offset = u64::try_from(stored.len()).expect("fits");
            if batches % 3 == 2 {
                continue;
            }
            is_whole |= frame.complete;
            let whole = if frame.complete { Whole::Yes } else { Whole::No };
            acknowledge(&upload, offset, whole).await;
        }
        assert!(bytes < BATCH_BYTES + MAX_LOG_FRAME_BYTES, "{bytes} bytes in a batch");
        if batches % 3 == 2 {
            let lost = tonic::Status::unavailable("lost");
            upload.outbound.send(Err(lost)).await.expect("sent");
        }
    }
    assert!(batches > 3, "{batches} batches");
    let length = log_record::whole_records_len(&stored, stored.len());
    assert_eq!(length, Ok(stored.len()));
    agent.finish.send_replace(Finish::WhenEmpty);
    patiently(agent.upload).await.expect("no panic");
    assert_eq!(agent.spool.pending_bytes(), 0);
}

#[tokio::test]
async fn no_more_than_the_window_is_in_flight() {
    let mut manager = ScriptedManager::start().await;
    let agent = start(&manager);
    let log = Logs::spooled(agent.spool.clone()).open(attempt());
    for _ in 0..16 * 1024 {
        log.writer("step").stdout(&[b'x'; 1024]);
    }
    let mut upload = manager.upload().await;
    let window = usize::try_from(WINDOW_BYTES).expect("fits");
    let mut received = 0;
    while received < window {
        received += next(&mut upload).await.expect("a frame").data.len();
    }
    while let Ok(frame) = tokio::time::timeout(Duration::from_millis(300), upload.inbound.message()).await {
        received += frame.expect("no error").expect("no end").data.len();
    }
    assert!(
        (window..window + MAX_LOG_FRAME_BYTES).contains(&received),
        "{received} bytes without an acknowledgement"
    );
}

#[tokio::test]
async fn a_refused_log_is_forgotten_and_an_idle_agent_has_no_connection() {
    let mut manager = ScriptedManager::start().await;
    let agent = start(&manager);
    assert!(
        tokio::time::timeout(Duration::from_millis(100), manager.upload())
            .await
            .is_err(),
        "nothing to upload"
    );
    write_log(&agent.spool);
    let mut upload = manager.upload().await;
    next(&mut upload).await.expect("a frame");
    let answer = v1::PushLogsResponse {
        attempt: Some(to_wire::attempt(&attempt())),
        refused: "no such attempt".into(),
        ..v1::PushLogsResponse::default()
    };
    upload.outbound.send(Ok(answer)).await.expect("sent");
    agent.finish.send_replace(Finish::WhenEmpty);
    patiently(async { while upload.inbound.message().await.is_ok_and(|frame| frame.is_some()) {} }).await;
    drop(upload);
    patiently(agent.upload).await.expect("no panic");
}
