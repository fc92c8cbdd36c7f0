//! Services of the emulated ECS that tasks deploy to.

use anyhow::{Context, Result};
use aws_sdk_ecs::Client;
use aws_sdk_ecs::types::ContainerDefinition;

/// A service of that name in the cluster `prod` that runs this container twice; its revision.
pub async fn service(ecs: &Client, name: &str, container: ContainerDefinition) -> Result<String> {
    let registered = ecs
        .register_task_definition()
        .family(name)
        .container_definitions(container)
        .send()
        .await?;
    let revision = registered
        .task_definition()
        .and_then(|found| found.task_definition_arn())
        .context("an ARN")?;
    ecs.create_service()
        .cluster("prod")
        .service_name(name)
        .task_definition(revision)
        .desired_count(2)
        .send()
        .await?;
    Ok(revision.to_owned())
}
