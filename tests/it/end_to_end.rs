//! The main job: both examples, across two accounts with an external id, as real parts see it.

use std::time::Duration;

use deputy_tests::world::World;
use serde_json::json;

const SOON: Duration = Duration::from_secs(60);

/// An example with names of this world's own, so that tests can share a cloud.
fn example(name: &str, replacements: &[(&str, &str)]) -> String {
    let path = deputy_tests::programs::workspace().join("examples").join(name);
    let text = std::fs::read_to_string(&path).expect("the example");
    replacements.iter().fold(text, |text, (from, to)| {
        assert!(text.contains(from), "{from:?} is not in {name}");
        text.replace(from, to)
    })
}

#[tokio::test]
async fn the_ecs_example_creates_and_then_updates_a_service_across_accounts() {
    let world = World::with_shared_cloud().await.expect("a world");
    let service = world.unique("checkout-api");
    let document = example("ecs-rolling.yaml", &[("checkout-api", &service)]);
    for updates in 0..2 {
        let image = format!("checkout-api:1.{updates}");
        let task = world
            .submit_with(&document, json!({ "image": image }))
            .await
            .expect("queued");
        world.succeeded(&task, SOON).await.expect("succeeded");
        let proxy = world.proxy().expect("a proxy");
        assert_eq!(proxy.successes("ecs", "CreateService"), 1, "{}", proxy.transcript());
        assert_eq!(
            proxy.successes("ecs", "UpdateService"),
            updates,
            "{}",
            proxy.transcript()
        );
        assert_eq!(
            proxy.successes("ecs", "RegisterTaskDefinition"),
            updates + 1,
            "{}",
            proxy.transcript()
        );
        let all_by_deployer = proxy
            .mutations()
            .iter()
            .all(|call| call.caller.contains(":222222222222:assumed-role/deployer/"));
        assert!(all_by_deployer, "{}", proxy.transcript());
    }
}

#[tokio::test]
async fn the_eks_example_rolls_out_as_the_deployer() {
    let world = World::with_shared_cloud().await.expect("a world");
    let namespace = world.namespace("shop").await.expect("a namespace");
    let document = example(
        "eks-rolling.yaml",
        &[("namespace: shop", &format!("namespace: {namespace}"))],
    );
    let task = world
        .submit_with(&document, json!({ "image": "checkout:1.0" }))
        .await
        .expect("queued");
    world.succeeded(&task, SOON).await.expect("succeeded");
    let mutations = world
        .kubernetes()
        .await
        .expect("a cluster")
        .mutations(&namespace)
        .expect("the audit log");
    assert!(!mutations.is_empty(), "nothing was changed");
    for mutation in &mutations {
        assert!(mutation.succeeded(), "{mutations:#?}");
        assert!(mutation.user.contains("assumed-role/deployer/"), "{mutations:#?}");
    }
}
