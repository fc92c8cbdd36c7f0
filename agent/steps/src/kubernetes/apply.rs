//! The effects of the forward program: keep the before-image, apply the object, remove images that
//! this deployment made useless. Called by `deploy`. Each is one API call under one permit, and each
//! can be looked for when its answer was lost.

use std::time::Duration;

use deputy_task::outcome::Failure;
use deputy_task::touch::Touch;
use http::Method;
use serde_json::{Map, Value, json};

use crate::context::StepContext;
use crate::effect::{Effect, Look};
use crate::failure::{Halt, StepError};

use super::api::{Api, Change};
use super::before::{Applied, Before, FIELD_MANAGER, Known, digest};
use super::echo::Echo;
use super::explain::Doing;
use super::image;
use super::manifest::Manifest;
use super::object::{EFFECT_ANNOTATION, ObjectRef, annotation, metadata};
use super::path;
use super::reading::{Patience, read_object};
use super::sending::Sending;

/// Reads are linearizable: what was written is seen at once. What remains is a request that its sender
/// did not live to see answered.
pub(crate) const SETTLE: Duration = Duration::from_secs(1);

/// Takes fields from their owners, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conflicts {
    /// A field that somebody else owns is an error.
    Refuse,
    /// It is taken over.
    Force,
}

impl From<bool> for Conflicts {
    /// `forceConflicts` of a document.
    fn from(force_conflicts: bool) -> Self {
        if force_conflicts { Self::Force } else { Self::Refuse }
    }
}

/// A step at work on a cluster.
#[derive(Clone, Copy)]
pub(crate) struct Work<'a> {
    pub(crate) ctx: &'a StepContext,
    pub(crate) api: &'a Api,
    /// The value of [`EFFECT_ANNOTATION`]: this step of this run.
    pub(crate) token: &'a str,
}

impl<'a> Work<'a> {
    /// What a change of this object touches.
    pub(crate) fn touches(self, object: &ObjectRef) -> Touch {
        object.touch(&self.api.place().cluster)
    }

    /// One effect of this step.
    pub(crate) fn sending(self, effect: &'a Effect, doing: &'a Doing) -> Sending<'a> {
        let Self { ctx, api, .. } = self;
        Sending {
            ctx,
            api,
            effect,
            doing,
        }
    }
}

/// The token of a step: the same in every attempt of a run, another one in the next run.
pub(crate) fn token(ctx: &StepContext) -> String {
    let attempt = &ctx.attempt;
    format!("{}/{}/{}/{}", attempt.project, attempt.task, attempt.run, ctx.step)
}

/// Keeps `before` in the cluster.
pub(crate) async fn keep_image(
    work: Work<'_>,
    object: &ObjectRef,
    place: &ObjectRef,
    before: &Before,
) -> Result<(), StepError> {
    let Work { ctx, api, token } = work;
    let name = format!("keepImage/{}", object.id());
    let plan = json!({"object": object.id(), "secret": place.path()?});
    let effect = Effect::bounded(name, format!("keep {object} for rollback"), &plan)
        .settle(SETTLE)
        .touching([work.touches(object), work.touches(place)]);
    let doing = Doing::new(
        "create",
        format!(
            "Secret {} in namespace {}",
            place.name,
            place.namespace.as_deref().unwrap_or("?")
        ),
    );
    let look = || async {
        let found = look_at(ctx, api, place).await?;
        Ok(match found {
            Ok(Some(secret)) if annotation(&secret, EFFECT_ANNOTATION) == Some(token) => Look::Mine(()),
            Ok(None) => Look::Absent,
            Ok(Some(_)) => Look::Foreign(Failure::new(
                "kubernetes.foreign",
                format!("{place} exists and is not this task's"),
            )),
            Err(failure) => Look::Unclear(failure),
        })
    };
    let build = || async {
        let live = read_object(ctx, api, object, Patience::Endless).await?;
        let live = unchanged(work, object, before, live)?.ok_or_else(|| {
            Failure::new(
                "kubernetes.foreign",
                format!("{object} was not there when this step began"),
            )
        })?;
        Ok(creation(place, image::secret(place, object, token, &live)?, live)?)
    };
    work.sending(&effect, &doing).journaled(look, build, |_| ()).await
}

