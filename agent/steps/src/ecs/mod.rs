//! `ecsRollingDeploy`: a task definition registered from the user's document as it is, one
//! `UpdateService` (or `CreateService`), and that deployment followed to its end.
//!
//! ```text
//! fact    before/<service>                  what runs now, and every field the update will touch
//! effect  registerTaskDefinition/<family>   tagged deputy:effect, so that it can be found again
//! effect  updateService/<service>           or createService/<service>
//! fact    verdict/<service>                 how the deployment ended
//!
//! undo:
//! fact    current/<service>                 what runs when the undo begins
//! effect  updateService/<service>           the recorded task definition and fields; or deleteService
//! fact    verdict/<service>
//! effect  deregisterTaskDefinition/<family>
//! ```

mod program;
mod undo;
mod rollout;
mod verdict;
mod stopped;
mod change;
mod revision;
mod service;
mod names;
mod document;
mod reading;
mod client;

pub use program::{EcsRollingDeployProgram, INFO};
