//! The words everyone uses: task document, ids, states, outcome, failure, and the messages
//! between the session and the executor.
//!
//! Pure: no IO, no clock, no wire types, no async. The modules are in reading order; a module
//! names only modules below it.

pub mod message;
pub mod document;
pub mod expression;
pub mod capability;

pub mod record;
pub mod state;
pub mod repair;
pub mod outcome;
pub mod progress;
pub mod log_record;
pub mod touch;
pub mod signed;
pub mod attempt;
pub mod boot_time;
pub mod id;
pub mod json;
