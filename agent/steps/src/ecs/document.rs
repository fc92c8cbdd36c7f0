//! The user's documents, made into the bodies of ECS calls. Everything in them goes through; only keys
//! that the service model knows are brought to the API's own spelling, and what belongs to the other
//! call is left out.

use deputy_task::attempt::AttemptRef;
use deputy_task::document::step::EcsRollingDeploy;
use deputy_task::document::{EcsDocument, ecs_spelling};
use deputy_task::outcome::Failure;
use deputy_task::touch::Touch;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// The tag by which our task definition is found again.
pub(crate) const EFFECT_TAG: &str = "deputy:effect";

/// What `CreateService` takes and `UpdateService` does not.
const CREATE_ONLY: [&str; 6] = [
    "serviceName",
    "launchType",
    "role",
    "schedulingStrategy",
    "tags",
    "clientToken",
];
/// What `UpdateService` takes and `CreateService` does not.
const UPDATE_ONLY: [&str; 1] = ["forceNewDeployment"];
/// What the step itself says.
const OURS: [&str; 4] = ["cluster", "service", "serviceName", "taskDefinition"];
/// `clientToken` of `CreateService` has at most 36 characters; tags have more.
const TOKEN_CHARS: usize = 32;

/// What the step is to bring about.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) cluster: String,
    pub(crate) service: String,
    /// Of the task definition.
    pub(crate) family: String,
    task_definition: Map<String, Value>,
    service_definition: Map<String, Value>,
}

impl Wanted {
    /// What a change of the service touches.
    pub(crate) fn touches(&self, task_definition: Option<&str>) -> Vec<Touch> {
        let definition = task_definition.map(|arn| Touch::TaskDefinition(arn.to_owned()));
        std::iter::once(Touch::EcsCluster(self.cluster.clone()))
            .chain(definition)
            .collect()
    }

    /// The documents, checked as far as the step needs it.
    pub(crate) fn of(step: &EcsRollingDeploy) -> Result<Self, Failure> {
        let task_definition = ecs_spelling(&step.task_definition, EcsDocument::TaskDefinition);
        let service_definition = ecs_spelling(&step.service_definition, EcsDocument::Service);
        let family = task_definition
            .get("family")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        if family.is_empty() {
            return Err(Failure::new("ecs.taskDefinition", "taskDefinition has no family")
                .hint("give taskDefinition.family, the name under which its revisions are counted"));
        }
        let own_tag = |tag: &Value| tag.get("key").and_then(Value::as_str) == Some(EFFECT_TAG);
        if task_definition
            .get("tags")
            .and_then(Value::as_array)
            .is_some_and(|tags| tags.iter().any(own_tag))
        {
            return Err(Failure::new(
                "ecs.taskDefinition",
                format!("taskDefinition.tags has the tag {EFFECT_TAG}, which Deputy sets itself"),
            ));
        }
        Ok(Self {
            cluster: step.cluster.clone(),
            service: step.service.clone(),
            family,
            task_definition,
            service_definition,
        })
    }

    /// Can the service be made if it does not exist?
    pub(crate) fn can_create(&self) -> bool {
        !self.service_definition.is_empty()
    }

    /// The body of `RegisterTaskDefinition`.
    pub(crate) fn register_body(&self, token: &str) -> Value {
        let mut body = self.task_definition.clone();
        let tags = body.entry("tags").or_insert_with(|| json!([]));
        if let Some(tags) = tags.as_array_mut() {
            tags.push(json!({"key": EFFECT_TAG, "value": token}));
        }
        Value::Object(body)
    }

    /// The fields of the service that an update touches, as the document wants them.
    pub(crate) fn touched(&self) -> Map<String, Value> {
        self.service_fields(&[&CREATE_ONLY[..], &UPDATE_ONLY[..], &OURS[..]].concat())
    }

    /// Fields of the document that an update leaves as they are.
    pub(crate) fn left_on_update(&self) -> Vec<&str> {
        let written = self.service_definition.keys().map(String::as_str);
        written
            .filter(|key| CREATE_ONLY.contains(key) && !OURS.contains(key))
            .collect()
    }

    /// The body of the one `UpdateService`.
    pub(crate) fn update_body(&self, task_definition: &str) -> Value {
        let mut body = self.service_fields(&[&CREATE_ONLY[..], &OURS[..]].concat());
        body.insert("cluster".into(), json!(self.cluster));
        body.insert("service".into(), json!(self.service));
        body.insert("taskDefinition".into(), json!(task_definition));
        Value::Object(body)
    }

    /// The body of `CreateService`.
    pub(crate) fn create_body(&self, task_definition: &str, token: &str) -> Value {
        let mut body = self.service_fields(&[&UPDATE_ONLY[..], &OURS[..], &["clientToken"]].concat());
        body.insert("cluster".into(), json!(self.cluster));
        body.insert("serviceName".into(), json!(self.service));
        body.insert("taskDefinition".into(), json!(task_definition));
        body.insert("clientToken".into(), json!(token));
        Value::Object(body)
    }