/// A POST of the image of what was read as `live`. The image is the live object in another form.
fn creation(place: &ObjectRef, image: Value, live: Value) -> Result<Change, Failure> {
    Ok(Change {
        method: Method::POST,
        path: format!("{}?fieldManager={FIELD_MANAGER}", place.collection_path()?),
        content_type: "application/json",
        body: image.to_string().into_bytes(),
        echo: Echo {
            own: place.names(),
            live: vec![live, image],
        },
    })
}

/// Applies one object by server-side apply.
pub(crate) async fn apply(
    work: Work<'_>,
    object: &ObjectRef,
    manifest: &Manifest,
    before: &Before,
    conflicts: Conflicts,
) -> Result<Applied, StepError> {
    let Work { ctx, api, token } = work;
    let body = with_token(manifest, object, token);
    let plan = json!({"object": object.id(), "manifest": plan_digest(&body), "force": conflicts == Conflicts::Force});
    let effect = Effect::bounded(apply_name(object), format!("apply {object}"), &plan)
        .settle(SETTLE)
        .touching([work.touches(object)]);
    let doing = Doing::new("apply", object);
    let force = if conflicts == Conflicts::Force { "true" } else { "false" };
    let build = || async {
        let live = read_object(ctx, api, object, Patience::Endless).await?;
        let live = unchanged(work, object, before, live)?;
        let own = body.clone();
        let mut body = body.clone();
        // What was compared is what is changed: the API server refuses the request if there is a newer one.
        if let Some(live) = &live
            && let Some(sent) = body.get_mut("metadata").and_then(Value::as_object_mut)
        {
            sent.insert("resourceVersion".into(), metadata(live, "resourceVersion").into());
        }
        Ok(Change {
            method: Method::PATCH,
            path: format!(
                "{}?fieldManager={FIELD_MANAGER}&force={force}&fieldValidation=Strict",
                object.path()?
            ),
            content_type: "application/apply-patch+yaml",
            body: body.to_string().into_bytes(),
            echo: Echo {
                own,
                live: live.into_iter().collect(),
            },
        })
    };
    let look = || look_applied(work, object, before);
    let sending = work.sending(&effect, &doing);
    sending.journaled(look, build, |answer| Applied::of(&answer)).await
}

/// The name of the effect that applies `object`; the undo program asks for it.
pub(crate) fn apply_name(object: &ObjectRef) -> String {
    format!("apply/{}", object.id())
}

/// Did an apply whose answer nobody recorded happen?
pub(crate) async fn look_applied(
    work: Work<'_>,
    object: &ObjectRef,
    before: &Before,
) -> Result<Look<Applied>, StepError> {
    Ok(match look_at(work.ctx, work.api, object).await? {
        Ok(live) => judge(work, object, before, live.as_ref()),
        Err(failure) => Look::Unclear(failure),
    })
}

/// An object that this step has not changed yet, as it is now.
///
/// # Errors
/// `kubernetes.foreign` if it is not what it was when the step recorded it.
fn unchanged(
    work: Work<'_>,
    object: &ObjectRef,
    before: &Before,
    live: Option<Value>,
) -> Result<Option<Value>, Failure> {
    match judge(work, object, before, live.as_ref()) {
        Look::Mine(_) | Look::Absent => Ok(live),
        Look::Foreign(failure) | Look::Unclear(failure) => Err(failure),
    }
}

/// Is an object as it was before, as this step applied it, or neither?
fn judge(work: Work<'_>, object: &ObjectRef, before: &Before, live: Option<&Value>) -> Look<Applied> {
    let foreign = |what: &str| {
        Look::Foreign(
            Failure::new("kubernetes.foreign", format!("{object} {what}"))
                .hint("see who changed it, then retry the task"),
        )
    };
    match (live, &before.object) {
        (None, None) => Look::Absent,
        (None, Some(_)) => foreign("was deleted by somebody else while this step was changing it"),
        (Some(live), _) if annotation(live, EFFECT_ANNOTATION) == Some(work.token) => Look::Mine(Applied::of(live)),
        (Some(live), Some(known)) if is_same(live, known) => Look::Absent,
        (Some(_), Some(_)) => foreign("was changed by somebody else while this step was changing it"),
        (Some(_), None) => foreign("was created by somebody else while this step was about to"),
    }
}

