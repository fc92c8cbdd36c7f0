//! One look at one followed object: reads it and what belongs to it, and lets `rollout` judge.
//! Called by `wait`, about once a second. It only reads.

use std::borrow::Cow;
use std::collections::BTreeSet;

use deputy_logs::Redactor;
use deputy_task::outcome::Failure;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, ReplicaSetSpec, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Container, Event, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::context::StepContext;
use crate::failure::StepError;

use super::api::{Api, Listed};
use super::before::FIELD_MANAGER;
use super::echo::{Texts, said};
use super::explain::Doing;
use super::hearing::{Hearing, Said};
use super::object::{EFFECT_ANNOTATION, ObjectRef, annotation, metadata};
use super::path;
use super::reading::{Patience, patiently, read_object};
use super::rollout::assessment::{Assessment, Progress};
use super::rollout::{daemon_set, definition, deployment, event, job, stateful_set};

/// Most warnings of a namespace that are read in one look.
const MAX_EVENTS: usize = 2_000;

/// An object to follow.
#[derive(Debug, Clone)]
pub(crate) struct Watched {
    pub(crate) object: ObjectRef,
    /// Another uid means that the object was replaced.
    pub(crate) uid: String,
    /// The generation that must have been seen by the controller.
    pub(crate) generation: i64,
    /// What the task wrote of it: its values may be told when the cluster speaks of it.
    pub(crate) own: Value,
    /// The value of the annotation while nobody else has deployed the object; none if that is not asked.
    pub(crate) token: Option<String>,
}

/// What one look found.
pub(crate) struct Looked {
    pub(crate) assessment: Assessment,
    /// Of the namespace, about our objects and others.
    pub(crate) events: Vec<Event>,
    /// Of the object.
    pub(crate) pods: Vec<Pod>,
    /// The objects whose events are worth telling.
    pub(crate) uids: BTreeSet<String>,
}

impl Looked {
    fn just(assessment: Assessment) -> Self {
        Self {
            assessment,
            events: Vec::new(),
            pods: Vec::new(),
            uids: BTreeSet::new(),
        }
    }
}

/// Looks once. `hearing` is kept between looks.
pub(crate) async fn look(
    ctx: &StepContext,
    api: &Api,
    one: &Watched,
    hearing: &mut Hearing,
) -> Result<Looked, StepError> {
    let object = &one.object;
    let Some(mut live) = read_object(ctx, api, object, Patience::Endless).await? else {
        return Ok(gone(object, "was deleted while it was awaited"));
    };
    if metadata(&live, "uid") != Some(one.uid.as_str()) {
        return Ok(gone(object, "was replaced by somebody else while it was awaited"));
    }
    if one.token.is_some() && annotation(&live, EFFECT_ANNOTATION) != one.token.as_deref() {
        return Ok(gone(object, "was deployed by somebody else while it was awaited"));
    }
    if object.is("", "Namespace") {
        return Ok(Looked::just(definition::assess_namespace(&live)));
    }
    if object.is("apiextensions.k8s.io", "CustomResourceDefinition") {
        return Ok(Looked::just(definition::assess_definition(&live)));
    }
    let secrets = ctx.host().log().redactor();
    let mut around = Around::default();
    clean(hearing, one, &mut live, &mut around, &secrets).await?;
    let quick = assess(&live, one, &around)?;
    if !matches!(quick.progress, Progress::Waiting(_)) {
        return Ok(Looked::just(quick));
    }
    around = Around::read(ctx, api, object, &live).await?;
    clean(hearing, one, &mut live, &mut around, &secrets).await?;
    let assessment = assess(&live, one, &around)?;
    let uids = around.uids(&one.uid);
    Ok(Looked {
        assessment,
        events: around.events,
        pods: around.pods,
        uids,
    })
}

/// Takes out of what is said what may not be told.
async fn clean(
    hearing: &mut Hearing,
    one: &Watched,
    live: &mut Value,
    around: &mut Around,
    secrets: &Redactor,
) -> Result<(), StepError> {
    if around.said(live).is_nothing() {
        return Ok(());
    }
    let texts = Texts::of(
        &one.own,
        around.templates().map(Cow::Owned).chain([Cow::Borrowed(&*live)]),
    );
    hearing.clean(&one.object, texts, around.said(live), secrets).await
}

fn gone(object: &ObjectRef, what: &str) -> Looked {
    let failure = Failure::new("kubernetes.superseded", format!("{object} {what}"));
    Looked::just(Assessment::failed(failure.hint(
        "two deployments of one object at a time? give their tasks the same exclusiveKey",
    )))
}

