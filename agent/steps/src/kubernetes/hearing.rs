//! Takes out of what a cluster says about an object (conditions, states of containers, events) the values that stand in
//! the object and in the templates of its pods: an admission rule quotes them to the controller that it refuses, and the
//! controller passes it on. Called by `looking` before anybody reads a word; what controllers and kubelets quote by
//! themselves `rollout` takes out by where it stands.

use deputy_logs::Redactor;
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod};
use serde_json::Value;

use super::echo::{Echo, Words};

/// What is heard about one object.
pub(crate) struct Hearing {
    words: Words,
}

impl Hearing {
    /// `own` is the task's: its values may be told. `templates` are where the values of pods come from. The task's
    /// secrets go out at once with what is in the cluster: whoever reads on cuts sentences at quotes and brackets, and
    /// of half a secret nobody knows that it is one.
    pub(crate) fn new(own: &Value, live: &Value, templates: Vec<Value>, secrets: &Redactor) -> Self {
        let mut there = templates;
        there.push(live.clone());
        let echo = Echo {
            own: own.clone(),
            live: there,
        };
        Self {
            words: echo.words(secrets),
        }
    }

    /// The object's conditions.
    pub(crate) fn object(&self, live: &mut Value) {
        let conditions = live.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
        for condition in conditions.into_iter().flatten() {
            if let Some(Value::String(message)) = condition.get_mut("message") {
                *message = self.words.heard(message);
            }
        }
    }

    /// Conditions of pods, and why their containers wait.
    pub(crate) fn pods(&self, pods: &mut [Pod]) {
        for status in pods.iter_mut().filter_map(|pod| pod.status.as_mut()) {
            for condition in status.conditions.iter_mut().flatten() {
                self.message(&mut condition.message);
            }
            let init = status.init_container_statuses.iter_mut().flatten();
            init.chain(status.container_statuses.iter_mut().flatten())
                .for_each(|container| self.container(container));
        }
    }

    fn container(&self, container: &mut ContainerStatus) {
        let waiting = container.state.as_mut().and_then(|state| state.waiting.as_mut());
        if let Some(waiting) = waiting {
            self.message(&mut waiting.message);
        }
    }

    /// What was said.
    pub(crate) fn events(&self, events: &mut [Event]) {
        events.iter_mut().for_each(|event| self.message(&mut event.message));
    }

