//! Log upload: acknowledged offsets, overlaps, gaps, checksums, tailing.

use deputy_manager::dispatcher::timing::Timing;
use deputy_proto::v1;
use deputy_proto::v1::agent_client::AgentClient;
use deputy_task::log_record::{LogStream, encode_output};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::agent::{Agent, World, complete};

struct Upload {
    frames: mpsc::Sender<v1::PushLogsRequest>,
    answers: Streaming<v1::PushLogsResponse>,
    attempt: v1::AttemptRef,
}

impl Upload {
    async fn open(world: &World, attempt: &v1::AttemptRef) -> Self {
        let (frames, receiver) = mpsc::channel(16);
        let mut client = AgentClient::new(world.channel().await);
        let answers = client
            .push_logs(ReceiverStream::new(receiver))
            .await
            .expect("a stream")
            .into_inner();
        Self {
            frames,
            answers,
            attempt: attempt.clone(),
        }
    }

    async fn push(&mut self, offset: usize, data: &[u8], total: Option<u32>) -> v1::PushLogsResponse {
        let frame = v1::PushLogsRequest {
            attempt: Some(self.attempt.clone()),
            offset: u64::try_from(offset).expect("small"),
            data: data.to_vec().into(),
            crc32: crc32fast::hash(data),
            complete: total.is_some(),
            total_crc32: total.unwrap_or_default(),
        };
        self.frames.send(frame).await.expect("sent");
        self.answers.message().await.expect("an answer").expect("an answer")
    }
}

fn log() -> (Vec<u8>, usize) {
    let mut bytes = Vec::new();
    encode_output(&mut bytes, LogStream::Stdout, "one", 1_000, b"hello\n");
    let middle = bytes.len();
    encode_output(&mut bytes, LogStream::Stderr, "one", 2_000, b"world\n");
    (bytes, middle)
}

async fn running() -> (World, Agent, v1::AttemptRef) {
    let world = World::start(Timing::default()).await;
    let mut agent = Agent::connect(&world, "a1", "i1").await;
    world.submit("").await;
    let attempt = agent.assignment().await.attempt.expect("an attempt");
    agent.start(&attempt).await;
    (world, agent, attempt)
}

/// Follows a log from a cursor; the empty one is its beginning.
async fn follow(world: &World, task: &str, cursor: &str) -> Streaming<v1::TailLogsResponse> {
    let request = v1::TailLogsRequest {
        task_id: task.into(),
        cursor: cursor.into(),
        follow: true,
        ..v1::TailLogsRequest::default()
    };
    world
        .tasks()
        .await
        .tail_logs(request)
        .await
        .expect("a stream")
        .into_inner()
}

async fn tail(world: &World, task: &str, cursor: &str) -> Vec<v1::TailLogsResponse> {
    let mut stream = follow(world, task, cursor).await;
    let mut pieces = Vec::new();
    while let Some(piece) = stream.message().await.expect("a piece") {
        pieces.push(piece);
    }
    pieces
}

#[tokio::test]
async fn pieces_are_stored_once_however_often_they_are_sent() {
    let (mut world, mut agent, attempt) = running().await;
    let (bytes, middle) = log();
    let total = crc32fast::hash(&bytes);
    let mut upload = Upload::open(&world, &attempt).await;
    assert_eq!(
        upload.push(0, &bytes[..middle], None).await.committed_offset,
        middle as u64
    );
    assert_eq!(
        upload.push(0, &bytes[..middle], None).await.committed_offset,
        middle as u64,
        "a repetition"
    );
    assert_eq!(
        upload.push(bytes.len(), b"later", None).await.committed_offset,
        middle as u64,
        "a gap"
    );
    drop((upload, agent.frames.take()));
    world.restart().await;
    let mut upload = Upload::open(&world, &attempt).await;
    let last = upload.push(0, &bytes, Some(total)).await;
    assert_eq!((last.committed_offset, last.complete), (bytes.len() as u64, true));
    let again = upload.push(middle, &bytes[middle..], Some(total)).await;
    assert_eq!((again.committed_offset, again.complete), (bytes.len() as u64, true));
    let mut hello = crate::agent::hello("a1", "i1", 2);
    hello.inventory = vec![v1::HeldAttempt {
        attempt: Some(attempt.clone()),
        started: true,
    }];
    let mut agent = Agent::connect_with(&world, hello).await;
    agent.write(&attempt, vec![complete(v1::TaskState::Succeeded)]).await;
    let pieces = tail(&world, &attempt.task_id, "").await;
    assert_eq!(
        pieces.iter().map(|piece| piece.data.as_ref()).collect::<Vec<_>>(),
        [&b"hello\n"[..], b"world\n"]
    );
    assert_eq!(
        (
            pieces[1].stream(),
            pieces[1].step.as_str(),
            pieces[1].at_ms,
            pieces[1].epoch
        ),
        (v1::LogStream::Stderr, "one", 2_000, 1)
    );
    let rest = tail(&world, &attempt.task_id, &pieces[0].cursor).await;
    assert_eq!(
        rest.iter().map(|piece| piece.data.as_ref()).collect::<Vec<_>>(),
        [&b"world\n"[..]]
    );
    assert_eq!(world.task(&attempt.task_id).await.log_state(), v1::LogState::Complete);
}

