//! Log upload: frames are checked here, written by the log store, and acknowledged after the commit.

use deputy_proto::v1;
use deputy_proto::version::MAX_LOG_FRAME_BYTES;
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::context::{Answers, Context};
use super::whose::Attempts;
use crate::auth::caller;
use crate::log_store::{LogPiece, PieceAnswer};
use deputy_task::attempt::AttemptRef;

/// Acknowledgements that may wait for an agent that does not read; they are cumulative.
const WAITING_ANSWERS: usize = 1024;

/// Serves one upload stream.
pub(super) fn serve(context: &Context, frames: Streaming<v1::PushLogsRequest>) -> Answers<v1::PushLogsResponse> {
    let (answer, answers) = mpsc::channel(WAITING_ANSWERS);
    let (last_word, ended) = mpsc::channel(1);
    let serving = context.clone();
    let attempts = Attempts::of(&caller::current());
    context.tracker.spawn(async move {
        tokio::select! {
            outcome = receive(&serving, attempts, frames, answer) => {
                if let Err(status) = outcome {
                    drop(last_word.try_send(Err(status)));
                }
            }
            () = serving.ending.cancelled() => {}
        }
    });
    let said = ReceiverStream::new(answers).map(to_wire);
    Box::pin(said.chain(ReceiverStream::new(ended)))
}

async fn receive(
    context: &Context,
    mut attempts: Attempts,
    mut frames: Streaming<v1::PushLogsRequest>,
    answer: mpsc::Sender<PieceAnswer>,
) -> Result<(), Status> {
    while let Some(frame) = frames.message().await? {
        let attempt = attempt(frame.attempt)?;
        if frame.data.len() > MAX_LOG_FRAME_BYTES {
            return Err(Status::invalid_argument(format!(
                "a log frame has at most {MAX_LOG_FRAME_BYTES} bytes"
            )));
        }
        if crc32fast::hash(&frame.data) != frame.crc32 {
            return Err(Status::data_loss("a log frame does not agree with its checksum"));
        }
        if let Some(reason) = attempts.refusal(context, &attempt).await? {
            // The agent lets go of this log and goes on with the others.
            if answer.send(PieceAnswer::Refused { attempt, reason }).await.is_err() {
                return Ok(());
            }
            continue;
        }
        let piece = LogPiece {
            attempt,
            offset: frame.offset,
            data: frame.data,
            total_crc32: frame.complete.then_some(frame.total_crc32),
            answer: answer.clone(),
        };
        if !context.logs.push(piece).await {
            return Err(Status::unavailable("the manager is shutting down"));
        }
    }
    Ok(())
}

fn attempt(wire: Option<v1::AttemptRef>) -> Result<AttemptRef, Status> {
    let wire = wire.ok_or_else(|| Status::invalid_argument("a log frame names its attempt"))?;
    let bad = |error: deputy_task::id::BadId| Status::invalid_argument(error.to_string());
    Ok(AttemptRef {
        project: wire.project.parse().map_err(bad)?,
        task: wire.task_id.parse().map_err(bad)?,
        run: wire.run,
        epoch: wire.epoch,
    })
}

fn to_wire(answer: PieceAnswer) -> Result<v1::PushLogsResponse, Status> {
    let wire = |attempt: AttemptRef| {
        Some(v1::AttemptRef {
            project: attempt.project.to_string(),
            task_id: attempt.task.to_string(),
            run: attempt.run,
            epoch: attempt.epoch,
        })
    };
    match answer {
        PieceAnswer::Committed {
            attempt,
            offset,
            complete,
        } => Ok(v1::PushLogsResponse {
            attempt: wire(attempt),
            committed_offset: offset,
            complete,
            refused: String::new(),
        }),
        PieceAnswer::Refused { attempt, reason } => Ok(v1::PushLogsResponse {
            attempt: wire(attempt),
            committed_offset: 0,
            complete: false,
            refused: reason,
        }),
        PieceAnswer::Failed(reason) => Err(Status::unavailable(reason)),
    }
}
