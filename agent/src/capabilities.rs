//! What this agent offers: known at once for Hello, completed when every tool has said its version,
//! and kept current with what people should see.

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use deputy_credentials::Identities;
use deputy_credentials::ambient::AmbientKind;
use deputy_logs::Spool;
use deputy_policy::source::PolicySource;
use deputy_seal::KeyRing;
use deputy_session::membership::Membership;
use deputy_steps::registry;
use deputy_task::capability::Capabilities;
use tokio::sync::watch;

use crate::children::Children;
use crate::config::checked::Config;
use crate::tools;

/// How often the warnings are looked at again.
const REFRESH: Duration = Duration::from_secs(3);

/// Everything that is known without running anything.
pub(crate) fn at_start(
    config: &Config,
    path: &OsStr,
    identities: &Identities,
    (children, pool_keys): (&Children, Option<&KeyRing>),
) -> Capabilities {
    let ambient = identities.ambient();
    let unsealed = config.signers.without_pool_key().filter(|_| pool_keys.is_none());
    Capabilities {
        slots: config.slots,
        labels: config.labels.clone(),
        steps: registry::support(),
        tools: tools::find(path),
        features: Vec::new(),
        ambient: if ambient.kind == AmbientKind::None {
            String::new()
        } else {
            ambient.description.clone()
        },
        platform: platform(),
        warnings: Some(ambient.warning.clone())
            .filter(|warning| !warning.is_empty())
            .into_iter()
            .chain(children.warnings.iter().cloned())
            .chain(unsealed.map(str::to_owned))
            .chain(config.policy.warning())
            .collect(),
        holds_back: holds_back(&config.policy),
        pool_keys: pool_keys
            .into_iter()
            .flat_map(|ring| ring.ids().map(ToString::to_string))
            .collect(),
    }
}

/// Without a policy that can be asked, no task is taken.
fn holds_back(policy: &PolicySource) -> String {
    policy.current().err().map(|why| why.to_string()).unwrap_or_default()
}

/// In the words of container platforms.
fn platform() -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("{}/{arch}", std::env::consts::OS)
}

/// Asks the tools for their versions, then keeps the warnings current for as long as the agent lives.
pub(crate) async fn keep_current(
    capabilities: watch::Sender<Capabilities>,
    path: OsString,
    (spool, policy, membership): (Spool, PolicySource, Membership),
) {
    let found = capabilities.borrow().tools.clone();
    let tools = tools::ask_versions(found, &path).await;
    for tool in tools.iter().filter(|tool| !tool.problem.is_empty()) {
        tracing::warn!(
            tool = tool.name,
            path = tool.path,
            problem = tool.problem,
            "a tool cannot be used"
        );
    }
    capabilities.send_if_modified(|now| std::mem::replace(&mut now.tools, tools.clone()) != tools);
    let policy_at_start = policy.warning();
    let mut from_start = capabilities.borrow().warnings.clone();
    from_start.retain(|warning| Some(warning) != policy_at_start.as_ref());
    loop {
        tokio::time::sleep(REFRESH).await;
        let (of_policy, held) = (policy.warning(), holds_back(&policy));
        let warnings: Vec<_> = from_start
            .iter()
            .cloned()
            .chain(of_policy)
            .chain(spool.warning())
            .chain(membership.warning())
            .collect();
        capabilities.send_if_modified(|now| {
            let mut changed = std::mem::replace(&mut now.warnings, warnings.clone()) != warnings;
            if now.holds_back != held {
                tracing::warn!(reason = held, "whether tasks are taken has changed");
                now.holds_back.clone_from(&held);
                changed = true;
            }
            changed
        });
    }
}
