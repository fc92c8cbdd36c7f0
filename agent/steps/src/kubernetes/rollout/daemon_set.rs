//! When a DaemonSet has rolled out, and when it never will.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Event, Pod};

use super::assessment::Assessment;
use super::pods;
use super::stateful_set::problems;

/// The DaemonSet controller numbers its templates, and its pods carry the number.
const TEMPLATE_ANNOTATION: &str = "deprecated.daemonset.template.generation";
const TEMPLATE_LABEL: &str = "pod-template-generation";

/// Looks once. `generation` is the one that was applied.
pub(crate) fn assess(set: &DaemonSet, generation: i64, all_pods: &[Pod], events: &[Event]) -> Assessment {
    let name = set.metadata.name.as_deref().unwrap_or("?");
    let status = set.status.clone().unwrap_or_default();
    if status.observed_generation.unwrap_or(0) < generation {
        return Assessment::waiting(format!("DaemonSet {name}: the controller has not seen the change yet"));
    }
    let template = set
        .metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(TEMPLATE_ANNOTATION));
    let revision = template.cloned().unwrap_or_else(|| "?".into());
    let strategy = set.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref());
    if strategy == Some("OnDelete") {
        let summary = format!("DaemonSet {name}: applied; pods change only when somebody deletes them (OnDelete)");
        return Assessment::steady(revision, summary);
    }
    let desired = status.desired_number_scheduled;
    let updated = status.updated_number_scheduled.unwrap_or(0);
    let available = status.number_available.unwrap_or(0);
    if updated >= desired && available >= desired {
        return Assessment::steady(
            revision,
            format!("DaemonSet {name}: available on {available} of {desired} nodes"),
        );
    }
    let new_pods: Vec<&Pod> = all_pods
        .iter()
        .filter(|pod| {
            pod.metadata
                .labels
                .as_ref()
                .and_then(|labels| labels.get(TEMPLATE_LABEL))
                == template
        })
        .collect();
    let problems = problems("DaemonSet", name, set.metadata.uid.as_deref(), &new_pods, events);
    let waiting = if updated < desired {
        format!("DaemonSet {name}: updated on {updated} of {desired} nodes")
    } else {
        format!("DaemonSet {name}: available on {available} of {desired} nodes")
    };
    let detail = pods::awaited(&new_pods);
    Assessment::waiting(if detail.is_empty() {
        waiting
    } else {
        format!("{waiting} ({detail})")
    })
    .with(problems)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::assessment::in_short;
    use super::*;

    #[test]
    fn a_rollout_ends_when_every_node_has_the_new_pod() {
        let told = |status: Value| {
            let set: DaemonSet = serde_json::from_value(json!({"metadata": {"name": "agent",
                "annotations": {TEMPLATE_ANNOTATION: "2"}}, "spec": {"selector": {}, "template": {}}, "status": status}))
            .expect("set");
            in_short(&assess(&set, 2, &[], &[]))
        };
        let at = |updated: i32, available: i32| {
            json!({"observedGeneration": 2, "desiredNumberScheduled": 3, "currentNumberScheduled": 3, "numberReady": 0,
                "numberMisscheduled": 0, "updatedNumberScheduled": updated, "numberAvailable": available})
        };
        let table = [told(at(1, 2)), told(at(3, 2)), told(at(3, 3))];
        insta::assert_snapshot!(table.join("\n"), @r##"
        waiting for DaemonSet agent: updated on 1 of 3 nodes
        waiting for DaemonSet agent: available on 2 of 3 nodes
        steady at 2: DaemonSet agent: available on 3 of 3 nodes
        "##);
    }
}
