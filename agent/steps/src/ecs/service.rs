//! Services as they are: what ECS says of one, whole and typed, and what of it a before-image keeps.

use aws_sdk_ecs::types::{Deployment, DeploymentControllerType, Service, ServiceField};
use deputy_task::outcome::Failure;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::aws::capture::Capture;
use crate::ecs::client::Ecs;
use crate::ecs::document::{Wanted, short};
use crate::effect::{Readers, Secrecy};

/// Fields that `UpdateService` takes for the service and `DescribeServices` shows at its deployments.
const OF_DEPLOYMENT: [&str; 3] = [
    "serviceConnectConfiguration",
    "volumeConfigurations",
    "vpcLatticeConfigurations",
];

/// A service that exists.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) service: Service,
    raw: Value,
}

/// What was there before the step changed anything. Recorded before the first change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Before {
    /// `None`: the service did not exist.
    pub(crate) service: Option<BeforeService>,
}

/// A service before the step changed it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BeforeService {
    pub(crate) arn: String,
    pub(crate) task_definition: String,
    pub(crate) desired_count: i32,
    /// The fields that the update touches, as they were; null for those that had no value.
    pub(crate) touched: Map<String, Value>,
}

/// A service as a program saw it and decided by it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AsSeen<'a> {
    /// What it ran.
    pub(crate) task_definition: &'a str,
    /// What it may run as well: the task definition that a circuit breaker takes it back to.
    pub(crate) or: Option<&'a str>,
    /// Fields as they were; null for those that had no value.
    pub(crate) touched: &'a Map<String, Value>,
}

impl BeforeService {
    pub(crate) fn as_seen(&self) -> AsSeen<'_> {
        AsSeen {
            task_definition: &self.task_definition,
            or: None,
            touched: &self.touched,
        }
    }
}

impl Before {
    /// Could it carry a secret?
    pub(crate) fn secrecy(&self) -> Secrecy {
        self.service
            .as_ref()
            .map_or(Secrecy::Public, |service| secrecy(&service.touched))
    }

    /// Who may read a result that shows the same fields.
    pub(crate) fn readers(&self) -> Readers {
        if self.secrecy() == Secrecy::Public {
            Readers::Everybody
        } else {
            Readers::Pool
        }
    }
}

impl AsSeen<'_> {
    /// What is not as it was, in words: ECS has no update that depends on what is there, so a program
    /// looks right before it sends one. `None`: nothing that the update touches was changed.
    pub(crate) fn changed_since(&self, seen: Option<&Seen>) -> Option<String> {
        let Some(seen) = seen else {
            return Some("it was deleted".into());
        };
        let running = seen.task_definition();
        if running != self.task_definition && Some(running) != self.or {
            return Some(format!(
                "it now runs {} instead of {}",
                short(running),
                short(self.task_definition)
            ));
        }
        let now = seen.touched(self.touched);
        let changed: Vec<&str> = self
            .touched
            .iter()
            .filter(|(key, was)| !now.get(*key).is_some_and(|is| same(was, is)))
            .map(|(key, _)| key.as_str())
            .collect();
        (!changed.is_empty()).then(|| format!("{} was set to something else", changed.join(", ")))
    }
}

/// Could these fields carry a secret? Every field of a service holds names, numbers and references, but for the
/// options of a log driver, where some drivers take their credentials; those of `awslogs` name a log group.
pub(crate) fn secrecy(touched: &Map<String, Value>) -> Secrecy {
    let logs = touched
        .get("serviceConnectConfiguration")
        .and_then(|connect| connect.get("logConfiguration"));
    let driver = logs.and_then(|logs| logs.get("logDriver")).and_then(Value::as_str);
    let options = logs.and_then(|logs| logs.get("options")).and_then(Value::as_object);
    if options.is_some_and(|options| !options.is_empty()) && driver != Some("awslogs") {
        Secrecy::Secret("the options of the log driver in the serviceConnectConfiguration of the service")
    } else {
        Secrecy::Public
    }
}

