//! Is an object still as this run left it? Asked by `undo` before it touches anything, and by `restore`
//! once more right before it sends.

use deputy_task::outcome::Failure;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::failure::StepError;

use super::before::{Applied, owners};
use super::fields::{self, changed_by_others};
use super::object::{EFFECT_ANNOTATION, ObjectRef, annotation, metadata};

/// What undo finds of an object that this run applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Found {
    /// It is as this run left it.
    Ours,
    /// It is not there any more.
    Gone,
    /// Somebody is deleting it.
    Going,
    /// Somebody changed it since; who or what, for people.
    Changed(String),
}

/// Is a live object as this run left it? `earlier` is what it was before this run; nothing if this run
/// created it. Judged are values, not only who owns them: a co-owner who writes another value into a field
/// of its own changes no owner.
pub(crate) fn compare(live: &Value, earlier: Option<&Value>, applied: &Applied, token: &str) -> Found {
    if metadata(live, "uid") != Some(applied.uid.as_str()) {
        return Found::Changed("somebody deleted it and made another one".into());
    }
    if metadata(live, "deletionTimestamp").is_some() {
        return Found::Going;
    }
    match annotation(live, EFFECT_ANNOTATION) {
        Some(other) if other != token => return Found::Changed(format!("it was deployed again since, by {other}")),
        None => return Found::Changed("somebody wrote it anew since".into()),
        Some(_) => {}
    }
    if let Some((who, path)) = changed_by_others(earlier.unwrap_or(&Value::Null), live) {
        return Found::Changed(format!("it was changed since by {who} ({})", fields::shown(&path)));
    }
    if owners(live) == applied.owners {
        Found::Ours
    } else {
        Found::Changed("it was changed since by somebody".into())
    }
}

/// An effect's last look at what it is about to change.
///
/// # Errors
/// `kubernetes.changed` unless it is still as this run left it.
pub(crate) fn still_ours(object: &ObjectRef, found: Found) -> Result<(), StepError> {
    match found {
        Found::Ours => Ok(()),
        Found::Gone => Err(changed(object, "somebody deleted it")),
        Found::Going => Err(changed(object, "somebody is deleting it")),
        Found::Changed(what) => Err(changed(object, &what)),
    }
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
            .map(|name| json!({"manager": name, "operation": "Apply", "fieldsV1": {"f:data": {(format!("f:{name}")): {}}}}))
            .collect();
        json!({"metadata": {"uid": uid, "annotations": {EFFECT_ANNOTATION: token}, "managedFields": fields},
            "data": {"deputy": "1", "helm": "1", "kubectl-edit": "1"}})
    }

    fn told(live: &Value, earlier: Option<&Value>, applied: &Applied) -> String {
        match compare(live, earlier, applied, "default/t/1/s") {
            Found::Ours => "ours".to_owned(),
            Found::Gone => "gone".to_owned(),
            Found::Going => "going".to_owned(),
            Found::Changed(what) => what,
        }
    }

    #[test]
    fn only_what_nobody_else_has_touched_is_ours() {
        let token = Some("default/t/1/s");
        let created = live("u", token, &["deputy"]);
        let applied = Applied::of(&created);
        let mut going = created.clone();
        going["metadata"]["deletionTimestamp"] = json!("now");
        let mut lost = created.clone();
        lost["metadata"]["managedFields"][0]["fieldsV1"] = json!({});
        let table = [
            created,
            live("other", token, &["deputy"]),
            live("u", Some("default/later/1/s"), &["deputy"]),
            live("u", None, &["deputy"]),
            live("u", token, &["deputy", "kubectl-edit"]),
            going,
            lost,
        ];
        let table: Vec<String> = table.iter().map(|live| told(live, None, &applied)).collect();
        insta::assert_snapshot!(table.join("\n"), @r##"
        ours
        somebody deleted it and made another one
        it was deployed again since, by default/later/1/s
        somebody wrote it anew since
        it was changed since by kubectl-edit (data.kubectl-edit)
        going
        it was changed since by somebody
        "##);
    }

    #[test]
    fn scaling_by_hand_or_by_an_autoscaler_is_no_change() {
        let ours = |fields: Value| json!({"manager": "deputy", "operation": "Apply", "fieldsV1": {"f:spec": fields}});
        let object = |replicas: u32, fields: Value| {
            json!({"metadata": {"uid": "u", "annotations": {EFFECT_ANNOTATION: "default/t/1/s"}, "managedFields": fields},
                "spec": {"replicas": replicas, "image": "web:2"}})
        };
        let applied = object(2, json!([ours(json!({"f:replicas": {}, "f:image": {}}))]));
        let scale = json!({"manager": "kubectl", "operation": "Update", "subresource": "scale", "fieldsV1": {"f:spec": {"f:replicas": {}}}});
        let scaled = object(4, json!([ours(json!({"f:image": {}})), scale]));
        let earlier = object(2, json!([ours(json!({"f:replicas": {}, "f:image": {}}))]));
        assert_eq!(told(&scaled, Some(&earlier), &Applied::of(&applied)), "ours");
        let edited = object(2, json!([ours(json!({"f:replicas": {}}))]));
        assert_eq!(
            told(&edited, Some(&earlier), &Applied::of(&applied)),
            "it was changed since by somebody",
            "the image is nobody's any more"
        );
    }

    #[test]
    fn the_value_of_a_co_owner_counts_also_where_it_was_adopted_with_the_apply() {
        let token = Some("default/t/1/s");
        let earlier = live("u", None, &["helm"]);
        let since = |text: &str| {
            let mut live = live("u", token, &["helm", "deputy"]);
            live["data"]["helm"] = json!(text);
            live
        };
        // The agent died after its apply, and another one found the object after helm had changed it.
        let adopted = Applied::of(&since("2"));
        assert_eq!(told(&since("1"), Some(&earlier), &adopted), "ours");
        assert_eq!(
            told(&since("2"), Some(&earlier), &adopted),
            "it was changed since by helm (data.helm)"
        );
    }
}
