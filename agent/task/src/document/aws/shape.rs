//! Compares a document in AWS's own shape with the service model: misspelt keys are errors, keys
//! that are new to us are warnings and pass through, PascalCase keys become the API's own spelling.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use crate::document::diagnostic::meant;
use crate::document::source::{Finding, Span};
use crate::document::tree::{Data, Node};

type Shapes = BTreeMap<String, serde_json::Map<String, serde_json::Value>>;

/// An empty table would only turn every key into a warning; the test below reads the real one.
pub(super) static SHAPES: LazyLock<Shapes> =
    LazyLock::new(|| serde_json::from_str(include_str!("ecs.json")).unwrap_or_default());

/// What becomes of keys that look like misspelt ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lenience {
    /// Errors.
    Strict,
    /// Warnings: `allowUnknownFields`.
    AllowUnknown,
}

/// Compares `node` with the named shape and gives known keys the API's spelling. `label` is where
/// to point when something about the whole of it is said.
pub(crate) fn compare(node: &mut Node, shape: &str, label: Span, lenience: Lenience, findings: &mut Vec<Finding>) {
    Walk { lenience, findings }.value(node, shape, ("", label));
}

struct Walk<'a> {
    lenience: Lenience,
    findings: &'a mut Vec<Finding>,
}

impl Walk<'_> {
    fn value(&mut self, node: &mut Node, shape: &str, place: (&str, Span)) {
        if node.text().is_some_and(|text| text.contains("${{")) {
            return;
        }
        if let Some(shape) = shape.strip_prefix('[') {
            return match &mut node.data {
                Data::List(items) => items.iter_mut().for_each(|item| {
                    let label = item.label();
                    self.value(item, shape, (place.0, label));
                }),
                _ => self.wrong(node, "a list", place),
            };
        }
        if let Some(shape) = shape.strip_prefix('{') {
            return match &mut node.data {
                Data::Map(entries) => entries.iter_mut().for_each(|entry| {
                    let key = entry.key.clone();
                    self.value(&mut entry.value, shape, (&key, entry.key_span));
                }),
                _ => self.wrong(node, "a mapping", place),
            };
        }
        match (shape, &node.data) {
            ("any", _) | ("text", Data::Text(_)) | ("truth", Data::Truth(_)) | ("number", Data::Number(_)) => {}
            ("whole", Data::Number(number)) if !number.is_f64() => {}
            ("text", _) => self.wrong(node, "text", place),
            ("truth", _) => self.wrong(node, "true or false", place),
            ("whole", _) => self.wrong(node, "a whole number", place),
            ("number", _) => self.wrong(node, "a number", place),
            (_, Data::Map(_)) => self.members(node, shape),
            _ => self.wrong(node, "a mapping", place),
        }
    }

    fn members(&mut self, node: &mut Node, shape: &str) {
        let (Some(known), Data::Map(entries)) = (SHAPES.get(shape), &mut node.data) else {
            return;
        };
        for entry in entries {
            let spelled = spelled(&entry.key, known);
            if let Some(member) = spelled
                .as_ref()
                .and_then(|key| known.get(key))
                .and_then(serde_json::Value::as_str)
            {
                let key = entry.key.clone();
                self.value(&mut entry.value, member, (&key, entry.key_span));
                entry.key = spelled.unwrap_or(key);
                continue;
            }
            let shown: String = entry.key.chars().take(80).collect();
            let candidate = meant(&entry.key, known.keys().map(String::as_str));
            match (candidate, self.lenience) {
                (Some(candidate), Lenience::Strict) => {
                    let finding = Finding::error(
                        entry.key_span,
                        format!("unknown key `{shown}` in AWS's {}", shape.trim_end_matches("Request")),
                    );
                    let hint = format!(
                        "did you mean `{candidate}`? (if AWS has such a key, set `allowUnknownFields: true` on the step)"
                    );
                    self.findings.push(finding.hint(hint));
                }
                _ => {
                    let finding = Finding::warning(
                        entry.key_span,
                        format!(
                            "AWS's {} has no key `{shown}` that is known here",
                            shape.trim_end_matches("Request")
                        ),
                    );
                    self.findings.push(finding.hint("it is passed on to AWS as it is"));
                }
            }
        }
    }

    fn wrong(&mut self, node: &Node, wanted: &str, place: (&str, Span)) {
        let is_container = matches!(node.data, Data::List(_) | Data::Map(_) | Data::Null);
        let span = if is_container { place.1 } else { node.span };
        let name = if place.0.is_empty() {
            "this".to_owned()
        } else {
            format!("`{}`", place.0)
        };
        let finding = Finding::error(span, format!("{name} must be {wanted} for AWS, not {}", node.kind()));
        let hint = match (&node.data, wanted) {
            (Data::Number(_) | Data::Truth(_), "text") => "put it in quotes",
            (Data::Text(text), "a number" | "a whole number") if text.parse::<f64>().is_ok() => "remove the quotes",
            (Data::Text(text), "true or false") if matches!(text.as_str(), "true" | "false") => "remove the quotes",
            _ => "",
        };
        self.findings.push(finding.hint(hint));
    }
}

/// The member that `key` means, in the API's spelling.
pub(super) fn spelled(key: &str, known: &serde_json::Map<String, serde_json::Value>) -> Option<String> {
    if known.contains_key(key) {
        return Some(key.to_owned());
    }
    camel_case(key).filter(|key| known.contains_key(key))
}

/// `ContainerDefinitions` → `containerDefinitions`.
fn camel_case(key: &str) -> Option<String> {
    let first = key.chars().next().filter(char::is_ascii_uppercase)?;
    Some(format!("{}{}", first.to_ascii_lowercase(), &key[1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_holds_the_requests_that_steps_take_and_every_shape_they_name() {
        for (name, key) in [
            ("RegisterTaskDefinitionRequest", "containerDefinitions"),
            ("ServiceRequest", "desiredCount"),
            ("ContainerDefinition", "image"),
        ] {
            assert!(SHAPES[name].contains_key(key), "{name}.{key}");
        }
        let words = ["any", "text", "truth", "number", "whole"];
        for member in SHAPES.values().flat_map(|shape| shape.values()) {
            let name = member.as_str().expect("a name").trim_start_matches(['[', '{']);
            assert!(words.contains(&name) || SHAPES.contains_key(name), "{name}");
        }
    }
}
