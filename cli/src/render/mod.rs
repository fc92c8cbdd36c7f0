//! Messages to lines of text: pure functions, no output, no clock. Called by the commands and by
//! [`crate::follow`]; tested with snapshots.

mod task;
mod change;
mod outcome;
mod listing;
mod journal;
mod explanation;
mod fleet;
pub(crate) mod json;
mod words;
mod table;
mod colour;

pub(crate) use change::changes;
pub(crate) use colour::Colour;
pub(crate) use explanation::explanation;
pub(crate) use fleet::{agent_detail, agents};
pub(crate) use journal::journal;
pub(crate) use listing::listing;
pub(crate) use outcome::outcome;
pub(crate) use table::access_table;
pub(crate) use task::task;
pub(crate) use words::{ended, moment, safe, short_id, since, state_from_name};

#[cfg(test)]
mod tests;
