//! The executor against a simulated world and a journal in memory: replay, adoption, crashes at
//! every point, stops, undo, leases.

mod adoption;
mod bench;
mod crash;
mod lifecycle;
mod exact;
mod names;
mod policy;
mod script;
mod sealed;
mod signed;
mod stops;
mod undo;
