//! `deputy-agent doctor`: everything that must be right for this agent to work, looked at from where it runs, and
//! said with what to do about it. Changes nothing; takes nothing from the manager.

mod examination;
mod machine;
mod standing;
mod policy;
mod pool;
mod tools;
mod identity;
mod cluster;
mod control_group;
mod report;

pub(crate) use examination::{Questions, examine};