/// An effect's look: bears with a cluster that does not answer, and tells a refusal from an absence.
pub(crate) async fn look_at(
    ctx: &StepContext,
    api: &Api,
    object: &ObjectRef,
) -> Result<Result<Option<Value>, Failure>, StepError> {
    match read_object(ctx, api, object, Patience::Endless).await {
        Ok(live) => Ok(Ok(live)),
        Err(StepError::Failed(failure)) => Ok(Err(*failure)),
        Err(other) => Err(other),
    }
}

fn is_same(live: &Value, known: &Known) -> bool {
    let now = Known::of(live);
    now.uid == known.uid && (now.resource_version == known.resource_version || now.state == known.state)
}

/// Removes images that other runs kept of `objects` in `namespace`: they have been deployed anew, so
/// none of these can be put back any more. `own` are this run's.
pub(crate) async fn drop_superseded(
    work: Work<'_>,
    namespace: &str,
    objects: &[&ObjectRef],
    own: &[ObjectRef],
) -> Result<(), StepError> {
    let Work { ctx, api, .. } = work;
    let labels: Vec<String> = objects.iter().map(|object| image::object_label(object)).collect();
    let label = image::OBJECT_LABEL;
    let observe = || async {
        let list = path::of_list("v1", "secrets", Some(namespace))?;
        let path = format!("{list}?labelSelector={}", label.replace('/', "%2F"));
        // Tidying is worth no failure: an identity that may not list Secrets leaves them.
        let items = api.list_metadata(&path).await.unwrap_or_default();
        let old = items.iter().filter(|item| {
            let of = item.get("metadata").and_then(|m| m.get("labels")?.get(label)?.as_str());
            of.is_some_and(|of| labels.iter().any(|label| label == of))
        });
        let names = old
            .filter_map(|item| metadata(item, "name"))
            .filter(|name| !own.iter().any(|place| place.name == *name));
        Ok(names.map(str::to_owned).collect::<Vec<String>>())
    };
    let names = ctx.fact(&format!("superseded/{namespace}"), observe).await?;
    for name in names {
        let place = ObjectRef::secret(namespace, &name);
        let dropped = drop_image(work, &place, "an older state").await;
        if let Some(left) = left_behind(&place, dropped)? {
            ctx.narrate(left);
        }
    }
    Ok(())
}

/// What people are told of an image that could not be removed. The deployment is good by then: tidying
/// fails no step.
fn left_behind(place: &ObjectRef, dropped: Result<(), StepError>) -> Result<Option<String>, Halt> {
    match dropped {
        Ok(()) => Ok(None),
        Err(StepError::Halted(halt)) => Err(halt),
        Err(error @ (StepError::Failed(_) | StepError::WorldUnknown(_) | StepError::NotSent)) => Ok(Some(format!(
            "{place}, an older state that is not needed any more, could not be removed and is left: {error}"
        ))),
    }
}

/// Removes an image.
pub(crate) async fn drop_image(work: Work<'_>, place: &ObjectRef, what: &str) -> Result<(), StepError> {
    let Work { ctx, api, .. } = work;
    let namespace = place.namespace.as_deref().unwrap_or("?");
    let name = format!("dropImage/{namespace}/{}", place.name);
    let effect = Effect::bounded(
        name,
        format!("remove {what} kept in {place}"),
        &json!({"secret": place.path()?}),
    )
    .settle(SETTLE)
    .touching([work.touches(place)]);
    let doing = Doing::new("delete", place);
    let look = || async {
        Ok(match look_at(ctx, api, place).await? {
            Ok(None) => Look::Mine(()),
            Ok(Some(_)) => Look::Absent,
            Err(failure) => Look::Unclear(failure),
        })
    };
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions"});
    let build = || async {
        let live = read_object(ctx, api, place, Patience::Endless).await?;
        Ok(deletion(place, &options, live)?)
    };
    work.sending(&effect, &doing).journaled(look, build, |_| ()).await
}

