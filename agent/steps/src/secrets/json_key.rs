//! One key of a secret that is JSON. Values are never in an error; names of keys are.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::value::SecretValue;

/// Names of keys that an error tells at most.
const MAX_TOLD: usize = 20;

/// Why there is no such key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoKey {
    #[error("it is not JSON, so it has no key {key:?}")]
    NotJson { key: String },
    #[error("it is no JSON object, so it has no key {key:?}")]
    NotAnObject { key: String },
    #[error("it has no key {key:?}; its keys are: {known}")]
    Missing { key: String, known: String },
    #[error("its key {key:?} is null")]
    Null { key: String },
    #[error("its key {key:?} is an object or a list, and not one value")]
    NotOneValue { key: String },
}

/// The value at `key`: a key of the top level, or an RFC 6901 path if it begins with `/`. A text is its characters; a
/// number or a boolean is as it is written.
pub(super) fn at(value: &SecretValue, key: &str) -> Result<SecretValue, NoKey> {
    let mut rest: &RawValue =
        serde_json::from_slice(value.bytes()).map_err(|_| NoKey::NotJson { key: key.to_owned() })?;
    let path: Vec<String> = match key.strip_prefix('/') {
        Some(path) => path
            .split('/')
            .map(|part| part.replace("~1", "/").replace("~0", "~"))
            .collect(),
        None => vec![key.to_owned()],
    };
    let mut walked = String::new();
    for part in &path {
        rest = member(rest, part, &walked)?;
        walked = format!("{walked}/{part}");
    }
    let key = key.to_owned();
    match rest.get().as_bytes().first() {
        Some(b'"') => {
            let text: String = serde_json::from_str(rest.get()).map_err(|_| NoKey::NotJson { key })?;
            Ok(SecretValue::new(text.into_bytes()))
        }
        Some(b'{' | b'[') | None => Err(NoKey::NotOneValue { key }),
        Some(b'n') => Err(NoKey::Null { key }),
        Some(_) => Ok(SecretValue::new(rest.get().as_bytes().to_vec())),
    }
}

fn member<'a>(of: &'a RawValue, name: &str, walked: &str) -> Result<&'a RawValue, NoKey> {
    let key = if walked.is_empty() {
        name.to_owned()
    } else {
        format!("{walked}/{name}")
    };
    let text = of.get();
    if text.starts_with('[') {
        let items: Vec<&RawValue> = serde_json::from_str(text).map_err(|_| NoKey::NotJson { key: key.clone() })?;
        let item = name.parse::<usize>().ok().and_then(|index| items.get(index).copied());
        return item.ok_or_else(|| NoKey::Missing {
            key,
            known: format!("a list of {}", items.len()),
        });
    }
    if !text.starts_with('{') {
        return Err(NoKey::NotAnObject { key });
    }
    let members: BTreeMap<String, &RawValue> =
        serde_json::from_str(text).map_err(|_| NoKey::NotJson { key: key.clone() })?;
    members.get(name).copied().ok_or_else(|| {
        let mut known: Vec<&str> = members.keys().map(String::as_str).take(MAX_TOLD).collect();
        if members.len() > MAX_TOLD {
            known.push("…");
        }
        NoKey::Missing {
            key,
            known: if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            },
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_text(json: &str, key: &str) -> Result<String, String> {
        let found = at(&SecretValue::new(json.as_bytes().to_vec()), key);
        found
            .map(|value| String::from_utf8_lossy(value.bytes()).into_owned())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn keys_and_paths_lead_to_one_value_as_it_was_written() {
        let json = r#"{"a.b": "dot", "a": {"b": ["x", {"c/d~": "deep\nline"}]}, "n": 123456789012345678901234567890.10, "t": true}"#;
        for (key, value) in [
            ("a.b", "dot"),
            ("/a/b/0", "x"),
            ("/a/b/1/c~1d~0", "deep\nline"),
            ("n", "123456789012345678901234567890.10"),
            ("t", "true"),
        ] {
            assert_eq!(at_text(json, key).as_deref(), Ok(value), "{key}");
        }
    }

    #[test]
    fn what_is_missing_is_told_with_the_names_that_exist_and_no_value() {
        let json = r#"{"user": "swordfish", "db": {"password": "hunter22"}, "nothing": null}"#;
        let told = |json: &str, key: &str| at_text(json, key).expect_err("no value");
        assert_eq!(
            told(json, "pass"),
            r#"it has no key "pass"; its keys are: db, nothing, user"#
        );
        assert_eq!(
            told(json, "/db/pass"),
            r#"it has no key "/db/pass"; its keys are: password"#
        );
        assert_eq!(
            told(json, "/user/x"),
            r#"it is no JSON object, so it has no key "/user/x""#
        );
        assert_eq!(
            told(json, "db"),
            r#"its key "db" is an object or a list, and not one value"#
        );
        assert_eq!(told(json, "nothing"), r#"its key "nothing" is null"#);
        assert_eq!(told("swordfish", "x"), r#"it is not JSON, so it has no key "x""#);
        assert_eq!(
            told("[\"swordfish\"]", "x"),
            r#"it has no key "x"; its keys are: a list of 1"#
        );
    }
}
