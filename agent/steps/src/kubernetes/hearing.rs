//! Takes out of what a cluster says about an object (conditions, states of containers, events) the values that stand in
//! the object, in its ReplicaSets and in the containers of its pods, of former revisions too: an
//! admission rule quotes them to the controller that it refuses, and the
//! controller passes it on. Called by `looking` before anybody reads a word; what controllers and kubelets quote by
//! themselves `rollout` takes out by where it stands.
//!
//! A rollout is looked at every second and its values hardly ever change, so what looks for them is kept, and made on a
//! thread of its own.

use std::collections::BTreeMap;

use deputy_logs::Redactor;
use deputy_task::outcome::Failure;
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod};
use serde_json::Value;

use crate::failure::StepError;

use super::echo::{Texts, Words};
use super::object::ObjectRef;

/// Values of all objects together that are kept in the form in which they are looked for, which takes up to a hundred
/// and fifty times as much memory. Beside them is kept what was made last for an object for which there was no room.
const MAX_KEPT_BYTES: usize = 256 * 1024;

/// What is looked for in what is said about each object that a step follows.
#[derive(Default)]
pub(crate) struct Hearing {
    known: BTreeMap<String, Known>,
    /// The last one for which there was no room.
    apart: Option<(String, Known)>,
}

struct Known {
    texts: Texts,
    words: Words,
}

/// What is said about an object.
pub(crate) struct Said<'a> {
    /// With its conditions.
    pub(crate) object: &'a mut Value,
    /// With their conditions, and why their containers wait.
    pub(crate) pods: &'a mut [Pod],
    /// By anybody about anything in the namespace.
    pub(crate) events: &'a mut [Event],
}

impl Hearing {
    /// `texts` are those of the object and of what its pods are made of. The task's secrets go out at once with them:
    /// whoever reads on cuts sentences at quotes and brackets, and of half a secret nobody knows that it is one.
    ///
    /// # Errors
    /// What looks for the values could not be made.
    pub(crate) async fn clean(
        &mut self,
        object: &ObjectRef,
        texts: Texts,
        mut said: Said<'_>,
        secrets: &Redactor,
    ) -> Result<(), StepError> {
        let words = self.words(object, texts, secrets).await?;
        for message in said.messages() {
            *message = words.heard(message);
        }
        Ok(())
    }

    /// Makes room: nothing more will be said about this object.
    pub(crate) fn forget(&mut self, object: &ObjectRef) {
        self.known.remove(&object.id());
    }

    /// What hides `texts` and lets the task's own pass: that of the last look, unless there is something new or too much
    /// is kept for others.
    async fn words(&mut self, object: &ObjectRef, texts: Texts, secrets: &Redactor) -> Result<&Words, StepError> {
        let id = object.id();
        let apart = self.apart.take_if(|(of, _)| *of == id).map(|(_, known)| known);
        let kept = self.known.remove(&id).or(apart);
        let kept = kept.filter(|known| known.texts.covers(&texts));
        let known = match kept {
            Some(known) => known,
            None => {
                let secrets = secrets.clone();
                let build = move || Known {
                    words: texts.words(&secrets),
                    texts,
                };
                tokio::task::spawn_blocking(build).await.map_err(|_| {
                    Failure::new(
                        "kubernetes.unreadable",
                        format!("looking through what the cluster says of {object} failed inside the agent"),
                    )
                })?
            }
        };
        let others: usize = self.known.values().map(|known| known.texts.hidden_bytes()).sum();
        let has_room = others + known.texts.hidden_bytes() <= MAX_KEPT_BYTES;
        let kept = if has_room {
            self.known.entry(id).or_insert(known)
        } else {
            &self.apart.insert((id, known)).1
        };
        Ok(&kept.words)
    }
}

impl Said<'_> {
    /// Is there nothing to look through?
    pub(crate) fn is_nothing(&mut self) -> bool {
        self.messages().is_empty()
    }

    fn messages(&mut self) -> Vec<&mut String> {
        let mut all = Vec::new();
        let conditions = self
            .object
            .pointer_mut("/status/conditions")
            .and_then(Value::as_array_mut);
        for condition in conditions.into_iter().flatten() {
            if let Some(Value::String(message)) = condition.get_mut("message") {
                all.push(message);
            }
        }
        for status in self.pods.iter_mut().filter_map(|pod| pod.status.as_mut()) {
            let conditions = status.conditions.iter_mut().flatten();
            all.extend(conditions.filter_map(|condition| condition.message.as_mut()));
            let init = status.init_container_statuses.iter_mut().flatten();
            all.extend(
                init.chain(status.container_statuses.iter_mut().flatten())
                    .filter_map(waiting),
            );
        }
        all.extend(self.events.iter_mut().filter_map(|event| event.message.as_mut()));
        all.retain(|message| !message.is_empty());
        all
    }
}

