//! `ecsRollingDeploy` over a service whose task definition has canaries in its environment, and over one that it may
//! not update.

use anyhow::Result;
use async_trait::async_trait;
use aws_sdk_ecs::types::{ContainerDefinition, KeyValuePair};
use deputy_tests::ecs::service;
use deputy_tests::leaks::canary::Canaries;
use deputy_tests::world::World;

use crate::scenario::{AWS, Refused, Scenario};

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

    async fn refused(&self, world: &World, canaries: &Canaries) -> Result<Vec<Refused>> {
        let target = self.prepare(world, canaries).await?;
        let role = world.unique(&format!("leaks-{:04x}", rand::random::<u16>()));
        let may = [
            "ecs:Describe*",
            "ecs:List*",
            "ecs:RegisterTaskDefinition",
            "ecs:TagResource",
            "iam:PassRole",
        ];
        let role = world.cloud()?.role(&role, &may).await?;
        let spec = self.spec(&target);
        let unnamed = spec.replace("name: app, image: \"checkout:2\"", "name: app");
        Ok(vec![
            Refused {
                spec: spec.replace("arn:aws:iam::222222222222:role/deployer", &role),
                words: "may not ecs:UpdateService",
            },
            Refused {
                spec: unnamed,
                words: "image is required",
            },
        ])
    }
}
