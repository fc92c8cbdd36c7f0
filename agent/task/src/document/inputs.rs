//! `spec.inputs`: checks the declarations, and turns what the submitter gave into values. Called by
//! the document's checks.

use serde_json::Value;

use super::diagnostic::meant;
use super::model::{InputSpec, InputType, Inputs};
use super::parse::CANONICAL_BOUND;
use super::source::Finding;
use super::static_key;
use super::tree::{Entry, Node};
use crate::json::{Bound, Unread};

/// Checks what is declared, each input by itself.
pub(crate) fn check_declarations(declared: &Node, findings: &mut Vec<Finding>) {
    for entry in declared.entries() {
        let good_name = !entry.key.starts_with(|c: char| c.is_ascii_digit())
            && !entry.key.is_empty()
            && entry
                .key
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !good_name {
            let finding = Finding::error(
                entry.key_span,
                format!("`{}` cannot be the name of an input", entry.key),
            );
            findings.push(finding.hint("letters, digits and `_`, so that `inputs.name` can be written"));
        }
        let Some(spec) = spec_of(entry) else { continue };
        if let Some(pattern) = &spec.pattern {
            let at = entry.value.get("pattern").map_or(entry.key_span, |node| node.span);
            if spec.kind != InputType::String {
                findings.push(Finding::error(at, "a `pattern` is for inputs of type string"));
            }
            if let Err(error) = whole(pattern) {
                findings.push(Finding::error(
                    at,
                    format!("the pattern is not a regular expression: {error}"),
                ));
            }
        }
        for (index, allowed) in spec.allowed_values.iter().enumerate() {
            if !fits(allowed, spec.kind) {
                let at = entry
                    .value
                    .get("allowedValues")
                    .and_then(|node| node.items().get(index))
                    .map_or(entry.key_span, |node| node.span);
                findings.push(Finding::error(
                    at,
                    format!("this allowed value is not {}", noun(spec.kind)),
                ));
            }
        }
        if let Some(default) = &spec.default {
            let at = entry.value.get("default").map_or(entry.key_span, |node| {
                if node.entries().is_empty() && node.items().is_empty() {
                    node.span
                } else {
                    entry.key_span
                }
            });
            if let Err(problem) = check(default, &spec) {
                findings.push(Finding::error(at, format!("the default {problem}")));
            } else if spec.required {
                findings.push(Finding::warning(
                    at,
                    format!("the input `{}` is required, so its default is never used", entry.key),
                ));
            }
        }
    }
}

/// The values of all inputs: what was given, else the default.
pub(crate) fn resolve(declared: Option<&Node>, given: &Inputs, findings: &mut Vec<Finding>) -> Inputs {
    let entries = declared.map(Node::entries).unwrap_or_default();
    let mut values = Inputs::new();
    for name in given
        .keys()
        .filter(|name| !entries.iter().any(|entry| entry.key == **name))
    {
        let finding = Finding::nowhere(format!(
            "there is no input `{}`",
            name.chars().take(80).collect::<String>()
        ));
        let known: Vec<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
        findings.push(finding.meant(meant(name, known.iter().copied()), || {
            if known.is_empty() {
                "the document declares no inputs".into()
            } else {
                format!("the document declares: {}", known.join(", "))
            }
        }));
    }
    for (name, value) in given {
        let alone = Node::of_json(
            Value::Object([(name.clone(), value.clone())].into_iter().collect()),
            &mut 0,
        );
        let mut keys = Vec::new();
        static_key::places(&alone, &mut keys);
        findings.extend(keys.first().map(|key| static_key::finding_in_input(name, key.what)));
    }
    let mut room = CANONICAL_BOUND.values;
    for entry in entries {
        let Some(spec) = spec_of(entry) else { continue };
        match given.get(&entry.key) {
            Some(value) => {
                let value = coerced(value, spec.kind, &mut room);
                match value.and_then(|value| check(&value, &spec).map(|()| value)) {
                    Ok(value) => drop(values.insert(entry.key.clone(), value)),
                    Err(problem) => findings.push(Finding::error(
                        entry.key_span,
                        format!("the value given for the input `{}` {problem}", entry.key),
                    )),
                }
            }
            None => match spec.default {
                Some(default) => drop(values.insert(entry.key.clone(), default)),
                None if spec.required => {
                    let finding = Finding::error(
                        entry.key_span,
                        format!("the input `{}` is required and was not given", entry.key),
                    );
                    findings.push(finding.hint(format!("add `--input {}=…`", entry.key)));
                }
                None => {}
            },
        }
    }
    values
}

fn spec_of(entry: &Entry) -> Option<InputSpec> {
    serde_json::from_value(entry.value.to_json()).ok()
}

/// A text where another type is declared, as it comes from a command line. There is `room` for so many values in all
/// of them.
fn coerced(value: &Value, kind: InputType, room: &mut usize) -> Result<Value, String> {
    let (Value::String(text), InputType::Number | InputType::Boolean | InputType::Object) = (value, kind) else {
        return Ok(value.clone());
    };
    let bound = Bound {
        values: *room,
        ..CANONICAL_BOUND
    };
    match bound.check(text.trim().as_bytes()) {
        Ok(values) => *room = room.saturating_sub(values),
        Err(Unread::Values(_)) => {
            return Err(format!("has more than {room} values: give what is large as a source"));
        }
        // A text that is no JSON of that type is told as what it is.
        Err(Unread::Depth(_) | Unread::Json(_)) => return Ok(value.clone()),
    }
    let parsed = serde_json::from_str(text.trim()).ok();
    Ok(parsed
        .filter(|parsed| fits(parsed, kind))
        .unwrap_or_else(|| value.clone()))
}

fn check(value: &Value, spec: &InputSpec) -> Result<(), String> {
    let shown = shown(value);
    if !fits(value, spec.kind) {
        return Err(format!("is {shown}, which is not {}", noun(spec.kind)));
    }
    if !spec.allowed_values.is_empty() && !spec.allowed_values.contains(value) {
        let allowed: Vec<String> = spec.allowed_values.iter().take(12).map(self::shown).collect();
        return Err(format!("is {shown}, which is not one of {}", allowed.join(", ")));
    }
    if let (Some(pattern), Value::String(text)) = (&spec.pattern, value)
        && let Ok(regex) = whole(pattern)
        && !regex.is_match(text)
    {
        return Err(format!("is {shown}, which does not match the pattern {pattern}"));
    }
    Ok(())
}

/// The pattern must match the whole text.
fn whole(pattern: &str) -> Result<regex_lite::Regex, regex_lite::Error> {
    regex_lite::Regex::new(pattern)?;
    regex_lite::Regex::new(&format!("^(?:{pattern})$"))
}

fn fits(value: &Value, kind: InputType) -> bool {
    match kind {
        InputType::String => value.is_string(),
        InputType::Number => value.is_number(),
        InputType::Boolean => value.is_boolean(),
        InputType::Object => value.is_object() || value.is_array(),
    }
}

const fn noun(kind: InputType) -> &'static str {
    match kind {
        InputType::String => "text",
        InputType::Number => "a number",
        InputType::Boolean => "true or false",
        InputType::Object => "a list or a mapping",
    }
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 {
        text
    } else {
        format!("{}…", text.chars().take(60).collect::<String>())
    }
}
