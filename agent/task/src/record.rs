//! The journal's records, as the step programs mean them. The stored and the wire form are
//! elsewhere; this is the meaning.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::attempt::Epoch;

/// Most bytes of JSON in one record.
pub const MAX_RECORD_BYTES: usize = 256 * 1024;

/// Longest time between the acknowledgement of a bounded intent and its transmission.
pub const MAX_BOUNDED_BUDGET: Duration = Duration::from_secs(20);

/// Bytes of the proof of a record.
pub const MAC_BYTES: usize = 32;

/// `step/effect/<natural id>`: names an effect or a fact within a run. Never a loop index, never
/// an attempt: the same program run again must arrive at the same key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EffectKey(String);

impl EffectKey {
    /// The key of `name` within `step`.
    #[must_use]
    pub fn new(step: &str, name: &str) -> Self {
        Self(format!("{step}/{name}"))
    }

    /// The key of `name` in the forward program of `step` or in its undo (`step/undo:<name>`).
    #[must_use]
    pub fn of(step: &str, direction: Direction, name: &str) -> Self {
        match direction {
            Direction::Forward => Self::new(step, name),
            Direction::Undo => Self(format!("{step}/undo:{name}")),
        }
    }

    /// A key as it came from a journal.
    #[must_use]
    pub fn from_journal(text: String) -> Self {
        Self(text)
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The step the key belongs to.
    #[must_use]
    pub fn step(&self) -> &str {
        self.0.split_once('/').map_or(self.0.as_str(), |(step, _)| step)
    }
}

impl fmt::Display for EffectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How long an effect may be in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EffectClass {
    /// One API call, transmitted at most `budget` after the acknowledged frame was sent.
    Bounded {
        /// At most [`MAX_BOUNDED_BUDGET`].
        budget: Duration,
    },
    /// An opaque child. Its task is never given away by a timer unless it is retry-safe.
    Held {
        /// May be run again elsewhere.
        retry_safe: bool,
    },
}

/// The forward program or its undo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Direction {
    /// The step's program.
    Forward,
    /// The step's undo program.
    Undo,
}

/// The intention to change the world.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Intent {
    /// How long it may be in flight.
    pub class: EffectClass,
    /// SHA-256 over the canonical non-secret arguments, keyed where the pool has a key; lower-case hex.
    pub plan_digest: String,
    /// The program it belongs to.
    pub direction: Direction,
    /// One line for people, for example `UpdateService checkout-api`.
    pub summary: String,
}

/// Something decided once and for all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Decision {
    /// From here on only the undo program runs. One-way.
    Undo {
        /// For people.
        reason: String,
    },
    /// An operator decided that the open held effect of this key is run again.
    Redo {
        /// For people.
        reason: String,
    },
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RecordBody {
    /// Before a change.
    Intent(Intent),
    /// After it, with its result.
    Done(Value),
    /// An observation that steers the program.
    Fact(Value),
    /// A decision.
    Decision(Decision),
}

/// One line of a run's journal. Natural key: (run, key, kind of body).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Which effect or fact.
    pub key: EffectKey,
    /// The version of the step program that wrote it.
    pub program_version: u32,
    /// The step kind, as in the document; empty for records of the task itself.
    pub step_kind: String,
    /// What it says.
    pub body: RecordBody,
    /// The epoch that wrote it; 0 until it is committed.
    #[serde(default)]
    pub epoch: Epoch,
    /// What the pool's key adds to it.
    #[serde(default, skip_serializing_if = "Sealing::is_none")]
    pub sealing: Sealing,
}

/// What the key of a pool adds to a record. Opaque to everybody without it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sealing {
    /// The value of a Done or a Fact, sealed; the value itself is null then. Empty: it is not sealed.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "as_hex")]
    pub sealed: Vec<u8>,
    /// Proves that an agent of the pool wrote the record, there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
}

impl Sealing {
    /// Neither sealed nor authenticated.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.sealed.is_empty() && self.mac.is_none()
    }
}

/// The proof of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mac {
    /// Which pool key it is made with.
    pub key: PoolKeyId,
    /// The record's place among those that agents wrote in this run, from 0.
    pub position: u32,
    /// HMAC-SHA-256.
    #[serde(with = "as_hex")]
    pub tag: [u8; MAC_BYTES],
}

/// Names a pool key and tells nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PoolKeyId(String);

impl PoolKeyId {
    /// From the bytes of an id.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(hex::encode(bytes))
    }

    /// An id as it came from a journal.
    #[must_use]
    pub fn from_journal(text: String) -> Self {
        Self(text)
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PoolKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Bytes as lower-case hex.
mod as_hex {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &impl AsRef<[u8]>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex::encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, T: TryFrom<Vec<u8>>>(from: D) -> Result<T, D::Error> {
        let bytes = hex::decode(String::deserialize(from)?).map_err(D::Error::custom)?;
        T::try_from(bytes).map_err(|_| D::Error::custom("it has another length"))
    }
}
