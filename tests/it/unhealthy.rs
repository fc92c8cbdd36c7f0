//! Deployments whose pods do not come up: seen for what they are, long before the timeout, and undone exactly.

use std::time::Duration;

use deputy_proto::v1;
use deputy_tests::world::World;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ResourceQuota;
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::recipe;

const SOON: Duration = Duration::from_secs(60);
/// Steps have ten minutes.
const LONG_BEFORE_ITS_TIMEOUT: Duration = Duration::from_secs(120);

/// What the pods of a deployment are like, and how its failure is told.
struct Trouble {
    name: &'static str,
    label: &'static str,
    cpu: &'static str,
    class: &'static str,
    words: [&'static str; 2],
}

const TROUBLES: [Trouble; 4] = [
    Trouble {
        name: "crash",
        label: "crash-loop",
        cpu: "1",
        class: "kubernetes.crashLoop",
        words: ["container app of pod web-", "crashes again and again"],
    },
    Trouble {
        name: "pull",
        label: "image-pull",
        cpu: "1",
        class: "kubernetes.imagePull",
        words: ["web:2", "cannot be pulled"],
    },
    Trouble {
        name: "quota",
        label: "slow",
        cpu: "1",
        class: "kubernetes.quota",
        words: ["exceeded quota", "small"],
    },
    Trouble {
        name: "unschedulable",
        label: "slow",
        cpu: "9999",
        class: "kubernetes.unschedulable",
        words: ["web-", "nsufficient cpu"],
    },
];

fn deployment(namespace: &str, image: &str, labels: &str, cpu: &str) -> String {
    let more = format!("{}  onFailure: rollback\n", recipe::AWS);
    let step = format!(
        r#"    - name: deploy
      timeout: 10m
      kubernetesRollingDeploy:
        cluster: prod
        namespace: {namespace}
        manifests:
          - {{ apiVersion: v1, kind: ConfigMap, metadata: {{ name: settings }}, data: {{ image: "{image}" }} }}
          - apiVersion: apps/v1
            kind: Deployment
            metadata: {{ name: web }}
            spec:
              replicas: 2
              selector: {{ matchLabels: {{ app: web }} }}
              template:
                metadata: {{ labels: {{ app: web{labels} }} }}
                spec: {{ containers: [ {{ name: app, image: "{image}", resources: {{ requests: {{ cpu: "{cpu}" }} }} }} ] }}
"#
    );
    recipe::task(namespace, &more, &step)
}

/// Two pods and no more: a rolling update needs a third.
async fn only_two_pods(world: &World, namespace: &str) {
    let admin = world.cluster_admin().await.expect("a client");
    let quotas: Api<ResourceQuota> = Api::namespaced(admin, namespace);
    let quota = json!({ "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "small" }, "spec": { "hard": { "pods": "2" } } });
    let quota = serde_json::from_value(quota).expect("a quota");
    quotas.create(&PostParams::default(), &quota).await.expect("a quota");
    let counted = async || {
        let quota = quotas.get("small").await.expect("the quota");
        quota.status.and_then(|status| status.used).is_some()
    };
    world
        .eventually("the quota is counted", SOON, counted)
        .await
        .expect("counted");
}

/// What runs: the spec of the Deployment and the data of its settings.
async fn world_of(world: &World, namespace: &str) -> (Value, Value) {
    let admin = world.cluster_admin().await.expect("a client");
    let deployments: Api<Deployment> = Api::namespaced(admin.clone(), namespace);
    let settings: Api<k8s_openapi::api::core::v1::ConfigMap> = Api::namespaced(admin, namespace);
    let web = deployments.get("web").await.expect("the deployment");
    let settings = settings.get("settings").await.expect("the settings");
    let values = (serde_json::to_value(web.spec), serde_json::to_value(settings.data));
    (values.0.expect("JSON"), values.1.expect("JSON"))
}

/// Guards that trouble of every kind is recognised, named, and undone, while the old pods go on.
#[tokio::test]
async fn pods_that_cannot_come_up_fail_a_deployment_soon_and_the_old_revision_is_restored() {
    let world = recipe::world_with_slots(8).await;
    let mut before = Vec::new();
    for trouble in &TROUBLES {
        let namespace = world.namespace(trouble.name).await.expect("a namespace");
        let good = deployment(&namespace, "web:1", "", "1");
        before.push((world.submit(&good).await.expect("queued"), namespace));
    }
    let mut bad = Vec::new();
    for ((good, namespace), trouble) in before.into_iter().zip(&TROUBLES) {
        world.succeeded(&good, SOON).await.expect("the first revision");
        if trouble.name == "quota" {
            only_two_pods(&world, &namespace).await;
        }
        let was = world_of(&world, &namespace).await;
        let label = format!(", deputy.test/behaviour: {}", trouble.label);
        let document = deployment(&namespace, "web:2", &label, trouble.cpu);
        bad.push((world.submit(&document).await.expect("queued"), namespace, was));
    }
    let mut wrong = String::new();
    for ((task, namespace, was), trouble) in bad.iter().zip(&TROUBLES) {
        let ended = world.ended(task, LONG_BEFORE_ITS_TIMEOUT).await.expect(trouble.name);
        let result = ended.result.clone().expect("a result");
        let failure = result.failure.clone().unwrap_or_default();
        let found = (ended.state(), result.world(), failure.class.as_str());
        let said = trouble.words.iter().all(|words| failure.summary.contains(words));
        let now = world_of(&world, namespace).await;
        if !said || found != (v1::TaskState::Failed, v1::World::RolledBack, trouble.class) || &now != was {
            wrong.push_str(&format!(
                "{}: {found:?} {failure:#?}\nwas {was:?}\nnow {now:?}\n",
                trouble.name
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
