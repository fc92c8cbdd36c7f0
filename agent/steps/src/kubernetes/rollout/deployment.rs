//! When a Deployment has rolled out, and when it never will.

use std::time::Duration;

use deputy_task::outcome::Failure;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, ReplicaSet};
use k8s_openapi::api::core::v1::{Event, Pod};

use super::super::echo::said;
use super::super::refusal::Refusal;
use super::assessment::{Assessment, Problem};
use super::pods;

/// The Deployment controller retries a pod that the API refused; old pods that go may free quota.
const REPLICA_FAILURE_GRACE: Duration = Duration::from_secs(10);

const REVISION: &str = "deployment.kubernetes.io/revision";

/// Looks once. `generation` is the one that was applied.
pub(crate) fn assess(
    deployment: &Deployment,
    generation: i64,
    replica_sets: &[ReplicaSet],
    pods: &[Pod],
    events: &[Event],
) -> Assessment {
    let name = deployment.metadata.name.as_deref().unwrap_or("?");
    let spec = &deployment.spec;
    let status = deployment.status.clone().unwrap_or_default();
    if status.observed_generation.unwrap_or(0) < generation {
        return Assessment::waiting(format!("Deployment {name}: the controller has not seen the change yet"));
    }
    if spec.paused == Some(true) {
        let failure = Failure::new(
            "kubernetes.paused",
            format!("Deployment {name} is paused, so its rollout does not happen"),
        );
        return Assessment::failed(failure.hint("resume it: kubectl rollout resume, or remove spec.paused"));
    }
    let desired = spec.replicas.unwrap_or(1);
    let (updated, total, available) = (
        status.updated_replicas.unwrap_or(0),
        status.replicas.unwrap_or(0),
        status.available_replicas.unwrap_or(0),
    );
    let newest = newest(deployment, replica_sets);
    let revision = annotation(deployment.metadata.annotations.as_ref())
        .unwrap_or("?")
        .to_owned();
    if updated >= desired && total <= updated && available >= updated {
        return Assessment::steady(
            revision,
            format!("Deployment {name}: {available} of {desired} replicas available"),
        );
    }
    let new_pods: Vec<&Pod> = newest.map_or_else(Vec::new, |rs| owned_by(pods, rs.metadata.uid.as_deref()));
    let mut problems = pods::problems(&new_pods, events);
    let conditions = status.conditions.unwrap_or_default();
    problems.extend(replica_failure(name, &conditions));
    if let Some(failure) = deadline(name, &conditions, &problems) {
        return Assessment::failed(failure).with(problems);
    }
    let waiting = if updated < desired {
        format!("Deployment {name}: {updated} of {desired} replicas updated")
    } else if total > updated {
        format!("Deployment {name}: {} old replicas to go", total - updated)
    } else {
        format!("Deployment {name}: {available} of {desired} replicas available")
    };
    let detail = pods::awaited(&new_pods);
    let waiting = if detail.is_empty() {
        waiting
    } else {
        format!("{waiting} ({detail})")
    };
    Assessment::waiting(waiting).with(problems)
}

/// The ReplicaSet of the revision that is being rolled out.
fn newest<'a>(deployment: &Deployment, replica_sets: &'a [ReplicaSet]) -> Option<&'a ReplicaSet> {
    let current = annotation(deployment.metadata.annotations.as_ref())?;
    let uid = deployment.metadata.uid.as_deref();
    replica_sets.iter().find(|rs| {
        annotation(rs.metadata.annotations.as_ref()) == Some(current)
            && rs
                .metadata
                .owner_references
                .iter()
                .flatten()
                .any(|owner| Some(owner.uid.as_str()) == uid)
    })
}

fn annotation(annotations: Option<&std::collections::BTreeMap<String, String>>) -> Option<&str> {
    annotations?.get(REVISION).map(String::as_str)
}

fn owned_by<'a>(pods: &'a [Pod], uid: Option<&str>) -> Vec<&'a Pod> {
    pods.iter()
        .filter(|pod| {
            pod.metadata
                .owner_references
                .iter()
                .flatten()
                .any(|owner| Some(owner.uid.as_str()) == uid)
        })
        .collect()
}

