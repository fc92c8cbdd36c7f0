//! Follows a task until it ends: its events, its log, and what a person sees of both. Called by
//! the commands that wait.

mod task;
mod lines;
mod feed;
mod resume;

pub(crate) use feed::{Events, Log, Reading};
pub(crate) use lines::{LogLines, piece_json};
pub(crate) use resume::{Update, resuming};
pub(crate) use task::{Show, follow};
