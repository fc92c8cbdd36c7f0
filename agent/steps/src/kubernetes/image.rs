//! Before-images: what an object was, kept in its own cluster, because it may carry secrets that must
//! not leave the network. An immutable Secret of type `deputy.dev/before-image` beside the object,
//! written before the object is changed. One per object and deployment; a later successful
//! deployment of the same object removes it, an undo removes its own.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use deputy_task::json::Bound;
use deputy_task::outcome::Failure;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::object::{EFFECT_ANNOTATION, ObjectRef};

/// The type of the Secret.
pub(crate) const IMAGE_TYPE: &str = "deputy.dev/before-image";

/// Marks every image with the object it is of.
pub(crate) const OBJECT_LABEL: &str = "deputy.dev/object";

const DATA_KEY: &str = "object.json.zst";

/// A Secret holds 1 MiB; some is for its own metadata.
const MAX_IMAGE_BYTES: usize = 1024 * 1024 - 16 * 1024;

/// Largest object that is read back. etcd holds 1.5 MiB.
const MAX_OBJECT_BYTES: u64 = 8 * 1024 * 1024;

/// Most values in one, so that no Secret of somebody else takes the agent's memory.
const OBJECT_BOUND: Bound = Bound {
    values: 200_000,
    depth: 127,
};

/// Compression: fast; the object is small.
const LEVEL: i32 = 3;

/// Where the image of `object` is kept. A cluster's own objects are kept in `namespace`.
pub(crate) fn place(object: &ObjectRef, token: &str, namespace: &str) -> ObjectRef {
    let inside = match &object.namespace {
        Some(own) => own.as_str(),
        None if object.is("", "Namespace") => &object.name,
        None => namespace,
    };
    ObjectRef::secret(
        inside,
        &format!("deputy-before-{}", short_hash(&format!("{token}/{}", object.id()))),
    )
}

/// The value of [`OBJECT_LABEL`] for `object`.
pub(crate) fn object_label(object: &ObjectRef) -> String {
    short_hash(&object.id())
}

/// The Secret that keeps `live`.
///
/// # Errors
/// If it is too large for a Secret.
pub(crate) fn secret(place: &ObjectRef, object: &ObjectRef, token: &str, live: &Value) -> Result<Value, Failure> {
    let packed = pack(live).map_err(|problem| {
        Failure::new(
            "kubernetes.beforeImage",
            format!("{object} cannot be kept for rollback: {problem}"),
        )
    })?;
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "type": IMAGE_TYPE,
        "immutable": true,
        "metadata": {
            "name": place.name,
            "namespace": place.namespace,
            "labels": { OBJECT_LABEL: object_label(object), "deputy.dev/task": task_label(token) },
            "annotations": { OBJECT_LABEL: object.id(), EFFECT_ANNOTATION: token },
        },
        "data": { DATA_KEY: STANDARD.encode(packed) },
    }))
}

/// The object that an image keeps.
///
/// # Errors
/// Why it cannot be read.
pub(crate) fn object_of(secret: &Value) -> Result<Value, String> {
    let data = secret
        .get("data")
        .and_then(|data| data.get(DATA_KEY))
        .and_then(Value::as_str);
    let packed = STANDARD
        .decode(data.ok_or("the Secret holds no object")?)
        .map_err(|error| error.to_string())?;
    unpack(&packed)
}

/// Everything but what the API server alone writes. Who owns which field is kept: a restored object
/// gets its owners back, else the next deployment would meet itself as a stranger.
fn pack(live: &Value) -> Result<Vec<u8>, String> {
    let mut object = live.clone();
    if let Some(root) = object.as_object_mut() {
        root.remove("status");
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for key in ["resourceVersion", "uid", "generation", "creationTimestamp", "selfLink"] {
            metadata.remove(key);
        }
    }
    let text = object.to_string();
    OBJECT_BOUND.check(text.as_bytes()).map_err(|error| error.to_string())?;
    let packed = zstd::stream::encode_all(text.as_bytes(), LEVEL).map_err(|error| error.to_string())?;
    // What is stored is base64 of it.
    if packed.len() / 3 * 4 > MAX_IMAGE_BYTES {
        return Err(format!(
            "it has {} bytes even when compressed, and a Secret holds 1 MiB",
            packed.len()
        ));
    }
    Ok(packed)
}

