//! Redactor, spool, offsets: output is redacted before it touches disk or network.

use deputy_task::attempt::AttemptRef;

/// Writes one step's part of one attempt's log. Cheap to clone. (Interface first; the rest follows.)
#[derive(Clone)]
pub struct LogWriter {
    _attempt: AttemptRef,
}

impl LogWriter {
    /// One line of the agent's own narration, redacted like everything else.
    pub fn narrate(&self, _line: &str) {}
}
