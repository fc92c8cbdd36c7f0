//! Configuration: flags, then environment, then a TOML file, then defaults.
//!
//! [`key`] lists every key once; flags, environment names and the documentation follow from it.
//! [`raw`] collects texts with where they were found and does no checking; [`checked`] turns them
//! into types and reports every mistake at once.

pub(crate) mod checked;
pub(crate) mod raw;
pub(crate) mod size;
pub(crate) mod key;