fn unpack(packed: &[u8]) -> Result<Value, String> {
    use std::io::Read;
    let mut text = Vec::new();
    let reader = zstd::stream::Decoder::new(packed).map_err(|error| error.to_string())?;
    reader
        .take(MAX_OBJECT_BYTES)
        .read_to_end(&mut text)
        .map_err(|error| error.to_string())?;
    OBJECT_BOUND.read(&text).map_err(|error| error.to_string())
}

fn short_hash(text: &str) -> String {
    let mut hash = hex::encode(Sha256::digest(text.as_bytes()));
    hash.truncate(20);
    hash
}

/// The task, where it can be a label's value; else its hash.
fn task_label(token: &str) -> String {
    let task = token.split('/').nth(1).unwrap_or(token);
    let fits = task.len() <= 63
        && task.starts_with(|c: char| c.is_ascii_alphanumeric())
        && task.ends_with(|c: char| c.is_ascii_alphanumeric());
    if fits { task.to_owned() } else { short_hash(task) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment() -> ObjectRef {
        ObjectRef {
            api_version: "apps/v1".into(),
            kind: "Deployment".into(),
            plural: "deployments".into(),
            namespace: Some("shop".into()),
            name: "web".into(),
        }
    }

    #[test]
    fn an_image_gives_back_what_it_was_given_without_what_only_servers_write() {
        let live = json!({"apiVersion": "apps/v1", "kind": "Deployment", "status": {"replicas": 3},
            "metadata": {"name": "web", "uid": "u", "resourceVersion": "7", "labels": {"a": "b"}, "managedFields": [{"manager": "x"}]},
            "spec": {"replicas": 3, "text": "é\n\u{0}"}});
        let token = "default/0192/1/deploy";
        let place = place(&deployment(), token, "default");
        let secret = secret(&place, &deployment(), token, &live).expect("fits");
        let expected = json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "labels": {"a": "b"}, "managedFields": [{"manager": "x"}]},
            "spec": {"replicas": 3, "text": "é\n\u{0}"}});
        assert_eq!(object_of(&secret).expect("reads"), expected);
        assert_eq!(secret["metadata"]["labels"]["deputy.dev/task"], "0192");
        assert_eq!(secret["metadata"]["namespace"], "shop");
    }

    #[test]
    fn an_image_of_more_values_than_an_object_has_is_neither_made_nor_read() {
        let values = |count: usize| vec![Value::Null; count].into();
        let most = values(199_999);
        assert_eq!(unpack(&pack(&most).expect("packed")), Ok(most));
        let more: Value = values(200_000);
        let told = pack(&more).expect_err("too many");
        assert!(told.contains("more than 200000 values"), "{told}");
        let foreign = zstd::stream::encode_all(more.to_string().as_bytes(), LEVEL).expect("packed");
        assert_eq!(unpack(&foreign), Err(told));
    }

    #[test]
    fn images_of_different_runs_and_objects_have_different_names() {
        let first = place(&deployment(), "default/t/1/deploy", "default");
        let retried = place(&deployment(), "default/t/2/deploy", "default");
        let mut other = deployment();
        other.name = "api".into();
        let other = place(&other, "default/t/1/deploy", "default");
        assert!(first.name != retried.name && first.name != other.name);
        assert_eq!(object_label(&deployment()).len(), 20);
    }

    #[test]
    fn what_is_no_image_is_refused_in_words() {
        assert_eq!(object_of(&json!({})).expect_err("bad"), "the Secret holds no object");
        assert!(object_of(&json!({"data": {DATA_KEY: "AAAA"}})).is_err());
    }

    #[test]
    fn an_object_that_no_secret_can_hold_is_refused_before_anything_changes() {
        let mut state = 1_u64;
        let noise: String = (0..3_000_000)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                char::from(33 + u8::try_from(state >> 58).unwrap_or(0))
            })
            .collect();
        let token = "default/t/1/deploy";
        let place = place(&deployment(), token, "default");
        let refused = secret(&place, &deployment(), token, &json!({"data": noise})).expect_err("too large");
        assert!(refused.summary.contains("even when compressed"), "{refused}");
    }
}
