//! What an ECS service would run again, by the word of the journal alone: the agent's policy is asked what is in it.

use std::path::Path;
use std::time::Duration;

use aws_sdk_ecs::types::ContainerDefinition;
use deputy_proto::v1;
use deputy_tests::agent_process::{AgentOptions, Policy};
use deputy_tests::cloud::Cloud;
use deputy_tests::world::World;
use serde_json::json;

use crate::recipe;

const SOON: Duration = Duration::from_secs(60);
const OURS: &str = "ours.example.com/checkout:1";
const THEIRS: &str = "theirs.example.com/checkout:1";

/// A world, and two roles that a task definition could name.
async fn world() -> (World, String, String) {
    let cloud = Cloud::shared().await.expect("a cloud");
    let world = World::builder().cloud(&cloud).start().await.expect("a world");
    let role = async |stem: &str| cloud.role(&world.unique(stem), &["logs:*"]).await.expect("a role");
    let (today, yesterday) = (role("today").await, role("yesterday").await);
    (world, today, yesterday)
}

/// Permits today's role and our images, and everything that is neither role nor image.
fn rules(folder: &Path, today: &str) -> Policy {
    let path = folder.join("agent.cedar");
    let text = format!(
        r#"permit (principal, action, resource);
@id("only-today") forbid (principal, action == Action::"passRole", resource) unless {{ resource == Role::"{today}" }};
@id("only-ours") forbid (principal, action == Action::"pullImage", resource) unless {{ resource in Registry::"ours.example.com" }};"#
    );
    std::fs::write(&path, text).expect("written");
    Policy::File(path)
}

/// A revision of the family with this role and image.
async fn revision(world: &World, family: &str, role: &str, image: &str) -> String {
    let container = ContainerDefinition::builder().name("app").image(image).memory(64);
    let ecs = world.ecs().expect("a cloud");
    let request = ecs.register_task_definition().family(family).task_role_arn(role);
    let registered = request.container_definitions(container.build()).send().await;
    let definition = registered.expect("registered").task_definition.expect("one");
    definition.task_definition_arn.expect("an ARN")
}

/// A service that runs such a revision.
async fn service(world: &World, stem: &str, role: &str, image: &str) -> (String, String) {
    let name = world.unique(stem);
    let revision = revision(world, &name, role, image).await;
    let ecs = world.ecs().expect("a cloud");
    let request = ecs.create_service().cluster("prod").service_name(&name);
    let made = request.task_definition(&revision).desired_count(1).send().await;
    made.expect("made");
    (name, revision)
}

/// A task that gives the service today's role and an image of ours; `more` are lines of its spec.
fn deploys(service: &str, today: &str, more: &str) -> String {
    let definition = json!({"family": service, "taskRoleArn": today,
        "containerDefinitions": [{"name": "app", "image": "ours.example.com/checkout:2", "memory": 64}]});
    let step = format!(
        "    - name: deploy\n      ecsRollingDeploy: {{ cluster: prod, service: {service}, taskDefinition: {definition} }}\n"
    );
    recipe::task(service, &format!("{}{more}", recipe::AWS), &step)
}

/// Guards that an undo gives no role to containers, and runs no image, that the policy does not permit: here what was
/// live before the task.
#[tokio::test]
async fn an_undo_does_not_point_a_service_back_at_what_the_policy_forbids() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut world, today, yesterday) = world().await;
    let options = AgentOptions::named("guarded").policy(rules(folder.path(), &today));
    world.agent(options).await.expect("an agent");
    for (stem, role, image, denied) in [
        ("permitted", &today, OURS, None),
        (
            "role",
            &yesterday,
            OURS,
            Some(format!("forbids passing the role {yesterday}")),
        ),
        (
            "image",
            &today,
            THEIRS,
            Some(format!("forbids running the image {THEIRS}")),
        ),
    ] {
        let (service, before) = service(&world, stem, role, image).await;
        let fails = "    - name: check\n      shell: { run: exit 1, retrySafe: true }\n";
        let document = deploys(&service, &today, "  onFailure: rollback\n") + fails;
        let task = world.submit(&document).await.expect("queued");
        let ended = world.ended(&task, SOON).await.expect("ended");
        let result = ended.result.expect("a result");
        let remains = result.remains.join("\n");
        let (runs, _) = recipe::runs(&world, &service).await;
        let (left, updates) = match &denied {
            None => (v1::World::RolledBack, 2),
            Some(_) => (v1::World::RollbackFailed, 1),
        };
        assert_eq!(result.world(), left, "{stem}: {result:#?}\n{}", world.report());
        assert_eq!(recipe::updates(&world, "UpdateService", &service), updates, "{stem}");
        assert_eq!(runs == before, denied.is_none(), "{stem}: {runs}");
        let denied = denied.unwrap_or_default();
        assert!(remains.contains(&denied), "{stem}: {remains}");
    }
}

/// Guards that a journal is no way to have a service run something else than the document: what it says was registered
/// is looked at, and an honest run goes on.
#[tokio::test]
async fn what_a_journal_says_was_registered_is_asked_about_before_it_is_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut world, today, yesterday) = world().await;
    for forged in [false, true] {
        let stem = if forged { "forged" } else { "honest" };
        let (service, before) = service(&world, stem, &today, OURS).await;
        let options = AgentOptions::named(stem)
            .label(&format!("only={stem}"))
            .policy(rules(folder.path(), &today))
            .failpoint("after-done@deploy/registerTaskDefinition/*:kill");
        let place = world.agent(options).await.expect("an agent");
        let document = deploys(&service, &today, &format!("  selector: only == '{stem}'\n"));
        let task = world.submit(&document).await.expect("queued");
        world.agents[place].child.ended(SOON).await.expect("killed");
        if forged {
            let other = revision(&world, &service, &yesterday, OURS).await;
            world.manager.kill().expect("killed");
            let is_it = |record: &v1::Record| {
                record.kind() == v1::RecordKind::Done && record.key.contains("registerTaskDefinition")
            };
            let payload = json!({"taskDefinitionArn": other}).to_string();
            recipe::tamper(&world, &task, is_it, |record| record.payload = payload.into());
            world.manager.start_again().await.expect("started");
        }
        world.agents[place].start_again().expect("started");
        let ended = world.ended(&task, SOON).await.expect("ended");
        let failure = ended.result.clone().and_then(|result| result.failure);
        let (runs, _) = recipe::runs(&world, &service).await;
        if !forged {
            assert_eq!(
                ended.state(),
                v1::TaskState::Succeeded,
                "{ended:#?}\n{}",
                world.report()
            );
            assert_ne!(runs, before);
            continue;
        }
        let failure = failure.unwrap_or_else(|| panic!("{ended:#?}"));
        assert_eq!(failure.class, "policy.denied", "{failure:#?}");
        assert!(failure.summary.contains(&yesterday), "{failure:#?}");
        assert_eq!(runs, before);
        assert_eq!(recipe::updates(&world, "UpdateService", &service), 0);
    }
}
