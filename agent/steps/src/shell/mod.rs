//! `shell`: runs a script. A *held* effect: an opaque child whose outcome nobody can look up, so it
//! runs on through a lost connection and is not run again elsewhere unless it is `retrySafe`.
//!
//! The script gets an environment of its own (nothing of the agent's identity is in it), a working
//! directory, and a file for outputs. Called through the registry; must never hand a child a key,
//! and never print a secret output.

mod program;
mod preparation;
mod verdict;
mod environment;
mod secret_watch;
mod outputs;

pub use program::{INFO, ShellProgram};
