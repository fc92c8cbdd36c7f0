//! The journal's records, as the step programs mean them. The stored and the wire form are
//! elsewhere; this is the meaning.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

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

/// Deepest nesting of a value that a record holds: what reads it again goes no deeper than 127.
pub const MAX_RECORD_DEPTH: usize = 120;

/// The value of a Done or a Fact, as it is written. A journal is held for as long as its attempt runs, and a value in
/// memory takes up to a hundred times its text: it is made when somebody asks for it.
#[derive(Clone)]
pub struct Payload(Box<str>);

impl Payload {
    /// From the text of a journal. It is read once, so that it can be read again.
    ///
    /// # Errors
    /// It is no JSON.
    pub fn read(text: &[u8]) -> Result<Self, serde_json::Error> {
        drop(serde_json::from_slice::<Value>(text)?);
        let text = std::str::from_utf8(text).map_err(<serde_json::Error as serde::de::Error>::custom)?;
        Ok(Self(text.into()))
    }

    /// The value. Null for one that a program nested deeper than [`MAX_RECORD_DEPTH`], which no record may hold.
    #[must_use]
    pub fn value(&self) -> Value {
        serde_json::from_str(&self.0).unwrap_or_default()
    }

    /// As it is written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl<T: Into<Value>> From<T> for Payload {
    fn from(value: T) -> Self {
        Self(value.into().to_string().into())
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// In whatever order the keys stand.
impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0 || self.value() == other.value()
    }
}

impl Eq for Payload {}

/// The same text: who proves a record proves what is read of it.
impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let text: &RawValue = serde_json::from_str(&self.0).map_err(serde::ser::Error::custom)?;
        text.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(from)?;
        Self::read(text.get().as_bytes()).map_err(serde::de::Error::custom)
    }
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RecordBody {
    /// Before a change.
    Intent(Intent),
    /// After it, with its result.
    Done(Payload),
    /// An observation that steers the program.
    Fact(Payload),
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_payload_stays_the_text_that_it_was_wherever_it_is_kept() {
        let text = r#" {"b":0.1000000000000000055511151231257827,"a":[1.0,{"":null}]}"#;
        let body = RecordBody::Fact(Payload::read(text.as_bytes()).expect("JSON"));
        let kept = serde_json::to_string(&body).expect("JSON");
        assert_eq!(kept, format!(r#"{{"fact":{}}}"#, text.trim()));
        let RecordBody::Fact(again) = serde_json::from_str(&kept).expect("a body") else {
            panic!("{kept}");
        };
        assert_eq!(again.text(), text.trim());
        assert_eq!(again.value(), json!({"a": [1.0, {"": null}], "b": 0.1}));
    }

    #[test]
    fn payloads_are_the_same_in_whatever_order_their_keys_stand() {
        let one = Payload::from(json!({"a": 1, "b": [2]}));
        assert_eq!(one, Payload::read(br#"{ "b": [2], "a": 1 }"#).expect("JSON"));
        assert_ne!(one, Payload::from(json!({"a": 1, "b": [3]})));
    }

    #[test]
    fn what_could_not_be_read_again_is_no_payload() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        for bad in ["", "{", "1 2", "1e999", "\"\\ud800\"", &nested(200)] {
            assert!(Payload::read(bad.as_bytes()).is_err(), "{bad}");
            let kept = format!(r#"{{"done":{bad}}}"#);
            assert!(serde_json::from_str::<RecordBody>(&kept).is_err(), "{bad}");
        }
        assert!(Payload::read(b"\"\xff\"").is_err());
        let deepest = nested(MAX_RECORD_DEPTH);
        let payload = Payload::read(deepest.as_bytes()).expect("as deep as is written");
        assert_eq!(payload.value().to_string(), deepest);
    }
}
