//! The texts within a secret that is a JSON object: programs take them out with `jq` and print them alone.

use std::collections::BTreeSet;
use std::ops::Range;

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
const SECRETS: [&str; 6] = ["pass", "secret", "token", "key", "pwd", "credential"];

/// And under these names, which others are a part of: `author`, `shipping`.
const SECRET_NAMES: [&str; 3] = ["auth", "pin", "pw"];

/// Names of what says where something is: an address below the name of a secret is none.
const PLACES: [&str; 8] = [
    "host", "endpoint", "url", "uri", "address", "server", "domain", "issuer",
];

/// As short as a secret may be.
const MIN_NAMED_BYTES: usize = 4;

/// Elsewhere a shorter one is a word: `prod`, `eu-west`.
const MIN_TEXT_BYTES: usize = 8;

/// Under a name of [`SECRETS`] a number is one too: not a port, nor a count of seconds.
const MIN_DIGITS: usize = 8;

/// Objects within each other, and in texts, are looked into so deep.
const MAX_DEPTH: usize = 16;

/// The texts that are secrets.
pub(crate) struct Texts(BTreeSet<String>);

impl Texts {
    /// Of what is no JSON object there are none.
    pub(crate) fn of(value: &[u8]) -> Self {
        let mut texts = BTreeSet::new();
        if let Ok(value) = std::str::from_utf8(value) {
            collect_object(value, Name::default(), MAX_DEPTH, &mut texts);
        }
        Self(texts)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Where in the object they stand as values, within their quotes.
    pub(crate) fn places_in(&self, value: &[u8]) -> Vec<Range<usize>> {
        let is_secret = |range: &Range<usize>| {
            let text = value.get(range.start - 1..=range.end);
            let text = text.and_then(|text| serde_json::from_slice::<String>(text).ok());
            text.is_some_and(|text| self.0.contains(text.trim()) || self.0.iter().any(|inner| text.contains(inner)))
        };
        let is_name = |range: &Range<usize>| {
            let mut after = value.get(range.end + 1..).unwrap_or_default().iter();
            after.find(|byte| !byte.is_ascii_whitespace()) == Some(&b':')
        };
        // A number has no quotes to be found by: all of the value is one then.
        if self.0.iter().any(|text| text.bytes().all(|byte| byte.is_ascii_digit())) {
            return Vec::new();
        }
        quoted(value)
            .filter(|range| !is_name(range) && is_secret(range))
            .collect()
    }
}

/// What stands between quotes in good JSON.
fn quoted(value: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + value.get(at..)?.iter().position(|byte| *byte == b'"')? + 1;
        let mut is_escaped = false;
        let length = value.get(start..)?.iter().position(|byte| {
            let ends = *byte == b'"' && !is_escaped;
            is_escaped = *byte == b'\\' && !is_escaped;
            ends
        })?;
        at = start + length + 1;
        Some(start..start + length)
    })
}

fn collect_object(text: &str, name: Name<'_>, depth: usize, texts: &mut BTreeSet<String>) {
    if text.trim_start().starts_with('{')
        && let Ok(value) = serde_json::from_str(text)
    {
        collect(value, name, depth, texts);
    }
}

/// What a value is called, and whether something around it is called a secret: `{"passwords": {"app": …}}`.
#[derive(Clone, Copy, Default)]
struct Name<'a> {
    own: &'a str,
    is_below_secret: bool,
}

fn collect(value: Value, name: Name<'_>, depth: usize, texts: &mut BTreeSet<String>) {
    let Some(depth) = depth.checked_sub(1) else { return };
    match value {
        Value::String(text) => {
            collect_object(&text, name, depth, texts);
            if is_secret(name, text.trim()) {
                texts.insert(text.trim().to_owned());
            }
        }
        Value::Number(number) => {
            let digits = number.to_string();
            if digits.len() >= MIN_DIGITS && (name.is_below_secret || is_named(name.own)) {
                texts.insert(digits);
            }
        }
        Value::Array(values) => values.into_iter().for_each(|value| collect(value, name, depth, texts)),
        Value::Object(fields) => fields.into_iter().for_each(|(own, value)| {
            let is_below_secret = name.is_below_secret || is_named(name.own);
            let name = Name {
                own: &own,
                is_below_secret,
            };
            collect(value, name, depth, texts);
        }),
        Value::Bool(_) | Value::Null => {}
    }
}

fn is_named(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRETS.iter().any(|word| name.contains(word)) || SECRET_NAMES.contains(&&*name)
}

fn is_secret(name: Name<'_>, text: &str) -> bool {
    if NO_SECRETS.contains(&name.own) || text.starts_with("arn:aws") {
        return false;
    }
    if is_named(name.own) {
        return text.len() >= MIN_NAMED_BYTES;
    }
    if name.is_below_secret {
        // Beside the password of a set there is where it is for. What looks like a host may be a password there:
        // `{"passwords": {"mailserver": "winter.sunday"}}`.
        let own = name.own.to_ascii_lowercase();
        let is_whole_host = is_host(text) && (text.contains(':') || text.matches('.').count() > 1);
        let is_place = PLACES.iter().any(|place| own.contains(place)) && (is_whole_host || is_address(text));
        let is_setting = ["true", "false"].contains(&text) || is_region(text) || is_place;
        return text.len() >= MIN_NAMED_BYTES && !is_setting;
    }
    text.len() >= MIN_TEXT_BYTES && !is_ordinary(text)
}

/// What things are called, and where they are: a word, an account, a region, a host, an address without who is let in.
/// They stand in every log, and hiding them would only say that they are there.
fn is_ordinary(text: &str) -> bool {
    let is_word = is_made_of(text, "");
    let is_number = text.chars().all(|c| c.is_ascii_digit());
    is_word || is_number || is_region(text) || is_host(text) || is_address(text)
}

