//! `ecsRollingDeploy`: an update of a service, its creation, and the undo of an update.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use async_trait::async_trait;
use aws_sdk_ecs::types::{ContainerDefinition, SortOrder, TaskDefinitionField};
use deputy_tests::cloud::Cloud;
use deputy_tests::ecs::service;
use deputy_tests::proxy::recording::Call;
use deputy_tests::proxy::relay::Proxy;
use deputy_tests::world::World;
use serde_json::{Value, json};

use crate::scenario::{Scenario, quick, without_name};

/// Everything that is swept for this step kind.
pub(crate) fn scenarios() -> Vec<Box<dyn Scenario>> {
    vec![Box::new(Ecs::Update), Box::new(Ecs::Create), Box::new(Ecs::Undo)]
}

enum Ecs {
    Update,
    Create,
    /// The step succeeds, the next one fails, and the update is undone.
    Undo,
}

#[async_trait]
impl Scenario for Ecs {
    fn name(&self) -> &'static str {
        match self {
            Self::Update => "update",
            Self::Create => "create",
            Self::Undo => "undo",
        }
    }

    fn swept(&self) -> &'static str {
        if matches!(self, Self::Undo) { "undo:" } else { "" }
    }

    async fn world(&self, cloud: &Arc<Cloud>) -> Result<World> {
        quick(World::builder().cloud(cloud)).start().await
    }

    async fn prepare(&self, world: &World) -> Result<String> {
        let name = world.unique("sweep");
        if matches!(self, Self::Create) {
            return Ok(name);
        }
        let container = ContainerDefinition::builder()
            .name("app")
            .image("checkout:1")
            .memory(64)
            .build();
        service(&world.ecs()?, &name, container).await?;
        Ok(name)
    }

    fn document(&self, target: &str) -> String {
        let fails = if matches!(self, Self::Undo) {
            "\n    - name: fails\n      shell: { run: exit 1, retrySafe: true }"
        } else {
            ""
        };
        format!(
            r#"
apiVersion: deputy.dev/v1
kind: Task
metadata: {{ name: {target} }}
spec:
  aws:
    region: eu-west-1
    assumeRole: [ {{ roleArn: "arn:aws:iam::222222222222:role/deployer", externalId: deputy-demo }} ]
  onFailure: rollback
  steps:
    - name: deploy
      ecsRollingDeploy:
        cluster: prod
        service: {target}
        taskDefinition: {{ family: {target}, containerDefinitions: [ {{ name: app, image: "checkout:2", memory: 64 }} ] }}
        serviceDefinition: {{ desiredCount: 3 }}{fails}
"#
        )
    }

    async fn changes(&self, world: &World, _target: &str) -> Result<Vec<Call>> {
        Ok(world
            .proxy()?
            .mutations()
            .into_iter()
            .filter(|call| call.service == "ecs")
            .collect())
    }

    async fn counts(&self, world: &World, target: &str) -> Result<BTreeMap<String, usize>> {
        let mut counts = BTreeMap::new();
        for call in self.changes(world, target).await? {
            if call.succeeded() {
                *counts.entry(call.operation).or_default() += 1;
            }
        }
        Ok(counts)
    }

    async fn after(&self, world: &World, target: &str) -> Result<Value> {
        let ecs = world.ecs()?;
        let services = ecs.describe_services().cluster("prod").services(target).send().await?;
        let service = services.services().first().context("the service")?;
        let described = ecs
            .describe_task_definition()
            .task_definition(service.task_definition().unwrap_or_default())
            .include(TaskDefinitionField::Tags)
            .send()
            .await?;
        let revision = described.task_definition().context("a task definition")?;
        let active = ecs
            .list_task_definitions()
            .family_prefix(target)
            .sort(SortOrder::Asc)
            .send()
            .await?;
        let after = json!({
            "status": service.status(),
            "desired": service.desired_count(),
            "running": service.running_count(),
            "deployments": service.deployments().len(),
            "revision": revision.revision(),
            "images": revision.container_definitions().iter().map(|container| container.image()).collect::<Vec<_>>(),
            "active": active.task_definition_arns(),
        });
        Ok(without_name(after, target))
    }

    async fn proxied<'w>(&self, world: &'w World) -> Result<&'w Proxy> {
        world.proxy()
    }
}
