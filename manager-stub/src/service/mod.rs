//! The gRPC services: wire messages in, questions to the dispatcher and the store, wire messages out.

mod agent;
mod exchange;
mod session;
mod enrollment;
mod push_logs;
mod mint;
mod tasks;
mod submission;
mod explanation;
mod watch;
mod tail;
mod fleet;
mod blob;
mod view;
mod last_word;
mod trust;
mod whose;
mod context;
mod uploads;

pub use agent::AgentService;
pub use context::{Context, Proofs, Trust};
pub use enrollment::EnrollmentService;
pub use fleet::FleetService;
pub use tasks::TasksService;
pub use uploads::{UploadLimits, Uploads};
