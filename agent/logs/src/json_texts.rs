//! The texts within a secret that is a JSON object: programs take them out with `jq` and print them alone.

use serde_json::Value;

/// What AWS writes beside the password into the secret of a database, and what no secret is: "JSON structure of AWS
/// Secrets Manager secrets", AWS Secrets Manager User Guide.
const NO_SECRETS: [&str; 8] = [
    "engine",
    "host",
    "port",
    "dbname",
    "username",
    "dbInstanceIdentifier",
    "dbClusterIdentifier",
    "masterarn",
];

/// Under these a text is a secret however short.
const SECRETS: [&str; 4] = ["pass", "secret", "token", "key"];

/// As short as a secret may be.
const MIN_NAMED_BYTES: usize = 4;

/// Elsewhere a shorter one is a word: `prod`, `eu-west`.
const MIN_TEXT_BYTES: usize = 8;

/// Objects within each other are looked into so deep.
const MAX_DEPTH: usize = 16;

/// Of what is no JSON object there are none.
pub(crate) fn texts_of(value: &[u8]) -> Vec<String> {
    let mut texts = Vec::new();
    if value.first() == Some(&b'{')
        && let Ok(value) = serde_json::from_slice(value)
    {
        collect(value, "", MAX_DEPTH, &mut texts);
    }
    texts
}

fn collect(value: Value, name: &str, depth: usize, texts: &mut Vec<String>) {
    let Some(depth) = depth.checked_sub(1) else { return };
    match value {
        Value::String(text) if is_secret(name, text.trim()) => texts.push(text.trim().to_owned()),
        Value::Array(values) => values.into_iter().for_each(|value| collect(value, name, depth, texts)),
        Value::Object(fields) => fields
            .into_iter()
            .for_each(|(name, value)| collect(value, &name, depth, texts)),
        Value::String(_) | Value::Number(_) | Value::Bool(_) | Value::Null => {}
    }
}

fn is_secret(name: &str, text: &str) -> bool {
    if NO_SECRETS.contains(&name) {
        return false;
    }
    let name = name.to_ascii_lowercase();
    let is_named = SECRETS.iter().any(|word| name.contains(word));
    text.len() >= if is_named { MIN_NAMED_BYTES } else { MIN_TEXT_BYTES }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_found_at_any_depth_and_ordinary_words_are_not() {
        let value = br#"{"username": "administrator", "stage": "prod", "url": "postgres://a:b@c/d", "count": 123456789,
            "password": "abcd", "nested": {"apiToken": "xyzw", "list": ["long enough", "short"]}, "pin": "ab"}"#;
        let mut texts = texts_of(value);
        texts.sort();
        assert_eq!(texts, ["abcd", "long enough", "postgres://a:b@c/d", "xyzw"]);
        assert!(texts_of(br#"["in no object at all"]"#).is_empty());
        assert!(texts_of(b"{ no JSON at all }").is_empty());
    }
}
