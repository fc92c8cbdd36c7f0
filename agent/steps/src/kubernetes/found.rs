//! Is an object still as this run left it? Asked by `undo` before it touches anything, and by `restore`
//! once more right before it sends.

use deputy_task::outcome::Failure;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::failure::StepError;

use super::before::{Applied, other_owners};
use super::object::{EFFECT_ANNOTATION, ObjectRef, annotation, metadata};

/// What undo finds of an object that this run applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Found {
    /// It is as this run left it.
    Ours,
    /// It is not there any more.
    Gone,
    /// Somebody changed it since; who or what, for people.
    Changed(String),
}

/// Is a live object as this run left it?
pub(crate) fn compare(live: &Value, applied: &Applied, token: &str) -> Found {
    if metadata(live, "uid") != Some(applied.uid.as_str()) {
        return Found::Changed("somebody deleted it and made another one".into());
    }
    match annotation(live, EFFECT_ANNOTATION) {
        Some(other) if other != token => return Found::Changed(format!("it was deployed again since, by {other}")),
        None => return Found::Changed("somebody wrote it anew since".into()),
        Some(_) => {}
    }
    if Applied::of(live).owners == applied.owners {
        return Found::Ours;
    }
    let others = other_owners(live);
    let who = if others.is_empty() {
        "somebody".to_owned()
    } else {
        others.join(", ")
    };
    Found::Changed(format!("it was changed since by {who}"))
}

/// The failure of an effect that finds its object changed.
pub(crate) fn changed(object: &ObjectRef, what: &str) -> StepError {
    Failure::new("kubernetes.changed", format!("{object} is left as it is: {what}")).into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn live(uid: &str, token: Option<&str>, managers: &[&str]) -> Value {
        let fields: Vec<Value> = managers
            .iter()
            .map(|name| json!({"manager": name, "operation": "Apply", "fieldsV1": {}}))
            .collect();
        json!({"metadata": {"uid": uid, "annotations": {EFFECT_ANNOTATION: token}, "managedFields": fields}})
    }

    #[test]
    fn only_what_nobody_else_has_touched_is_ours() {
        let token = Some("default/t/1/s");
        let applied = Applied::of(&live("u", token, &["deputy"]));
        let told = |live: Value| match compare(&live, &applied, "default/t/1/s") {
            Found::Ours => "ours".to_owned(),
            Found::Gone => "gone".to_owned(),
            Found::Changed(what) => what,
        };
        let table = [
            told(live("u", token, &["deputy"])),
            told(live("other", token, &["deputy"])),
            told(live("u", Some("default/later/1/s"), &["deputy"])),
            told(live("u", None, &["deputy"])),
            told(live("u", token, &["deputy", "kubectl-edit"])),
        ];
        insta::assert_snapshot!(table.join("\n"), @r##"
        ours
        somebody deleted it and made another one
        it was deployed again since, by default/later/1/s
        somebody wrote it anew since
        it was changed since by kubectl-edit
        "##);
    }
}
