//! What every AWS step shares: clients that refuse a change without a permit, and errors in words.
//! Called by the step kinds; knows no step.

pub(crate) mod explain;
pub(crate) mod guard;
pub(crate) mod capture;
