//! The world of the demonstration: agents that join by their AWS role, and no secret configured anywhere. `tests/demo`
//! tells the story in it, and the README shows what doctor says there.

use std::time::Duration;

use anyhow::Result;

use crate::agent_process::{AgentOptions, Policy};
use crate::cloud::{Cloud, HOME};
use crate::command_output::CommandOutput;
use crate::manager_process::ManagerOptions;
use crate::programs::workspace;
use crate::world::World;

/// What the agents let tasks do, below the workspace.
pub const POLICY: &str = "tests/demo/policy.cedar";

/// Lets the agents' role in.
pub const JOIN_RULE: [&str; 10] = [
    "fleet",
    "join-rule",
    "create",
    "home",
    "--pool",
    "eu",
    "--aws-account",
    HOME,
    "--aws-role",
    "deputy-agent",
];

/// A manager that asks the emulated STS who agents are, and soon notices what has died.
pub fn manager(cloud: &Cloud, options: &mut ManagerOptions) {
    options.heartbeat = Duration::from_millis(500);
    options.lease_ttl = Duration::from_secs(3);
    options.guard = Duration::from_millis(500);
    options.flags = vec![format!("--sts-endpoint={}", cloud.scenery().endpoint)];
}

/// An agent with this id.
#[must_use]
pub fn agent(id: &str) -> AgentOptions {
    let options = AgentOptions {
        join: Some("aws"),
        policy: Policy::File(workspace().join(POLICY)),
        ..AgentOptions::named(id)
    };
    options.label("pool=eu")
}

/// What the first agent's doctor says of it, of the role that tasks deploy with and of the cluster.
pub async fn doctor(world: &World) -> Result<CommandOutput> {
    let scenery = world.cloud()?.scenery();
    let role = format!("{}#{}", scenery.deployer_role, scenery.external_id);
    world
        .doctor_of("agent-1", &["--role", &role, "--cluster", "prod"])
        .await
}