fn replica_failure(name: &str, conditions: &[DeploymentCondition]) -> Option<Problem> {
    let condition = conditions.iter().find(|c| is(c, "ReplicaFailure", "True"))?;
    let message = condition.message.as_deref().unwrap_or("no message");
    Some(refused_pods("Deployment", name, message, REPLICA_FAILURE_GRACE))
}

fn is(condition: &DeploymentCondition, kind: &str, status: &str) -> bool {
    condition.type_.as_deref() == Some(kind) && condition.status.as_deref() == Some(status)
}

/// Pods that the API server does not let the controller create.
pub(crate) fn refused_pods(kind: &str, name: &str, message: &str, grace: Duration) -> Problem {
    let (class, hint, grace) = match Refusal::of(message) {
        Refusal::Quota => (
            "kubernetes.quota",
            "raise the ResourceQuota of the namespace, or ask for less",
            grace,
        ),
        Refusal::Admission => (
            "kubernetes.admission",
            "the cluster's admission rules forbid these pods; change the manifest, or the rule",
            Duration::ZERO,
        ),
        _ => (
            "kubernetes.podsRefused",
            "the API server refuses the pods; see the message",
            grace,
        ),
    };
    let failure = Failure::new(class, format!("its pods are refused: {}", said(message))).hint(hint);
    Problem {
        key: format!("FailedCreate/{kind}/{name}"),
        grace,
        failure,
    }
}

