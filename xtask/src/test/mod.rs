//! `cargo xtask test [filter]`: everything that can fail, with one line at the end that says how much did.

pub(crate) mod run;

pub(crate) mod binaries;
pub(crate) mod summary;
