//! The digest of an effect's plan: SHA-256 over canonical JSON (keys sorted, no spaces), so that the
//! same program run again arrives at the same digest. Called by [`crate::host`].

use serde_json::Value;
use sha2::{Digest, Sha256};

/// Lower-case hex.
pub(crate) fn digest(plan: &Value) -> String {
    let mut hash = Sha256::new();
    feed(&mut hash, plan);
    hex::encode(hash.finalize())
}

/// About how many bytes of JSON the value takes: exact enough for a limit, without writing it.
pub(crate) fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) => 5,
        Value::Number(_) => 20,
        Value::String(text) => text.len() + 2,
        Value::Array(items) => 2 + items.iter().map(|item| size(item) + 1).sum::<usize>(),
        Value::Object(entries) => {
            2 + entries
                .iter()
                .map(|(key, value)| key.len() + 4 + size(value))
                .sum::<usize>()
        }
    }
}

/// How deep lists and mappings are nested.
pub(crate) fn depth(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(entries) => 1 + entries.values().map(depth).max().unwrap_or(0),
    }
}

fn feed(hash: &mut Sha256, value: &Value) {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => hash.update(value.to_string()),
        Value::Array(items) => {
            hash.update(b"[");
            for item in items {
                feed(hash, item);
                hash.update(b",");
            }
            hash.update(b"]");
        }
        Value::Object(entries) => {
            let mut sorted: Vec<_> = entries.iter().collect();
            sorted.sort_unstable_by_key(|(key, _)| *key);
            hash.update(b"{");
            for (key, value) in sorted {
                hash.update(Value::String(key.clone()).to_string());
                hash.update(b":");
                feed(hash, value);
                hash.update(b",");
            }
            hash.update(b"}");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_order_of_keys_does_not_matter_and_everything_else_does() {
        let plan = json!({ "a": [1, "x"], "b": { "c": null, "d": true } });
        assert_eq!(
            digest(&plan),
            digest(&json!({ "b": { "d": true, "c": null }, "a": [1, "x"] }))
        );
        for other in [
            json!({ "a": [1, "x"], "b": { "c": null } }),
            json!({ "a": ["x", 1], "b": { "c": null, "d": true } }),
        ] {
            assert_ne!(digest(&plan), digest(&other));
        }
        assert_ne!(digest(&json!(["a,b"])), digest(&json!(["a", "b"])));
    }
}
