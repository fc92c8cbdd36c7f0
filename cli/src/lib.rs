//! The `deputy` command: submit tasks, follow them, explain them, look at the fleet.
//!
//! It checks documents with the same reader as the manager, talks to the manager over gRPC, and
//! never to a cluster or an agent; to AWS only for a signature by KMS. Modules are in reading order; a
//! module names only modules below it.

mod run;
mod command;
mod follow;
mod client;
mod signing;
mod kms;
mod bundle;
mod values;
mod usage;
mod args;
mod screen;
mod error;
mod render;

pub use run::main_impl;
