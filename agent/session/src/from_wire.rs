//! Wire messages become our words here and nowhere else. What comes from the network is checked;
//! nothing here panics, whatever the bytes say. Unknown fields were dropped by the decoder, unknown
//! frames never arrive.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use deputy_proto::v1;
use deputy_task::attempt::AttemptRef;
use deputy_task::boot_time::BootTime;
use deputy_task::document::{Checked, MAX_CANONICAL_BYTES, from_canonical};
use deputy_task::id::BadId;
use deputy_task::message::{Assignment, BlobRef, WriteVerdict};
use deputy_task::record::{
    Direction, EffectClass, EffectKey, Intent, MAC_BYTES, MAX_RECORD_BYTES, Mac, Payload, PoolKeyId, Record,
    RecordBody, Sealing,
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// A message does not say what the contract promises.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("{what} is {value}")]
    OutOfRange { what: &'static str, value: u64 },
    #[error(transparent)]
    Id(#[from] BadId),
    #[error("unknown {what} {value}")]
    UnknownEnum { what: &'static str, value: i32 },
    #[error("{what} cannot be read: {reason}")]
    Unreadable { what: String, reason: String },
}

/// An assignment that cannot be taken. With an attempt it can be refused, else only be dropped.
#[derive(Debug)]
pub(crate) struct BadAssignment {
    pub(crate) attempt: Option<AttemptRef>,
    pub(crate) blame: Blame,
    pub(crate) error: WireError,
}

/// What is wrong with an assignment decides whether another agent should be offered it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blame {
    /// The task's document: no agent of this version can run it.
    Document,
    /// The frame or the journal: another agent may be able to read it.
    Journal,
}

/// What the manager said in answer to Hello.
#[derive(Debug)]
pub(crate) struct Welcome {
    pub(crate) protocol: u32,
    pub(crate) generation: u64,
    pub(crate) heartbeat: Duration,
    pub(crate) lease: Duration,
    pub(crate) stale: Vec<AttemptRef>,
    pub(crate) version: String,
}

/// Of a text for people so many characters are taken: it goes into logs, results and the journal.
const MAX_TEXT_CHARS: usize = 2048;
/// Longest time to stay away that a manager's word is good for: an hour. After it the agent asks again.
const MAX_PATIENCE_MS: u32 = 60 * 60 * 1000;
/// Most bytes of a packed bundle; the command line packs at most 64 MiB.
const MAX_BUNDLE_BYTES: u64 = 1024 * 1024 * 1024;

/// Heartbeats closer together than this are a mistake of the manager.
const MIN_HEARTBEAT: Duration = Duration::from_millis(20);

/// A manager's text for people, cut where it is longer than anybody reads.
pub(crate) fn text(wire: String) -> String {
    match wire.char_indices().nth(MAX_TEXT_CHARS) {
        Some((end, _)) => format!("{}…", &wire[..end]),
        None => wire,
    }
}

/// The manager's last word, with a patience that an operator can outwait.
pub(crate) fn disconnect(wire: v1::Disconnect) -> v1::Disconnect {
    v1::Disconnect {
        code: text(wire.code),
        reason: text(wire.reason),
        retry_after_ms: wire.retry_after_ms.min(MAX_PATIENCE_MS),
    }
}

pub(crate) fn attempt(wire: Option<v1::AttemptRef>) -> Result<AttemptRef, WireError> {
    let wire = wire.ok_or(WireError::Missing("attempt"))?;
    if wire.run == 0 {
        return Err(WireError::OutOfRange { what: "run", value: 0 });
    }
    if wire.epoch == 0 {
        return Err(WireError::OutOfRange {
            what: "epoch",
            value: 0,
        });
    }
    Ok(AttemptRef {
        project: wire.project.parse()?,
        task: wire.task_id.parse()?,
        run: wire.run,
        epoch: wire.epoch,
    })
}

pub(crate) fn welcome(wire: v1::Welcome) -> Result<Welcome, WireError> {
    let heartbeat = Duration::from_millis(wire.heartbeat_interval_ms.into());
    let lease = Duration::from_millis(wire.lease_ttl_ms.into());
    if heartbeat < MIN_HEARTBEAT {
        return Err(WireError::OutOfRange {
            what: "heartbeat_interval_ms",
            value: wire.heartbeat_interval_ms.into(),
        });
    }
    if lease < heartbeat {
        return Err(WireError::OutOfRange {
            what: "lease_ttl_ms",
            value: wire.lease_ttl_ms.into(),
        });
    }
    let stale = wire
        .stale
        .into_iter()
        .map(|stale| attempt(Some(stale)))
        .collect::<Result<_, _>>()?;
    Ok(Welcome {
        protocol: wire.protocol,
        generation: wire.generation,
        heartbeat,
        lease,
        stale,
        version: text(wire.version),
    })
}

/// An unknown code is taken as a refusal: nothing happens on an answer that is not understood.
pub(crate) fn verdict(wire: v1::WriteResult, sent_at: BootTime) -> WriteVerdict {
    match v1::WriteCode::try_from(wire.code) {
        Ok(v1::WriteCode::Ok) => WriteVerdict::Ok { sent_at },
        Ok(v1::WriteCode::StaleEpoch) => WriteVerdict::StaleEpoch,
        Ok(v1::WriteCode::UndoDecided) => WriteVerdict::UndoDecided,
        Ok(v1::WriteCode::Nondeterministic) => WriteVerdict::Nondeterministic(text(wire.message)),
        Ok(v1::WriteCode::Invalid) => WriteVerdict::Invalid(text(wire.message)),
        Ok(v1::WriteCode::Unspecified) | Err(_) => WriteVerdict::Invalid(format!(
            "the manager answered with code {}, which this version does not know",
            wire.code
        )),
    }
}

pub(crate) fn record(wire: v1::Record) -> Result<Record, WireError> {
    if wire.key.is_empty() {
        return Err(WireError::Missing("record key"));
    }
    at_most("record payload", wire.payload.len(), MAX_RECORD_BYTES)?;
    at_most("sealed value", wire.seal.len(), MAX_RECORD_BYTES)?;
    let body = match v1::RecordKind::try_from(wire.kind) {
        Ok(v1::RecordKind::Intent) => RecordBody::Intent(Intent {
            class: effect_class(&wire)?,
            plan_digest: hex::encode(&wire.plan_digest),
            direction: if wire.undo { Direction::Undo } else { Direction::Forward },
            summary: wire.summary,
        }),
        Ok(v1::RecordKind::Done) => RecordBody::Done(value(&wire)?),
        Ok(v1::RecordKind::Fact) => RecordBody::Fact(value(&wire)?),
        Ok(v1::RecordKind::Decision) => RecordBody::Decision(payload(&wire.key, &wire.payload)?),
        Ok(v1::RecordKind::Unspecified) | Err(_) => {
            return Err(WireError::UnknownEnum {
                what: "record kind",
                value: wire.kind,
            });
        }
    };
    let sealing = Sealing {
        sealed: wire.seal.to_vec(),
        mac: mac(&wire.key, &wire.mac, (wire.position, wire.pool_key))?,
    };
    Ok(Record {
        key: EffectKey::from_journal(wire.key),
        program_version: wire.program_version,
        step_kind: wire.step_kind,
        body,
        epoch: wire.epoch,
        sealing,
    })
}

/// Before it is read: JSON costs many times its size.
fn at_most(what: &'static str, len: usize, most: usize) -> Result<(), WireError> {
    if len > most {
        let value = u64::try_from(len).unwrap_or(u64::MAX);
        return Err(WireError::OutOfRange { what, value });
    }
    Ok(())
}

/// Null for a sealed one: only the pool's key opens it.
fn value(wire: &v1::Record) -> Result<Payload, WireError> {
    if wire.seal.is_empty() {
        Payload::read(&wire.payload).map_err(|error| unreadable(&wire.key, &error))
    } else {
        Ok(Value::Null.into())
    }
}

/// Whether it proves anything is the executor's to say.
fn mac(key: &str, tag: &Bytes, (position, pool_key): (u32, String)) -> Result<Option<Mac>, WireError> {
    if tag.is_empty() {
        return Ok(None);
    }
    let tag: [u8; MAC_BYTES] = tag.as_ref().try_into().map_err(|_| WireError::Unreadable {
        what: format!("the proof of record {key}"),
        reason: format!("it has {} bytes, not {MAC_BYTES}", tag.len()),
    })?;
    Ok(Some(Mac {
        key: PoolKeyId::from_journal(pool_key),
        position,
        tag,
    }))
}

fn effect_class(wire: &v1::Record) -> Result<EffectClass, WireError> {
    match v1::EffectClass::try_from(wire.effect_class) {
        Ok(v1::EffectClass::Bounded) => Ok(EffectClass::Bounded {
            budget: Duration::from_millis(wire.budget_ms.into()),
        }),
        Ok(v1::EffectClass::Held) => Ok(EffectClass::Held {
            retry_safe: wire.retry_safe,
        }),
        Ok(v1::EffectClass::Unspecified) | Err(_) => Err(WireError::UnknownEnum {
            what: "effect class",
            value: wire.effect_class,
        }),
    }
}

fn payload<T: DeserializeOwned>(key: &str, bytes: &Bytes) -> Result<T, WireError> {
    serde_json::from_slice(bytes).map_err(|error| unreadable(key, &error))
}

fn unreadable(key: &str, error: &serde_json::Error) -> WireError {
    WireError::Unreadable {
        what: format!("record {key}"),
        reason: error.to_string(),
    }
}

fn blob(wire: v1::Bundle) -> Result<(String, BlobRef), WireError> {
    let is_digest = wire.sha256.len() == 64 && wire.sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !is_digest {
        return Err(WireError::Unreadable {
            what: format!("bundle {}", wire.name),
            reason: "its SHA-256 is malformed".into(),
        });
    }
    if wire.size_bytes > MAX_BUNDLE_BYTES {
        return Err(WireError::OutOfRange {
            what: "the size of a bundle",
            value: wire.size_bytes,
        });
    }
    Ok((
        wire.name,
        BlobRef {
            sha256: wire.sha256,
            size_bytes: wire.size_bytes,
        },
    ))
}

/// `received_at` is when the frame arrived: the start deadline counts from it.
pub(crate) fn assignment(wire: v1::Assignment, received_at: BootTime) -> Result<Assignment, Box<BadAssignment>> {
    let refuse = |attempt: Option<&AttemptRef>, blame, error| {
        Box::new(BadAssignment {
            attempt: attempt.cloned(),
            blame,
            error,
        })
    };
    let attempt = attempt(wire.attempt).map_err(|error| refuse(None, Blame::Journal, error))?;
    let checked = document(&wire.document).map_err(|error| refuse(Some(&attempt), Blame::Document, error))?;
    let journal = wire.journal.into_iter().map(record).collect::<Result<_, _>>();
    let journal = journal.map_err(|error| refuse(Some(&attempt), Blame::Journal, error))?;
    let bundles = wire.bundles.into_iter().map(blob).collect::<Result<_, _>>();
    let bundles = bundles.map_err(|error| refuse(Some(&attempt), Blame::Journal, error))?;
    let run_age = match wire.run_started_at_ms {
        0 => 0,
        started => u64::try_from(wire.server_time_ms.saturating_sub(started)).unwrap_or(0),
    };
    Ok(Assignment {
        attempt,
        document: Arc::new(checked.document),
        inputs: Arc::new(checked.inputs),
        digest: hex::encode(Sha256::digest(&wire.document)),
        signed: checked.signed.map(|signed| Arc::new(*signed)),
        submitter: text(wire.submitter),
        journal,
        start_deadline: received_at.after(Duration::from_millis(wire.start_deadline_ms.into())),
        cancel: Some(text(wire.cancel_reason)).filter(|reason| !reason.is_empty()),
        bundles,
        run_age: Duration::from_millis(run_age),
    })
}

fn document(bytes: &[u8]) -> Result<Checked, WireError> {
    at_most("the size of the task document", bytes.len(), MAX_CANONICAL_BYTES)?;
    from_canonical(bytes).map_err(|error| WireError::Unreadable {
        what: "the task document".into(),
        reason: error.to_string(),
    })
}

#[cfg(test)]
#[path = "from_wire_tests.rs"]
mod tests;
