//! How the story is printed: chapters, facts, and what was expected.

use std::io::Write as _;
use std::time::Instant;

use anyhow::{Result, ensure};

/// The storyteller's clock and voice.
pub(crate) struct Told {
    started: Instant,
    chapter: u32,
}

impl Told {
    /// Begins.
    pub(crate) fn begin() -> Self {
        Self {
            started: Instant::now(),
            chapter: 0,
        }
    }

    /// A new chapter.
    pub(crate) fn chapter(&mut self, title: &str) -> Result<()> {
        self.chapter += 1;
        let mut out = std::io::stdout().lock();
        writeln!(
            out,
            "\n━━ {}. {title}  (+{:.0} s)",
            self.chapter,
            self.started.elapsed().as_secs_f64()
        )?;
        Ok(out.flush()?)
    }

    /// One line.
    pub(crate) fn say(&self, line: &str) -> Result<()> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "   {line}")?;
        Ok(out.flush()?)
    }

    /// Something that must be true.
    pub(crate) fn check(&self, what: &str, holds: Truth) -> Result<()> {
        ensure!(holds == Truth::Holds, "this should have been true, and is not: {what}");
        self.say(&format!("✓ {what}"))
    }

    /// What went wrong, to standard error.
    pub(crate) fn fail(&self, what: &str) {
        let _closed = writeln!(std::io::stderr().lock(), "\nerror: {what}");
    }

    /// Where to look, to standard error.
    pub(crate) fn hint(&self, what: &str) {
        let _closed = writeln!(std::io::stderr().lock(), "hint: {what}");
    }

    /// How long it took.
    pub(crate) fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}

/// Whether something expected is so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Truth {
    /// It is.
    Holds,
    /// It is not.
    Fails,
}

impl From<bool> for Truth {
    fn from(holds: bool) -> Self {
        if holds { Self::Holds } else { Self::Fails }
    }
}
