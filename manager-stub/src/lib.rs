//! The control plane's side of the protocol: small, but real and durable.
//!
//! Modules in reading order; a module names only modules below it.

pub mod dispatcher;
pub mod scheduler;
pub mod store;
