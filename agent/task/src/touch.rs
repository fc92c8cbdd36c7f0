//! What a change touches, in words that a policy can be asked about. Steps say it of their effects,
//! the agent's policy is asked about each.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One thing that an effect touches, with its concrete arguments.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Touch {
    /// An ECS cluster, by name or ARN.
    EcsCluster(String),
    /// A task definition that a service is to run, by ARN.
    TaskDefinition(String),
    /// A namespace of an EKS cluster.
    Namespace {
        /// The cluster's name.
        cluster: String,
        /// The namespace.
        namespace: String,
    },
    /// An object of an EKS cluster that belongs to no namespace.
    ClusterScope {
        /// The cluster's name.
        cluster: String,
    },
    /// A container image that will be pulled.
    Image(String),
}

/// Every image that a task definition or a manifest names: each text under a key `image`, wherever
/// it is, and each `reference` of an image volume. ConfigMaps and Secrets run nothing.
#[must_use]
pub fn images_of(document: &Value) -> Vec<String> {
    let mut found = Vec::new();
    if !matches!(
        document.get("kind").and_then(Value::as_str),
        Some("ConfigMap" | "Secret")
    ) {
        collect_images(document, &mut found);
    }
    found.sort();
    found.dedup();
    found
}

fn collect_images(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect_images(item, found)),
        Value::Object(entries) => {
            for (key, entry) in entries {
                match entry {
                    Value::String(image) if key.eq_ignore_ascii_case("image") => found.push(image.clone()),
                    Value::Object(volume) if key.eq_ignore_ascii_case("image") => {
                        found.extend(volume.get("reference").and_then(Value::as_str).map(str::to_owned));
                        collect_images(entry, found);
                    }
                    _ => collect_images(entry, found),
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn images_are_found_wherever_they_are() {
        let manifest = json!({"kind": "CronJob", "spec": {"jobTemplate": {"spec": {"template": {"spec": {
            "initContainers": [{"name": "i", "image": "init:1"}],
            "containers": [{"name": "c", "image": "main:1"}, {"name": "d", "image": "main:1"}],
            "volumes": [{"name": "v", "image": {"reference": "vol:1"}}],
        }}}}}});
        assert_eq!(images_of(&manifest), ["init:1", "main:1", "vol:1"]);
        let definition = json!({"containerDefinitions": [{"image": "a"}], "ContainerDefinitions": [{"Image": "b"}]});
        assert_eq!(images_of(&definition), ["a", "b"]);
        assert!(images_of(&json!({"kind": "ConfigMap", "data": {"image": "logo.png"}})).is_empty());
    }
}
