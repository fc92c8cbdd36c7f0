//! The undo program of both Kubernetes steps: puts back what the journal says was changed, and only
//! what is still as this run left it. Called by the two step programs. It needs neither the manifests
//! nor discovery: everything it does is in the journal and in the before-images of the cluster.

use std::time::Duration;

use serde_json::{Value, json};

use crate::context::{StepContext, Undone};
use crate::effect::{Effect, Look, Settled};
use crate::failure::StepError;

use super::apply::{SETTLE, Work, apply_name, deletion, drop_image, look_applied, look_at, token};
use super::before::{Applied, Before};
use super::connection::Connection;
use super::deploy::Deployment;
use super::explain::Doing;
use super::found::{Found, changed, compare, still_ours};
use super::image;
use super::looking::Watched;
use super::object::{EFFECT_ANNOTATION, ObjectRef, annotation, metadata};
use super::occupants::occupants;
use super::reading::{Patience, read_object};
use super::restore::{read_image, restore, restore_owners};
use super::wait::{is_workload, until_steady};

/// How long undo waits for a deleted object to be gone. Finalizers may take longer.
const GONE_WITHIN: Duration = Duration::from_secs(90);

/// Undoes everything, the last one first.
pub(crate) async fn undo(deployment: &Deployment, ctx: &StepContext) -> Result<Undone, StepError> {
    let mut undone = Undone::default();
    let Some(objects) = ctx.recorded_fact::<Vec<ObjectRef>>("objects")? else {
        return Ok(undone);
    };
    let connection = Connection::open(ctx, &deployment.cluster, deployment.namespace.as_deref()).await?;
    let token = token(ctx);
    let work = Work {
        ctx,
        api: &connection.api,
        token: &token,
    };
    let mut restored = Vec::new();
    let mut useless = Vec::new();
    for object in objects.iter().rev() {
        let place = image::place(object, &token, deployment.namespace());
        let one = One {
            work,
            object,
            place: &place,
        };
        match one.undo(&mut undone.left).await {
            Ok(Did::Nothing) => useless.push(place),
            Ok(Did::Removed) => undone.restored = true,
            Ok(Did::Restored(watched)) => {
                undone.restored = true;
                restored.extend(watched.map(|watched| *watched));
                useless.push(place);
            }
            Ok(Did::Left) => {}
            Err(error) => undone.left.push(left(object, error)?),
        }
    }
    for one in restored {
        if let Err(error) = until_steady(ctx, work.api, std::slice::from_ref(&one)).await {
            undone.left.push(format!(
                "{} was put back, but: {}",
                one.object,
                left(&one.object, error)?
            ));
        }
    }
    for place in useless {
        if kept(work, &place, &objects).await? {
            // A Secret that stays is no harm to the restored world.
            if let Err(error) = drop_image(work, &place, "the former state").await {
                ctx.narrate(left(&place, error)?);
            }
        }
    }
    Ok(undone)
}

/// A failure of one object is something left, not the end of undo. A halt is passed on.
fn left(object: &ObjectRef, error: StepError) -> Result<String, StepError> {
    match error {
        StepError::Failed(failure) | StepError::WorldUnknown(failure) => Ok(failure.summary),
        StepError::NotSent => Ok(format!("{object}: the change could not be sent in its time")),
        StepError::Halted(halt) => Err(StepError::Halted(halt)),
    }
}

/// Did the forward program keep an image there?
async fn kept(work: Work<'_>, place: &ObjectRef, objects: &[ObjectRef]) -> Result<bool, StepError> {
    for object in objects {
        if image::place(object, work.token, place.namespace.as_deref().unwrap_or_default()) == *place {
            return image_kept(work, object, place).await;
        }
    }
    Ok(false)
}

async fn image_kept(work: Work<'_>, object: &ObjectRef, place: &ObjectRef) -> Result<bool, StepError> {
    let Work { ctx, api, token } = work;
    let look = || async {
        Ok(match look_at(ctx, api, place).await? {
            Ok(Some(secret)) if annotation(&secret, EFFECT_ANNOTATION) == Some(token) => Look::Mine(()),
            Ok(_) => Look::Absent,
            Err(failure) => Look::Unclear(failure),
        })
    };
    let settled = ctx
        .settled::<(), _>(&format!("keepImage/{}", object.id()), SETTLE, look)
        .await?;
    Ok(matches!(settled, Settled::Happened(())))
}

/// What became of one object.
enum Did {
    /// It was never changed.
    Nothing,
    /// It was new, and is gone.
    Removed,
    /// It is as it was; workloads are followed.
    Restored(Option<Box<Watched>>),
    /// It was left alone; why is said.
    Left,
}

struct One<'a> {
    work: Work<'a>,
    object: &'a ObjectRef,
    place: &'a ObjectRef,
}

