//! Doors for the fuzz targets of `tests/fuzz`; compiled for them only.

use deputy_proto::v1::SessionResponse;
use deputy_proto::v1::session_response::Frame;

use prost::Message;

use crate::clock::boot_now;
use crate::from_wire;

/// Takes a frame from a manager as far as the domain's own words.
pub fn frame(bytes: &[u8]) {
    let now = boot_now();
    match SessionResponse::decode(bytes).ok().and_then(|response| response.frame) {
        Some(Frame::Welcome(welcome)) => drop(from_wire::welcome(welcome)),
        Some(Frame::Assignment(assignment)) => drop(from_wire::assignment(assignment, now)),
        Some(Frame::WriteAck(ack)) => {
            for result in ack.results {
                drop(from_wire::verdict(result, now));
            }
        }
        Some(Frame::Cancel(wish)) => drop(from_wire::attempt(wish.attempt)),
        Some(Frame::Revoked(revoked)) => drop(from_wire::attempt(revoked.attempt)),
        Some(Frame::HeartbeatAck(_) | Frame::Drain(_) | Frame::Disconnect(_)) | None => {}
    }
}
