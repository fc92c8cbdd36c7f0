//! When a StatefulSet has rolled out, and when it never will.

use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Event, Pod};

use super::assessment::{Assessment, Problem};
use super::{deployment, event, pods};

/// As for a Deployment's ReplicaFailure; a StatefulSet has only events to tell.
const REFUSED_GRACE: Duration = Duration::from_secs(10);

const HASH: &str = "controller-revision-hash";

/// Looks once. `generation` is the one that was applied.
pub(crate) fn assess(set: &StatefulSet, generation: i64, all_pods: &[Pod], events: &[Event]) -> Assessment {
    let name = set.metadata.name.as_deref().unwrap_or("?");
    let spec = set.spec.clone();
    let status = set.status.clone().unwrap_or_default();
    if status.observed_generation.unwrap_or(0) < generation {
        return Assessment::waiting(format!(
            "StatefulSet {name}: the controller has not seen the change yet"
        ));
    }
    let desired = spec.replicas.unwrap_or(1);
    let update = status.update_revision.clone().unwrap_or_default();
    let strategy = spec.update_strategy.unwrap_or_default();
    if strategy.type_.as_deref() == Some("OnDelete") {
        let summary = format!("StatefulSet {name}: applied; pods change only when somebody deletes them (OnDelete)");
        return Assessment::steady(update, summary);
    }
    let partition = strategy
        .rolling_update
        .and_then(|rolling| rolling.partition)
        .unwrap_or(0);
    let to_update = (desired - partition).max(0);
    let updated = status.updated_replicas.unwrap_or(0);
    let ready = status.ready_replicas.unwrap_or(0);
    let available = status.available_replicas.unwrap_or(ready);
    let all_new = partition > 0 || status.current_revision == status.update_revision || desired == 0;
    if updated >= to_update && available >= desired && status.replicas <= desired && all_new {
        return Assessment::steady(
            update,
            format!("StatefulSet {name}: {available} of {desired} replicas available"),
        );
    }
    let new_pods: Vec<&Pod> = all_pods
        .iter()
        .filter(|pod| pod.metadata.labels.as_ref().and_then(|labels| labels.get(HASH)) == Some(&update))
        .collect();
    let problems = problems("StatefulSet", name, set.metadata.uid.as_deref(), &new_pods, events);
    let waiting = if updated < to_update {
        format!("StatefulSet {name}: {updated} of {to_update} replicas updated")
    } else {
        format!("StatefulSet {name}: {available} of {desired} replicas available")
    };
    let detail = pods::awaited(&new_pods);
    Assessment::waiting(if detail.is_empty() {
        waiting
    } else {
        format!("{waiting} ({detail})")
    })
    .with(problems)
}

/// Of the pods, and of their controller, which says only in events that it cannot create them.
pub(crate) fn problems(kind: &str, name: &str, uid: Option<&str>, new_pods: &[&Pod], events: &[Event]) -> Vec<Problem> {
    let mut problems = pods::problems(new_pods, events);
    let refused = events
        .iter()
        .rfind(|e| event::is_about(e, uid) && e.reason.as_deref() == Some("FailedCreate"));
    if let Some(refused) = refused {
        let message = refused.message.as_deref().unwrap_or("no message");
        problems.push(deployment::refused_pods(kind, name, message, REFUSED_GRACE));
    }
    problems
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::assessment::in_short;
    use super::*;

    fn told(strategy: Value, status: Value, events: Value) -> String {
        let set: StatefulSet = serde_json::from_value(json!({"metadata": {"name": "db", "uid": "s"},
            "spec": {"replicas": 3, "selector": {}, "template": {}, "updateStrategy": strategy}, "status": status}))
        .expect("set");
        let events: Vec<Event> = serde_json::from_value(events).expect("events");
        in_short(&assess(&set, 2, &[], &events))
    }

    #[test]
    fn a_rollout_ends_when_every_replica_has_the_new_revision() {
        let rolling = || json!({"type": "RollingUpdate"});
        let at = |updated: i32, available: i32, current: &str| {
            json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": updated, "availableReplicas": available,
                "currentRevision": current, "updateRevision": "b"})
        };
        let refused = json!([{"metadata": {}, "involvedObject": {"uid": "s"}, "reason": "FailedCreate",
            "message": "create Pod db-0 failed: exceeded quota: small"}]);
        let table = [
            told(rolling(), json!({"observedGeneration": 1, "replicas": 3}), json!([])),
            told(rolling(), at(1, 2, "a"), json!([])),
            told(rolling(), at(3, 2, "a"), json!([])),
            told(rolling(), at(3, 3, "b"), json!([])),
            told(
                json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}),
                at(1, 3, "a"),
                json!([]),
            ),
            told(json!({"type": "OnDelete"}), at(0, 3, "a"), json!([])),
            told(rolling(), at(0, 0, "a"), refused),
        ];
        insta::assert_snapshot!(table.join("\n"), @r##"
        waiting for StatefulSet db: the controller has not seen the change yet
        waiting for StatefulSet db: 1 of 3 replicas updated
        waiting for StatefulSet db: 2 of 3 replicas available
        steady at b: StatefulSet db: 3 of 3 replicas available
        steady at b: StatefulSet db: 3 of 3 replicas available
        steady at b: StatefulSet db: applied; pods change only when somebody deletes them (OnDelete)
        waiting for StatefulSet db: 0 of 3 replicas updated
          after 10 s (kubernetes.quota): its pods are refused: create Pod db-0 failed: exceeded quota: small
        "##);
    }
}
