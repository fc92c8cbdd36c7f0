//! A stream of answers that never ends in order when it was broken off. Used by what follows something, and may be
//! far ahead of its reader: why it ends has a channel of its own, so that a full one does not swallow it and leave
//! an end that looks like the end of what was asked for.

use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;

use super::context::Answers;

/// Answers that may wait for a reader.
const WAITING: usize = 64;

/// Where what is being served puts its answers.
pub(super) type Said<T> = mpsc::Sender<Result<T, Status>>;

/// Streams what `serve` says until it has ended, nobody reads any more, its caller's credentials are `over`, or the
/// manager ends. An error of `serve`, the end of the credentials and that of the manager is the last thing the reader
/// hears.
pub(super) fn streamed<T, Served>(
    (tracker, ending): (&TaskTracker, &CancellationToken),
    over: impl Future<Output = Status> + Send + 'static,
    serve: impl FnOnce(Said<T>) -> Served,
) -> Answers<T>
where
    T: Send + 'static,
    Served: Future<Output = Result<(), Status>> + Send + 'static,
{
    let (said, answers) = mpsc::channel(WAITING);
    let (last_word, ended) = mpsc::channel(1);
    let (reader, ending) = (said.clone(), ending.clone());
    let served = serve(said);
    tracker.spawn(async move {
        let outcome = tokio::select! {
            outcome = served => outcome,
            () = reader.closed() => Ok(()),
            status = over => Err(status),
            () = ending.cancelled() => Err(Status::unavailable("the manager is shutting down")),
        };
        if let Err(status) = outcome {
            // There is room for one, and there is only this one: only a reader who is gone does not hear it.
            drop(last_word.try_send(Err(status)));
        }
    });
    Box::pin(ReceiverStream::new(answers).chain(ReceiverStream::new(ended)))
}

#[cfg(test)]
mod tests {
    use deputy_proto::v1;

    use super::*;

    fn numbered(at_ms: i64) -> v1::WatchResponse {
        v1::WatchResponse {
            at_ms,
            ..v1::WatchResponse::default()
        }
    }

    /// Fills the answers of a reader who does not read, then breaks off; answers what he hears after all.
    async fn heard(broken_off: impl FnOnce(&CancellationToken), served: Result<(), Status>) -> (usize, Option<Status>) {
        let (tracker, ending) = (TaskTracker::new(), CancellationToken::new());
        let (full, is_full) = tokio::sync::oneshot::channel();
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        let mut answers = streamed((&tracker, &ending), std::future::pending(), |said| async move {
            for number in 0..WAITING {
                said.send(Ok(numbered(i64::try_from(number).expect("small"))))
                    .await
                    .expect("read");
            }
            full.send(()).expect("awaited");
            gone.await.expect("told");
            served
        });
        is_full.await.expect("filled");
        broken_off(&ending);
        if !ending.is_cancelled() {
            go.send(()).expect("awaited");
        }
        tracker.close();
        tracker.wait().await;
        let mut read = 0;
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(answer) => {
                    assert_eq!(usize::try_from(answer.at_ms).expect("small"), read);
                    read += 1;
                }
                Err(status) => return (read, Some(status)),
            }
        }
        (read, None)
    }

    #[tokio::test]
    async fn a_reader_who_is_behind_hears_that_the_manager_ended() {
        let (read, last) = heard(CancellationToken::cancel, Ok(())).await;
        assert_eq!(read, WAITING, "nothing that was said is lost");
        assert_eq!(last.expect("not an end in order").code(), tonic::Code::Unavailable);
    }

    #[tokio::test]
    async fn a_reader_who_is_behind_hears_what_went_wrong() {
        let (read, last) = heard(|_| {}, Err(Status::data_loss("gone"))).await;
        assert_eq!(read, WAITING, "nothing that was said is lost");
        assert_eq!(last.expect("not an end in order").message(), "gone");
    }

    #[tokio::test]
    async fn what_has_ended_in_order_ends_in_order() {
        let (read, last) = heard(|_| {}, Ok(())).await;
        assert_eq!(read, WAITING);
        assert!(last.is_none(), "{last:?}");
    }
}
