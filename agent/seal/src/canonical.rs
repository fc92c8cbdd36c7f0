//! The one form of a record and of a JSON value that is authenticated: every field with its length,
//! so that no two records have the same bytes, and keys of objects sorted, so that the same value
//! always has.

use deputy_task::record::{Decision, Direction, EffectClass, Record, RecordBody};
use serde_json::Value;

/// Bytes that are put together field by field.
#[derive(Default)]
pub(crate) struct Bytes(Vec<u8>);

impl Bytes {
    pub(crate) fn field(mut self, bytes: &[u8]) -> Self {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn text(self, text: &str) -> Self {
        self.field(text.as_bytes())
    }

    pub(crate) fn number(self, number: u64) -> Self {
        self.field(&number.to_be_bytes())
    }

    pub(crate) fn done(self) -> Vec<u8> {
        self.0
    }
}

/// What a record says; neither who wrote it when, nor where it stands.
pub(crate) fn record(record: &Record) -> Vec<u8> {
    let bytes = Bytes::default()
        .text(record.key.as_str())
        .number(record.program_version.into())
        .text(&record.step_kind)
        .field(&record.sealing.sealed);
    match &record.body {
        RecordBody::Intent(intent) => {
            let (class, detail) = match intent.class {
                EffectClass::Bounded { budget } => (0, u64::try_from(budget.as_millis()).unwrap_or(u64::MAX)),
                EffectClass::Held { retry_safe } => (1, u64::from(retry_safe)),
            };
            bytes
                .text("intent")
                .number(class)
                .number(detail)
                .text(&intent.plan_digest)
                .number(u64::from(intent.direction == Direction::Undo))
                .text(&intent.summary)
        }
        RecordBody::Done(value) => bytes.text("done").field(&json(&value.value())),
        RecordBody::Fact(value) => bytes.text("fact").field(&json(&value.value())),
        RecordBody::Decision(Decision::Undo { reason }) => bytes.text("undo").text(reason),
        RecordBody::Decision(Decision::Redo { reason }) => bytes.text("redo").text(reason),
    }
    .done()
}

/// JSON with sorted keys and no spaces.
pub(crate) fn json(value: &Value) -> Vec<u8> {
    let mut text = String::new();
    write(&mut text, value);
    text.into_bytes()
}

fn write(text: &mut String, value: &Value) {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => text.push_str(&value.to_string()),
        Value::Array(items) => {
            text.push('[');
            for item in items {
                write(text, item);
                text.push(',');
            }
            text.push(']');
        }
        Value::Object(entries) => {
            let mut sorted: Vec<_> = entries.iter().collect();
            sorted.sort_unstable_by_key(|(key, _)| *key);
            text.push('{');
            for (key, value) in sorted {
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
                write(text, value);
                text.push(',');
            }
            text.push('}');
        }
    }
}