impl One<'_> {
    async fn undo(&self, said: &mut Vec<String>) -> Result<Did, StepError> {
        let Self { work, object, place } = *self;
        let ctx = work.ctx;
        let Some(before) = ctx.recorded_fact::<Before>(&format!("before/{}", object.id()))? else {
            return Ok(Did::Nothing);
        };
        let look = || look_applied(work, object, &before);
        let Settled::Happened(applied) = ctx.settled::<Applied, _>(&apply_name(object), SETTLE, look).await? else {
            return Ok(Did::Nothing);
        };
        let kept = before.object.is_some() && image_kept(work, object, place).await?;
        if before.object.is_some() && !kept {
            said.push(format!("{object} stays as it was applied: what it was before was not kept, because the task asked for no rollback"));
            return Ok(Did::Left);
        }
        let observe = || async { self.found(&applied, &before).await };
        let found = ctx.told_fact(&format!("found/{}", object.id()), observe).await?;
        match (found, &before.object) {
            (Found::Changed(what), _) => {
                let kept = if kept {
                    format!("; its former state is in {place}")
                } else {
                    String::new()
                };
                said.push(format!("{object} is left as it is: {what}{kept}"));
                Ok(Did::Left)
            }
            (Found::Gone, None) => Ok(Did::Removed),
            (Found::Going, None) => {
                self.until_gone(&applied, said).await?;
                Ok(Did::Removed)
            }
            (Found::Going, Some(_)) => {
                said.push(format!(
                    "{object} was there before and is being deleted by somebody else; its former state is in {place}"
                ));
                Ok(Did::Left)
            }
            (Found::Gone, Some(_)) => {
                said.push(format!(
                    "{object} was there before and is not any more: somebody else deleted it"
                ));
                Ok(Did::Left)
            }
            (Found::Ours, None) => self.remove(&applied, said).await,
            (Found::Ours, Some(_)) => {
                let back = restore(work, object, place, &applied).await?;
                restore_owners(work, object, place).await?;
                ctx.narrate(format!("{object}: put back"));
                let Applied { uid, generation, .. } = back;
                let watched = Watched {
                    object: object.clone(),
                    uid,
                    generation,
                    own: object.names(),
                    token: None,
                };
                Ok(Did::Restored(is_workload(object).then(|| Box::new(watched))))
            }
        }
    }

    /// The object as undo meets it, compared with what it was.
    async fn found(&self, applied: &Applied, before: &Before) -> Result<Found, StepError> {
        let Self { work, object, place } = *self;
        let earlier = match &before.object {
            Some(_) => Some(read_image(work, object, place).await?),
            None => None,
        };
        let live = read_object(work.ctx, work.api, object, Patience::Endless).await?;
        Ok(live.map_or(Found::Gone, |live| {
            compare(&live, earlier.as_ref(), applied, work.token)
        }))
    }

    /// Deletes what this run created.
    async fn remove(&self, applied: &Applied, said: &mut Vec<String>) -> Result<Did, StepError> {
        let Self { work, object, .. } = *self;
        let Work { ctx, api, token } = work;
        let inside: Vec<String> = ctx
            .told_fact(&format!("inside/{}", object.id()), || {
                occupants(ctx, api, object, token)
            })
            .await?;
        if !inside.is_empty() {
            said.push(format!(
                "{object} was created by this task and stays, because others keep things in it: {}",
                inside.join(", ")
            ));
            return Ok(Did::Left);
        }
        let plan = json!({"object": object.id(), "uid": applied.uid});
        let effect = Effect::bounded(format!("delete/{}", object.id()), format!("delete {object}"), &plan)
            .settle(SETTLE)
            .touching([work.touches(object)]);
        let doing = Doing::new("delete", object);
        let look = || async {
            Ok(match look_at(ctx, api, object).await? {
                Ok(Some(live)) if is_still(&live, applied) => Look::Absent,
                Ok(_) => Look::Mine(()),
                Err(failure) => Look::Unclear(failure),
            })
        };
        // Asked of the API server as well: that it deletes what was compared here, and nothing newer.
        let build = || async {
            let live = read_object(ctx, api, object, Patience::Endless).await?;
            let mut version = None;
            if let Some(live) = &live {
                match compare(live, None, applied, token) {
                    Found::Going => {}
                    found => still_ours(object, found)?,
                }
                version = metadata(live, "resourceVersion");
            }
            let inside = occupants(ctx, api, object, token).await?;
            if !inside.is_empty() {
                let what = format!("others keep things in it: {}", inside.join(", "));
                return Err(changed(object, &what));
            }
            let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background",
                "preconditions": {"uid": applied.uid, "resourceVersion": version}});
            Ok(deletion(object, &options, live)?)
        };
        work.sending(&effect, &doing).journaled(look, build, |_| ()).await?;
        self.until_gone(applied, said).await?;
        Ok(Did::Removed)
    }

    async fn until_gone(&self, applied: &Applied, said: &mut Vec<String>) -> Result<(), StepError> {
        let Self { work, object, .. } = *self;
        let until = tokio::time::Instant::now() + GONE_WITHIN;
        loop {
            let live = read_object(work.ctx, work.api, object, Patience::Endless).await?;
            let Some(live) = live.filter(|live| metadata(live, "uid") == Some(applied.uid.as_str())) else {
                work.ctx.narrate(format!("{object}: deleted"));
                return Ok(());
            };
            if tokio::time::Instant::now() >= until {
                let finalizers = live
                    .pointer("/metadata/finalizers")
                    .map(Value::to_string)
                    .unwrap_or_default();
                said.push(format!(
                    "{object} is being deleted, and not gone yet (finalizers {finalizers})"
                ));
                return Ok(());
            }
            work.ctx
                .sleep(Duration::from_millis(500), format!("{object} to be gone"))
                .await?;
        }
    }
}

/// Is it there, as this run created it, and not going away?
fn is_still(live: &Value, applied: &Applied) -> bool {
    metadata(live, "uid") == Some(applied.uid.as_str()) && metadata(live, "deletionTimestamp").is_none()
}
