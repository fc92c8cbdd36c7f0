//! The roles that a policy permits by name, for whoever wants to try them. Read from the rules' own form: a role that
//! is named to be left out is none of them.

use std::collections::BTreeSet;

use cedar_policy::{Effect, PolicySet};
use serde_json::Value;

/// What permits name and nothing forbids without a condition.
pub(crate) fn named_roles(all: &PolicySet) -> BTreeSet<String> {
    let mut roles = BTreeSet::new();
    let mut forbidden = BTreeSet::new();
    for policy in all.policies() {
        let text = policy.to_string();
        let about = |action: &str| text.contains(&format!("Action::\"{action}\""));
        // A role that may only be passed is none that the agent assumes.
        if about("passRole") && !about("assumeRole") {
            continue;
        }
        let Ok(form) = policy.to_json() else { continue };
        let conditions = form["conditions"].as_array().map_or(&[][..], Vec::as_slice);
        match policy.effect() {
            Effect::Permit => {
                collect(&form["resource"], &mut roles);
                let when = conditions.iter().filter(|condition| condition["kind"] == "when");
                when.for_each(|condition| collect(&condition["body"], &mut roles));
            }
            Effect::Forbid if conditions.is_empty() => collect(&form["resource"], &mut forbidden),
            Effect::Forbid => {}
        }
    }
    roles.retain(|role| role.starts_with("arn:") && !forbidden.contains(role));
    roles
}

fn collect(form: &Value, into: &mut BTreeSet<String>) {
    match form {
        Value::Array(parts) => parts.iter().for_each(|part| collect(part, into)),
        Value::Object(parts) => {
            if let (Some("Role"), Some(id)) = (parts.get("type").and_then(Value::as_str), parts.get("id")) {
                into.extend(id.as_str().map(str::to_owned));
            }
            // What is denied in a condition is left out by it.
            let named = parts.iter().filter(|(key, _)| !["!", "!="].contains(&key.as_str()));
            named.for_each(|(_, part)| collect(part, into));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(text: &str) -> Vec<String> {
        let all = text.parse().expect("a policy");
        named_roles(&all)
            .into_iter()
            .map(|role| role.replace("arn:aws:iam::1:role/", ""))
            .collect()
    }

    #[test]
    fn only_what_a_permit_lets_be_assumed_is_named() {
        let permit = "permit (principal, action == Action::\"assumeRole\", resource";
        let role = |name: &str| format!("Role::\"arn:aws:iam::1:role/{name}\"");
        let (a, b, c) = (role("a"), role("b"), role("c"));
        for (text, expected) in [
            (format!("{permit} == {a});"), &["a"][..]),
            (
                format!("{permit}) when {{ [{a}, {b}].contains(resource) || resource == {c} }};"),
                &["a", "b", "c"],
            ),
            (format!("{permit}) unless {{ resource == {a} }};"), &[]),
            (
                format!("{permit}) when {{ resource != {a} && !(resource == {b}) && resource == {c} }};"),
                &["c"],
            ),
            (
                format!(
                    "{permit}) when {{ [{a}, {b}].contains(resource) }};\nforbid (principal, action, resource == {a});"
                ),
                &["b"],
            ),
            (
                format!("permit (principal, action == Action::\"passRole\", resource == {a});"),
                &[],
            ),
            (format!("forbid (principal, action, resource == {a});"), &[]),
        ] {
            assert_eq!(named(&text), expected, "{text}");
        }
    }
}
