//! How a rule reads `context.asserted`, the manager's word. Rules are looked at in Cedar's JSON form.

use serde_json::Value;

const ASSERTED: &str = "asserted";

/// Does it read it at all?
pub(crate) fn mentions(rule: &Value) -> bool {
    match rule {
        Value::Array(items) => items.iter().any(mentions),
        Value::Object(entries) => names_it(rule) || entries.values().any(mentions),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// Can it apply because the manager says nothing? Strict mode asks for a `has` before each use, so that test is what
/// decides: where its being false can make the rule apply, the manager's word could make it not apply.
pub(crate) fn applies_without(rule: &Value) -> bool {
    let conditions = rule.get("conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| {
        let wanted = match condition.get("kind").and_then(Value::as_str) {
            Some("unless") => Wanted::False,
            _ => Wanted::True,
        };
        condition.get("body").is_some_and(|body| helped_by_false(body, wanted))
    })
}

/// What an expression must be for the rule to apply.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    True,
    False,
}

impl Wanted {
    const fn other(self) -> Self {
        match self {
            Self::True => Self::False,
            Self::False => Self::True,
        }
    }
}

/// Is there a test for the manager's word whose being false can make `expression` what is wanted?
fn helped_by_false(expression: &Value, wanted: Wanted) -> bool {
    match expression {
        Value::Array(items) => items.iter().any(|item| helped_by_false(item, wanted)),
        Value::Object(entries) => entries.iter().any(|(operator, inner)| match operator.as_str() {
            "has" if names_it(inner) => wanted == Wanted::False,
            "!" => helped_by_false(inner, wanted.other()),
            "&&" | "||" | "left" | "right" | "arg" | "then" | "else" => helped_by_false(inner, wanted),
            "if-then-else" => {
                let test = inner.get("if").is_some_and(mentions);
                test || helped_by_false(inner, wanted)
            }
            // A comparison: which way its sides go cannot be said.
            _ => tests_for_it(inner),
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn tests_for_it(expression: &Value) -> bool {
    match expression {
        Value::Array(items) => items.iter().any(tests_for_it),
        Value::Object(entries) => entries
            .iter()
            .any(|(operator, inner)| (operator == "has" && names_it(inner)) || tests_for_it(inner)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// `.asserted`, `has asserted`, or `has asserted.submitter`.
fn names_it(access: &Value) -> bool {
    let attribute = access.get("attr");
    let first = attribute.and_then(|path| path.get(0)).or(attribute);
    first.and_then(Value::as_str) == Some(ASSERTED)
}
