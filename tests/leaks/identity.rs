//! Every identity that an agent can begin with, each once: an agent with these surroundings deploys, and nothing of
//! what it was given is anywhere else.

use std::path::PathBuf;

use anyhow::{Context, Result};
use async_trait::async_trait;
use deputy_tests::agent_process::AgentOptions;
use deputy_tests::instance_metadata::InstanceMetadata;
use deputy_tests::leaks::canary::Canaries;
use deputy_tests::ports;
use deputy_tests::service_account::ServiceAccount;
use deputy_tests::world::World;
use serde_json::json;

use crate::ecs::RollingDeploy;
use crate::scenario::{AWS, Refused, Scenario};

/// The name in the tokens of the manager as an issuer.
const ISSUER: &str = "leaks.deputy.example.com";

/// What an agent's own identity comes from; the task role of ECS is that of all other scenarios.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ambient {
    PodIdentity,
    ServiceAccount,
    InstanceProfile,
    Variables,
    Profile,
    /// The manager's word for the task, and none of the agent's own.
    Oidc,
}

/// What an identity needs to be there.
pub(crate) struct Surroundings {
    pub(crate) agent: AgentOptions,
    pub(crate) scenario: Box<dyn Scenario>,
    _metadata: Option<InstanceMetadata>,
}

impl Ambient {
    pub(crate) const ALL: [Self; 6] = [
        Self::PodIdentity,
        Self::ServiceAccount,
        Self::InstanceProfile,
        Self::Variables,
        Self::Profile,
        Self::Oidc,
    ];

    /// Flags of the manager, and where it then answers as an issuer.
    pub(crate) fn manager(self) -> Result<Vec<String>> {
        if self != Self::Oidc {
            return Ok(Vec::new());
        }
        let listen = ports::free()?;
        Ok(vec![
            format!("--oidc-issuer=https://{ISSUER}"),
            format!("--oidc-listen={listen}"),
        ])
    }

    /// Makes what the agent finds in its surroundings; `manager` are the flags that the manager has.
    pub(crate) async fn surroundings(self, world: &World, manager: &[String]) -> Result<Surroundings> {
        let mut made = Surroundings {
            agent: AgentOptions::default(),
            scenario: Box::new(RollingDeploy),
            _metadata: None,
        };
        let credentials = world.credentials()?;
        made.agent.environment = match self {
            Self::PodIdentity => credentials.pod_identity(&mounted(world)?)?,
            Self::ServiceAccount => {
                let scenery = world.cloud()?.scenery();
                let account = ServiceAccount::new(&mounted(world)?, scenery);
                account.be(&scenery.service_account)?;
                account.environment()
            }
            Self::InstanceProfile => {
                let metadata = InstanceMetadata::start(credentials).await?;
                let environment = metadata.environment();
                made._metadata = Some(metadata);
                environment
            }
            Self::Variables => credentials.exported().await?,
            Self::Profile => {
                made.agent = made.agent.flag("--aws-profile", "leaks");
                profile(&mounted(world)?, credentials.exported().await?)?
            }
            Self::Oidc => {
                made.scenario = Box::new(Vouched {
                    role: trusting_role(world, manager).await?,
                });
                vec![("AWS_CONTAINER_CREDENTIALS_FULL_URI".into(), String::new())]
            }
        };
        Ok(made)
    }
}

/// Where a platform would mount files of the agent: apart from what scripts may write.
fn mounted(world: &World) -> Result<PathBuf> {
    let folder = world.whole_folder().join("mounted");
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// The same session in a profile's file.
fn profile(folder: &std::path::Path, exported: Vec<(String, String)>) -> Result<Vec<(String, String)>> {
    let file = folder.join("aws-config");
    let (keys, mut environment): (Vec<_>, Vec<_>) = exported.into_iter().partition(|(_, value)| !value.is_empty());
    let lines = keys
        .iter()
        .map(|(name, value)| format!("{} = {value}\n", name.to_lowercase()));
    std::fs::write(&file, format!("[profile leaks]\n{}", lines.collect::<String>()))?;
    environment.push(("AWS_CONFIG_FILE".into(), file.display().to_string()));
    Ok(environment)
}

/// A role that trusts this manager's word.
async fn trusting_role(world: &World, manager: &[String]) -> Result<String> {
    let address = manager.iter().find_map(|flag| flag.strip_prefix("--oidc-listen="));
    let (cloud, issuer) = (world.cloud()?, format!("https://{ISSUER}"));
    let provider = json!({ "wish": "oidc_provider", "issuer": issuer, "address": address.context("an address")?,
        "audiences": ["sts.amazonaws.com"] });
    cloud.wish(provider).await?;
    let role = json!({ "wish": "web_identity_role", "name": world.unique("leaks"), "issuer": issuer,
        "conditions": { "StringEquals": { format!("{ISSUER}:aud"): "sts.amazonaws.com" } },
        "actions": ["ecs:*", "iam:PassRole", "sts:AssumeRole"] });
    let made = cloud.wish(role).await?;
    Ok(made["arn"].as_str().context("the role's ARN")?.to_owned())
}

/// The same deployment with a role that trusts the manager.
struct Vouched {
    role: String,
}

#[async_trait]
impl Scenario for Vouched {
    fn kind(&self) -> &'static str {
        RollingDeploy.kind()
    }

    async fn prepare(&self, world: &World, canaries: &Canaries) -> Result<String> {
        RollingDeploy.prepare(world, canaries).await
    }

    fn spec(&self, target: &str) -> String {
        let aws = format!(
            "  aws:\n    region: eu-west-1\n    oidc: {{ roleArn: '{}' }}\n",
            self.role
        );
        RollingDeploy.spec(target).replace(AWS, &aws)
    }

    /// It is refused as the other is.
    async fn refused(&self, _: &World, _: &Canaries) -> Result<Vec<Refused>> {
        Ok(Vec::new())
    }
}
