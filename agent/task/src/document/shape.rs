//! The shape of a document, from the JSON Schema that the Rust types generate, and the walk that
//! compares a tree with it: unknown and missing keys, wrong types, words outside a closed set, all
//! at once and with their places. Called by [`super::read`].

use std::sync::LazyLock;

use serde_json::Value;

use super::diagnostic::{meant, meant_or_begun};
use super::model::Document;
use super::source::{Finding, Span};
use super::static_key::{self, is_key_name};
use super::tree::{Data, Node};

/// The JSON Schema of a task document.
#[must_use]
pub fn schema() -> Value {
    let mut schema = schemars::schema_for!(Document).to_value();
    if let Some(root) = schema.as_object_mut() {
        root.insert("title".into(), "Deputy task".into());
        if let Some(properties) = root.get_mut("properties") {
            properties["apiVersion"]["const"] = "deputy.dev/v1".into();
            properties["kind"]["const"] = "Task".into();
        }
    }
    schema
}

/// The JSON Schema as it is committed and printed: indented, with a line end.
#[must_use]
pub fn schema_text() -> String {
    format!("{:#}\n", schema())
}

/// Keys whose values are durations, for hints.
const DURATIONS: [&str; 4] = ["timeout", "queueTimeout", "grace", "duration"];

/// Kinds that exist and are told to nobody.
const HIDDEN_KINDS: [&str; 1] = ["noopEffect"];

enum Shape {
    Any,
    Text,
    Truth,
    Number,
    Words(Vec<String>),
    List(Box<Shape>),
    Map(Box<Shape>),
    Keys(Keys),
    /// A text, or a mapping with these keys.
    TextOr(Keys),
}

struct Keys {
    known: Vec<(String, Shape)>,
    required: Vec<String>,
    /// Exactly one of these must be there.
    kinds: Vec<(String, Shape)>,
    /// What is said of a mapping that has none of its kinds, or two.
    words: &'static Words,
}

/// Of the things that have kinds.
struct Words {
    /// The first of two is in between.
    two: (&'static str, &'static str),
    none: &'static str,
    /// What to do with the second; the key is in between.
    second: (&'static str, &'static str),
}

static STEP: Words = Words {
    two: ("a step does one thing, and this one is `", "` already"),
    none: "this step does not say what it does",
    second: ("make `", "` a step of its own"),
};

static SOURCE: Words = Words {
    two: ("a source comes from one place, and this one is `", "` already"),
    none: "this source does not say where it comes from",
    second: ("make `", "` a source of its own"),
};

static CHOICE: Words = Words {
    two: ("only one of these can be, and there is `", "` already"),
    none: "this does not say which",
    second: ("remove `", "`"),
};

static SECRET: Words = Words {
    two: ("a secret is in one place, and this one is `", "` already"),
    none: "this secret does not say where it is",
    second: ("remove `", "`, or make it a secret of its own"),
};

static DOCUMENT: LazyLock<Shape> = LazyLock::new(|| {
    let schema = schema();
    compile(&schema, &schema["$defs"])
});

/// Everything in which the tree differs from a task document.
pub(crate) fn compare(root: &Node, findings: &mut Vec<Finding>) {
    if matches!(root.data, Data::Map(_)) {
        walk(root, &DOCUMENT, ("the document", root.label()), findings);
    } else {
        let message = format!("the document must be a mapping, not {}", root.kind());
        findings
            .push(Finding::error(root.span, message).hint("begin with `apiVersion: deputy.dev/v1` and `kind: Task`"));
    }
}

fn compile(schema: &Value, defs: &Value) -> Shape {
    if let Some(name) = schema["$ref"]
        .as_str()
        .and_then(|reference| reference.strip_prefix("#/$defs/"))
    {
        return compile(&defs[name], defs);
    }
    if let Some(options) = schema["anyOf"].as_array() {
        let real: Vec<&Value> = options.iter().filter(|option| option["type"] != "null").collect();
        return match real.as_slice() {
            [text, full] if text["type"] == "string" => match compile(full, defs) {
                Shape::Keys(keys) => Shape::TextOr(keys),
                other => other,
            },
            [only, ..] => compile(only, defs),
            [] => Shape::Any,
        };
    }
    let listed = |key: &str| schema[key].as_array().map(Vec::as_slice).unwrap_or_default();
    if schema["type"].is_null() && listed("oneOf").iter().any(|option| option["properties"].is_object()) {
        return keys(schema, defs);
    }
    let words: Vec<String> = listed("oneOf")
        .iter()
        .filter_map(|option| option["const"].as_str())
        .map(str::to_owned)
        .collect();
    if !words.is_empty() {
        return Shape::Words(words);
    }
    let kind = schema["type"].as_str().or_else(|| schema["type"][0].as_str());
    match kind {
        Some("string") => Shape::Text,
        Some("boolean") => Shape::Truth,
        Some("integer" | "number") => Shape::Number,
        Some("array") => Shape::List(Box::new(compile(&schema["items"], defs))),
        Some("object") if schema["properties"].is_object() => keys(schema, defs),
        Some("object") => Shape::Map(Box::new(compile(&schema["additionalProperties"], defs))),
        _ => Shape::Any,
    }
}