/// `progressDeadlineSeconds` is over. What stands in the way says more than the condition does.
fn deadline(name: &str, conditions: &[DeploymentCondition], problems: &[Problem]) -> Option<Failure> {
    let condition = conditions
        .iter()
        .find(|c| is(c, "Progressing", "False") && c.reason.as_deref() == Some("ProgressDeadlineExceeded"))?;
    let why = problems.first().map_or_else(
        || said(condition.message.as_deref().unwrap_or("it made no progress")),
        |problem| problem.failure.summary.clone(),
    );
    let failure = Failure::new(
        "kubernetes.progressDeadline",
        format!("Deployment {name} made no progress within its deadline: {why}"),
    );
    Some(failure.hint("see why its pods do not become ready; spec.progressDeadlineSeconds is the deadline"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::assessment::in_short;
    use super::*;

    fn told(spec: Value, status: Value, pods: Value) -> String {
        let deployment: Deployment = serde_json::from_value(json!({
            "metadata": {"name": "web", "uid": "d", "annotations": {REVISION: "4"}}, "spec": spec, "status": status}))
        .expect("deployment");
        let sets: Vec<ReplicaSet> = serde_json::from_value(json!([
            {"metadata": {"name": "old", "uid": "rs3", "annotations": {REVISION: "3"},
                "ownerReferences": [{"uid": "d", "kind": "Deployment", "name": "web", "apiVersion": "apps/v1"}]}},
            {"metadata": {"name": "new", "uid": "rs4", "annotations": {REVISION: "4"},
                "ownerReferences": [{"uid": "d", "kind": "Deployment", "name": "web", "apiVersion": "apps/v1"}]}}]))
        .expect("sets");
        let pods: Vec<Pod> = serde_json::from_value(pods).expect("pods");
        in_short(&assess(&deployment, 7, &sets, &pods, &[]))
    }

    fn spec(replicas: i32) -> Value {
        json!({"replicas": replicas, "selector": {}, "template": {}})
    }

    fn crashing(owner: &str) -> Value {
        json!([{"metadata": {"name": "web-1", "ownerReferences": [{"uid": owner, "kind": "ReplicaSet", "name": "x", "apiVersion": "apps/v1"}]},
            "status": {"phase": "Running", "containerStatuses": [{"name": "app", "image": "i", "imageID": "", "ready": false,
                "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": {"exitCode": 1, "reason": "Error"}}}]}}])
    }

    #[test]
    fn a_rollout_is_told_step_by_step() {
        let none = || json!([]);
        let table = [
            told(
                spec(3),
                json!({"observedGeneration": 6, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 3}),
                none(),
            ),
            told(
                spec(3),
                json!({"observedGeneration": 7, "replicas": 4, "updatedReplicas": 1, "availableReplicas": 3}),
                none(),
            ),
            told(
                spec(3),
                json!({"observedGeneration": 7, "replicas": 4, "updatedReplicas": 3, "availableReplicas": 3}),
                none(),
            ),
            told(
                spec(3),
                json!({"observedGeneration": 7, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 2}),
                none(),
            ),
            told(
                spec(3),
                json!({"observedGeneration": 7, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 3}),
                none(),
            ),
            told(spec(0), json!({"observedGeneration": 7}), none()),
            told(
                json!({"replicas": 1, "paused": true, "selector": {}, "template": {}}),
                json!({"observedGeneration": 7}),
                none(),
            ),
        ];
        insta::assert_snapshot!(table.join("\n"), @r##"
        waiting for Deployment web: the controller has not seen the change yet
        waiting for Deployment web: 1 of 3 replicas updated
        waiting for Deployment web: 1 old replicas to go
        waiting for Deployment web: 2 of 3 replicas available
        steady at 4: Deployment web: 3 of 3 replicas available
        steady at 4: Deployment web: 0 of 0 replicas available
        failed (kubernetes.paused): Deployment web is paused, so its rollout does not happen
        "##);
    }

    #[test]
    fn only_the_new_revision_counts_and_a_crash_loop_names_its_exit_code() {
        let status = json!({"observedGeneration": 7, "replicas": 3, "updatedReplicas": 1, "availableReplicas": 2});
        let table = [
            told(spec(3), status.clone(), crashing("rs3")),
            told(spec(3), status, crashing("rs4")),
        ];
        insta::assert_snapshot!(table.join("\n"), @r##"
        waiting for Deployment web: 1 of 3 replicas updated
        waiting for Deployment web: 1 of 3 replicas updated (1 × CrashLoopBackOff)
          after 0 s (kubernetes.crashLoop): container app of pod web-1 crashes again and again: exit code 1, 2 restarts
        "##);
    }

    #[test]
    fn quota_admission_and_the_progress_deadline_are_told_apart() {
        let failing = |reason: &str, message: &str| {
            json!({"observedGeneration": 7, "replicas": 1, "conditions": [
                {"type": "ReplicaFailure", "status": "True", "reason": reason, "message": message}]})
        };
        let late = |pods| {
            told(
                spec(3),
                json!({"observedGeneration": 7, "replicas": 3, "updatedReplicas": 1, "conditions": [
                {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded",
                    "message": "ReplicaSet \"web-x\" has timed out progressing."}]}),
                pods,
            )
        };
        let table = [
            told(
                spec(3),
                failing("FailedCreate", "pods \"web-x\" is forbidden: exceeded quota: small"),
                json!([]),
            ),
            told(
                spec(3),
                failing(
                    "FailedCreate",
                    "pods \"web-x\" is forbidden: violates PodSecurity \"restricted\"",
                ),
                json!([]),
            ),
            late(json!([])),
            late(crashing("rs4")),
        ];
        insta::assert_snapshot!(table.join("\n"), @r##"
        waiting for Deployment web: 0 of 3 replicas updated
          after 10 s (kubernetes.quota): its pods are refused: pods "web-x" is forbidden: exceeded quota: small
        waiting for Deployment web: 0 of 3 replicas updated
          after 0 s (kubernetes.admission): its pods are refused: pods "web-x" is forbidden: violates PodSecurity "restricted"
        failed (kubernetes.progressDeadline): Deployment web made no progress within its deadline: ReplicaSet "web-x" has timed out progressing.
        failed (kubernetes.progressDeadline): Deployment web made no progress within its deadline: container app of pod web-1 crashes again and again: exit code 1, 2 restarts
          after 0 s (kubernetes.crashLoop): container app of pod web-1 crashes again and again: exit code 1, 2 restarts
        "##);
    }
}
