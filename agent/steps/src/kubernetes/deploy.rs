//! The forward program of both Kubernetes steps: read, map, record what is there, keep it where a
//! rollback may want it, apply in order, follow to steady state. Called by the two step programs.

use std::collections::BTreeMap;

use deputy_task::document::step::Manifests;
use deputy_task::outcome::Failure;
use deputy_task::touch::{Touch, images_of_manifest};
use serde_json::{Map, Value, json};

use crate::context::{Outputs, StepContext};
use crate::effect::Secrecy;
use crate::failure::{Halt, StepError};

use super::api::Api;
use super::apply::{Conflicts, Work, apply, drop_superseded, keep_image, token};
use super::before::{Applied, Before, Known};
use super::connection::Connection;
use super::discovery::Discovery;
use super::image;
use super::looking::Watched;
use super::manifest::{Manifest, read_all};
use super::object::{ObjectRef, metadata};
use super::reading::{Patience, read_object};
use super::wait::{is_early, is_followed, is_workload, revisions, until_steady};

/// What both steps are made of.
#[derive(Debug, Clone)]
pub(crate) struct Deployment {
    /// EKS cluster name.
    pub(crate) cluster: String,
    /// For objects that name none.
    pub(crate) namespace: Option<String>,
    pub(crate) manifests: Manifests,
    pub(crate) conflicts: Conflicts,
    pub(crate) demand: Demand,
}

/// What must be among the manifests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Demand {
    /// Anything.
    Any,
    /// At least one Deployment, StatefulSet or DaemonSet.
    Workload,
}