/// A mapping with keys of its own.
fn keys(schema: &Value, defs: &Value) -> Shape {
    let listed = |key: &str| schema[key].as_array().map(Vec::as_slice).unwrap_or_default();
    let named = |schema: &Value| {
        let properties = schema["properties"].as_object().cloned().unwrap_or_default();
        properties
            .into_iter()
            .map(|(key, schema)| {
                let shape = compile(&schema, defs);
                (key, shape)
            })
            .collect::<Vec<_>>()
    };
    let mut kinds: Vec<(String, Shape)> = listed("oneOf").iter().flat_map(named).collect();
    let is_step = kinds.iter().any(|(kind, _)| kind == "shell");
    if is_step {
        let empty = || {
            Shape::Keys(Keys {
                known: Vec::new(),
                required: Vec::new(),
                kinds: Vec::new(),
                words: &STEP,
            })
        };
        kinds.extend(HIDDEN_KINDS.iter().map(|kind| ((*kind).to_owned(), empty())));
    }
    let required = listed("required")
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    Shape::Keys(Keys {
        known: named(schema),
        required,
        words: words_of(&kinds),
        kinds,
    })
}

fn words_of(kinds: &[(String, Shape)]) -> &'static Words {
    let has = |kind: &str| kinds.iter().any(|(known, _)| known == kind);
    if has("shell") {
        &STEP
    } else if has("awsSecretsManager") {
        &SECRET
    } else if has("bundle") {
        &SOURCE
    } else {
        &CHOICE
    }
}

/// `place` is the name of the value and where to point when something is said about the whole of it.
fn walk(node: &Node, shape: &Shape, place: (&str, Span), findings: &mut Vec<Finding>) {
    match (shape, &node.data) {
        (Shape::Any, _)
        | (Shape::Text | Shape::TextOr(_), Data::Text(_))
        | (Shape::Truth, Data::Truth(_))
        | (Shape::Number, Data::Number(_)) => {}
        (Shape::Words(words), Data::Text(text)) if words.contains(text) => {}
        (Shape::Words(words), Data::Text(text)) => {
            let message = format!("`{}` cannot be `{text}`", place.0);
            let known = words.join(", ");
            findings.push(
                Finding::error(node.span, message).meant(meant(text, words.iter().map(String::as_str)), || {
                    format!("it is one of: {known}")
                }),
            );
        }
        (Shape::List(shape), Data::List(items)) => {
            for (index, item) in items.iter().enumerate() {
                walk(item, shape, (&format!("{}[{index}]", place.0), item.label()), findings);
            }
        }
        (Shape::Map(shape), Data::Map(entries)) => {
            for entry in entries {
                if place.0 == "env" && entry.key.starts_with("AWS_") && is_key_name(&entry.key) {
                    findings.push(static_key::finding(entry.key_span, &entry.key));
                }
                walk(&entry.value, shape, (&entry.key, entry.key_span), findings);
            }
        }
        (Shape::Keys(keys) | Shape::TextOr(keys), Data::Map(_)) => walk_keys(node, keys, place, findings),
        (shape, _) => findings.push(wrong_type(node, shape, place)),
    }
}

