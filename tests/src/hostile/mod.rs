//! A manager that lies. It speaks `deputy.v1` to a real agent, frame by frame as the test says, and keeps nothing back
//! that the wire could carry: it has the whole authority of a manager and none of its manners.

pub mod agent;
pub mod server;
pub mod session;

mod raw;