impl Deployment {
    /// The namespace of objects that name none.
    pub(crate) fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("default")
    }

    /// Runs the forward program.
    pub(crate) async fn run(&self, ctx: &StepContext) -> Result<Outputs, StepError> {
        let manifests = read_all(ctx, &self.manifests).await?;
        let connection = Connection::open(ctx, &self.cluster, self.namespace.as_deref()).await?;
        let objects = self.objects(ctx, &connection.api, &manifests).await?;
        ctx.may_touch(&touches(&self.cluster, &objects, &manifests))?;
        let token = token(ctx);
        let work = Work {
            ctx,
            api: &connection.api,
            token: &token,
        };
        let before = self.record_before(work, &objects).await?;
        let images = self.keep(work, &objects, &before).await?;
        let watched = self.apply_all(work, &objects, &manifests, &before).await?;
        let follow: Vec<Watched> = watched.iter().filter(|one| is_followed(&one.object)).cloned().collect();
        let steady = until_steady(ctx, work.api, &follow).await?;
        self.tidy(work, &objects, &images).await?;
        let mut values = Map::new();
        values.insert("objects".into(), watched.iter().map(shown).collect());
        values.insert("workloads".into(), revisions(&objects, &steady));
        Ok(Outputs {
            values,
            ..Outputs::default()
        })
    }

    /// Which objects the manifests mean: asked once.
    async fn objects(&self, ctx: &StepContext, api: &Api, manifests: &[Manifest]) -> Result<Vec<ObjectRef>, StepError> {
        let observe = || async {
            let mut discovery = Discovery::new(api, manifests);
            let mut objects = Vec::new();
            for manifest in manifests {
                objects.push(discovery.resolve(manifest, self.namespace()).await?);
            }
            self.check(&objects, manifests)?;
            Ok(objects)
        };
        let objects: Vec<ObjectRef> = ctx.fact("objects", observe).await?;
        let same = objects.len() == manifests.len()
            && objects
                .iter()
                .zip(manifests)
                .all(|(object, manifest)| object.kind == manifest.kind && object.name == manifest.name);
        if same {
            Ok(objects)
        } else {
            Err(Halt::Nondeterministic("the manifests are not those that the journal names".into()).into())
        }
    }

    fn check(&self, objects: &[ObjectRef], manifests: &[Manifest]) -> Result<(), Failure> {
        let mut seen = BTreeMap::new();
        for (object, manifest) in objects.iter().zip(manifests) {
            if let Some(first) = seen.insert(object.id(), &manifest.origin) {
                let summary = format!("{object} is there twice: {first} and {}", manifest.origin);
                return Err(Failure::new("kubernetes.badManifest", summary).hint("remove one of them"));
            }
        }
        if self.demand == Demand::Workload && !objects.iter().any(is_workload) {
            return Err(Failure::new(
                "kubernetes.noWorkload",
                "there is no Deployment, StatefulSet or DaemonSet among the manifests",
            )
            .hint("use kubernetesApply for manifests without a workload"));
        }
        Ok(())
    }

    /// What is there, before anything is changed.
    async fn record_before(&self, work: Work<'_>, objects: &[ObjectRef]) -> Result<Vec<Before>, StepError> {
        let mut all = Vec::new();
        for object in objects {
            let observe = || async {
                let live = read_object(work.ctx, work.api, object, Patience::Short).await?;
                if let Some(live) = &live
                    && metadata(live, "deletionTimestamp").is_some()
                {
                    let failure = Failure::new("kubernetes.terminating", format!("{object} is being deleted"));
                    return Err(failure.hint("wait until it is gone, then retry the task").into());
                }
                Ok(Before {
                    object: live.as_ref().map(Known::of),
                })
            };
            // It holds a digest of what the object says, from which short values could be guessed.
            let fact = format!("before/{}", object.id());
            let before = work.ctx.guarded_fact(&fact, |_| Secrecy::Private, observe);
            all.push(before.await?);
        }
        Ok(all)
    }

    /// Keeps what is there, if the task may want it back.
    async fn keep(
        &self,
        work: Work<'_>,
        objects: &[ObjectRef],
        before: &[Before],
    ) -> Result<Vec<ObjectRef>, StepError> {
        let mut places = Vec::new();
        if work.ctx.keeps_before_images {
            for (object, before) in objects.iter().zip(before).filter(|(_, before)| before.object.is_some()) {
                let place = image::place(object, work.token, self.namespace());
                keep_image(work, object, &place, before).await?;
                places.push(place);
            }
        }
        Ok(places)
    }

    async fn apply_all(
        &self,
        work: Work<'_>,
        objects: &[ObjectRef],
        manifests: &[Manifest],
        before: &[Before],
    ) -> Result<Vec<Watched>, StepError> {
        let mut watched = Vec::new();
        let mut early = Vec::new();
        for ((object, manifest), before) in objects.iter().zip(manifests).zip(before) {
            if !early.is_empty() && !is_early(object) {
                until_steady(work.ctx, work.api, &early).await?;
                early.clear();
            }
            let applied = apply(work, object, manifest, before, self.conflicts).await?;
            let verb = match &before.object {
                None => "created",
                Some(known) if known.generation == applied.generation && applied.generation != 0 => "unchanged",
                Some(_) => "changed",
            };
            work.ctx.narrate(format!("{object}: {verb}"));
            let Applied { uid, generation, .. } = applied;
            let one = Watched {
                object: object.clone(),
                uid,
                generation,
                own: json!([manifest.object, object.names()]),
                token: Some(work.token.to_owned()),
            };
            if is_early(object) {
                early.push(one.clone());
            }
            watched.push(one);
        }
        Ok(watched)
    }

    /// Removes what earlier deployments of these objects kept.
    async fn tidy(&self, work: Work<'_>, objects: &[ObjectRef], own: &[ObjectRef]) -> Result<(), StepError> {
        let mut by_namespace = BTreeMap::<String, Vec<&ObjectRef>>::new();
        for object in objects {
            let place = image::place(object, work.token, self.namespace());
            by_namespace
                .entry(place.namespace.unwrap_or_default())
                .or_default()
                .push(object);
        }
        for (namespace, objects) in by_namespace {
            drop_superseded(work, &namespace, &objects, own).await?;
        }
        Ok(())
    }
}

/// Where the objects are, and which images they run: what is known only now, of manifests in files and of kinds
/// without a namespace.
fn touches(cluster: &str, objects: &[ObjectRef], manifests: &[Manifest]) -> Vec<Touch> {
    let images = manifests
        .iter()
        .flat_map(|manifest| images_of_manifest(&Value::Object(manifest.object.clone())));
    let mut touches: Vec<Touch> = objects.iter().map(|object| object.touch(cluster)).collect();
    touches.extend(images.map(Touch::Image));
    for (object, manifest) in objects.iter().zip(manifests) {
        touches.extend(object.accounts(cluster, &Value::Object(manifest.object.clone())));
    }
    touches.sort();
    touches.dedup();
    touches
}

/// An applied object in the step's outputs.
fn shown(one: &Watched) -> Value {
    let Watched {
        object,
        uid,
        generation,
        ..
    } = one;
    json!({
        "apiVersion": object.api_version,
        "kind": object.kind,
        "namespace": object.namespace,
        "name": object.name,
        "uid": uid,
        "generation": generation,
    })
}
