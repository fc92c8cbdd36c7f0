//! What a schema cannot say: names that must exist, texts that must mean something. Every check
//! works on the tree, tolerates what the shape comparison has already reported, and adds findings.
//! Called by [`super::read`].

mod frame;
mod backoff;
mod sources;
mod steps;
mod secrets;
mod static_keys;
mod expressions;
mod whole;

pub(crate) use whole::{Check, scope_before_queueing};
