//! Redactor, spool, offsets: output is redacted before it touches disk or network.
//!
//! ```text
//! child, narration ─ LogWriter ─ Redactor ─ records ─ Spool ─ uploader (acknowledged offsets free it)
//!                                              └───── tee, for a run without a manager
//! ```
//!
//! Steps write through [`attempt_log::LogWriter`], the executor opens and finishes
//! [`attempt_log::AttemptLog`]s, the session reads from the [`spool::Spool`]. Nothing here knows
//! gRPC or what a step does. There is no way around the redactor: only it hands bytes on.

pub mod attempt_log;
pub mod spool;
mod queue;
mod segment;
pub mod limits;
pub mod piece;
mod instance_folder;
pub mod redactor;
mod matcher;
mod filter;
mod automaton;
mod secret_forms;
mod parts;
mod form;
mod json_texts;
mod escapes;

pub use attempt_log::{AttemptLog, LogWriter, Logs};
pub use limits::SpoolConfig;
pub use piece::{LogPiece, LogStatus, LogTotal, ReadError};
pub use redactor::{Redactor, SecretRefused};
pub use spool::{Spool, SpoolError};