fn assess(live: &Value, one: &Watched, around: &Around) -> Result<Assessment, StepError> {
    let Around {
        replica_sets,
        pods,
        events,
    } = around;
    let generation = one.generation;
    Ok(match one.object.kind.as_str() {
        "Deployment" => deployment::assess(&typed::<Deployment>(live)?, generation, replica_sets, pods, events),
        "StatefulSet" => stateful_set::assess(&typed::<StatefulSet>(live)?, generation, pods, events),
        "DaemonSet" => daemon_set::assess(&typed::<DaemonSet>(live)?, generation, pods, events),
        _ => job::assess(&typed::<Job>(live)?, pods, events),
    })
}

fn typed<T: DeserializeOwned>(live: &Value) -> Result<T, StepError> {
    T::deserialize(live).map_err(|error| {
        let mut failure = Failure::new(
            "kubernetes.unreadable",
            "the cluster describes an object in a way this agent cannot read",
        );
        failure.detail = said(&error.to_string());
        failure.into()
    })
}

/// What belongs to a workload.
#[derive(Default)]
struct Around {
    replica_sets: Vec<ReplicaSet>,
    pods: Vec<Pod>,
    events: Vec<Event>,
}

impl Around {
    async fn read(ctx: &StepContext, api: &Api, object: &ObjectRef, live: &Value) -> Result<Self, StepError> {
        let namespace = object.namespace.as_deref().unwrap_or("default");
        let selector = live.pointer("/spec/selector").cloned().unwrap_or_default();
        let selector = path::encoded(&selector_text(&typed::<LabelSelector>(&selector)?));
        let list = |path: &str| format!("{path}?labelSelector={selector}");
        let replica_sets = if object.kind == "Deployment" {
            items(
                ctx,
                api,
                "ReplicaSets",
                &list(&path::of_list("apps/v1", "replicasets", Some(namespace))?),
            )
            .await?
        } else {
            Vec::new()
        };
        let pods: Vec<Pod> = items(ctx, api, "Pods", &list(&path::of_list("v1", "pods", Some(namespace))?)).await?;
        let mut events = events(api, namespace, "type!=Normal").await;
        if pods.iter().any(is_unscheduled) {
            for reason in ["TriggeredScaleUp", "NotTriggerScaleUp", "Nominated"] {
                events.extend(self::events(api, namespace, &format!("reason={reason}")).await);
            }
        }
        // The workload itself is old; only what was said since it was applied is about this rollout.
        if let Some(since) = applied_at(live) {
            let uid = metadata(live, "uid");
            events.retain(|event| !event::is_about(event, uid) || time_of(event).is_none_or(|time| time >= since));
        }
        Ok(Self {
            replica_sets,
            pods,
            events,
        })
    }

    /// What is said, beside what is said in the conditions of `live`.
    fn said<'a>(&'a mut self, live: &'a mut Value) -> Said<'a> {
        Said {
            object: live,
            pods: &mut self.pods,
            events: &mut self.events,
        }
    }

    /// What pods were and are made of: of another revision too, since what it says can be told with this one. One after
    /// the other, and neighbours that are made alike only once: thousands of them take more memory than an agent has.
    fn templates(&self) -> impl Iterator<Item = Value> {
        let specs = self.replica_sets.iter().map(|set| &set.spec);
        let template = |spec: &ReplicaSetSpec| {
            let mut template = json!({"spec": spec.template});
            // The controller's own, in the names of pods too.
            if let Some(Value::Object(labels)) = template.pointer_mut("/spec/metadata/labels") {
                labels.remove("pod-template-hash");
            }
            template
        };
        let mut last = Vec::new();
        let of_pods = self.pods.iter().filter_map(move |pod| {
            let containers = containers_of(pod);
            (containers != last).then(|| {
                last = containers;
                json!({ "spec": last })
            })
        });
        specs.map(template).chain(of_pods)
    }

    fn uids(&self, own: &str) -> BTreeSet<String> {
        let mut uids = BTreeSet::from([own.to_owned()]);
        uids.extend(self.pods.iter().filter_map(|pod| pod.metadata.uid.clone()));
        uids.extend(self.replica_sets.iter().filter_map(|set| set.metadata.uid.clone()));
        uids
    }
}

/// What a pod of whatever revision was given: its containers, but for what they are called (a mesh puts its own into
/// every pod) and the region that is put into each of them. Not its annotations and labels: controllers and networks
/// write into every pod what no other has.
fn containers_of(pod: &Pod) -> Vec<Container> {
    const REGION: [&str; 2] = ["AWS_REGION", "AWS_DEFAULT_REGION"];
    let spec = pod.spec.as_ref();
    let mut containers = spec.map_or_else(Vec::new, |spec| spec.containers.clone());
    containers.extend(spec.and_then(|spec| spec.init_containers.clone()).unwrap_or_default());
    for container in &mut containers {
        container.name.clear();
        container.volume_mounts = None;
        container
            .env
            .iter_mut()
            .for_each(|env| env.retain(|one| !REGION.contains(&one.name.as_str())));
    }
    containers
}

