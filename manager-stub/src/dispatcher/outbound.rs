//! The way to one session: bounded. A session that does not read is ended, never waited for.

use deputy_proto::v1;
use deputy_proto::v1::session_response::Frame;
use tokio::sync::mpsc;
use tonic::Status;

/// Frames that may wait for a session: enough for the slots of a large agent and their acknowledgements.
const OUTBOUND_FRAMES: usize = 1024;

/// The sending half of a session.
#[derive(Debug, Clone)]
pub struct Outbound {
    frames: mpsc::Sender<Result<v1::SessionResponse, Status>>,
}

impl Outbound {
    /// A session's two halves; one place is kept for the last word.
    #[must_use]
    pub fn channel() -> (Self, mpsc::Receiver<Result<v1::SessionResponse, Status>>) {
        let (frames, receiver) = mpsc::channel(OUTBOUND_FRAMES + 1);
        (Self { frames }, receiver)
    }

    /// Sends a frame; false if the session cannot take it and has to end.
    #[must_use]
    pub fn send(&self, frame: Frame) -> bool {
        self.frames.capacity() > 1
            && self
                .frames
                .try_send(Ok(v1::SessionResponse { frame: Some(frame) }))
                .is_ok()
    }

    /// The last word. The session ends when the last `Outbound` is dropped.
    pub fn disconnect(&self, code: &str, reason: &str, retry_after_ms: u32) {
        let last = v1::Disconnect {
            code: code.into(),
            reason: reason.into(),
            retry_after_ms,
        };
        let frame = v1::SessionResponse {
            frame: Some(Frame::Disconnect(last)),
        };
        if self.frames.try_send(Ok(frame)).is_err() {
            tracing::debug!(code, "a session ended without its last word");
        }
    }
}
