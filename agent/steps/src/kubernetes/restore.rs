//! Puts an object back to its before-image. Called by `undo`, for an object that this run changed and
//! nobody since. Two effects: its content, and then who owns which of its fields, so that the next
//! deployment finds the object as if this one had never been.

use deputy_task::touch::{Touch, images_of_manifest};
use http::Method;
use serde_json::{Value, json};

use crate::effect::{Effect, Look};
use crate::failure::StepError;

use super::api::Change;
use super::apply::{SETTLE, Work, look_at};
use super::before::{Applied, FIELD_MANAGER, owns, same_content};
use super::echo::Echo;
use super::explain::Doing;
use super::found::{changed, compare, still_ours};
use super::image;
use super::object::{EFFECT_ANNOTATION, ObjectRef, annotation, metadata};
use super::reading::{Patience, read_object};

/// Replaces the object by its image, on the condition that it is still what this run applied.
pub(crate) async fn restore(
    work: Work<'_>,
    object: &ObjectRef,
    place: &ObjectRef,
    applied: &Applied,
) -> Result<Applied, StepError> {
    let Work { ctx, api, token } = work;
    let plan = json!({"object": object.id(), "image": place.path()?, "uid": applied.uid});
    let effect = Effect::bounded(format!("restore/{}", object.id()), format!("put back {object}"), &plan)
        .settle(SETTLE)
        .touching([work.touches(object)]);
    let doing = Doing::new("put back", object);
    let look = || async {
        let (live, image) = match (look_at(ctx, api, object).await?, look_at(ctx, api, place).await?) {
            (Ok(live), Ok(image)) => (live, image),
            (Err(failure), _) | (_, Err(failure)) => return Ok(Look::Unclear(failure)),
        };
        let image = image.and_then(|secret| image::object_of(&secret).ok());
        Ok(match (live, image) {
            (Some(live), _) if annotation(&live, EFFECT_ANNOTATION) == Some(token) => Look::Absent,
            (Some(live), Some(image)) if same_content(&live, &image) => Look::Mine(Applied::of(&live)),
            _ => Look::Foreign(deputy_task::outcome::Failure::new(
                "kubernetes.foreign",
                format!("{object} was changed by somebody else while it was being put back"),
            )),
        })
    };
    let build = || async {
        let image = read_image(work, object, place).await?;
        // It was live before, perhaps in spite of the policy; and who may write Secrets can have changed it since.
        let mut brought: Vec<Touch> = images_of_manifest(&image).into_iter().map(Touch::Image).collect();
        brought.extend(object.accounts(&api.place().cluster, &image));
        ctx.may_touch(&brought)?;
        let live = read_object(ctx, api, object, Patience::Endless).await?;
        let live = live.ok_or_else(|| changed(object, "somebody deleted it"))?;
        still_ours(object, compare(&live, Some(&image), applied, token))?;
        Ok(Change {
            method: Method::PUT,
            path: format!("{}?fieldManager={FIELD_MANAGER}", object.path()?),
            content_type: "application/json",
            body: body(image.clone(), &live).to_string().into_bytes(),
            echo: Echo {
                own: object.names(),
                live: vec![image, live],
            },
        })
    };
    let sending = work.sending(&effect, &doing);
    sending.journaled(look, build, |answer| Applied::of(&answer)).await
}

/// Gives every field back to the manager that owned it. Worth no failure: the content is back.
pub(crate) async fn restore_owners(work: Work<'_>, object: &ObjectRef, place: &ObjectRef) -> Result<(), StepError> {
    let Work { ctx, api, .. } = work;
    let plan = json!({"object": object.id(), "image": place.path()?});
    let effect = Effect::bounded(
        format!("restoreOwners/{}", object.id()),
        format!("give the fields of {object} back"),
        &plan,
    )
    .settle(SETTLE)
    .touching([work.touches(object)]);
    let doing = Doing::new("put back", format!("the owners of {object}"));
    let look = || async {
        Ok(match look_at(ctx, api, object).await? {
            Ok(Some(live)) if updated_by_us(&live) => Look::Absent,
            Ok(_) => Look::Mine(()),
            Err(failure) => Look::Unclear(failure),
        })
    };
    let build = || async {
        let image = read_image(work, object, place).await?;
        let live = read_object(ctx, api, object, Patience::Endless).await?;
        let live = live.ok_or_else(|| changed(object, "somebody deleted it"))?;
        if !same_content(&live, &image) {
            return Err(changed(object, "somebody changed it while it was being put back"));
        }
        let patch = json!({"metadata": {"resourceVersion": metadata(&live, "resourceVersion"), "managedFields": owners(&image, &live)}});
        Ok(Change {
            method: Method::PATCH,
            path: format!("{}?fieldManager={FIELD_MANAGER}", object.path()?),
            content_type: "application/merge-patch+json",
            body: patch.to_string().into_bytes(),
            echo: Echo {
                own: object.names(),
                live: vec![image, live],
            },
        })
    };
    match work.sending(&effect, &doing).journaled(look, build, |_| ()).await {
        Err(StepError::Failed(failure)) => {
            ctx.narrate(format!(
                "{}; the next deployment may have to set forceConflicts",
                failure.summary
            ));
            Ok(())
        }
        other => other,
    }
}

