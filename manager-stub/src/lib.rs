//! The control plane's side of the protocol: small, but real and durable.
//!
//! One task through the files: [`service`] checks a submission, the `dispatcher` puts it into a
//! batch together with the `scheduler`'s assignment, the [`store`] commits both, the assignment
//! goes out on a session; the agent's writes come back the same way.
//!
//! Modules in reading order; a module names only modules below it.

#[cfg(fuzzing)]
pub mod fuzzing;
mod program;
mod config;
mod oidc_flags;
mod sts_flags;
pub mod server;
pub mod service;
pub mod auth;
pub mod registry;
pub mod join;
pub mod oidc;
pub mod trust;
pub mod log_store;
pub mod blob_store;
pub mod dispatcher;
pub mod scheduler;
pub mod store;
pub mod data_folder;
mod jose;
pub mod fetch;
pub mod witness;
pub mod vital;

pub use program::{main_impl, main_with};