/// Equal, whatever the order of lists: ECS promises none.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Array(one), Value::Array(other)) => {
            let mut left: Vec<&Value> = other.iter().collect();
            one.len() == left.len()
                && one.iter().all(|item| {
                    let at = left.iter().position(|candidate| same(item, candidate));
                    at.map(|at| left.swap_remove(at)).is_some()
                })
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .all(|(key, value)| other.get(key).is_some_and(|other| same(value, other)))
        }
        _ => one == other,
    }
}

impl Seen {
    pub(crate) fn new(service: Service, raw: Value) -> Self {
        Self { service, raw }
    }

    /// The task definition that the service wants to run.
    pub(crate) fn task_definition(&self) -> &str {
        self.service.task_definition().unwrap_or_default()
    }

    pub(crate) fn arn(&self) -> &str {
        self.service.service_arn().unwrap_or_default()
    }

    pub(crate) fn status(&self) -> &str {
        self.service.status().unwrap_or_default()
    }

    /// The newest deployment of `task_definition`.
    pub(crate) fn deployment_of(&self, task_definition: &str) -> Option<&Deployment> {
        self.service
            .deployments()
            .iter()
            .find(|deployment| deployment.task_definition() == Some(task_definition))
    }

    /// The fields that `wanted` touches, as they are now.
    pub(crate) fn touched(&self, wanted: &Map<String, Value>) -> Map<String, Value> {
        wanted.keys().map(|key| (key.clone(), self.field(key))).collect()
    }

    fn field(&self, key: &str) -> Value {
        let at_service = self.raw.get(key);
        let primary = || {
            let deployments = self.raw.get("deployments")?.as_array()?;
            deployments
                .iter()
                .find(|one| one.get("status").and_then(Value::as_str) == Some("PRIMARY"))?
                .get(key)
        };
        at_service
            .or_else(|| OF_DEPLOYMENT.contains(&key).then(primary).flatten())
            .cloned()
            .unwrap_or(Value::Null)
    }
}

impl Ecs {
    /// The service, or `None` if there is none (a deleted one that ECS still remembers is none).
    pub(crate) async fn describe(&self, service: &str) -> Result<Option<Seen>, Failure> {
        let capture = Capture::default();
        let overrides = aws_sdk_ecs::Config::builder().interceptor(capture.clone());
        let answer = self
            .client
            .describe_services()
            .cluster(&self.cluster)
            .services(service)
            .include(ServiceField::Tags)
            .customize()
            .config_override(overrides)
            .send()
            .await;
        let on = format!("the service {service} in cluster {}", self.cluster);
        let answer = answer.map_err(|error| self.failure("ecs:DescribeServices", &on, &error))?;
        let raw = capture.taken().pointer("/services/0").cloned().unwrap_or(Value::Null);
        let found = answer.services.unwrap_or_default().into_iter().next();
        Ok(found
            .map(|found| Seen::new(found, raw))
            .filter(|seen| seen.status() != "INACTIVE"))
    }