/// What the object was, as it was kept.
pub(crate) async fn read_image(work: Work<'_>, object: &ObjectRef, place: &ObjectRef) -> Result<Value, StepError> {
    let secret = read_object(work.ctx, work.api, place, Patience::Endless).await?;
    let secret =
        secret.ok_or_else(|| changed(object, &format!("its former state was kept in {place}, which is gone")))?;
    image::object_of(&secret).map_err(|problem| {
        changed(
            object,
            &format!("its former state in {place} cannot be read: {problem}"),
        )
    })
}

/// The image as an update of the live object. The API server refuses it if the object has changed
/// since it was read.
fn body(mut image: Value, live: &Value) -> Value {
    if let Some(kept) = image.get_mut("metadata").and_then(Value::as_object_mut) {
        kept.remove("managedFields");
        for key in ["uid", "resourceVersion"] {
            kept.insert(key.into(), metadata(live, key).unwrap_or_default().into());
        }
        // Notes of controllers that have something to clean up: they come and go without anybody's wish.
        match live.pointer("/metadata/finalizers") {
            Some(finalizers) => kept.insert("finalizers".into(), finalizers.clone()),
            None => kept.remove("finalizers"),
        };
    }
    // Replicas that we did not set belong to an autoscaler, or to whoever scaled by hand.
    if !owns(live, "/f:spec/f:replicas")
        && let Some(replicas) = live.pointer("/spec/replicas")
        && let Some(spec) = image.get_mut("spec").and_then(Value::as_object_mut)
        && spec.contains_key("replicas")
    {
        spec.insert("replicas".into(), replicas.clone());
    }
    image
}

/// The owners of the image, and those that controllers have by now of status and scale.
fn owners(image: &Value, live: &Value) -> Vec<Value> {
    let entries = |object: &Value| {
        object
            .pointer("/metadata/managedFields")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let of_subresource = |entry: &Value| {
        entry
            .get("subresource")
            .and_then(Value::as_str)
            .is_some_and(|name| !name.is_empty())
    };
    let before = entries(image).into_iter().filter(|entry| !of_subresource(entry));
    before.chain(entries(live).into_iter().filter(of_subresource)).collect()
}

/// Does the trace of our PUT still own fields?
fn updated_by_us(live: &Value) -> bool {
    let entries = live.pointer("/metadata/managedFields").and_then(Value::as_array);
    entries.into_iter().flatten().any(|entry| {
        let is = |key: &str, text: &str| entry.get(key).and_then(Value::as_str) == Some(text);
        is("manager", FIELD_MANAGER) && is("operation", "Update") && entry.get("subresource").is_none()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(owned: Value) -> Value {
        json!({"metadata": {"uid": "u", "resourceVersion": "9", "managedFields": [
            {"manager": "deputy", "operation": "Apply", "fieldsV1": owned},
            {"manager": "kube-controller-manager", "operation": "Update", "subresource": "status", "time": "now"}]},
            "spec": {"replicas": 7, "image": "new"}})
    }

    #[test]
    fn an_update_is_bound_to_the_object_that_was_read() {
        let image =
            json!({"metadata": {"name": "web", "managedFields": [{}]}, "spec": {"replicas": 2, "image": "old"}});
        let ours = body(image.clone(), &live(json!({"f:spec": {"f:replicas": {}}})));
        assert_eq!(
            ours,
            json!({"metadata": {"name": "web", "uid": "u", "resourceVersion": "9"}, "spec": {"replicas": 2, "image": "old"}})
        );
        let scaled = body(image, &live(json!({"f:spec": {}})));
        assert_eq!(
            scaled["spec"]["replicas"], 7,
            "an autoscaler's number is not ours to put back"
        );
    }

    #[test]
    fn owners_are_those_of_the_image_and_of_todays_status() {
        let image = json!({"metadata": {"managedFields": [
            {"manager": "helm", "operation": "Update"}, {"manager": "kube-controller-manager", "subresource": "status", "time": "then"}]}});
        let merged = owners(&image, &live(json!({})));
        assert_eq!(merged[0]["manager"], "helm");
        assert_eq!(merged[1]["time"], "now");
        assert_eq!(merged.len(), 2);
    }
}
