//! Bundles and blobs whose sender stalls, never ends, or is one of too many.

use std::path::Path;
use std::time::Duration;

use deputy_manager::server::{Manager, Settings};
use deputy_manager::service::UploadLimits;
use deputy_proto::v1;
use deputy_proto::v1::agent_client::AgentClient;
use deputy_proto::v1::tasks_client::TasksClient;
use futures::StreamExt;
use futures::stream::{self, Stream};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::agent::SOON;

/// Longer than any of these tests lasts: the limit that is not looked at.
const NEVER: Duration = Duration::from_secs(60);

/// A manager that takes one upload at a time, which may be silent and last for so long.
async fn manager(folder: &Path, idle: Duration, total: Duration) -> (Manager, TasksClient<Channel>) {
    let uploads = UploadLimits {
        idle,
        total,
        at_once: 1,
    };
    let settings = Settings {
        uploads,
        ..Settings::on_loopback(folder.to_owned())
    };
    let manager = Manager::start(settings).await.expect("up");
    let channel = channel(&manager).await;
    (manager, TasksClient::new(channel))
}

async fn channel(manager: &Manager) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{}", manager.address())).expect("an address");
    endpoint.connect().await.expect("connects")
}

fn piece() -> v1::PutBundleRequest {
    v1::PutBundleRequest {
        sha256: "0".repeat(64),
        data: "x".into(),
        ..v1::PutBundleRequest::default()
    }
}

/// A piece now and then, without an end.
fn endless() -> impl Stream<Item = v1::PutBundleRequest> + Send + 'static {
    stream::repeat_with(piece).then(|piece| async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        piece
    })
}

async fn refused<T>(call: impl Future<Output = Result<T, Status>>) -> Status {
    let answer = tokio::time::timeout(SOON, call).await.expect("an answer in time");
    answer.err().expect("refused")
}

fn left_behind(folder: &Path) -> usize {
    let project = std::fs::read_dir(folder.join("blobs/default"));
    project.map_or(0, Iterator::count)
}

/// An upload has a place, and its file.
async fn until_under_way(folder: &Path) {
    let begun = async {
        while left_behind(folder) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, begun).await.expect("an upload begins");
}

/// The place is free again: the digest is another one, and the next upload is told so.
async fn has_its_turn(tasks: &mut TasksClient<Channel>) {
    let status = refused(tasks.put_bundle(stream::iter([piece()]))).await;
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
}

#[tokio::test]
async fn an_upload_that_stalls_is_ended_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let (manager, mut tasks) = manager(folder.path(), Duration::from_millis(400), NEVER).await;
    let stalled = stream::iter([piece()]).chain(stream::pending());
    let status = refused(tasks.put_bundle(stalled)).await;
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(
        status.message(),
        "nothing of the upload came for 400ms: nothing was stored"
    );
    assert_eq!(left_behind(folder.path()), 0);
    let mut agent = AgentClient::new(channel(&manager).await);
    let status = refused(agent.put_blob(stream::pending())).await;
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
}

#[tokio::test]
async fn an_upload_that_never_ends_is_ended_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_manager, mut tasks) = manager(folder.path(), NEVER, Duration::from_secs(2)).await;
    let status = refused(tasks.put_bundle(endless())).await;
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(status.message(), "the upload took longer than 2s: nothing was stored");
    assert_eq!(left_behind(folder.path()), 0);
    has_its_turn(&mut tasks).await;
}

#[tokio::test]
async fn one_upload_too_many_is_refused_and_has_its_turn_later() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_manager, mut tasks) = manager(folder.path(), Duration::from_millis(1500), NEVER).await;
    let mut other = tasks.clone();
    // The first one keeps its place until the second is refused; then it stalls.
    let (stall, stalls) = tokio::sync::oneshot::channel::<()>();
    let pieces = endless().take_until(stalls).chain(stream::pending());
    let (first, second) = tokio::join!(refused(tasks.put_bundle(pieces)), async {
        until_under_way(folder.path()).await;
        let second = refused(other.put_bundle(stream::iter([piece()]))).await;
        drop(stall);
        second
    });
    assert_eq!(second.code(), Code::ResourceExhausted);
    assert!(second.message().contains("1 uploads are under way already"), "{second}");
    assert_eq!(first.code(), Code::DeadlineExceeded);
    has_its_turn(&mut tasks).await;
}
