//! `ecsRollingDeploy` over a service whose task definition has canaries in its environment.

use anyhow::Result;
use async_trait::async_trait;
use aws_sdk_ecs::types::{ContainerDefinition, KeyValuePair};
use deputy_tests::ecs::service;
use deputy_tests::leaks::canary::Canaries;
use deputy_tests::world::World;

use crate::scenario::{AWS, Scenario};

pub(crate) struct RollingDeploy;

#[async_trait]
impl Scenario for RollingDeploy {
    fn kind(&self) -> &'static str {
        "ecsRollingDeploy"
    }

    async fn prepare(&self, world: &World, canaries: &Canaries) -> Result<String> {
        let name = world.unique(&format!("leaks-{:04x}", rand::random::<u16>()));
        let secret = KeyValuePair::builder()
            .name("PASSWORD")
            .value(canaries.make("the environment of a live task definition"));
        let container = ContainerDefinition::builder()
            .name("app")
            .image("checkout:1")
            .memory(64)
            .environment(secret.build())
            .command(canaries.make("the command of a live task definition"));
        service(&world.ecs()?, &name, container.build()).await?;
        Ok(name)
    }

    fn spec(&self, target: &str) -> String {
        format!(
            r#"{AWS}  steps:
    - name: deploy
      ecsRollingDeploy:
        cluster: prod
        service: {target}
        taskDefinition: {{ family: {target}, containerDefinitions: [ {{ name: app, image: "checkout:2", memory: 64 }} ] }}
        serviceDefinition: {{ desiredCount: 3 }}
"#
        )
    }
}