fn walk_keys(node: &Node, keys: &Keys, place: (&str, Span), findings: &mut Vec<Finding>) {
    let visible = || {
        let kinds = keys
            .kinds
            .iter()
            .map(|(name, _)| name.as_str())
            .filter(|name| !HIDDEN_KINDS.contains(name));
        keys.known.iter().map(|(name, _)| name.as_str()).chain(kinds)
    };
    let mut kind_seen: Option<&str> = None;
    let mut kind_misspelt = false;
    let mut meant_keys = Vec::new();
    for entry in node.entries() {
        if let Some((_, shape)) = keys.known.iter().find(|(name, _)| *name == entry.key) {
            walk(&entry.value, shape, (&entry.key, entry.key_span), findings);
        } else if let Some((_, shape)) = keys.kinds.iter().find(|(name, _)| *name == entry.key) {
            if let Some(first) = kind_seen {
                let Words { two, second, .. } = keys.words;
                let message = format!("{}{first}{}", two.0, two.1);
                let hint = format!("{}{}{}", second.0, entry.key, second.1);
                findings.push(Finding::error(entry.key_span, message).hint(hint));
            }
            kind_seen.get_or_insert(&entry.key);
            walk(&entry.value, shape, (&entry.key, entry.key_span), findings);
        } else {
            if is_key_name(&entry.key) {
                findings.push(static_key::finding(entry.key_span, &entry.key));
                continue;
            }
            let candidate = meant_or_begun(&entry.key, visible().collect::<Vec<_>>());
            kind_misspelt |= candidate.is_none_or(|candidate| keys.kinds.iter().any(|(name, _)| name == candidate));
            meant_keys.extend(candidate);
            let message = format!(
                "unknown key `{}` in `{}`",
                entry.key.chars().take(80).collect::<String>(),
                place.0
            );
            findings.push(Finding::error(entry.key_span, message).meant(candidate, || {
                format!("known keys: {}", visible().collect::<Vec<_>>().join(", "))
            }));
        }
    }
    for required in &keys.required {
        if node.entry(required).is_none() && !meant_keys.contains(&required.as_str()) {
            let message = format!("`{}` lacks the key `{required}`", place.0);
            findings.push(Finding::error(place.1, message));
        }
    }
    if !keys.kinds.is_empty() && kind_seen.is_none() && !kind_misspelt {
        let kinds: Vec<&str> = keys
            .kinds
            .iter()
            .map(|(name, _)| name.as_str())
            .filter(|name| !HIDDEN_KINDS.contains(name))
            .collect();
        findings.push(Finding::error(place.1, keys.words.none).hint(format!("add one of: {}", kinds.join(", "))));
    }
}

fn wrong_type(node: &Node, shape: &Shape, place: (&str, Span)) -> Finding {
    let wanted = match shape {
        Shape::Any => "anything",
        Shape::Text => "text",
        Shape::Truth => "true or false",
        Shape::Number => "a number",
        Shape::Words(_) => "a word",
        Shape::List(_) => "a list",
        Shape::Map(_) | Shape::Keys(_) => "a mapping",
        Shape::TextOr(_) => "text or a mapping",
    };
    let nothing = matches!(node.data, Data::Null);
    let message = if nothing {
        format!("`{}` has no value; it must be {wanted}", place.0)
    } else {
        format!("`{}` must be {wanted}, not {}", place.0, node.kind())
    };
    let is_container = matches!(node.data, Data::List(_) | Data::Map(_));
    let span = if is_container || nothing { place.1 } else { node.span };
    let hint = match (shape, &node.data) {
        (Shape::Text, Data::Number(number)) if DURATIONS.contains(&place.0) => {
            format!("write it with its unit, for example {number}m or {number}s")
        }
        (Shape::Text, Data::Number(_) | Data::Truth(_)) => "put it in quotes".to_owned(),
        (Shape::Truth, Data::Text(text)) if matches!(text.to_lowercase().as_str(), "yes" | "on" | "y") => {
            "write `true`".to_owned()
        }
        (Shape::Truth, Data::Text(text)) if matches!(text.to_lowercase().as_str(), "no" | "off" | "n") => {
            "write `false`".to_owned()
        }
        (Shape::Truth, Data::Text(text)) if text.contains("${{") => {
            "an expression is not possible here; use `when` for conditions".to_owned()
        }
        (Shape::List(_), _) if !nothing => "write a list: each item on a line that begins with `- `".to_owned(),
        (Shape::Keys(keys), Data::Text(_)) if std::ptr::eq(keys.words, &SECRET) && !keys.kinds.is_empty() => {
            "say where the secret is, never what it is: for example `{ awsSecretsManager: name }`".to_owned()
        }
        _ => String::new(),
    };
    Finding::error(span, message).hint(hint)
}
