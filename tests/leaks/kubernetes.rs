//! `kubernetesApply` and `kubernetesRollingDeploy` over a namespace whose Secret, ConfigMap and Deployment have
//! canaries in them, which the task replaces, and where a release of Helm has some in its values.

use std::io::Read as _;

use anyhow::Result;
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use deputy_tests::leaks::canary::Canaries;
use deputy_tests::refused::refused;
use deputy_tests::world::World;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::scenario::{AWS, Refused, Scenario};

/// A namespaced step kind.
pub(crate) enum Kubernetes {
    Apply,
    RollingDeploy,
}

fn deployment(image: &str, password: &str) -> Value {
    let environment = json!([{ "name": "PASSWORD", "value": password }]);
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "checkout" },
        "spec": {
            "replicas": 2,
            "selector": { "matchLabels": { "app": "checkout" } },
            "template": {
                "metadata": { "labels": { "app": "checkout" } },
                "spec": { "containers": [ { "name": "app", "image": image, "env": environment } ] },
            },
        },
    })
}

/// The Secret in which Helm keeps a release (`pkg/storage/driver/util.go`): JSON, gzip, base64, and once more base64
/// as every Secret is.
fn helm_release(namespace: &str, canaries: &Canaries) -> Result<Value> {
    let password = canaries.make("a value of a live Helm release");
    let manifest = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{ name: orders }}\nstringData:\n  token: {}\n",
        Value::from(canaries.make("the manifest of a live Helm release"))
    );
    let release = json!({
        "name": "orders", "namespace": namespace, "version": 1, "info": { "status": "deployed" },
        "chart": { "metadata": { "name": "orders", "version": "1.0.0" }, "values": {}, "templates": [] },
        "config": { "database": { "password": password } }, "manifest": manifest,
    });
    let mut packed = Vec::new();
    let json = release.to_string();
    flate2::read::GzEncoder::new(json.as_bytes(), flate2::Compression::best()).read_to_end(&mut packed)?;
    Ok(json!({
        "apiVersion": "v1", "kind": "Secret", "type": "helm.sh/release.v1",
        "metadata": {
            "name": "sh.helm.release.v1.orders.v1",
            "labels": { "owner": "helm", "name": "orders", "status": "deployed", "version": "1" },
        },
        "data": { "release": STANDARD.encode(STANDARD.encode(packed)) },
    }))
}

#[async_trait]
impl Scenario for Kubernetes {
    fn kind(&self) -> &'static str {
        match self {
            Self::Apply => "kubernetesApply",
            Self::RollingDeploy => "kubernetesRollingDeploy",
        }
    }

    async fn prepare(&self, world: &World, canaries: &Canaries) -> Result<String> {
        let namespace = world.namespace(&format!("leaks-{:04x}", rand::random::<u16>())).await?;
        let client = world.kubernetes().await?.admin().await?;
        let before = PatchParams::apply("before");
        let config = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "settings" },
            "data": { "colour": canaries.make("a live ConfigMap"), "kept": canaries.make("a live ConfigMap, not touched") },
        });
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "access" },
            "stringData": { "password": canaries.make("a live Secret"), "kept": canaries.make("a live Secret, not touched") },
        });
        let release = helm_release(&namespace, canaries)?;
        let live = deployment("checkout:1", &canaries.make("the environment of a live Deployment"));
        Api::<ConfigMap>::namespaced(client.clone(), &namespace)
            .patch("settings", &before, &Patch::Apply(config))
            .await?;
        Api::<Secret>::namespaced(client.clone(), &namespace)
            .patch("access", &before, &Patch::Apply(secret))
            .await?;
        Api::<Secret>::namespaced(client.clone(), &namespace)
            .patch("sh.helm.release.v1.orders.v1", &before, &Patch::Apply(release))
            .await?;
        Api::<Deployment>::namespaced(client, &namespace)
            .patch("checkout", &before, &Patch::Apply(live))
            .await?;
        Ok(namespace)
    }

    fn spec(&self, target: &str) -> String {
        let config = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "settings" }, "data": { "colour": "green" } });
        let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "access" },
            "stringData": { "password": "changed-by-the-task" } });
        self.applying(target, &[config, secret, deployment("checkout:2", "changed")])
    }

    async fn refused(&self, world: &World, canaries: &Canaries) -> Result<Vec<Refused>> {
        let target = self.prepare(world, canaries).await?;
        let client = world.kubernetes().await?.admin().await?;
        let all = refused(&client, &target, |name| canaries.make(name)).await?;
        let over = |manifest: Value| self.applying(&target, &[manifest, deployment("checkout:2", "changed")]);
        Ok(all
            .into_iter()
            .map(|case| Refused {
                spec: over(case.manifest),
                words: case.words,
            })
            .collect())
    }
}

impl Kubernetes {
    fn applying(&self, target: &str, manifests: &[Value]) -> String {
        format!(
            "{AWS}  steps:\n    - name: deploy\n      {}:\n        cluster: prod\n        namespace: {target}\n        forceConflicts: true\n        manifests: {}\n",
            self.kind(),
            json!(manifests)
        )
    }
}
