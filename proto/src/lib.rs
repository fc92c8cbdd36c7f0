//! The contract between agents, managers and users: `deputy.v1`.
//!
//! The `.proto` files are the specification; the code in [`v1`] is generated from them by
//! `cargo xtask gen` and committed. Nothing here knows anything else of ours.

pub mod v1;
pub mod version;
