//! The times of the protocol, all configurable.

use std::time::Duration;

/// How long things may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// How often agents send heartbeats.
    pub heartbeat: Duration,
    /// How long a lease lasts.
    pub lease_ttl: Duration,
    /// Kept between the end of what could be in flight and the next assignment.
    pub guard: Duration,
    /// How long an agent may take to start what it was offered.
    pub start_deadline: Duration,
    /// How long a killed child may take to be gone.
    pub kill_grace: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(10),
            lease_ttl: Duration::from_secs(60),
            guard: Duration::from_secs(5),
            start_deadline: Duration::from_secs(10),
            kill_grace: Duration::from_secs(10),
        }
    }
}
