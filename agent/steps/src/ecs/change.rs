//! The one call that changes the service, and how to tell whether an interrupted one happened: our
//! task definition is unique, so whoever has it had our call.

use deputy_task::outcome::Failure;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::aws::capture::Capture;
use crate::aws::guard::Pass;
use crate::ecs::client::{Ecs, overrides, send_instead};
use crate::ecs::document::short;
use crate::ecs::service::Seen;
use crate::effect::Look;
use crate::failure::StepError;

/// The class of the failure that says so.
pub(crate) const CHANGED_BY_OTHERS: &str = "ecs.changedByOthers";

/// What a call made of the service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Change {
    pub(crate) service_arn: String,
    /// The deployment that the call began; empty where ECS did not tell.
    pub(crate) deployment_id: String,
    /// The touched fields as they were right after it.
    pub(crate) after: Map<String, Value>,
}

/// A change to be told apart from others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected<'a> {
    pub(crate) service: &'a str,
    /// What the call sets.
    pub(crate) task_definition: &'a str,
    /// What was there before; `None` if there was no service.
    pub(crate) before: Option<&'a str>,
    /// The fields that it touches.
    pub(crate) touched: &'a Map<String, Value>,
}

impl Expected<'_> {
    fn change(&self, seen: &Seen) -> Change {
        let deployment = seen
            .deployment_of(self.task_definition)
            .and_then(|deployment| deployment.id());
        Change {
            service_arn: seen.arn().to_owned(),
            deployment_id: deployment.unwrap_or_default().to_owned(),
            after: seen.touched(self.touched),
        }
    }
}

impl Ecs {
    /// The one `UpdateService`.
    pub(crate) async fn update(&self, expected: Expected<'_>, body: &Value, pass: Pass) -> Result<Change, StepError> {
        let capture = Capture::default();
        let answer = self
            .client
            .update_service()
            .service(expected.service)
            .customize()
            .config_override(overrides(&pass, &capture))
            .mutate_request(send_instead(body))
            .send()
            .await;
        let on = format!("the service {}", expected.service);
        let answer = self.asked("ecs:UpdateService", &on).acted(&pass, answer)?;
        self.changed(expected, answer.service, &capture)
    }

    /// `CreateService`, with a client token.
    pub(crate) async fn create(&self, expected: Expected<'_>, body: &Value, pass: Pass) -> Result<Change, StepError> {
        let capture = Capture::default();
        let answer = self
            .client
            .create_service()
            .service_name(expected.service)
            .customize()
            .config_override(overrides(&pass, &capture))
            .mutate_request(send_instead(body))
            .send()
            .await;
        let on = format!("the service {}", expected.service);
        let answer = self.asked("ecs:CreateService", &on).acted(&pass, answer)?;
        self.changed(expected, answer.service, &capture)
    }

    fn changed(
        &self,
        expected: Expected<'_>,
        service: Option<aws_sdk_ecs::types::Service>,
        capture: &Capture,
    ) -> Result<Change, StepError> {
        let Some(service) = service else {
            let failure = Failure::new(
                "ecs.unclear",
                format!("ECS changed the service {} and did not show it", expected.service),
            );
            return Err(StepError::WorldUnknown(Box::new(failure)));
        };
        let raw = capture.taken().get("service").cloned().unwrap_or(Value::Null);
        Ok(expected.change(&Seen::new(service, raw)))
    }

    /// Did an interrupted call happen?
    pub(crate) async fn look_changed(&self, expected: Expected<'_>) -> Result<Look<Change>, Failure> {
        let name = expected.service;
        let Some(seen) = self.describe(name).await? else {
            return Ok(match expected.before {
                None => Look::Absent,
                Some(_) => Look::Foreign(foreign(name, "somebody deleted it meanwhile")),
            });
        };
        let current = seen.task_definition();
        if current == expected.task_definition || seen.deployment_of(expected.task_definition).is_some() {
            return Ok(Look::Mine(expected.change(&seen)));
        }
        // A circuit breaker may have taken it back already; then tasks of it were stopped.
        if let Some(deployment_id) = self.deployment_in_stopped_tasks(name, expected.task_definition).await? {
            return Ok(Look::Mine(Change {
                deployment_id,
                ..expected.change(&seen)
            }));
        }
        Ok(match expected.before {
            Some(before) if before == current => Look::Absent,
            Some(_) => Look::Foreign(foreign(
                name,
                &format!("it now runs {}, which somebody else set meanwhile", short(current)),
            )),
            None => Look::Foreign(foreign(
                name,
                &format!("somebody else created it meanwhile, with {}", short(current)),
            )),
        })
    }

    /// `DeleteService`, its tasks with it.
    pub(crate) async fn delete(&self, service: &str, pass: Pass) -> Result<(), StepError> {
        let answer = self
            .client
            .delete_service()
            .cluster(&self.cluster)
            .service(service)
            .force(true)
            .customize()
            .config_override(overrides(&pass, &Capture::default()))
            .send()
            .await;
        let on = format!("the service {service}");
        self.asked("ecs:DeleteService", &on).acted(&pass, answer).map(drop)
    }

    /// Was it deleted?
    pub(crate) async fn look_deleted(&self, service: &str) -> Result<Look<()>, Failure> {
        let seen = self.describe(service).await?;
        Ok(if seen.is_some_and(|seen| seen.status() == "ACTIVE") {
            Look::Absent
        } else {
            Look::Mine(())
        })
    }
}

/// Somebody changed the service between the first look and our call, which was not sent.
pub(crate) fn overtaken(service: &str, what: &str) -> Failure {
    Failure::new(
        CHANGED_BY_OTHERS,
        format!(
            "the service {service} was changed by somebody else since this step looked at it: {what}; this step did not overwrite that"
        ),
    )
    .hint("see in CloudTrail who changed it, then retry the task")
}

fn foreign(service: &str, what: &str) -> Failure {
    Failure::new(
        CHANGED_BY_OTHERS,
        format!("the service {service} is not as this task left it: {what}"),
    )
    .hint("see in CloudTrail who changed it, then retry the task or leave it")
}
