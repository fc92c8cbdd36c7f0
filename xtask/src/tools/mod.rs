//! Every program that tests and the demonstration need beside Rust: found or built once, into a
//! cache that survives `cargo clean`. Used by `cargo xtask tools`, `test` and `demo`.
//!
//! Must never fetch from anywhere but the package registries, by their ordinary clients.

pub(crate) mod ensure;
pub(crate) mod install;
pub(crate) mod manifest;
pub(crate) mod prerequisite;
pub(crate) mod progress;
pub(crate) mod recipe;