/// A DELETE with its options, of what was read as `live`.
///
/// # Errors
/// A part of its path is no name.
pub(crate) fn deletion(object: &ObjectRef, options: &Value, live: Option<Value>) -> Result<Change, Failure> {
    Ok(Change {
        method: Method::DELETE,
        path: object.path()?,
        content_type: "application/json",
        body: options.to_string().into_bytes(),
        echo: Echo {
            own: object.names(),
            live: live.into_iter().collect(),
        },
    })
}

/// The object as it is sent: with its namespace, and with the token that tells whose it is.
fn with_token(manifest: &Manifest, object: &ObjectRef, token: &str) -> Value {
    let mut body = manifest.object.clone();
    let metadata = body.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if let Some(metadata) = metadata.as_object_mut() {
        if let Some(namespace) = &object.namespace {
            metadata.insert("namespace".into(), namespace.as_str().into());
        }
        let annotations = metadata
            .entry("annotations")
            .or_insert_with(|| Value::Object(Map::new()));
        if !annotations.is_object() {
            *annotations = Value::Object(Map::new());
        }
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert(EFFECT_ANNOTATION.into(), token.into());
        }
    }
    Value::Object(body)
}

/// What the intent is bound to. Not a Secret's content: a digest of a short secret gives it away.
fn plan_digest(body: &Value) -> String {
    let mut body = body.clone();
    if body.get("kind").and_then(Value::as_str) == Some("Secret")
        && let Some(root) = body.as_object_mut()
    {
        root.remove("data");
        root.remove("stringData");
    }
    digest(&body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_what_is_kept_does_not_tell_it_in_its_packed_form() {
        let live =
            json!({"kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"password": "hunter2-of-the-cluster"}});
        let (object, place) = (ObjectRef::secret("shop", "db"), ObjectRef::secret("shop", "kept"));
        let image = image::secret(&place, &object, "default/t/1/s", &live).expect("an image");
        let packed = image["data"]
            .as_object()
            .and_then(|data| data.values().next()?.as_str())
            .expect("data");
        let message =
            format!("admission webhook \"w\" denied the request: {packed} of kept has hunter2-of-the-cluster");
        let status = serde_json::from_value(json!({"message": message})).expect("a status");
        let change = creation(&place, image.clone(), live).expect("a request");
        assert_eq!(
            change
                .echo
                .status(status, &deputy_logs::Redactor::new())
                .message
                .as_deref(),
            Some("admission webhook \"w\" denied the request: *** of kept has ***")
        );
    }

    #[test]
    fn what_is_sent_carries_namespace_and_token_and_a_plan_no_secret() {
        let object = ObjectRef::secret("shop", "db");
        let manifest = |password: &str| {
            Manifest {
            origin: "x".into(),
            api_version: "v1".into(),
            kind: "Secret".into(),
            namespace: None,
            name: "db".into(),
            object: json!({"kind": "Secret", "metadata": {"name": "db", "annotations": null}, "stringData": {"p": password}})
                .as_object()
                .expect("object")
                .clone(),
        }
        };
        let body = with_token(&manifest("a"), &object, "default/t/1/s");
        assert_eq!(
            body["metadata"],
            json!({"name": "db", "namespace": "shop", "annotations": {EFFECT_ANNOTATION: "default/t/1/s"}})
        );
        assert_eq!(
            plan_digest(&body),
            plan_digest(&with_token(&manifest("b"), &object, "default/t/1/s"))
        );
    }

    #[test]
    fn an_older_state_that_cannot_be_removed_is_told_and_only_a_halt_ends_the_step() {
        let place = ObjectRef::secret("shop", "deputy-before-1");
        let failure = || Box::new(Failure::new("kubernetes.forbidden", "may not delete Secrets"));
        let told = |error| left_behind(&place, Err(error));
        for error in [StepError::Failed(failure()), StepError::WorldUnknown(failure())] {
            let line = told(error).expect("no halt").expect("a line");
            assert!(
                line.contains("deputy-before-1") && line.contains("may not delete Secrets"),
                "{line}"
            );
        }
        assert!(told(StepError::NotSent).expect("no halt").is_some());
        assert_eq!(told(Halt::Drained.into()), Err(Halt::Drained));
        assert_eq!(left_behind(&place, Ok(())), Ok(None));
    }
}
