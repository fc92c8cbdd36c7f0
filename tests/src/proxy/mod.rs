//! The recording proxy in front of an emulator or an API server: what was asked, by whom, with which
//! result; and requests held back, replies withheld, answers of the test's own.
//!
//! Counting is done here and not by the emulator's CloudTrail, which names only some operations and
//! keeps no failures.

pub mod relay;
pub mod rule;

mod lag;

pub mod recording;

pub mod classify;