/// Why it waits.
fn waiting(container: &mut ContainerStatus) -> Option<&mut String> {
    container.state.as_mut()?.waiting.as_mut()?.message.as_mut()
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
    async fn told(more: &str) -> String {
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
        let texts = Texts::of(&own, [&template("hunter1-of-the-cluster"), &live]);
        let said = Said {
            object: &mut live,
            pods: &mut pods,
            events: &mut events,
        };
        let mut hearing = Hearing::default();
        let (object, secrets) = (payments(), Redactor::new());
        let cleaned = hearing.clean(&object, texts, said, &secrets);
        cleaned.await.expect("cleaned");
        let deployment: Deployment = serde_json::from_value(live).expect("a Deployment");
        let mut lines = vec![in_short(&deployment::assess(&deployment, 7, &[], &[], &events))];
        let uids = BTreeSet::from(["rs".to_owned()]);
        lines.extend(event::news(&events, &[], &uids, &mut BTreeSet::new()));
        lines.push(json!(pods[0].status).to_string());
        lines.join("\n")
    }

    fn payments() -> ObjectRef {
        ObjectRef::secret("shop", "payments")
    }

    /// What is told of `message` about an object that holds `live`.
    async fn heard(hearing: &mut Hearing, live: Value, message: &str, secrets: &Redactor) -> String {
        heard_of(hearing, &payments(), live, message, secrets).await
    }

    async fn heard_of(
        hearing: &mut Hearing,
        object_ref: &ObjectRef,
        live: Value,
        message: &str,
        secrets: &Redactor,
    ) -> String {
        let mut object = json!({"spec": live});
        let event = json!([{"metadata": {}, "message": message, "involvedObject": {"uid": "rs"}}]);
        let mut events: Vec<Event> = serde_json::from_value(event).expect("events");
        let texts = Texts::of(&Value::Null, [&object]);
        let mut said = Said {
            object: &mut object,
            pods: &mut [],
            events: &mut events,
        };
        assert_eq!(said.is_nothing(), message.is_empty());
        let cleaned = hearing.clean(object_ref, texts, said, secrets);
        cleaned.await.expect("cleaned");
        events[0].message.clone().expect("a message")
    }

    /// Guards that a sentence is not cut within a secret before anybody looks for it.
    #[tokio::test]
    async fn the_tasks_secrets_are_out_before_a_sentence_is_cut() {
        let secrets = Redactor::new();
        secrets.add_secret(br#"pass"word{1}of-the-task"#).expect("a secret");
        let said = r#"Readiness probe failed: pass"word{1}of-the-task is no answer"#;
        let told = heard(&mut Hearing::default(), json!({}), said, &secrets).await;
        assert_eq!(told, "Readiness probe failed: *** is no answer");
    }

    /// Guards the agent's two workers: a rollout is looked at up to four times a second, for as long as it lasts.
    #[tokio::test]
    async fn what_looks_for_values_is_made_anew_only_when_there_is_a_new_one() {
        let mut hearing = Hearing::default();
        let secrets = Redactor::new();
        assert_eq!(heard(&mut hearing, json!(["old-value"]), "", &secrets).await, "");
        let both = json!(["old-value", "more-of-it"]);
        let message = "old-value, more-of-it, new-value and of-the-task";
        let first = heard(&mut hearing, both, message, &secrets).await;
        assert_eq!(first, "***, ***, new-value and of-the-task");
        secrets.add_secret(b"of-the-task").expect("a secret");
        let again = heard(&mut hearing, json!(["old-value"]), message, &secrets).await;
        assert_eq!(again, "***, ***, new-value and ***", "kept, beside the secrets of now");
        let other = heard(&mut hearing, json!(["new-value"]), message, &secrets).await;
        assert_eq!(other, "old-value, more-of-it, *** and ***");
        let large = json!(["y x".repeat(MAX_KEPT_BYTES / 3)]);
        let texts = Texts::of(&Value::Null, [&large]);
        let words = Texts::of(&Value::Null, [&Value::Null]).words(&secrets);
        hearing.known.insert("large".into(), Known { texts, words });
        let another = ObjectRef::secret("shop", "another");
        for live in [json!(["new-value", "more-of-it"]), json!(["new-value"])] {
            let told = heard_of(&mut hearing, &another, live, message, &secrets).await;
            assert_eq!(
                told, "old-value, ***, *** and ***",
                "the last one is kept, though there is no room"
            );
        }
        assert!(!hearing.known.contains_key(&another.id()), "more is kept than may be");
        hearing.known.remove("large");
        let told = heard_of(&mut hearing, &another, json!(["new-value"]), message, &secrets).await;
        assert_eq!(told, "old-value, ***, *** and ***", "kept, now that there is room");
        hearing.forget(&another);
        let told = heard_of(&mut hearing, &another, json!(["new-value"]), message, &secrets).await;
        assert_eq!(told, "old-value, more-of-it, *** and ***");
    }

    #[tokio::test]
    async fn what_an_admission_rule_says_to_a_controller_is_told_without_what_others_wrote_into_the_template() {
        let all = told("x").await;
        assert!(!all.contains("of-the-cluster"), "{all}");
        insta::assert_snapshot!(all, @r##"
        waiting for Deployment payments: 0 of 1 replicas updated
          after 0 s (kubernetes.admission): its pods are refused: admission webhook "rules.example" denied the request: env ***=*** of container payments running payments:2 is plain text
        ReplicaSet payments-5: Error: Error creating: admission webhook "rules.example" denied the request: env ***=*** of container payments running payments:2 is plain text
        ReplicaSet payments-5: The o: The old one had ***
        ReplicaSet payments-5: pods : pods "payments-5-x" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true (pod or container "payments" must set securityContext.runAsNonRoot=true)
        {"conditions":[{"message":"no node for ***","status":"False","type":"PodScheduled"}],"containerStatuses":[{"image":"","imageID":"","name":"payments","ready":false,"restartCount":0,"state":{"waiting":{"message":"it is ***","reason":"CreateContainerError"}}}]}
        "##);
        let large = told(&"x".repeat(MAX_SECRET_BYTES + 1)).await;
        let of_rules: Vec<&str> = large.lines().filter(|line| line.contains("webhook")).collect();
        assert!(!of_rules.join("\n").contains("of-the-cluster"), "{large}");
        insta::assert_snapshot!(of_rules.join("\n"), @r##"
          after 0 s (kubernetes.admission): its pods are refused: admission webhook "rules.example" denied the request: (what it said is left out: it may repeat what is in the cluster)
        ReplicaSet payments-5: Error: admission webhook "rules.example" denied the request: (what it said is left out: it may repeat what is in the cluster)
        "##);
    }
}
