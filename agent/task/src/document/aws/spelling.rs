//! Keys in the API's own spelling, where the service model knows them; everything else is left byte
//! for byte. Called by the step that sends the documents, after expressions have become values.

use serde_json::{Map, Value};

use super::shape::{SHAPES, spelled};

/// Which of the documents that go to Amazon ECS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EcsDocument {
    /// The input of `RegisterTaskDefinition`.
    TaskDefinition,
    /// The input of `CreateService` and `UpdateService`.
    Service,
}

impl EcsDocument {
    const fn shape(self) -> &'static str {
        match self {
            Self::TaskDefinition => "RegisterTaskDefinitionRequest",
            Self::Service => "ServiceRequest",
        }
    }
}

/// `document` with `ContainerDefinitions` as `containerDefinitions`. Keys of mappings that are the
/// user's own, of free-form values and of anything that the model does not know stay as they are.
#[must_use]
pub fn ecs_spelling(document: &Map<String, Value>, which: EcsDocument) -> Map<String, Value> {
    members(document, which.shape())
}

fn members(entries: &Map<String, Value>, shape: &str) -> Map<String, Value> {
    let Some(known) = SHAPES.get(shape) else {
        return entries.clone();
    };
    let respelled = entries.iter().map(|(key, entry)| {
        let member = spelled(key, known).filter(|name| name == key || !entries.contains_key(name));
        match member.and_then(|name| Some((known.get(&name)?.as_str()?, name))) {
            Some((shape, name)) => (name, value(entry, shape)),
            None => (key.clone(), entry.clone()),
        }
    });
    respelled.collect()
}

fn value(given: &Value, shape: &str) -> Value {
    match given {
        Value::Array(items) => match shape.strip_prefix('[') {
            Some(shape) => items.iter().map(|item| value(item, shape)).collect(),
            None => given.clone(),
        },
        Value::Object(entries) => Value::Object(match shape.strip_prefix('{') {
            Some(shape) => entries
                .iter()
                .map(|(key, entry)| (key.clone(), value(entry, shape)))
                .collect(),
            None => members(entries, shape),
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => given.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_the_model_knows_is_respelled() {
        for (which, given, sent) in [
            (
                EcsDocument::TaskDefinition,
                json!({"Family": "x", "ContainerDefinitions": [{"Image": "i", "DockerLabels": {"Team": "x"}, "LogConfiguration": {"LogDriver": "awslogs", "Options": {"Mode": "y"}}}]}),
                json!({"family": "x", "containerDefinitions": [{"image": "i", "dockerLabels": {"Team": "x"}, "logConfiguration": {"logDriver": "awslogs", "options": {"Mode": "y"}}}]}),
            ),
            (
                EcsDocument::Service,
                json!({"DeploymentConfiguration": {"LifecycleHooks": [{"HookTargetArn": "a", "HookDetails": {"Mode": {"X": 1}}}]}, "EnableECSManagedTags": true}),
                json!({"deploymentConfiguration": {"lifecycleHooks": [{"hookTargetArn": "a", "hookDetails": {"Mode": {"X": 1}}}]}, "enableECSManagedTags": true}),
            ),
            (
                EcsDocument::Service,
                json!({"BrandNew": {"Deep": [{"A": 1}]}, "desiredCount": 2, "DesiredCount": 3}),
                json!({"BrandNew": {"Deep": [{"A": 1}]}, "desiredCount": 2, "DesiredCount": 3}),
            ),
            (
                EcsDocument::TaskDefinition,
                json!({"Family": {"Not": "text"}, "Cpu": ["Odd"]}),
                json!({"family": {"Not": "text"}, "cpu": ["Odd"]}),
            ),
        ] {
            let respelled = ecs_spelling(given.as_object().expect("a mapping"), which);
            assert_eq!(Value::Object(respelled), sent);
        }
    }
}