    fn message(&self, message: &mut Option<String>) {
        if let Some(message) = message {
            *message = self.words.heard(message);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use deputy_logs::redactor::MAX_SECRET_BYTES;
    use k8s_openapi::api::apps::v1::Deployment;
    use serde_json::json;

    use super::super::rollout::{assessment::in_short, deployment, event};
    use super::*;

    const DENIED: &str = r#"admission webhook "rules.example" denied the request: env DB_PASSWORD=hunter2-of-the-cluster of container payments running payments:2 is plain text"#;

    /// What is told of a Deployment whose ReplicaSet may make no pod. Another manager set its password.
    fn told(more: &str) -> String {
        let template = |env: &str| {
            json!({"metadata": {"labels": {"app": "payments"}}, "spec": {"containers": [
            {"name": "payments", "image": "payments:2", "env": [{"name": "DB_PASSWORD", "value": env}, {"name": "MORE", "value": more}]}]}})
        };
        let mut live = json!({"kind": "Deployment", "metadata": {"name": "payments", "uid": "d"},
            "spec": {"replicas": 1, "selector": {}, "template": template("hunter2-of-the-cluster")},
            "status": {"observedGeneration": 7, "conditions": [
                {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": DENIED}]}});
        let event = |message: &str| {
            json!({"metadata": {}, "type": "Warning", "reason": message.get(..5), "message": message,
            "involvedObject": {"uid": "rs", "kind": "ReplicaSet", "name": "payments-5"}})
        };
        let mut events: Vec<Event> = serde_json::from_value(json!([
            event(&format!("Error creating: {DENIED}")),
            event("The old one had hunter1-of-the-cluster"),
            event("pods \"payments-5-x\" is forbidden: violates PodSecurity \"restricted:latest\": runAsNonRoot != true (pod or container \"payments\" must set securityContext.runAsNonRoot=true)"),
        ]))
        .expect("events");
        let mut pods: Vec<Pod> = serde_json::from_value(json!([{"metadata": {}, "status": {
            "conditions": [{"type": "PodScheduled", "status": "False", "message": "no node for hunter2-of-the-cluster"}],
            "containerStatuses": [{"name": "payments", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": "CreateContainerError", "message": "it is hunter2-of-the-cluster"}}}]}}]))
        .expect("pods");
        let own = json!({"kind": "Deployment", "metadata": {"name": "payments"}, "spec": {"template": {
            "spec": {"containers": [{"name": "payments", "image": "payments:2"}]}}}});
        let hearing = Hearing::new(
            &own,
            &live.clone(),
            vec![template("hunter1-of-the-cluster")],
            &Redactor::new(),
        );
        hearing.object(&mut live);
        hearing.events(&mut events);
        hearing.pods(&mut pods);
        let deployment: Deployment = serde_json::from_value(live).expect("a Deployment");
        let mut lines = vec![in_short(&deployment::assess(&deployment, 7, &[], &[], &events))];
        let uids = BTreeSet::from(["rs".to_owned()]);
        lines.extend(event::news(&events, &[], &uids, &mut BTreeSet::new()));
        lines.push(json!(pods[0].status).to_string());
        lines.join("\n")
    }

    /// Guards that a sentence is not cut within a secret before anybody looks for it.
    #[test]
    fn the_tasks_secrets_are_out_before_a_sentence_is_cut() {
        let secrets = Redactor::new();
        secrets.add_secret(br#"pass"word{1}of-the-task"#).expect("a secret");
        let event = |message: &str| json!({"metadata": {}, "message": message, "involvedObject": {"uid": "rs"}});
        let said = r#"Readiness probe failed: pass"word{1}of-the-task is no answer"#;
        let mut events: Vec<Event> = serde_json::from_value(json!([event(said)])).expect("events");
        Hearing::new(&json!({}), &json!({}), Vec::new(), &secrets).events(&mut events);
        assert_eq!(
            events[0].message.as_deref(),
            Some("Readiness probe failed: *** is no answer")
        );
    }

    #[test]
    fn what_an_admission_rule_says_to_a_controller_is_told_without_what_others_wrote_into_the_template() {
        let all = told("x");
        assert!(!all.contains("of-the-cluster"), "{all}");
        insta::assert_snapshot!(all, @r##"
        waiting for Deployment payments: 0 of 1 replicas updated
          after 0 s (kubernetes.admission): its pods are refused: admission webhook "rules.example" denied the request: env ***=*** of container payments running payments:2 is plain text
        ReplicaSet payments-5: Error: Error creating: admission webhook "rules.example" denied the request: env ***=*** of container payments running payments:2 is plain text
        ReplicaSet payments-5: The o: The old one had ***
        ReplicaSet payments-5: pods : pods "payments-5-x" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true (pod or container "payments" must set securityContext.runAsNonRoot=true)
        {"conditions":[{"message":"no node for ***","status":"False","type":"PodScheduled"}],"containerStatuses":[{"image":"","imageID":"","name":"payments","ready":false,"restartCount":0,"state":{"waiting":{"message":"it is ***","reason":"CreateContainerError"}}}]}
        "##);
        let large = told(&"x".repeat(MAX_SECRET_BYTES + 1));
        let of_rules: Vec<&str> = large.lines().filter(|line| line.contains("webhook")).collect();
        assert!(!of_rules.join("\n").contains("of-the-cluster"), "{large}");
        insta::assert_snapshot!(of_rules.join("\n"), @r##"
          after 0 s (kubernetes.admission): its pods are refused: admission webhook "rules.example" denied the request: (what it said is left out: it may repeat what is in the cluster)
        ReplicaSet payments-5: Error: admission webhook "rules.example" denied the request: (what it said is left out: it may repeat what is in the cluster)
        "##);
    }
}
