//! One key of a Secret in an EKS cluster, read with the task's own identity.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use deputy_task::document::secret::KubernetesSecret;
use deputy_task::outcome::Failure;
use serde_json::Value;

use crate::kubernetes::{ApiError, Connection, Doing, ObjectRef, explain};

use super::value::{Fetched, SecretValue, Version};

/// Reads it. The cluster keeps no older versions: one that was read before and has changed since is gone.
pub(super) async fn fetch(
    connection: &Connection,
    secret: &KubernetesSecret,
    pinned: Option<&str>,
) -> Result<Fetched, Failure> {
    let namespace = secret.namespace.as_deref().unwrap_or("default");
    let on = format!("Secret {} in namespace {namespace}", secret.name);
    let failed = async |error: &ApiError| {
        let doing = Doing::new("read", &on);
        explain(&connection.api, error, &doing).await
    };
    let path = ObjectRef::secret(namespace, &secret.name).path()?;
    let object = match connection.api.get_object(&path).await {
        Ok(object) => object,
        Err(error) => return Err(failed(&error).await),
    };
    let Some(object) = object else {
        let failure = Failure::new("secret.notFound", format!("cluster {} has no {on}", secret.cluster));
        return Err(failure.hint("check its name and namespace"));
    };
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let version = format!("{}/{}", text("/metadata/uid"), text("/metadata/resourceVersion"));
    if let Some(pinned) = pinned.filter(|pinned| *pinned != version) {
        return Err(Failure::new(
            "secret.gone",
            format!("{on} was changed after an earlier attempt of this run had read it ({pinned}, now {version})"),
        )
        .hint("Kubernetes keeps no older versions; `deputy retry` begins a new run with the new one"));
    }
    let data = object.get("data").and_then(Value::as_object);
    let encoded = data
        .and_then(|data| data.get(&secret.key))
        .and_then(Value::as_str)
        .ok_or_else(|| no_key(&on, &secret.key, data.map(|data| data.keys())))?;
    let bytes = STANDARD.decode(encoded).map_err(|_| {
        Failure::new(
            "secret.unreadable",
            format!("the key {} of {on} is not base64", secret.key),
        )
    })?;
    Ok(Fetched {
        value: SecretValue::new(bytes),
        version: Version {
            from: format!("{}/{namespace}/{}", secret.cluster, secret.name),
            version: Some(version),
        },
    })
}

fn no_key<'a>(on: &str, key: &str, known: Option<impl Iterator<Item = &'a String>>) -> Failure {
    let mut known: Vec<&str> = known.into_iter().flatten().map(String::as_str).take(20).collect();
    known.sort_unstable();
    let known = if known.is_empty() {
        "none".to_owned()
    } else {
        known.join(", ")
    };
    Failure::new(
        "secret.noKey",
        format!("{on} has no key {key:?}; its keys are: {known}"),
    )
    .hint("correct `key`")
}
