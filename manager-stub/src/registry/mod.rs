//! Whom the manager knows: what was granted to people and pipelines, the join rules and tokens, the agents and their
//! certificates. In memory for every question, in the store before every answer.

mod granting;
mod holding;
mod joining;
mod members;
mod connections;
mod book;
mod agents;
mod join_tokens;
mod grants;
mod table;
mod secret;

pub use agents::{Admission, AgentRecord, CertificateRecord, Standing, Use};
pub use book::{BookError, Registry};
pub use granting::NewGrant;
pub use grants::{Grant, Scope};
pub use join_tokens::{JoinAttempt, JoinToken};
pub use joining::Joining;
pub use secret::Hashed;

#[cfg(test)]
mod revoke_tests;
