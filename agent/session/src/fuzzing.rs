//! Doors for the fuzz targets of `tests/fuzz`; compiled for them only. What must hold of everything that is let in
//! is asserted here, because our own words are not public.

use deputy_proto::v1;
use deputy_proto::v1::session_response::Frame;
use deputy_task::boot_time::BootTime;
use deputy_task::document::{Checked, from_canonical, to_canonical};
use deputy_task::message::WriteVerdict;
use prost::Message;

use crate::clock::boot_now;
use crate::from_wire::{self, Blame};
use crate::to_wire;

/// Takes a frame from a manager as far as the domain's own words.
pub fn frame(bytes: &[u8]) {
    let now = boot_now();
    match v1::SessionResponse::decode(bytes)
        .ok()
        .and_then(|response| response.frame)
    {
        Some(Frame::Welcome(welcome)) => welcomed(welcome),
        Some(Frame::Assignment(assignment)) => assigned(assignment, now),
        Some(Frame::WriteAck(ack)) => {
            for result in ack.results {
                let is_ok = result.code == v1::WriteCode::Ok as i32;
                let verdict = from_wire::verdict(result, now);
                assert_eq!(
                    matches!(verdict, WriteVerdict::Ok { .. }),
                    is_ok,
                    "a grant out of another answer"
                );
            }
        }
        Some(Frame::Cancel(wish)) => attempt(wish.attempt),
        Some(Frame::Revoked(revoked)) => attempt(revoked.attempt),
        Some(Frame::HeartbeatAck(_) | Frame::Drain(_) | Frame::Disconnect(_) | Frame::Probed(_)) | None => {}
    }
}

fn welcomed(wire: v1::Welcome) {
    let Ok(welcome) = from_wire::welcome(wire.clone()) else {
        return;
    };
    assert!(welcome.heartbeat.as_millis() >= 20 && welcome.lease >= welcome.heartbeat);
    assert_eq!(welcome.stale.len(), wire.stale.len());
}

fn attempt(wire: Option<v1::AttemptRef>) {
    if let Ok(attempt) = from_wire::attempt(wire.clone()) {
        assert!(attempt.run > 0 && attempt.epoch > 0);
        assert_eq!(
            Some(to_wire::attempt(&attempt)),
            wire,
            "the attempt is another one on its way back"
        );
    }
}

fn assigned(wire: v1::Assignment, now: BootTime) {
    let (records, deadline) = (wire.journal.len(), wire.start_deadline_ms);
    let assignment = match from_wire::assignment(wire, now) {
        Ok(assignment) => assignment,
        Err(bad) => {
            assert!(
                bad.blame != Blame::Document || bad.attempt.is_some(),
                "nobody can be told of the bad document"
            );
            return;
        }
    };
    attempt(Some(to_wire::attempt(&assignment.attempt)));
    assert_eq!(assignment.journal.len(), records, "a record was lost");
    assert!(assignment.start_deadline == now.after(std::time::Duration::from_millis(deadline.into())));
    for record in assignment.journal {
        let again = from_wire::record(to_wire::record(record.clone())).expect("what was read can be read again");
        assert_eq!(record, again, "the record is another one on its way back");
    }
    for blob in assignment.bundles.values() {
        assert!(blob.sha256.len() == 64 && hex::decode(&blob.sha256).is_ok());
    }
    let checked = Checked {
        document: assignment.document.as_ref().clone(),
        inputs: assignment.inputs.as_ref().clone(),
        signed: assignment.signed.map(|signed| Box::new(signed.as_ref().clone())),
    };
    let canonical = to_canonical(&checked).expect("a checked document has a canonical form");
    assert!(
        from_canonical(&canonical).is_ok_and(|again| again == checked),
        "the document is another one on its way back"
    );
}
