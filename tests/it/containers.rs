//! ECS tasks as real containers: exit codes are real, and failures are counted.

use std::time::Duration;

use aws_sdk_ecs::types::{ContainerDefinition, NetworkMode};
use deputy_tests::cloud::{AWAY, Cloud};
use deputy_tests::container_credentials::root_config;
use deputy_tests::{podman, skip};

#[tokio::test]
async fn a_task_of_ecs_is_a_container_with_its_own_exit_code() {
    if skip::skips(
        "containers::a_task_of_ecs_is_a_container_with_its_own_exit_code",
        podman::missing(),
    ) {
        return;
    }
    let cloud = Cloud::shared_with_containers().await.expect("a cloud with containers");
    let ecs = aws_sdk_ecs::Client::new(&root_config(&cloud, AWAY));
    let container = ContainerDefinition::builder()
        .name("main")
        .image(podman::IMAGE)
        .essential(true);
    let container = container
        .command("sh")
        .command("-c")
        .command("echo out; exit 3")
        .memory(64)
        .build();
    let definition = ecs
        .register_task_definition()
        .family("exits")
        .network_mode(NetworkMode::Host);
    definition
        .container_definitions(container)
        .send()
        .await
        .expect("registered");
    let run = ecs
        .run_task()
        .cluster("prod")
        .task_definition("exits")
        .send()
        .await
        .expect("run");
    let arn = run
        .tasks()
        .first()
        .and_then(|task| task.task_arn())
        .expect("a task")
        .to_owned();
    for _ in 0..600 {
        let described = ecs
            .describe_tasks()
            .cluster("prod")
            .tasks(&arn)
            .send()
            .await
            .expect("described");
        let task = described.tasks().first().expect("the task");
        if task.last_status() == Some("STOPPED") {
            let code = task.containers().first().and_then(|container| container.exit_code());
            assert_eq!(code, Some(3), "{task:?}\n{}", cloud.tail());
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the task did not stop\n{}", cloud.tail());
}
