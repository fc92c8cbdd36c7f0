//! Which object is meant, and where the API server keeps it. Used by everything in this folder;
//! it never talks to a cluster.

use std::fmt;

use deputy_task::outcome::Failure;
use deputy_task::touch::{Touch, service_accounts_of};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::path;

/// The annotation that tells which run of which task wrote an object.
pub(crate) const EFFECT_ANNOTATION: &str = "deputy.dev/effect";

/// One object of a cluster, mapped to its resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ObjectRef {
    /// For example `apps/v1`.
    pub(crate) api_version: String,
    /// For example `Deployment`.
    pub(crate) kind: String,
    /// For example `deployments`.
    pub(crate) plural: String,
    /// None for an object of the cluster itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) namespace: Option<String>,
    /// Its name.
    pub(crate) name: String,
}

impl ObjectRef {
    /// A secret of `namespace`.
    pub(crate) fn secret(namespace: &str, name: &str) -> Self {
        Self {
            api_version: "v1".into(),
            kind: "Secret".into(),
            plural: "secrets".into(),
            namespace: Some(namespace.into()),
            name: name.into(),
        }
    }

    /// The API group; empty for the core group.
    pub(crate) fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    /// Names the object in journal keys: it holds no version, so that the same object written with
    /// another version of its API is the same object.
    pub(crate) fn id(&self) -> String {
        let dot = if self.group().is_empty() { "" } else { "." };
        let namespace = self.namespace.as_deref().unwrap_or("_");
        format!("{}{dot}{}/{namespace}/{}", self.kind, self.group(), self.name)
    }

    /// What it is called, where a refusal may say so.
    pub(crate) fn names(&self) -> Value {
        json!([self.name, self.namespace])
    }

    /// Is it the kind `kind` of the API group `group`?
    pub(crate) fn is(&self, group: &str, kind: &str) -> bool {
        self.group() == group && self.kind == kind
    }

    /// What a change of it touches.
    pub(crate) fn touch(&self, cluster: &str) -> Touch {
        let cluster = cluster.to_owned();
        match self.namespace.clone() {
            Some(namespace) => Touch::Namespace { cluster, namespace },
            None => Touch::ClusterScope { cluster },
        }
    }

    /// The service accounts as which its pods run.
    pub(crate) fn accounts(&self, cluster: &str, document: &Value) -> Vec<Touch> {
        let account = |name| Touch::ServiceAccount {
            cluster: cluster.to_owned(),
            namespace: self.namespace.clone().unwrap_or_default(),
            name,
        };
        service_accounts_of(document).into_iter().map(account).collect()
    }

    /// The path of its resource's list, without the name.
    ///
    /// # Errors
    /// A part of it is no name.
    pub(crate) fn collection_path(&self) -> Result<String, Failure> {
        path::of_list(&self.api_version, &self.plural, self.namespace.as_deref())
    }

    /// The path of the object.
    ///
    /// # Errors
    /// A part of it is no name.
    pub(crate) fn path(&self) -> Result<String, Failure> {
        path::of_object(&self.collection_path()?, &self.name)
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)?;
        match &self.namespace {
            Some(namespace) => write!(f, " in namespace {namespace}"),
            None => Ok(()),
        }
    }
}

/// `metadata.<key>` as text.
pub(crate) fn metadata<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.get("metadata")?.get(key)?.as_str()
}

/// `metadata.generation`; 0 for kinds that have none.
pub(crate) fn generation(object: &Value) -> i64 {
    object
        .pointer("/metadata/generation")
        .and_then(Value::as_i64)
        .unwrap_or(0)
}

/// An annotation.
pub(crate) fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.get("metadata")?.get("annotations")?.get(key)?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_ids_follow_group_and_scope() {
        let deployment = ObjectRef {
            api_version: "apps/v1".into(),
            kind: "Deployment".into(),
            plural: "deployments".into(),
            namespace: Some("shop".into()),
            name: "web".into(),
        };
        assert_eq!(
            deployment.path().expect("names"),
            "/apis/apps/v1/namespaces/shop/deployments/web"
        );
        assert_eq!(deployment.id(), "Deployment.apps/shop/web");
        let namespace = ObjectRef {
            api_version: "v1".into(),
            kind: "Namespace".into(),
            plural: "namespaces".into(),
            namespace: None,
            name: "shop".into(),
        };
        assert_eq!(namespace.path().expect("names"), "/api/v1/namespaces/shop");
        assert_eq!(namespace.id(), "Namespace/_/shop");
    }
}
