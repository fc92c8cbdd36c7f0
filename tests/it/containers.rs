//! ECS tasks as real containers: exit codes are real, and failures are counted.

use std::time::Duration;

use aws_sdk_ecs::types::{ContainerDefinition, NetworkMode};
use deputy_proto::v1;
use deputy_tests::agent_process::AgentOptions;
use deputy_tests::cloud::{AWAY, Cloud};
use deputy_tests::container_credentials::root_config;
use deputy_tests::world::World;
use deputy_tests::{podman, skip};

use crate::recipe;

const LATER: Duration = Duration::from_secs(120);

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

/// A service's task definition whose container runs this script.
fn deploys(service: &str, script: &str, rolls_back: &str) -> String {
    let step = format!(
        r#"    - name: deploy
      timeout: 5m
      ecsRollingDeploy:
        cluster: prod
        service: {service}
        taskDefinition:
          family: {service}
          networkMode: host
          containerDefinitions:
            - {{ name: app, image: "{image}", essential: true, memory: 64, command: [sh, -c, "{script}"] }}
        serviceDefinition:
          desiredCount: 1
          deploymentConfiguration:
            deploymentCircuitBreaker: {{ enable: true, rollback: {rolls_back} }}
"#,
        image = podman::IMAGE
    );
    let more = format!("{}  onFailure: rollback\n", recipe::AWS);
    recipe::task(service, &more, &step)
}

/// Guards that a container that ends at once fails its deployment with its exit code, whoever rolls back, and that
/// the revision before it serves again; and that one that stays reaches a steady state.
#[tokio::test]
async fn a_container_that_exits_fails_its_deployment_with_its_code_and_the_old_one_serves() {
    let name = "containers::a_container_that_exits_fails_its_deployment_with_its_code_and_the_old_one_serves";
    if skip::skips(name, podman::missing()) {
        return;
    }
    let cloud = Cloud::shared_with_containers().await.expect("a cloud with containers");
    let mut world = World::builder().cloud(&cloud).start().await.expect("a world");
    world.agent(AgentOptions::default()).await.expect("an agent");
    let services = ["ecs-rolls-back", "deputy-rolls-back"].map(|stem| world.unique(stem));
    let mut bad = Vec::new();
    for (service, rolls_back) in services.iter().zip(["true", "false"]) {
        let good = world
            .submit(&deploys(service, "sleep 600", rolls_back))
            .await
            .expect("queued");
        world.succeeded(&good, LATER).await.expect("steady");
        let before = recipe::runs(&world, service).await;
        let document = deploys(service, "exit 3", rolls_back);
        bad.push((world.submit(&document).await.expect("queued"), service, before));
    }
    for (task, service, before) in &bad {
        let ended = world.ended(task, LATER).await.expect("ended");
        assert_eq!(ended.state(), v1::TaskState::Failed, "{ended:#?}\n{}", world.report());
        let result = ended.result.expect("a result");
        let logs = world.logs(task).await.expect("logs");
        let failure = result.failure.clone().expect("a failure");
        let told = failure.class.as_str();
        assert!(
            ["ecs.circuitBreaker", "ecs.crashLoop"].contains(&told),
            "{failure:#?}\n{logs}"
        );
        assert!(failure.summary.contains("app exited with 3"), "{failure:#?}\n{logs}");
        assert!(logs.contains("app exited with 3"), "{logs}");
        assert_eq!(result.world(), v1::World::RolledBack, "{result:#?}\n{logs}");
        assert_eq!(&recipe::runs(&world, service).await, before, "{logs}");
    }
}
