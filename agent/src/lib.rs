//! The product: the binary that runs inside the customer's network.
//!
//! ```text
//! cli ─ config ─ run ─ supervisor ─┬─ executor    (main runtime)
//!                                  ├─ session     (a thread of its own)
//!                                  ├─ log upload, blobs, tools, health
//!                                  └─ drain       (SIGTERM: the order of leaving)
//!     ├ task (local) ─ executor and a journal in memory or in a file
//!     └ doctor ─ machine, tools, identity, roles, clusters
//! ```
//!
//! Only the supervisor and the local run spawn, and both await what they spawned.
//! The modules are in reading order; a module names only modules below it.

mod cli;
mod run;
mod local;
mod doctor;
mod eks_token;
mod policy_command;
mod pool_key_command;
mod supervisor;
mod drain;
mod capabilities;
mod tools;
mod health;
mod join;
mod own_identity;
mod identity_file;
mod agent_id;
mod telemetry;
mod work_root;
mod children;
mod pool_ring;
mod form;
mod folder;
mod exit;
mod config;

pub use cli::main_impl;
