//! What an executor works with: its limits, and the parts of the agent that it is given.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use deputy_bundle::BundleLimits;
use deputy_credentials::Identities;
use deputy_logs::Logs;
use deputy_policy::signers::TrustedSigners;
use deputy_policy::source::PolicySource;
use deputy_process::Confinement;
use deputy_seal::KeyRing;
use deputy_task::repair::Steering;

use crate::workspace::WorkFolder;

/// The limits of an executor. No hidden defaults: the agent's configuration says each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutorConfig {
    /// Tasks at the same time.
    pub slots: u32,
    /// How long a program may take to stop after it was told to, before it is dropped. Longer than
    /// a bounded effect and than the grace of a child.
    pub stop_grace: Duration,
    /// How long an undo may take. It has its own time because the task's may be what ran out.
    pub undo_budget: Duration,
    /// How long before the end of the lease a retry-safe child is killed.
    pub lease_margin: Duration,
    /// What a bundle may unpack to.
    pub bundle: BundleLimits,
}

impl ExecutorConfig {
    /// Documented defaults with this many slots.
    #[must_use]
    pub const fn with_slots(slots: u32) -> Self {
        Self {
            slots,
            stop_grace: Duration::from_secs(90),
            undo_budget: Duration::from_secs(15 * 60),
            lease_margin: Duration::from_secs(15),
            bundle: BundleLimits {
                unpacked_bytes: 1 << 30,
                ratio: 200,
                entries: 50_000,
            },
        }
    }
}

/// What expressions can say about the agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AgentFacts {
    /// Its id.
    pub id: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its release version.
    pub version: String,
}

/// The parts of the agent that attempts use.
pub struct Environment {
    /// Where workspaces are made.
    pub work: WorkFolder,
    /// Where logs go.
    pub logs: Logs,
    /// Where AWS identities come from.
    pub identities: Identities,
    /// What tasks may do here.
    pub policy: PolicySource,
    /// Whose signatures count here.
    pub signers: TrustedSigners,
    /// The keys of the pool; `None`: journals are neither authenticated nor sealed, and plan digests not keyed.
    pub pool_keys: Option<Arc<KeyRing>>,
    /// Who we are.
    pub agent: AgentFacts,
    /// Around the children of every task; `None` where they are not confined: tasks of different tenants then wait
    /// for each other.
    pub confinement: Option<Confinement>,
    /// Who can be asked to go on with a task that has ended.
    pub steering: Steering,
    /// The folder whose files tasks may be given as secrets.
    pub secrets_folder: Option<PathBuf>,
}
