//! What an object was before the step touched it, as the journal may know it: no content, only what
//! tells whether it is still the same. Recorded as a fact before the first change.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::fields;
use super::object::{generation, metadata};

/// The field manager of everything this agent applies.
pub(crate) const FIELD_MANAGER: &str = "deputy";

/// Written by controllers at any time, about their own work.
const CONTROLLER_ANNOTATION_PREFIXES: [&str; 3] = [
    "deployment.kubernetes.io/",
    "deprecated.daemonset.template.generation",
    "pv.kubernetes.io/",
];

/// The object before the step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Before {
    /// None if it was not there.
    pub(crate) object: Option<Known>,
}

/// What tells whether an object is still the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Known {
    pub(crate) uid: String,
    pub(crate) resource_version: String,
    pub(crate) generation: i64,
    /// Digest of what people and tools wrote, without what controllers do.
    pub(crate) state: String,
}

/// The object after the step's change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Applied {
    pub(crate) uid: String,
    pub(crate) resource_version: String,
    pub(crate) generation: i64,
    /// Digest of who owns which field; another one later means that somebody changed the object. The
    /// same one says nothing about values: `fields::changed_by_others` does.
    pub(crate) owners: String,
}

impl Known {
    /// Of a live object.
    pub(crate) fn of(object: &Value) -> Self {
        let text = |key| metadata(object, key).unwrap_or_default().to_owned();
        Self {
            uid: text("uid"),
            resource_version: text("resourceVersion"),
            generation: generation(object),
            state: state(object),
        }
    }
}

impl Applied {
    /// Of a live object.
    pub(crate) fn of(object: &Value) -> Self {
        let text = |key| metadata(object, key).unwrap_or_default().to_owned();
        Self {
            uid: text("uid"),
            resource_version: text("resourceVersion"),
            generation: generation(object),
            owners: owners(object),
        }
    }
}

/// A Secret's content stays out of even a digest: short secrets can be guessed from one. Its
/// resourceVersion changes with every write, and nobody writes a Secret's status.
pub(crate) fn state(object: &Value) -> String {
    if object.get("kind").and_then(Value::as_str) == Some("Secret") {
        return format!(
            "resourceVersion {}",
            metadata(object, "resourceVersion").unwrap_or_default()
        );
    }
    digest(&wished(object))
}

/// Do both say the same, apart from what the API server and controllers write? For two objects in
/// memory; nothing of it is recorded.
pub(crate) fn same_content(one: &Value, other: &Value) -> bool {
    wished(one) == wished(other)
}

/// An object without what the API server and controllers write.
fn wished(object: &Value) -> Value {
    let mut object = object.clone();
    fields::remove_controllers(&mut object);
    strip(&mut object);
    // An autoscaler may change the number of replicas between two looks.
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        spec.remove("replicas");
    }
    object
}

/// Does our apply own this field, given as a path of `f:` keys?
pub(crate) fn owns(object: &Value, path: &str) -> bool {
    fields::wishes(object)
        .filter(|entry| fields::manager(entry) == FIELD_MANAGER)
        .any(|entry| {
            entry
                .get("fieldsV1")
                .is_some_and(|fields| fields.pointer(path).is_some())
        })
}

/// Removes what the API server writes, and what controllers write whoever is said to own it.
fn strip(object: &mut Value) {
    let Some(root) = object.as_object_mut() else { return };
    root.remove("status");
    let Some(metadata) = root.get_mut("metadata").and_then(Value::as_object_mut) else {
        return;
    };
    for key in [
        "managedFields",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "selfLink",
        "uid",
    ] {
        metadata.remove(key);
    }
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.retain(|key, _| {
            !CONTROLLER_ANNOTATION_PREFIXES
                .iter()
                .any(|prefix| key.starts_with(prefix))
        });
    }
}

/// Who wishes which field. Not the number of replicas: scaling takes it from whoever had it.
pub(crate) fn owners(object: &Value) -> String {
    let replicas = ["f:spec", "f:replicas"];
    let mut entries: Vec<String> = fields::wishes(object)
        .filter_map(|entry| {
            let paths: Vec<_> = fields::paths(entry)
                .into_iter()
                .filter(|path| *path != replicas)
                .collect();
            let who = (fields::manager(entry), entry.get("operation").and_then(Value::as_str));
            (!paths.is_empty()).then(|| digest(&json!({"who": who, "paths": paths})))
        })
        .collect();
    entries.sort();
    digest(&Value::from(entries))
}

/// SHA-256 of the canonical form (keys sorted), lower-case hex.
pub(crate) fn digest(value: &Value) -> String {
    let mut text = String::new();
    canonical(value, &mut text);
    hex::encode(Sha256::digest(text.as_bytes()))
}

fn canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(entries) => {
            let mut keys: Vec<&String> = entries.keys().collect();
            keys.sort();
            text.push('{');
            for key in keys {
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
                canonical(&entries[key], text);
                text.push(',');
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for item in items {
                canonical(item, text);
                text.push(',');
            }
            text.push(']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => text.push_str(&value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(replicas: i32, image: &str, revision: &str) -> Value {
        json!({"kind": "Deployment", "metadata": {"uid": "u", "resourceVersion": revision, "generation": 3,
            "annotations": {"deployment.kubernetes.io/revision": revision}},
            "spec": {"replicas": replicas, "image": image}, "status": {"replicas": replicas}})
    }

    #[test]
    fn state_is_what_people_wrote_not_what_controllers_do() {
        let before = state(&deployment(2, "a", "1"));
        assert_eq!(before, state(&deployment(5, "a", "9")), "scaled by an autoscaler");
        assert_ne!(before, state(&deployment(2, "b", "1")), "another image");
    }

    #[test]
    fn a_secrets_content_is_in_no_digest() {
        let secret = |data: &str, version: &str| json!({"kind": "Secret", "metadata": {"resourceVersion": version}, "data": {"p": data}});
        assert_eq!(state(&secret("a", "4")), state(&secret("b", "4")));
        assert_ne!(state(&secret("a", "4")), state(&secret("a", "5")));
    }

    #[test]
    fn owners_change_when_somebody_else_writes_and_not_when_a_controller_does() {
        let object = |entries: Value| json!({"metadata": {"managedFields": entries}});
        let ours = json!({"manager": "deputy", "operation": "Apply", "fieldsV1": {"f:spec": {}}, "time": "1"});
        let status = json!({"manager": "kubelet", "operation": "Update", "subresource": "status", "fieldsV1": {}});
        let edit = json!({"manager": "kubectl-edit", "operation": "Update", "fieldsV1": {"f:spec": {}}});
        let before = owners(&object(json!([ours])));
        assert_eq!(before, owners(&object(json!([status, ours]))));
        assert_ne!(before, owners(&object(json!([ours, edit]))));
    }
}
