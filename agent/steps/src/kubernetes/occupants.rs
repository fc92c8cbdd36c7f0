//! What others keep in a namespace or under a definition that undo is about to delete: deleting the
//! container would delete it too. Called by `undo`. It only reads.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIGroupList, APIResourceList};
use serde_json::Value;

use crate::context::StepContext;
use crate::failure::StepError;

use super::api::Api;
use super::explain::Doing;
use super::object::{EFFECT_ANNOTATION, ObjectRef, annotation, metadata};
use super::path;
use super::reading::{Patience, patiently, read_object};

/// Names that are told; the rest is counted.
const TOLD: usize = 5;

/// What the API server or controllers put into every namespace.
const ALWAYS_THERE: [&str; 2] = ["kube-root-ca.crt", "default"];

/// Kinds that say nothing about anybody's work.
const EPHEMERAL: [&str; 4] = ["events", "leases", "endpointslices", "endpoints"];

/// What is in `object` that this run did not put there; nothing for objects that hold no others.
pub(crate) async fn occupants(
    ctx: &StepContext,
    api: &Api,
    object: &ObjectRef,
    token: &str,
) -> Result<Vec<String>, StepError> {
    let mut found = Vec::new();
    if object.is("", "Namespace") {
        for (api_version, plural) in namespaced_resources(ctx, api).await? {
            let path = path::of_list(&api_version, &plural, Some(&object.name))?;
            // What cannot be listed by this identity cannot be judged, and is not ours to delete either.
            let items = patiently(
                ctx,
                api,
                &Doing::new("read", format!("{plural} in {object}")),
                Patience::Short,
                || api.list_metadata(&path),
            )
            .await?;
            found.extend(
                items
                    .iter()
                    .filter(|item| is_foreign(item, token))
                    .filter_map(|item| Some(format!("{plural}/{}", metadata(item, "name")?))),
            );
        }
    } else if object.is("apiextensions.k8s.io", "CustomResourceDefinition") {
        let Some(live) = read_object(ctx, api, object, Patience::Endless).await? else {
            return Ok(found);
        };
        let text = |pointer: &str| live.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let version = text("/status/storedVersions/0");
        let path = path::of_list(
            &format!("{}/{version}", text("/spec/group")),
            text("/spec/names/plural"),
            None,
        )?;
        let items = patiently(
            ctx,
            api,
            &Doing::new("read", format!("objects of {object}")),
            Patience::Short,
            || api.list_metadata(&path),
        )
        .await?;
        found.extend(
            items
                .iter()
                .filter(|item| is_foreign(item, token))
                .filter_map(|item| metadata(item, "name").map(str::to_owned)),
        );
    }
    let more = found.len().saturating_sub(TOLD);
    found.truncate(TOLD);
    if more > 0 {
        found.push(format!("and {more} more"));
    }
    Ok(found)
}

/// Neither made by this run, nor by a controller for something, nor on its way out.
fn is_foreign(item: &Value, token: &str) -> bool {
    let owned = item
        .pointer("/metadata/ownerReferences")
        .and_then(Value::as_array)
        .is_some_and(|owners| !owners.is_empty());
    let always = metadata(item, "name").is_some_and(|name| ALWAYS_THERE.contains(&name));
    let going = metadata(item, "deletionTimestamp").is_some();
    !owned && !always && !going && annotation(item, EFFECT_ANNOTATION) != Some(token)
}

/// Everything that can be listed in a namespace.
async fn namespaced_resources(ctx: &StepContext, api: &Api) -> Result<Vec<(String, String)>, StepError> {
    let doing = Doing::new("read", "the kinds of the cluster");
    let groups: APIGroupList = patiently(ctx, api, &doing, Patience::Short, || api.get("/apis")).await?;
    let preferred = groups.groups.into_iter().filter_map(|group| {
        Some(
            group
                .preferred_version
                .or_else(|| group.versions.into_iter().next())?
                .group_version,
        )
    });
    let mut resources = Vec::new();
    for api_version in std::iter::once("v1".to_owned()).chain(preferred) {
        let path = path::of_version(&api_version)?;
        // A group whose own server is down cannot be listed; the namespace's deletion would hang on it too.
        let list: APIResourceList = patiently(ctx, api, &doing, Patience::Short, || api.get(&path)).await?;
        let kept = list.resources.into_iter().filter(|resource| {
            let listed =
                resource.verbs.iter().any(|verb| verb == "list") && resource.verbs.iter().any(|verb| verb == "delete");
            resource.namespaced
                && listed
                && !resource.name.contains('/')
                && !EPHEMERAL.contains(&resource.name.as_str())
        });
        resources.extend(kept.map(|resource| (api_version.clone(), resource.name)));
    }
    Ok(resources)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_others_made_is_told_from_what_the_cluster_and_this_run_made() {
        let item = |metadata: Value| is_foreign(&json!({"metadata": metadata}), "default/t/1/s");
        assert!(item(json!({"name": "their-config"})));
        assert!(!item(json!({"name": "kube-root-ca.crt"})));
        assert!(!item(
            json!({"name": "web-abc", "ownerReferences": [{"kind": "ReplicaSet"}]})
        ));
        assert!(!item(
            json!({"name": "web", "annotations": {EFFECT_ANNOTATION: "default/t/1/s"}})
        ));
        assert!(item(
            json!({"name": "web", "annotations": {EFFECT_ANNOTATION: "default/other/1/s"}})
        ));
    }
}
