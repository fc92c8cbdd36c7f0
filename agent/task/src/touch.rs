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

/// The service account of a pod that names none.
const DEFAULT_ACCOUNT: &str = "default";

/// Every service account that a manifest runs pods as: each that it names, wherever it is, and `default` for a pod that
/// names none.
#[must_use]
pub fn service_accounts_of(manifest: &Value) -> Vec<String> {
    if runs_nothing(manifest) {
        return Vec::new();
    }
    let names = ["serviceAccountName", "serviceAccount"];
    let is_account = |key: &str| names.iter().any(|name| name.eq_ignore_ascii_case(key));
    let mut accounts = texts_under(manifest, &is_account);
    accounts.retain(|account| !account.is_empty());
    if has_nameless_pod(manifest) {
        accounts.push(DEFAULT_ACCOUNT.to_owned());
        accounts.sort();
        accounts.dedup();
    }
    accounts
}

/// Is there a pod that names no service account? A pod is where Kubernetes' own kinds have one, even if nothing is
/// there, for what is applied over an object may take the account away; and, of any kind, whatever has `containers`.
fn has_nameless_pod(manifest: &Value) -> bool {
    if let Some(place) = place_of_pod(manifest)
        && manifest.pointer(place).is_none_or(names_no_account)
    {
        return true;
    }
    let mut left = vec![manifest];
    while let Some(value) = left.pop() {
        match value {
            Value::Array(items) => left.extend(items),
            Value::Object(entries) => {
                if entries.get("containers").is_some_and(Value::is_array) && names_no_account(value) {
                    return true;
                }
                left.extend(entries.values());
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    false
}

/// As Kubernetes reads it, letter by letter; the older key counts where the newer one says nothing.
fn names_no_account(pod: &Value) -> bool {
    let names = ["serviceAccountName", "serviceAccount"];
    let mut named = names.iter().filter_map(|key| pod.get(key).and_then(Value::as_str));
    named.all(str::is_empty)
}

/// Where an object of a kind of Kubernetes itself has its pod.
fn place_of_pod(manifest: &Value) -> Option<&'static str> {
    let text = |key| manifest.get(key).and_then(Value::as_str).unwrap_or_default();
    let group = text("apiVersion").split_once('/').map_or("", |(group, _)| group);
    match (group, text("kind")) {
        ("", "Pod") => Some("/spec"),
        ("", "PodTemplate") => Some("/template/spec"),
        ("batch", "CronJob") => Some("/spec/jobTemplate/spec/template/spec"),
        ("", "ReplicationController")
        | ("apps" | "extensions", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
        | ("batch", "Job") => Some("/spec/template/spec"),
        _ => None,
    }
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

    /// Guards that no pod runs as `default` of its namespace without that being asked.
    #[test]
    fn pods_that_name_no_service_account_run_as_default() {
        let object = |version: &str, kind: &str, spec: Value| json!({"apiVersion": version, "kind": kind, "metadata": {"name": "x"}, "spec": spec});
        let pod = |account: Value| {
            let mut pod = json!({"containers": [{"name": "c", "image": "app:1"}]});
            pod.as_object_mut()
                .expect("an object")
                .extend(account.as_object().cloned().unwrap_or_default());
            pod
        };
        for (account, runs_as) in [
            (json!({}), "default"),
            (json!({"serviceAccountName": ""}), "default"),
            (json!({"serviceAccountName": null}), "default"),
            (json!({"serviceAccountName": "web"}), "web"),
            (json!({"serviceAccount": "web"}), "web"),
        ] {
            let template = json!({"template": {"spec": pod(account.clone())}});
            let mut all = vec![
                object("v1", "Pod", pod(account.clone())),
                object("batch/v1", "CronJob", json!({"jobTemplate": {"spec": template}})),
                object("v1", "ReplicationController", template.clone()),
                object("batch/v1", "Job", template.clone()),
                object("argoproj.io/v1alpha1", "Rollout", template.clone()),
                object("example.com/v1", "Queue", json!({"tasks": [template]})),
                json!({"apiVersion": "v1", "kind": "PodTemplate", "template": {"spec": pod(account.clone())}}),
            ];
            for kind in ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"] {
                all.push(object("apps/v1", kind, template.clone()));
            }
            for manifest in all {
                assert_eq!(service_accounts_of(&manifest), [runs_as], "{manifest}");
            }
        }
        // A key that Kubernetes does not read names nothing, and one pod of two may name none.
        let misspelt = object("v1", "Pod", pod(json!({"ServiceAccountName": "web"})));
        assert_eq!(service_accounts_of(&misspelt), ["default", "web"]);
        let two = json!({"tasks": [pod(json!({})), pod(json!({"serviceAccountName": "web"}))]});
        assert_eq!(
            service_accounts_of(&object("example.com/v1", "Queue", two)),
            ["default", "web"]
        );
        // What is applied over an object that is there takes away an account that it does not name.
        assert_eq!(
            service_accounts_of(&object("apps/v1", "Deployment", json!({"replicas": 2}))),
            ["default"]
        );
        for none in [
            object("v1", "Service", json!({"ports": []})),
            object("example.com/v1", "Deployment", json!({"replicas": 2})),
            object(
                "apiextensions.k8s.io/v1",
                "CustomResourceDefinition",
                json!({"properties": {"containers": {"type": "array"}}}),
            ),
            json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"containers": []}}),
        ] {
            assert!(service_accounts_of(&none).is_empty(), "{none}");
        }
    }
}