    fn service_fields(&self, without: &[&str]) -> Map<String, Value> {
        let kept = self
            .service_definition
            .iter()
            .filter(|(key, _)| !without.contains(&key.as_str()));
        kept.map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

/// A token that is the same on every replay of this run, and on no other.
pub(crate) fn token(attempt: &AttemptRef, step: &str, name: &str) -> String {
    let text = format!("{}/{}/{}/{step}/{name}", attempt.project, attempt.task, attempt.run);
    hex::encode(Sha256::digest(text.as_bytes()))
        .chars()
        .take(TOKEN_CHARS)
        .collect()
}

/// A digest of a document for an effect's plan: nothing of its values can be read from it.
pub(crate) fn digest(document: &Value) -> String {
    hex::encode(Sha256::digest(document.to_string().as_bytes()))
}

/// What people call a thing: `shop:42` of `arn:aws:ecs:…:task-definition/shop:42`.
pub(crate) fn short(arn: &str) -> &str {
    arn.rsplit_once('/').map_or(arn, |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(task: Value, service: Value) -> Result<Wanted, Failure> {
        let map = |value: Value| value.as_object().cloned().unwrap_or_default();
        Wanted::of(&EcsRollingDeploy {
            cluster: "prod".into(),
            service: "checkout-api".into(),
            task_definition: map(task),
            service_definition: map(service),
            allow_unknown_fields: false,
        })
    }

    #[test]
    fn the_document_goes_through_whole_and_only_gains_our_tag() {
        let wanted = wanted(
            json!({"Family": "shop", "ContainerDefinitions": [{"Name": "app", "DockerLabels": {"Team": "x"}, "brandNew": {"A": 1}}], "tags": [{"key": "k", "value": "v"}]}),
            json!({}),
        );
        let body = wanted.expect("good").register_body("t0").to_string();
        assert_eq!(
            body,
            r#"{"family":"shop","containerDefinitions":[{"name":"app","dockerLabels":{"Team":"x"},"brandNew":{"A":1}}],"tags":[{"key":"k","value":"v"},{"key":"deputy:effect","value":"t0"}]}"#
        );
    }

    #[test]
    fn each_call_gets_the_fields_that_it_takes() {
        let service = json!({
            "launchType": "FARGATE", "desiredCount": 3, "forceNewDeployment": true, "futureField": {"x": 1}, "service": "other",
            "tags": [], "deploymentConfiguration": {"maximumPercent": 200}
        });
        let wanted = wanted(json!({"family": "shop"}), service).expect("good");
        insta::assert_snapshot!(format!(
            "{}\n{}\n{:?}\n{:?}",
            wanted.update_body("td:2"),
            wanted.create_body("td:2", "t0"),
            wanted.touched().keys().collect::<Vec<_>>(),
            wanted.left_on_update(),
        ), @r#"
        {"desiredCount":3,"forceNewDeployment":true,"futureField":{"x":1},"deploymentConfiguration":{"maximumPercent":200},"cluster":"prod","service":"checkout-api","taskDefinition":"td:2"}
        {"launchType":"FARGATE","desiredCount":3,"futureField":{"x":1},"tags":[],"deploymentConfiguration":{"maximumPercent":200},"cluster":"prod","serviceName":"checkout-api","taskDefinition":"td:2","clientToken":"t0"}
        ["desiredCount", "futureField", "deploymentConfiguration"]
        ["launchType", "tags"]
        "#);
    }

    #[test]
    fn an_update_without_desired_count_does_not_name_one() {
        let body = wanted(json!({"family": "shop"}), json!({}))
            .expect("good")
            .update_body("td:2")
            .to_string();
        assert_eq!(
            body,
            r#"{"cluster":"prod","service":"checkout-api","taskDefinition":"td:2"}"#
        );
    }

    #[test]
    fn a_document_without_family_or_with_our_tag_is_refused() {
        assert_eq!(
            wanted(json!({}), json!({})).expect_err("no family").summary,
            "taskDefinition has no family"
        );
        let tagged = json!({"family": "x", "tags": [{"key": "deputy:effect", "value": "y"}]});
        assert!(
            wanted(tagged, json!({}))
                .expect_err("our tag")
                .summary
                .contains("which Deputy sets itself")
        );
    }

    #[test]
    fn a_token_belongs_to_one_run() {
        let attempt = |run, epoch| AttemptRef {
            project: "p".parse().expect("id"),
            task: "t".parse().expect("id"),
            run,
            epoch,
        };
        let made = token(&attempt(1, 1), "deploy", "createService/x");
        assert_eq!(made.len(), TOKEN_CHARS);
        assert_eq!(
            made,
            token(&attempt(1, 7), "deploy", "createService/x"),
            "another attempt of the run"
        );
        assert_ne!(made, token(&attempt(2, 1), "deploy", "createService/x"), "another run");
    }
}