async fn items<T: Listed>(ctx: &StepContext, api: &Api, what: &str, path: &str) -> Result<Vec<T>, StepError> {
    patiently(ctx, api, &Doing::new("read", what), Patience::Endless, || {
        api.list(path)
    })
    .await
}

/// Events explain; a cluster that does not give them is followed without.
async fn events(api: &Api, namespace: &str, selector: &str) -> Vec<Event> {
    let Ok(list) = path::of_list("v1", "events", Some(namespace)) else {
        return Vec::new();
    };
    let path = format!("{list}?fieldSelector={}", path::encoded(selector));
    api.list_first(&path, MAX_EVENTS).await.unwrap_or_default()
}

fn is_unscheduled(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    conditions
        .iter()
        .any(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
}

/// When the API server took our last apply, by its own clock.
fn applied_at(live: &Value) -> Option<k8s_openapi::jiff::Timestamp> {
    let entries = live.pointer("/metadata/managedFields")?.as_array()?;
    let ours = entries
        .iter()
        .filter(|entry| entry.get("manager").and_then(Value::as_str) == Some(FIELD_MANAGER));
    ours.filter_map(|entry| entry.get("time")?.as_str()?.parse().ok()).max()
}

fn time_of(event: &Event) -> Option<k8s_openapi::jiff::Timestamp> {
    let series = event
        .series
        .as_ref()
        .and_then(|series| series.last_observed_time.as_ref())
        .map(|time| time.0);
    let last = event.last_timestamp.as_ref().map(|time| time.0);
    series.or(last).or_else(|| event.event_time.as_ref().map(|time| time.0))
}

/// A selector as the API's query has it.
fn selector_text(selector: &LabelSelector) -> String {
    let labels = selector
        .match_labels
        .iter()
        .flatten()
        .map(|(key, value)| format!("{key}={value}"));
    let expressions = selector.match_expressions.iter().flatten().map(|expression| {
        let values = expression.values.as_deref().unwrap_or_default().join(",");
        match expression.operator.as_str() {
            "In" => format!("{} in ({values})", expression.key),
            "NotIn" => format!("{} notin ({values})", expression.key),
            "DoesNotExist" => format!("!{}", expression.key),
            _ => expression.key.clone(),
        }
    });
    labels.chain(expressions).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_becomes_a_query() {
        let selector: LabelSelector =
            serde_json::from_value(json!({"matchLabels": {"app": "web"}, "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["a", "b"]}, {"key": "old", "operator": "DoesNotExist"}]}))
            .expect("selector");
        assert_eq!(selector_text(&selector), "app=web,tier in (a,b),!old");
        assert_eq!(path::encoded("app=web,!old"), "app%3Dweb%2C%21old");
    }

    #[test]
    fn the_time_of_our_apply_is_the_api_servers() {
        let live = json!({"metadata": {"managedFields": [
            {"manager": "deputy", "time": "2026-01-01T00:00:05Z"}, {"manager": "other", "time": "2026-02-01T00:00:00Z"}]}});
        assert_eq!(applied_at(&live).expect("time").to_string(), "2026-01-01T00:00:05Z");
    }

    /// Guards what an older revision had: its pods are the only ones that say so for StatefulSets and DaemonSets.
    #[test]
    fn what_pods_of_any_revision_were_given_is_known_and_their_names_are_not() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "db-0", "annotations": {"note": "old-note"}, "labels": {"app": "old-app",
                "controller-revision-hash": "db-7", "statefulset.kubernetes.io/pod-name": "db-0", "apps.kubernetes.io/pod-index": "0"}},
            "spec": {"nodeName": "node-1", "hostname": "db-0",
                "initContainers": [{"name": "init", "args": ["old-argument"]}],
                "containers": [{"name": "some-proxy", "env": [{"name": "PASSWORD", "value": "old-value"}],
                    "volumeMounts": [{"name": "kube-api-access-x", "mountPath": "/var/run"}]}]}}))
        .expect("a pod");
        let mut other = pod.clone();
        other.metadata.name = Some("db-1".into());
        let mount = |pod: &mut Pod, name: &str| {
            let spec = pod.spec.as_mut().expect("a spec");
            let mounts = spec.containers[0].volume_mounts.as_mut().expect("mounts");
            mounts[0].name = name.into();
        };
        mount(&mut other, "kube-api-access-y");
        let around = Around {
            pods: vec![pod, other],
            ..Around::default()
        };
        assert_eq!(around.templates().count(), 1, "pods that are made alike");
        let words = Texts::of(&Value::Null, around.templates()).words(&Redactor::new());
        let said = "old-note old-app old-argument old-value of PASSWORD in some-proxy on node-1: db-0 of db-7 kube-api-access-x";
        assert_eq!(
            words.heard(said),
            "old-note old-app *** *** of *** in some-proxy on node-1: db-0 of db-7 kube-api-access-x"
        );
    }
}
