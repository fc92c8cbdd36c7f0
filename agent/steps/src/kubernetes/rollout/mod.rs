//! Is it there yet, and can it still get there? Pure functions over API objects, one file per kind;
//! `wait` asks the cluster and calls them. They never decide by a clock: a [`assessment::Problem`] says how long it must
//! last before failure counts as certain.

pub(crate) mod daemon_set;
pub(crate) mod stateful_set;
pub(crate) mod deployment;
pub(crate) mod job;
pub(crate) mod definition;
pub(crate) mod pods;
pub(crate) mod event;
mod probe;
pub(crate) mod assessment;
