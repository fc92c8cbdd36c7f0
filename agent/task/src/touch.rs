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
    /// A role that AWS or containers are given.
    Role(String),
    /// A service account as which pods will run.
    ServiceAccount {
        /// The cluster's name.
        cluster: String,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// Every image that a task definition names: each text under a key `image`, wherever it is.
#[must_use]
pub fn images_of_definition(definition: &Value) -> Vec<String> {
    images_in(definition)
}

/// Every image that a manifest names: each text under a key `image`, wherever it is, and each `reference` of an
/// image volume.
#[must_use]
pub fn images_of_manifest(manifest: &Value) -> Vec<String> {
    if runs_nothing(manifest) {
        return Vec::new();
    }
    images_in(manifest)
}

/// A ConfigMap or Secret of Kubernetes itself; what other API groups call so may run anything.
fn runs_nothing(manifest: &Value) -> bool {
    let text = |key| manifest.get(key).and_then(Value::as_str);
    text("apiVersion") == Some("v1") && matches!(text("kind"), Some("ConfigMap" | "Secret"))
}

fn images_in(document: &Value) -> Vec<String> {
    let mut found = Vec::new();
    collect_images(document, &mut found);
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

/// Every role that an ECS document gives to AWS or to containers: each text under a key that ends in `roleArn`
/// (`taskRoleArn`, `executionRoleArn`, of volumes, hooks and TLS), wherever it is, and `role` of a service. An empty
/// one is none.
#[must_use]
pub fn roles_of(document: &Value) -> Vec<String> {
    let is_role = |key: &str| key.eq_ignore_ascii_case("role") || key.to_ascii_lowercase().ends_with("rolearn");
    let mut roles = texts_under(document, &is_role);
    roles.retain(|role| !role.is_empty());
    roles
}

/// Every service account that a manifest runs pods as.
#[must_use]
pub fn service_accounts_of(manifest: &Value) -> Vec<String> {
    if runs_nothing(manifest) {
        return Vec::new();
    }
    let names = ["serviceAccountName", "serviceAccount"];
    let is_account = |key: &str| names.iter().any(|name| name.eq_ignore_ascii_case(key));
    let mut accounts = texts_under(manifest, &is_account);
    accounts.retain(|account| !account.is_empty());
    accounts
}

fn texts_under(document: &Value, is_wanted: &dyn Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![document];
    while let Some(value) = left.pop() {
        match value {
            Value::Array(items) => left.extend(items),
            Value::Object(entries) => {
                for (key, entry) in entries {
                    match entry {
                        Value::String(text) if is_wanted(key) => found.push(text.clone()),
                        _ => left.push(entry),
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    found.sort();
    found.dedup();
    found
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
        assert_eq!(images_of_manifest(&manifest), ["init:1", "main:1", "vol:1"]);
        let definition = json!({"containerDefinitions": [{"image": "a"}], "ContainerDefinitions": [{"Image": "b"}]});
        assert_eq!(images_of_definition(&definition), ["a", "b"]);
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"image": "logo.png"}});
        assert!(images_of_manifest(&map).is_empty());
    }
    /// Guards that a key which Kubernetes reads hides nothing from a policy about ECS, nor one of another API group.
    #[test]
    fn what_only_looks_like_a_config_map_is_looked_into() {
        for kind in ["ConfigMap", "Secret"] {
            let definition = json!({"apiVersion": "v1", "kind": kind, "containerDefinitions": [{"image": "evil"}], "taskRoleArn": "arn:a"});
            assert_eq!(images_of_definition(&definition), ["evil"]);
            assert_eq!(roles_of(&definition), ["arn:a"]);
            for version in [json!("runs.example/v1"), json!("/v1"), json!(null)] {
                let own = json!({"apiVersion": version, "kind": kind,
                    "spec": {"image": "evil", "serviceaccountname": "admin"}});
                assert_eq!(images_of_manifest(&own), ["evil"]);
                assert_eq!(service_accounts_of(&own), ["admin"]);
            }
        }
        let map = json!({"apiVersion": "v1", "kind": "configmap", "spec": {"image": "evil"}});
        assert_eq!(images_of_manifest(&map), ["evil"]);
    }
    #[test]
    fn roles_and_service_accounts_are_found_wherever_they_are() {
        let definition = json!({"taskRoleArn": "arn:a", "ExecutionRoleArn": "arn:b", "containerDefinitions": [{"name": "role"}],
            "volumeConfigurations": [{"managedEBSVolume": {"roleArn": "arn:c"}}], "role": "d", "infrastructureRoleArn": ""});
        assert_eq!(roles_of(&definition), ["arn:a", "arn:b", "arn:c", "d"]);
        let manifest = json!({"kind": "CronJob", "spec": {"jobTemplate": {"spec": {"template": {"spec": {
            "serviceAccountName": "admin", "serviceAccount": "old"}}}}}});
        assert_eq!(service_accounts_of(&manifest), ["admin", "old"]);
        assert!(
            service_accounts_of(&json!({"apiVersion": "v1", "kind": "Secret", "data": {"serviceAccountName": "x"}}))
                .is_empty()
        );
    }
}
