//! Every source of the agent's own identity begins the same role chain.

use std::time::Duration;

use deputy_proto::v1;
use deputy_tests::agent_process::AgentOptions;
use deputy_tests::cloud::Cloud;
use deputy_tests::instance_metadata::InstanceMetadata;
use deputy_tests::service_account::ServiceAccount;
use deputy_tests::world::World;

use crate::recipe;

const SOON: Duration = Duration::from_secs(60);

async fn world() -> World {
    let cloud = Cloud::shared().await.expect("a cloud");
    World::builder().cloud(&cloud).start().await.expect("a world")
}

fn surroundings(environment: Vec<(String, String)>) -> AgentOptions {
    AgentOptions {
        environment,
        ..AgentOptions::default()
    }
}

/// Deploys across accounts with an external id; what the fleet says of the agent's identity.
async fn deploys(world: &World, stem: &str) -> String {
    let (service, _) = recipe::service(world, stem).await;
    let task = world.submit(&recipe::ecs_update(&service, "")).await.expect("queued");
    world.succeeded(&task, SOON).await.expect("succeeded");
    assert_eq!(recipe::updates(world, "UpdateService", &service), 1);
    let fleet = world
        .deputy(&["fleet", "list", "--output", "json"])
        .await
        .expect("listed");
    fleet.stdout
}

/// Guards IRSA: a refusal that names what the trust policy must accept, the rotated token, and the chain from there.
#[tokio::test]
async fn a_service_accounts_token_is_read_anew_and_begins_a_chain() {
    let mut world = world().await;
    let cloud = Cloud::shared().await.expect("a cloud");
    let account = ServiceAccount::new(world.folder(), cloud.scenery());
    let token = account.be("system:serviceaccount:other:pod").expect("written");
    world
        .agent(surroundings(account.environment()))
        .await
        .expect("an agent");

    let (service, _) = recipe::service(&world, "refused").await;
    let task = world.submit(&recipe::ecs_update(&service, "")).await.expect("queued");
    let (ended, failure) = recipe::failure(&world, &task, SOON).await;
    assert_eq!(
        (ended.state(), failure.class.as_str()),
        (v1::TaskState::Failed, "aws.webIdentity"),
        "{failure:#?}"
    );
    assert!(
        failure.summary.contains("system:serviceaccount:other:pod"),
        "{failure:#?}"
    );
    assert!(failure.hint.contains("trust policy"), "{failure:#?}");
    let said = format!("{ended:?}{}", world.agents[0].child.tail());
    assert!(!said.contains(&token), "the token is told to nobody");

    account.be(&cloud.scenery().service_account).expect("replaced");
    let fleet = deploys(&world, "irsa").await;
    assert!(fleet.contains("web identity (IRSA) as"), "{fleet}");
    let exchanges = world
        .proxy()
        .expect("a proxy")
        .count("unsigned", "AssumeRoleWithWebIdentity");
    assert_eq!(exchanges, 2, "one refused, one good, then kept\n{}", world.report());
}

/// Guards EKS Pod Identity: the endpoint's token is in a file.
#[tokio::test]
async fn a_pods_identity_begins_a_chain() {
    let mut world = world().await;
    let environment = world.credentials().expect("an endpoint").pod_identity(world.folder());
    world
        .agent(surroundings(environment.expect("a token file")))
        .await
        .expect("an agent");
    let fleet = deploys(&world, "pod").await;
    assert!(fleet.contains("token from a file"), "{fleet}");
}

/// Guards the instance profile, and what is said where the metadata service gives nothing.
#[tokio::test]
async fn an_instances_profile_begins_a_chain_and_its_absence_is_explained() {
    let mut world = world().await;
    let metadata = InstanceMetadata::start(world.credentials().expect("sessions"))
        .await
        .expect("metadata");
    world
        .agent(surroundings(metadata.environment()))
        .await
        .expect("an agent");
    let fleet = deploys(&world, "instance").await;
    assert!(fleet.contains("EC2 instance profile (IMDSv2)"), "{fleet}");
    // Steps reach it as well, and nothing here can keep them from it.
    let warned = "steps can take the agent's own role from the instance's metadata service";
    assert!(fleet.contains(warned), "{fleet}");

    world.agents[0].kill().expect("killed");
    drop(metadata);
    let mut environment = InstanceMetadata::start(world.credentials().expect("sessions"))
        .await
        .expect("metadata")
        .environment();
    environment[0].1 = "http://127.0.0.1:1".into();
    world.agent(surroundings(environment)).await.expect("another agent");
    let (service, _) = recipe::service(&world, "nothing").await;
    let task = world.submit(&recipe::ecs_update(&service, "")).await.expect("queued");
    let (_, failure) = recipe::failure(&world, &task, SOON).await;
    assert_eq!(failure.class, "aws.instanceIdentity", "{failure:#?}");
    assert!(failure.hint.contains("HttpPutResponseHopLimit"), "{failure:#?}");
}
