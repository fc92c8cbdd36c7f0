//! `kubernetesRollingDeploy`: an update that keeps before-images, a creation, and the undo of an update. What
//! happened is counted by the API server's audit log.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use async_trait::async_trait;
use deputy_tests::cloud::Cloud;
use deputy_tests::proxy::recording::Call;
use deputy_tests::proxy::relay::Proxy;
use deputy_tests::world::World;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::scenario::{Scenario, quick, without_name};

/// Everything that is swept for this step kind.
pub(crate) fn scenarios() -> Vec<Box<dyn Scenario>> {
    vec![
        Box::new(Kubernetes::Update),
        Box::new(Kubernetes::Create),
        Box::new(Kubernetes::Undo),
    ]
}

enum Kubernetes {
    Update,
    Create,
    /// The step succeeds, the next one fails, and the update is undone.
    Undo,
}

fn deployment(image: &str, replicas: u32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "checkout" },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": "checkout" } },
            "template": {
                "metadata": { "labels": { "app": "checkout" } },
                "spec": { "containers": [ { "name": "app", "image": image } ] },
            },
        },
    })
}

#[async_trait]
impl Scenario for Kubernetes {
    fn name(&self) -> &'static str {
        match self {
            Self::Update => "update",
            Self::Create => "create",
            Self::Undo => "undo",
        }
    }

    fn swept(&self) -> &'static str {
        if matches!(self, Self::Undo) { "undo:" } else { "" }
    }

    async fn world(&self, cloud: &Arc<Cloud>) -> Result<World> {
        quick(World::builder().cloud(cloud).proxy_before_kubernetes())
            .start()
            .await
    }

    async fn prepare(&self, world: &World) -> Result<String> {
        let namespace = world.namespace("sweep").await?;
        if !matches!(self, Self::Create) {
            let client = world.kubernetes().await?.admin().await?;
            let deployments: Api<Deployment> = Api::namespaced(client, &namespace);
            let patch = Patch::Apply(deployment("checkout:1", 2));
            deployments
                .patch("checkout", &PatchParams::apply("before"), &patch)
                .await?;
        }
        Ok(namespace)
    }

    fn document(&self, target: &str) -> String {
        let (fails, rollback) = match self {
            Self::Undo => (
                "\n    - name: fails\n      shell: { run: exit 1, retrySafe: true }",
                "rollback",
            ),
            Self::Update => ("", "rollback"),
            Self::Create => ("", "stop"),
        };
        let deployment = deployment("checkout:2", 3);
        format!(
            r#"
apiVersion: deputy.dev/v1
kind: Task
metadata: {{ name: {target} }}
spec:
  aws:
    region: eu-west-1
    assumeRole: [ {{ roleArn: "arn:aws:iam::222222222222:role/deployer", externalId: deputy-demo }} ]
  onFailure: {rollback}
  steps:
    - name: deploy
      kubernetesRollingDeploy:
        cluster: prod
        namespace: {target}
        forceConflicts: true
        manifests:
          - {{ apiVersion: v1, kind: ConfigMap, metadata: {{ name: settings }}, data: {{ colour: green }} }}
          - {deployment}{fails}
"#
        )
    }

    async fn changes(&self, world: &World, target: &str) -> Result<Vec<Call>> {
        let all = world.kubernetes_proxy()?.mutations();
        Ok(all.into_iter().filter(|call| call.target.contains(target)).collect())
    }

    async fn counts(&self, world: &World, target: &str) -> Result<BTreeMap<String, usize>> {
        let mut counts = BTreeMap::new();
        for mutation in world.kubernetes().await?.mutations(target)? {
            if mutation.succeeded() && mutation.user.contains("assumed-role/deployer") {
                *counts
                    .entry(format!("{} {}", mutation.verb, mutation.resource))
                    .or_default() += 1;
            }
        }
        Ok(counts)
    }

    async fn after(&self, world: &World, target: &str) -> Result<Value> {
        let client = world.kubernetes().await?.admin().await?;
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), target);
        let found = deployments.get("checkout").await?;
        let spec = serde_json::to_value(found.spec)?;
        let configs: Api<ConfigMap> = Api::namespaced(client.clone(), target);
        let configs = configs.list(&ListParams::default()).await?;
        let settings: BTreeMap<_, _> = configs
            .into_iter()
            .filter(|config| config.metadata.name.as_deref() != Some("kube-root-ca.crt"))
            .map(|config| (config.metadata.name.unwrap_or_default(), config.data))
            .collect();
        let secrets: Api<Secret> = Api::namespaced(client, target);
        let secrets = secrets.list(&ListParams::default()).await?.items.len();
        let status = found.status.context("a status")?;
        let after = json!({
            "spec": spec, "settings": settings, "secrets": secrets,
            "available": status.available_replicas, "updated": status.updated_replicas,
        });
        Ok(without_name(after, target))
    }

    async fn proxied<'w>(&self, world: &'w World) -> Result<&'w Proxy> {
        world.kubernetes_proxy()
    }
}
