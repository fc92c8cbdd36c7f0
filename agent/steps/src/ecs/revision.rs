//! Task definitions: registering ours, finding it again by its tag, and taking it back.

use aws_sdk_ecs::types::{SortOrder, TaskDefinitionField, TaskDefinitionStatus};
use deputy_task::outcome::Failure;
use deputy_task::touch::{Touch, images_of_definition, roles_of};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::aws::capture::Capture;
use crate::aws::guard::Pass;
use crate::ecs::client::{Ecs, overrides, send_instead};
use crate::ecs::document::{EFFECT_TAG, short};
use crate::effect::Look;
use crate::failure::StepError;

/// How many of a family's newest revisions are looked at: far more than others can register between
/// an interrupted call of ours and the next attempt.
const NEWEST: i32 = 20;

/// The task definition that the step registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Revision {
    pub(crate) task_definition_arn: String,
}

impl Ecs {
    /// Sends the user's document as it is.
    pub(crate) async fn register(&self, family: &str, body: &Value, pass: Pass) -> Result<Revision, StepError> {
        let answer = self
            .client
            .register_task_definition()
            .family(family)
            .customize()
            .config_override(overrides(&pass, &Capture::default()))
            .mutate_request(send_instead(body))
            .send()
            .await;
        let on = format!("the family {family}");
        let answer = self.asked("ecs:RegisterTaskDefinition", &on).acted(&pass, answer)?;
        let arn = answer
            .task_definition
            .and_then(|definition| definition.task_definition_arn);
        let task_definition_arn =
            arn.ok_or_else(|| unclear(format!("ECS registered a revision of {family} and did not name it")))?;
        Ok(Revision { task_definition_arn })
    }

    /// Did an interrupted call register ours? Its tag tells.
    pub(crate) async fn look_registered(&self, family: &str, token: &str) -> Result<Look<Revision>, Failure> {
        let on = format!("the family {family}");
        let listed = self
            .client
            .list_task_definitions()
            .family_prefix(family)
            .status(TaskDefinitionStatus::Active)
            .sort(SortOrder::Desc)
            .max_results(NEWEST)
            .send()
            .await
            .map_err(|error| self.failure("ecs:ListTaskDefinitions", &on, &error))?;
        for arn in listed.task_definition_arns() {
            let described = self
                .client
                .describe_task_definition()
                .task_definition(arn)
                .include(TaskDefinitionField::Tags)
                .send()
                .await
                .map_err(|error| self.failure("ecs:DescribeTaskDefinition", &on, &error))?;
            let ours = described
                .tags()
                .iter()
                .any(|tag| tag.key() == Some(EFFECT_TAG) && tag.value() == Some(token));
            if ours {
                return Ok(Look::Mine(Revision {
                    task_definition_arn: arn.clone(),
                }));
            }
        }
        Ok(Look::Absent)
    }

    /// What a service brings with it that is pointed at this task definition, as ECS has it.
    pub(crate) async fn brought(&self, arn: &str) -> Result<Vec<Touch>, Failure> {
        let capture = Capture::default();
        let overrides = aws_sdk_ecs::Config::builder().interceptor(capture.clone());
        let described = self
            .client
            .describe_task_definition()
            .task_definition(arn)
            .customize()
            .config_override(overrides)
            .send()
            .await;
        described.map_err(|error| self.failure("ecs:DescribeTaskDefinition", arn, &error))?;
        brought_by(arn, &capture.taken())
    }

    /// Takes ours back; tasks that still run it go on.
    pub(crate) async fn deregister(&self, arn: &str, pass: Pass) -> Result<(), StepError> {
        let answer = self
            .client
            .deregister_task_definition()
            .task_definition(arn)
            .customize()
            .config_override(overrides(&pass, &Capture::default()))
            .send()
            .await;
        self.asked("ecs:DeregisterTaskDefinition", arn)
            .acted(&pass, answer)
            .map(drop)
    }

    /// Was ours taken back?
    pub(crate) async fn look_deregistered(&self, arn: &str) -> Result<Look<()>, Failure> {
        let described = self.client.describe_task_definition().task_definition(arn).send().await;
        let described = described.map_err(|error| self.failure("ecs:DescribeTaskDefinition", arn, &error))?;
        let status = described.task_definition.and_then(|definition| definition.status);
        Ok(if status == Some(TaskDefinitionStatus::Active) {
            Look::Absent
        } else {
            Look::Mine(())
        })
    }
}

fn brought_by(arn: &str, answer: &Value) -> Result<Vec<Touch>, Failure> {
    let Some(definition) = answer.get("taskDefinition").filter(|found| found.is_object()) else {
        let summary = format!(
            "ECS did not show the task definition {}, about which the agent's policy is to be asked",
            short(arn)
        );
        return Err(Failure::new("ecs.unclear", summary));
    };
    let roles = roles_of(definition).into_iter().map(Touch::Role);
    Ok(roles
        .chain(images_of_definition(definition).into_iter().map(Touch::Image))
        .collect())
}

fn unclear(summary: String) -> StepError {
    StepError::WorldUnknown(Box::new(Failure::new("ecs.unclear", summary)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Guards that what the policy is asked is what ECS has, and that nothing passes for want of an answer.
    #[test]
    fn a_definition_brings_its_roles_and_images() {
        let arn = "arn:aws:ecs:eu-west-1:2:task-definition/shop:41";
        let answer = json!({"taskDefinition": {"taskDefinitionArn": arn, "taskRoleArn": "arn:aws:iam::2:role/admin",
            "executionRoleArn": "arn:aws:iam::2:role/exec", "registeredBy": "arn:aws:iam::2:role/somebody",
            "containerDefinitions": [{"name": "app", "image": "shop:41"}, {"name": "proxy", "image": "envoy:1"}]}});
        let role = |name: &str| Touch::Role(format!("arn:aws:iam::2:role/{name}"));
        let image = |name: &str| Touch::Image(name.to_owned());
        assert_eq!(
            brought_by(arn, &answer).expect("shown"),
            [role("admin"), role("exec"), image("envoy:1"), image("shop:41")]
        );
        for nothing in [Value::Null, json!({}), json!({"taskDefinition": null})] {
            let failure = brought_by(arn, &nothing).expect_err("not shown");
            assert!(failure.summary.contains("shop:41"), "{failure}");
        }
    }
}
