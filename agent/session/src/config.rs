//! What a session needs to know before it dials. Checked by the agent's configuration; no defaults
//! are hidden here.

use std::time::Duration;

use deputy_dial::url::ManagerUrl;
use deputy_task::id::{AgentId, InstanceId};

use crate::backoff::Backoff;
use crate::membership::Membership;

/// Configuration of [`crate::session::Session`] and [`crate::bulk`].
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// Whom to dial.
    pub manager: ManagerUrl,
    /// What the manager takes us for.
    pub membership: Membership,
    /// Who we are, over restarts.
    pub agent_id: AgentId,
    /// This start of the process. Leases belong to it.
    pub instance_id: InstanceId,
    /// The agent's release version.
    pub version: String,
    /// Delays between connection attempts.
    pub backoff: Backoff,
    /// For a TCP connection, and again for the manager's Welcome.
    pub connect_timeout: Duration,
}
