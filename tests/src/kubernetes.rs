//! A look at a cluster from outside Deputy: a client as its administrator, and its audit log.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::cloud::Cluster;

/// A request that changed something, as the API server's audit log has it. Reads and the control plane's own work are
/// not in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mutation {
    /// `create`, `update`, `patch`, `delete`.
    pub verb: String,
    /// `deployments`, `deployments/scale`.
    pub resource: String,
    /// Empty for cluster-wide objects.
    pub namespace: String,
    /// The object; empty for a create that lets the server choose.
    pub name: String,
    /// The HTTP status.
    pub status: u16,
    /// Who, as the token webhook says: `arn:aws:sts::…:assumed-role/deployer/…`.
    pub user: String,
    /// The program.
    pub user_agent: String,
}

impl Mutation {
    /// The server did it.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

impl Cluster {
    /// A client that may do everything.
    pub async fn admin(&self) -> Result<kube::Client> {
        let kubeconfig = kube::config::Kubeconfig::read_from(self.folder.join("admin.kubeconfig"))?;
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
        Ok(kube::Client::try_from(config)?)
    }

    /// A client of whoever has this token.
    pub async fn client_with(&self, token: &str) -> Result<kube::Client> {
        let kubeconfig = kube::config::Kubeconfig::read_from(self.folder.join("admin.kubeconfig"))?;
        let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
        config.auth_info = kube::config::AuthInfo::default();
        config.auth_info.token = Some(token.to_owned().into());
        Ok(kube::Client::try_from(config)?)
    }

    /// What has been changed in a namespace, in order, dry runs left out.
    pub fn mutations(&self, namespace: &str) -> Result<Vec<Mutation>> {
        let all = read_audit(&self.folder.join("audit.log"))?;
        Ok(all
            .into_iter()
            .filter(|mutation| mutation.namespace == namespace)
            .collect())
    }

    /// The port of its API server.
    pub fn port(&self) -> Result<u16> {
        let (_, port) = self.endpoint.rsplit_once(':').context("an endpoint with a port")?;
        Ok(port.parse()?)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    stage: String,
    verb: String,
    #[serde(rename = "requestURI")]
    request_uri: String,
    user: User,
    #[serde(default)]
    user_agent: String,
    object_ref: Option<Object>,
    response_status: Option<Status>,
}

#[derive(Deserialize)]
struct User {
    /// Absent where nobody could be authenticated.
    #[serde(default)]
    username: String,
    #[serde(default)]
    extra: std::collections::BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Object {
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    code: u16,
}

fn read_audit(path: &Path) -> Result<Vec<Mutation>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    // A last line without its end is still being written.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let mut mutations = Vec::new();
    for line in whole.lines() {
        let event: Event = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let dry = event.request_uri.contains("dryRun=");
        let Some(object) = event.object_ref.filter(|_| event.stage == "ResponseComplete" && !dry) else {
            continue;
        };
        if object.resource.ends_with("reviews") {
            continue; // questions about permissions are created, and change nothing
        }
        let resource = match object.subresource.as_str() {
            "" => object.resource,
            sub => format!("{}/{sub}", object.resource),
        };
        mutations.push(Mutation {
            verb: event.verb,
            resource,
            namespace: object.namespace,
            name: object.name,
            status: event.response_status.map_or(0, |status| status.code),
            user: event
                .user
                .extra
                .get("arn")
                .and_then(|arns| arns.first().cloned())
                .unwrap_or(event.user.username),
            user_agent: event.user_agent,
        });
    }
    Ok(mutations)
}
