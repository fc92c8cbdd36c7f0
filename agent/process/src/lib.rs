//! A child process: its own group, explicit environment, output, signals, bounded waits, reaping.
//!
//! Called by the step kinds that run programs and by everyone who asks a tool for its version.
//! Knows nothing of tasks, logs or AWS. What must never happen: a wait without a bound, a child
//! that outlives its step or its agent, an environment that was inherited.
//!
//! ```text
//! running ─ exit ──────────────────┐
//!    │ stop                        ▼
//! terminating ─ grace over ─ killing ─ drained (at most 2 s) ─ group and descendants killed ─ Ended
//! ```

pub mod capture;
pub mod command;
pub mod child;
mod output;
mod group;
mod guardian;
pub mod keeper;
mod descendants;
pub mod confinement;
mod places;
mod privileges;
pub mod own;
pub mod orphans;
mod stat;
mod memory;
pub mod sink;
pub mod exit;

pub use capture::{Captured, RunError, run_captured};
pub use child::{Child, Stop};
pub use command::{ChildCommand, SpawnError};
pub use confinement::{Ahead, Confinement, Domain, Support};
pub use exit::{Ended, Exit};
pub use keeper::Keeper;
pub use sink::{OutputSink, StreamKind};
