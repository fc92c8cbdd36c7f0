//! A secret that is also a part of what things are called: undo and resume act on the names themselves, never on what
//! the log shows of them.

use std::time::Duration;

use deputy_proto::v1;
use deputy_tests::agent_process::AgentOptions;
use deputy_tests::cloud::Cloud;
use deputy_tests::world::World;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::recipe;

const SOON: Duration = Duration::from_secs(60);

/// The secret, and what the service, the family and the namespace begin with.
const WORD: &str = "shop";

/// An agent that has the word as a secret, and dies at that point for the first time it comes there.
async fn world(failpoint: Option<&str>) -> World {
    let cloud = Cloud::shared().await.expect("a cloud");
    let mut world = World::builder().cloud(&cloud).start().await.expect("a world");
    let mut options = AgentOptions::default().env("DEPUTY_SECRET_NAME", WORD);
    if let Some(failpoint) = failpoint {
        options = options.failpoint(failpoint);
    }
    world.agent(options).await.expect("an agent");
    world
}

/// A task that learns the secret, makes the change, and then fails.
fn failing(name: &str, deploy: &str) -> String {
    let learns = "    - name: learn\n      shell: { secrets: { NAME: { environment: DEPUTY_SECRET_NAME } }, run: 'echo for $NAME', retrySafe: true }\n";
    let fails = "    - name: check\n      shell: { run: exit 1, retrySafe: true }\n";
    let more = format!("{}  onFailure: rollback\n", recipe::AWS);
    recipe::task(name, &more, &format!("{learns}{deploy}{fails}"))
}

/// Runs it to its end, over the death of its agent where it has a failpoint, and expects that all was put back.
async fn rolled_back(world: &mut World, document: &str, failpoint: Option<&str>) {
    let dies = failpoint.is_some();
    let task = world.submit(document).await.expect("queued");
    if dies {
        let ended = world.agents[0].child.ended(SOON).await;
        ended.unwrap_or_else(|error| panic!("{error:#}\n{}", world.report()));
        world.agents[0].start_again().expect("started");
    }
    let ended = world.ended(&task, 2 * SOON).await.expect("ended");
    let result = ended.result.clone().expect("a result");
    assert_eq!(
        (ended.state(), result.world()),
        (v1::TaskState::Failed, v1::World::RolledBack),
        "{ended:#?}\n{}",
        world.report()
    );
    let failure = result.failure.expect("why");
    assert_eq!(failure.step, "check", "{failure:?}");
    // What an agent had said when it was killed may be lost.
    if !dies {
        let logs = world.logs(&task).await.expect("logs");
        assert!(logs.contains("for ***"), "the log hides it all the same: {logs}");
    }
}

/// Guards the names of ECS: revision, service and family.
#[tokio::test]
async fn a_service_whose_name_holds_a_secret_is_put_back() {
    for failpoint in [
        None,
        Some("after-done@deploy/registerTaskDefinition/*:kill"),
        Some("after-act@deploy/updateService/*:kill"),
        Some("after-act@deploy/undo:*:kill"),
    ] {
        let mut world = world(failpoint).await;
        let (service, before) = recipe::service(&world, WORD).await;
        let deploy = format!(
            r#"    - name: deploy
      ecsRollingDeploy:
        cluster: prod
        service: "${{{{ task.name }}}}"
        taskDefinition: {{ family: {service}, containerDefinitions: [ {{ name: app, image: "checkout:2", memory: 64 }} ] }}
"#
        );
        rolled_back(&mut world, &failing(&service, &deploy), failpoint).await;
        assert_eq!(recipe::runs(&world, &service).await.0, before, "{failpoint:?}");
        assert_eq!(recipe::updates(&world, "UpdateService", &service), 2, "{failpoint:?}");
        let calls = world
            .proxy()
            .expect("a proxy")
            .calls_of("ecs", "DeregisterTaskDefinition");
        assert!(
            calls.iter().all(|call| !call.body_text().contains("***")),
            "{failpoint:?}"
        );
    }
}

/// Guards the names of Kubernetes: namespace and objects.
#[tokio::test]
async fn objects_whose_names_hold_a_secret_are_put_back() {
    for failpoint in [None, Some("after-act@deploy/apply/*:kill")] {
        let mut world = world(failpoint).await;
        let namespace = world.namespace(WORD).await.expect("a namespace");
        let client = world.cluster_admin().await.expect("a client");
        let maps = Api::<ConfigMap>::namespaced(client, &namespace);
        let map =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "shop-settings"}, "data": {"x": "1"}});
        let before = maps
            .patch("shop-settings", &PatchParams::apply("before"), &Patch::Apply(&map))
            .await;
        before.expect("applied");
        let deploy = r#"    - name: deploy
      kubernetesApply:
        cluster: prod
        namespace: "${{ task.name }}"
        manifests:
          - { apiVersion: v1, kind: ConfigMap, metadata: { name: shop-settings }, data: { y: ours } }
          - { apiVersion: v1, kind: ConfigMap, metadata: { name: shop-new }, data: { y: ours } }
"#;
        rolled_back(&mut world, &failing(&namespace, deploy), failpoint).await;
        let settings = maps.get("shop-settings").await.expect("still there");
        assert_eq!(json!(settings.data), json!({"x": "1"}), "{failpoint:?}");
        assert!(maps.get_opt("shop-new").await.expect("read").is_none(), "{failpoint:?}");
    }
}