#[tokio::test]
async fn a_follower_sees_bytes_as_they_are_committed_and_ends_with_the_log() {
    let (world, mut agent, attempt) = running().await;
    let (bytes, middle) = log();
    let mut follower = follow(&world, &attempt.task_id, "").await;
    let mut upload = Upload::open(&world, &attempt).await;
    upload.push(0, &bytes[..middle], None).await;
    assert_eq!(
        follower
            .message()
            .await
            .expect("a piece")
            .expect("a piece")
            .data
            .as_ref(),
        b"hello\n"
    );
    agent.write(&attempt, vec![complete(v1::TaskState::Succeeded)]).await;
    assert_eq!(
        world.task(&attempt.task_id).await.log_state(),
        v1::LogState::Incomplete,
        "the result never waits for the log"
    );
    upload
        .push(middle, &bytes[middle..], Some(crc32fast::hash(&bytes)))
        .await;
    assert_eq!(
        follower
            .message()
            .await
            .expect("a piece")
            .expect("a piece")
            .data
            .as_ref(),
        b"world\n"
    );
    assert!(follower.message().await.expect("the end").is_none());
}

#[tokio::test]
async fn a_log_of_an_attempt_that_never_was_is_refused() {
    let (world, _agent, attempt) = running().await;
    let never = v1::AttemptRef { epoch: 9, ..attempt };
    let answer = Upload::open(&world, &never).await.push(0, b"x", None).await;
    assert!(answer.refused.contains("no attempt 9"), "{}", answer.refused);
}

#[tokio::test]
async fn a_damaged_frame_ends_the_upload() {
    let (world, _agent, attempt) = running().await;
    let mut upload = Upload::open(&world, &attempt).await;
    let frame = v1::PushLogsRequest {
        attempt: Some(attempt),
        data: "abc".into(),
        crc32: 1,
        ..v1::PushLogsRequest::default()
    };
    upload.frames.send(frame).await.expect("sent");
    assert_eq!(
        upload.answers.message().await.expect_err("refused").code(),
        tonic::Code::DataLoss
    );
}

/// Records that together are more than has room on the way to a reader who does not read, in pieces as an agent
/// sends them.
fn long_log() -> Vec<Vec<u8>> {
    let piece = |begin: i64| {
        let mut bytes = Vec::new();
        for at_ms in begin..begin + 20 {
            encode_output(&mut bytes, LogStream::Stdout, "one", at_ms, &[b'x'; 20_000]);
        }
        bytes
    };
    (0..LONG / 20).map(|number| piece(number * 20)).collect()
}

/// Records in a long log.
const LONG: i64 = 800;

#[tokio::test]
async fn a_follower_who_is_behind_when_the_manager_ends_is_told_that_there_is_more() {
    let (mut world, agent, attempt) = running().await;
    let mut upload = Upload::open(&world, &attempt).await;
    let mut offset = 0;
    for piece in long_log() {
        upload.push(offset, &piece, None).await;
        offset += piece.len();
    }
    let mut follower = follow(&world, &attempt.task_id, "").await;
    drop((upload, agent));
    // Until there is no room left on the way.
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    let late = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let mut pieces = 0;
        loop {
            match follower.message().await {
                Ok(Some(_)) => pieces += 1,
                Ok(None) => return (pieces, None),
                Err(status) => return (pieces, Some(status)),
            }
        }
    };
    let ((), (pieces, last)) = tokio::join!(world.restart(), late);
    assert!(pieces < LONG, "all of it was on its way");
    assert_eq!(
        last.expect("an end that is not in order").code(),
        tonic::Code::Unavailable
    );
}

/// A log of which nothing more comes, read from a data folder after `damage` was done to its segment.
async fn read_damaged(damage: impl FnOnce(&std::path::Path)) -> tonic::Status {
    let (world, _agent, attempt) = running().await;
    let (bytes, _) = log();
    Upload::open(&world, &attempt).await.push(0, &bytes, None).await;
    damage(&world.folder.path().join("logs/segment-0000000001.log"));
    let request = v1::TailLogsRequest {
        task_id: attempt.task_id,
        ..v1::TailLogsRequest::default()
    };
    let mut stream = world
        .tasks()
        .await
        .tail_logs(request)
        .await
        .expect("a stream")
        .into_inner();
    stream.message().await.expect_err("damaged")
}

#[tokio::test]
async fn a_log_whose_segment_is_missing_or_short_is_lost_and_that_is_said() {
    let missing = read_damaged(|segment| std::fs::remove_file(segment).expect("removed")).await;
    assert_eq!(missing.code(), tonic::Code::DataLoss);
    assert_eq!(
        missing.message(),
        "all of log segment 1 is gone from the manager's disk"
    );
    let short = read_damaged(|segment| {
        let file = std::fs::File::options().write(true).open(segment).expect("open");
        file.set_len(3).expect("cut");
    })
    .await;
    assert_eq!(short.code(), tonic::Code::DataLoss);
    assert_eq!(
        short.message(),
        "the end of log segment 1 is gone from the manager's disk"
    );
}
