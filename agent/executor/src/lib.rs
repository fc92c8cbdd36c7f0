//! One task's life: slots, attempts, effects and replay, deadlines, cancel, undo, workspace.
//!
//! ```text
//! Executor::run ── Command in, Event out; owns the attempts
//!   life ── start ─ forward ─ undo ─ clean up ─ the last message
//!     forward, undo ── driver ── a step's program ── StepContext ── host ── journal (outbox, replay)
//! ```
//!
//! It knows no gRPC and no session: `Event`s go out and `Command`s come in, and who answers them, a
//! manager or [`local`], makes no difference. The modules are in reading order.

#[cfg(test)]
mod tests;
mod executor;
mod life;
mod undo;
mod forward;
mod arguments;
mod driver;
mod host;
mod source;
mod gate;
mod hidden;
mod attempt;
mod known;
mod vouch;
pub mod local;
mod slot;
mod board;
mod budget;
mod outbox;
mod switch;
mod replay;
mod trust;
mod plan;
pub mod environment;
pub mod workspace;

pub use deputy_steps::failpoint;
pub use environment::{AgentFacts, Environment, ExecutorConfig};
pub use executor::Executor;
pub use workspace::{WorkFolder, WorkFolderError, at_work, is_private, private_folder};