fn is_made_of(text: &str, more: &str) -> bool {
    text.chars().all(|c| c.is_ascii_lowercase() || more.contains(c))
}

/// `eu-central-1`, `us-gov-west-1`.
fn is_region(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let [continent, places @ .., number] = &*parts else {
        return false;
    };
    let is_digit = number.len() == 1 && number.chars().all(|c| c.is_ascii_digit());
    continent.len() == 2
        && !places.is_empty()
        && is_digit
        && is_made_of(continent, "")
        && places.iter().all(|place| is_made_of(place, ""))
}

/// `db.example.com:5432`.
fn is_host(text: &str) -> bool {
    let (host, port) = text.split_once(':').unwrap_or((text, "0"));
    let last = host.rsplit('.').next().unwrap_or_default();
    let is_name = is_made_of(host, "-.0123456789") && host.contains('.') && last.len() > 1 && is_made_of(last, "");
    is_name && port.chars().all(|c| c.is_ascii_digit())
}

/// `https://login.example.com/oauth2`: nobody's name, no query, no letters of both cases as tokens have.
fn is_address(text: &str) -> bool {
    let after = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let Some((host, path)) = after.map(|after| after.split_once('/').unwrap_or((after, ""))) else {
        return false;
    };
    // A hook's address is its password: what has digits in a longer part may be, but for an account of AWS.
    let is_account = |part: &str| part.len() == 12 && part.bytes().all(|byte| byte.is_ascii_digit());
    let is_word = |part: &str| part.len() < 7 || is_made_of(part, "-._") || is_account(part);
    is_host(host) && is_made_of(path, "-./_0123456789") && path.split('/').all(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts_of(value: &str) -> Vec<String> {
        Texts::of(value.as_bytes()).0.into_iter().collect()
    }

    #[test]
    fn texts_are_found_at_any_depth_and_ordinary_words_are_not() {
        let value = r#"{"username": "administrator", "stage": "prod", "url": "postgres://a:b@c/d", "count": 123456789,
            "password": "abcd", "nested": {"apiToken": "xyzw", "list": ["long enough", "short"]}, "pin": "ab"}"#;
        assert_eq!(texts_of(value), ["abcd", "long enough", "postgres://a:b@c/d", "xyzw"]);
        assert!(texts_of(r#"["in no object at all"]"#).is_empty());
        assert!(texts_of("{ no JSON at all }").is_empty());
    }

    /// As `jsonencode` within `jsonencode` writes it.
    #[test]
    fn an_object_in_the_text_of_a_secret_is_below_its_name() {
        let value =
            r#"{"passwords": "{\"app\":\"Hunter2\",\"db\":\"winter.sunday\"}", "note": "{\"app\":\"Hunter3\"}"}"#;
        assert_eq!(
            texts_of(value),
            [
                "Hunter2",
                "winter.sunday",
                r#"{"app":"Hunter2","db":"winter.sunday"}"#,
                r#"{"app":"Hunter3"}"#
            ]
        );
    }

    #[test]
    fn what_things_are_called_is_no_secret_unless_its_name_says_so() {
        let value = r#"{"region": "eu-central-1", "accountId": "123456789012", "clusterName": "checkout",
            "endpoint": "db.example.com:5432", "issuer": "https://login.example.com/oauth2/v2", "masterSecretArn": "arn:aws:iam::1:role/x",
            "secretName": "checkout", "note": "Checkout-1", "callback": "https://u:p@example.com/", "hook": "https://example.com/T0/Bx8",
            "ping": "https://hc.example.com/eb095278-f28d", "passwords": {"app": "correcthorse", "db": "winter.sunday", "mailserver": "summer.monday"}, "pw": "word",
            "queue": "https://sqs.eu-central-1.amazonaws.com/123456789012/jobs", "zap": "https://hooks.example.com/catch/1234567/o8xyz1", "tokens": {"hook": "https://h.example.com/abcdefgh"},
            "credentials": {"host": "db.example.com", "username": "admin", "zone": "eu-central-1", "ssl": "true", "password": "hunter2",
                "signInUrl": "https://login.example.com/oauth2", "vaultHost": "vault.example.com:8200"}, "author": "somebody"}"#;
        assert_eq!(
            texts_of(value),
            [
                "Checkout-1",
                "checkout",
                "correcthorse",
                "https://example.com/T0/Bx8",
                "https://h.example.com/abcdefgh",
                "https://hc.example.com/eb095278-f28d",
                "https://hooks.example.com/catch/1234567/o8xyz1",
                "https://u:p@example.com/",
                "hunter2",
                "summer.monday",
                "winter.sunday",
                "word",
            ]
        );
    }

    #[test]
    fn objects_in_texts_and_numbers_that_are_passwords_are_looked_into() {
        let value = r#"{"conn": "{\"password\":\"inner-1\"}", "password": 8765432109, "keyRotationDays": 90}"#;
        assert_eq!(texts_of(value), ["8765432109", "inner-1", r#"{"password":"inner-1"}"#]);
    }

    #[test]
    fn a_text_is_found_where_it_stands() {
        let value = br#"{"hunter-2\"x": "a \\", "password" : "hunter-2\"x", "conn": "{\"password\":\"hunter-3\"}"}"#;
        let places = Texts::of(value).places_in(value);
        let shown: Vec<_> = places
            .into_iter()
            .map(|place| String::from_utf8_lossy(&value[place]))
            .collect();
        assert_eq!(shown, [r#"hunter-2\"x"#, r#"{\"password\":\"hunter-3\"}"#]);
        assert!(Texts::of(b"no object").places_in(b"no object").is_empty());
    }
}
