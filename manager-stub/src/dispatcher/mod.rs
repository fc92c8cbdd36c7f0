//! The one actor in front of the store. It takes what sessions, calls and timers bring while a
//! commit is in flight, adds the scheduler's assignments, commits everything in one batch, and only
//! then answers. So a submission and its assignment share a commit, as do a completion and the next
//! assignment, and the number of syncs does not grow with the load.

mod actor;
mod core;
mod frames;
mod sessions;
mod timers;
mod settle;
mod explain;
mod batch;
mod board;
mod outbound;
pub mod inbound;
pub mod hub;
pub mod timing;

pub use actor::{Dispatcher, DispatcherHandle};
pub use board::Board;
#[cfg(fuzzing)]
pub(crate) use frames::read_op;
pub use outbound::Outbound;

#[cfg(test)]
mod lease_tests;
