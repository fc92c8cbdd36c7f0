//! One finding, in a form that can be acted on.

use std::fmt;
use std::path::PathBuf;

/// What is wrong, where, and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Problem {
    /// From the workspace's root.
    pub(crate) file: PathBuf,
    /// Counts from 1; 0 for the whole file.
    pub(crate) line: usize,
    /// What is wrong and why it matters.
    pub(crate) what: String,
    /// What to do.
    pub(crate) mend: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        let place = if self.line == 0 {
            file.to_string()
        } else {
            format!("{file}:{}", self.line)
        };
        write!(f, "{place}: {}\n    mend: {}", self.what, self.mend)
    }
}
