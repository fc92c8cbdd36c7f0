//! What the manager keeps: tasks, journals, events, leases, and where log bytes and blobs are.
//!
//! [`Store`] has the shape of a batch: a list of operations goes in, they become durable together,
//! one answer each comes out. The rules of what an operation does ([`rules`], [`fence`]) are pure
//! and shared; a store only loads, saves and commits. `conformance` is the test suite that every
//! store has to pass.
//!
//! Every key begins with the project. Rows that belong to the whole fleet (agent instances) have
//! the empty project.

#[cfg(test)]
pub(crate) mod conformance;
pub mod sqlite;

pub mod contract;
mod fence;
pub mod rules;
pub mod op;
pub mod journal;
pub mod event;
pub mod oidc_key;
pub mod task;
pub mod clock;