    /// The before-image, or why the step cannot work with what is there.
    pub(crate) async fn before(&self, wanted: &Wanted) -> Result<Before, Failure> {
        let name = &wanted.service;
        let Some(seen) = self.describe(name).await? else {
            if wanted.can_create() {
                return Ok(Before { service: None });
            }
            let summary = format!(
                "there is no service {name} in the ECS cluster {}, and the step has no serviceDefinition to create it from",
                self.cluster
            );
            return Err(Failure::new("ecs.unknownService", summary)
                .hint("check the names of the service and the cluster, or give serviceDefinition (the input of CreateService)"));
        };
        if seen.status() == "DRAINING" {
            return Err(Failure::new(
                "ecs.serviceDraining",
                format!("the service {name} in cluster {} is being deleted", self.cluster),
            )
            .hint("wait until its tasks have stopped, then retry the task"));
        }
        let controller = seen
            .service
            .deployment_controller()
            .map(|controller| controller.r#type());
        if let Some(other) = controller.filter(|kind| **kind != DeploymentControllerType::Ecs) {
            let summary = format!(
                "the service {name} is deployed by the {} deployment controller, and ecsRollingDeploy needs ECS",
                other.as_str()
            );
            return Err(Failure::new("ecs.deploymentController", summary)
                .hint("use the step kind for that controller, or make the service anew with the ECS controller"));
        }
        Ok(Before {
            service: Some(BeforeService {
                arn: seen.arn().to_owned(),
                task_definition: seen.task_definition().to_owned(),
                desired_count: seen.service.desired_count(),
                touched: seen.touched(&wanted.touched()),
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen(task_definition: &str, raw: Value) -> Seen {
        Seen::new(Service::builder().task_definition(task_definition).build(), raw)
    }

    #[test]
    fn log_options_of_a_service_are_kept_sealed_or_not_at_all() {
        let of = |connect: Value| {
            let touched = json!({"desiredCount": 2, "serviceConnectConfiguration": connect});
            let before = Before {
                service: Some(BeforeService {
                    arn: "arn".into(),
                    task_definition: "web:1".into(),
                    desired_count: 2,
                    touched: touched.as_object().cloned().unwrap_or_default(),
                }),
            };
            (before.secrecy() != Secrecy::Public, before.readers())
        };
        let logs = |driver: &str| json!({"enabled": true, "logConfiguration": {"logDriver": driver, "options": {"token": "t"}}});
        for driver in ["splunk", "fluentd", "awsfirelens", "a-driver-of-next-year"] {
            assert_eq!(of(logs(driver)), (true, Readers::Pool), "{driver}");
        }
        assert_eq!(
            of(json!({"logConfiguration": {"options": {"token": "t"}}})),
            (true, Readers::Pool)
        );
        for open in [
            logs("awslogs"),
            json!({"enabled": true}),
            json!({"logConfiguration": {"logDriver": "splunk", "options": {}}}),
            json!({"logConfiguration": {"logDriver": "splunk", "secretOptions": [{"name": "token", "valueFrom": "arn"}]}}),
            Value::Null,
        ] {
            assert_eq!(of(open.clone()), (false, Readers::Everybody), "{open}");
        }
        assert_eq!(Before { service: None }.secrecy(), Secrecy::Public);
    }

    #[test]
    fn what_others_change_between_the_first_look_and_the_update_is_noticed() {
        let touched = json!({"desiredCount": 2, "networkConfiguration": {"subnets": ["a", "b"]}, "healthCheckGracePeriodSeconds": null});
        let before = BeforeService {
            arn: "arn:aws:ecs:eu-west-1:2:service/prod/shop".into(),
            task_definition: "arn:aws:ecs:eu-west-1:2:task-definition/shop:4".into(),
            desired_count: 2,
            touched: touched.as_object().expect("fields").clone(),
        };
        let told =
            |task_definition: &str, raw: Value| before.as_seen().changed_since(Some(&seen(task_definition, raw)));
        let same = json!({"desiredCount": 2, "networkConfiguration": {"subnets": ["b", "a"]}, "runningCount": 1});
        assert_eq!(told(&before.task_definition, same.clone()), None);
        assert_eq!(
            told("arn:aws:ecs:eu-west-1:2:task-definition/shop:5", same).as_deref(),
            Some("it now runs shop:5 instead of shop:4")
        );
        let scaled = json!({"desiredCount": 3, "networkConfiguration": {"subnets": ["a", "a"]}});
        assert_eq!(
            told(&before.task_definition, scaled).as_deref(),
            Some("desiredCount, networkConfiguration was set to something else")
        );
        assert_eq!(before.as_seen().changed_since(None).as_deref(), Some("it was deleted"));
        let taken_back = AsSeen {
            task_definition: "arn:aws:ecs:eu-west-1:2:task-definition/shop:5",
            or: Some(&before.task_definition),
            touched: &Map::new(),
        };
        assert_eq!(
            taken_back.changed_since(Some(&seen(&before.task_definition, json!({})))),
            None,
            "a circuit breaker took it back meanwhile"
        );
    }
}
