//! Which resource a kind is, and whether it has namespaces: asked of the API server, once per group
//! and version. Called by the step programs before anything is changed; never changes anything.

use std::collections::BTreeMap;

use deputy_task::outcome::Failure;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIGroupList, APIResourceList};
use serde_json::Value;

use super::api::{Api, ApiError};
use super::explain::{Doing, explain};
use super::manifest::Manifest;
use super::object::ObjectRef;
use super::path;

/// A kind of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resource {
    pub(crate) plural: String,
    pub(crate) scope: Scope,
}

/// Does a resource have namespaces?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    Namespaced,
    Cluster,
}

/// What the cluster serves, as far as it was asked.
pub(crate) struct Discovery<'a> {
    api: &'a Api,
    /// By `apiVersion`, then by kind; none if the cluster does not serve that version.
    known: BTreeMap<String, Option<BTreeMap<String, Resource>>>,
    /// From definitions among the manifests themselves: (apiVersion, kind).
    coming: BTreeMap<(String, String), Resource>,
}

impl<'a> Discovery<'a> {
    /// With what the manifests themselves are about to define.
    pub(crate) fn new(api: &'a Api, manifests: &[Manifest]) -> Self {
        let coming = manifests
            .iter()
            .filter(|m| m.kind == "CustomResourceDefinition")
            .flat_map(defines)
            .collect();
        Self {
            api,
            known: BTreeMap::new(),
            coming,
        }
    }

    /// The object that a manifest means.
    pub(crate) async fn resolve(&mut self, manifest: &Manifest, namespace: &str) -> Result<ObjectRef, Failure> {
        let resource = self.resource(manifest).await?;
        let object_namespace = match (resource.scope, &manifest.namespace) {
            (Scope::Namespaced, written) => Some(written.clone().unwrap_or_else(|| namespace.to_owned())),
            (Scope::Cluster, None) => None,
            (Scope::Cluster, Some(written)) => {
                let Manifest { origin, kind, name, .. } = manifest;
                return Err(Failure::new(
                    "kubernetes.badManifest",
                    format!(
                        "{origin}: {kind} {name} names the namespace {written}, but objects of this kind have none"
                    ),
                )
                .hint("remove metadata.namespace"));
            }
        };
        Ok(ObjectRef {
            api_version: manifest.api_version.clone(),
            kind: manifest.kind.clone(),
            plural: resource.plural,
            namespace: object_namespace,
            name: manifest.name.clone(),
        })
    }

    async fn resource(&mut self, manifest: &Manifest) -> Result<Resource, Failure> {
        let Manifest {
            origin,
            api_version,
            kind,
            ..
        } = manifest;
        let key = (api_version.clone(), kind.clone());
        if !self.known.contains_key(api_version) {
            let served = match self.ask(&path::of_version(api_version)?).await {
                Ok(served) => served,
                Err(error) => {
                    return Err(explain(
                        self.api,
                        &error,
                        &Doing::new("read", format!("the kinds of {api_version}")),
                    )
                    .await);
                }
            };
            self.known.insert(api_version.clone(), served);
        }
        let served = self.known.get(api_version).and_then(Option::as_ref);
        if let Some(resource) = served
            .and_then(|kinds| kinds.get(kind))
            .or_else(|| self.coming.get(&key))
        {
            return Ok(resource.clone());
        }
        let summary = format!("{origin}: the cluster has no kind {kind} in {api_version}");
        let hint = match served {
            Some(kinds) => nearest(kind, kinds.keys()).map(|near| format!("did you mean {near}?")),
            None => self.other_versions(api_version).await,
        };
        let hint = hint.unwrap_or_else(|| {
            "if a CustomResourceDefinition defines it, apply that first, or put it among the manifests of this step"
                .into()
        });
        Err(Failure::new("kubernetes.unknownKind", summary).hint(hint))
    }

    async fn ask(&self, path: &str) -> Result<Option<BTreeMap<String, Resource>>, ApiError> {
        let list: APIResourceList = match self.api.get(path).await {
            Ok(list) => list,
            Err(error) if error.code() == Some(404) => return Ok(None),
            Err(error) => return Err(error),
        };
        let kinds = list.resources.into_iter().filter(|r| !r.name.contains('/')).map(|r| {
            let scope = if r.namespaced {
                Scope::Namespaced
            } else {
                Scope::Cluster
            };
            (r.kind, Resource { plural: r.name, scope })
        });
        Ok(Some(kinds.collect()))
    }

    /// Says which versions of the group the cluster serves instead.
    async fn other_versions(&self, api_version: &str) -> Option<String> {
        let (group, _) = api_version.split_once('/')?;
        let groups: APIGroupList = self.api.get("/apis").await.ok()?;
        let found = groups.groups.into_iter().find(|g| g.name == group)?;
        let versions: Vec<_> = found.versions.into_iter().map(|v| v.group_version).collect();
        Some(format!(
            "the cluster serves {} of this group; write the manifest for it",
            versions.join(", ")
        ))
    }
}

/// The kinds that a CustomResourceDefinition will make.
fn defines(manifest: &Manifest) -> Vec<((String, String), Resource)> {
    let spec = manifest.object.get("spec");
    let text = |pointer: &str| spec.and_then(|spec| spec.pointer(pointer)).and_then(Value::as_str);
    let (Some(group), Some(kind), Some(plural)) = (text("/group"), text("/names/kind"), text("/names/plural")) else {
        return Vec::new();
    };
    let scope = if text("/scope") == Some("Cluster") {
        Scope::Cluster
    } else {
        Scope::Namespaced
    };
    let versions = spec.and_then(|spec| spec.get("versions")).and_then(Value::as_array);
    let names = versions
        .into_iter()
        .flatten()
        .filter_map(|version| version.get("name").and_then(Value::as_str));
    names
        .map(|version| {
            (
                (format!("{group}/{version}"), kind.to_owned()),
                Resource {
                    plural: plural.to_owned(),
                    scope,
                },
            )
        })
        .collect()
}

/// The name that was probably meant.
fn nearest<'n>(written: &str, names: impl Iterator<Item = &'n String>) -> Option<&'n String> {
    names
        .map(|name| {
            (
                strsim::damerau_levenshtein(&name.to_lowercase(), &written.to_lowercase()),
                name,
            )
        })
        .filter(|(distance, _)| *distance <= 2)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_definition_among_the_manifests_makes_its_kind_known() {
        let object = json!({"spec": {"group": "example.com", "scope": "Cluster",
            "names": {"kind": "Widget", "plural": "widgets"}, "versions": [{"name": "v1"}, {"name": "v1beta1"}]}});
        let manifest = Manifest {
            origin: "x".into(),
            api_version: "apiextensions.k8s.io/v1".into(),
            kind: "CustomResourceDefinition".into(),
            namespace: None,
            name: "widgets.example.com".into(),
            object: object.as_object().expect("object").clone(),
        };
        let defined: Vec<_> = defines(&manifest)
            .into_iter()
            .map(|((version, kind), r)| (version, kind, r.scope))
            .collect();
        assert_eq!(
            defined,
            [
                ("example.com/v1".to_owned(), "Widget".to_owned(), Scope::Cluster),
                ("example.com/v1beta1".to_owned(), "Widget".to_owned(), Scope::Cluster)
            ]
        );
    }

    #[test]
    fn a_misspelt_kind_finds_the_one_that_was_meant() {
        let names = ["Deployment".to_owned(), "DaemonSet".to_owned()];
        assert_eq!(nearest("deploymnet", names.iter()), Some(&names[0]));
        assert_eq!(nearest("Rollout", names.iter()), None);
    }
}
