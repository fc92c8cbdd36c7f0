//! The table, and the line that says how many points were survived.

use std::io::Write as _;
use std::time::Duration;

use anyhow::Result;

use crate::point::Point;

/// What became of one point.
pub(crate) struct Verdict {
    pub(crate) scenario: &'static str,
    pub(crate) effect: String,
    pub(crate) point: Point,
    pub(crate) took: Duration,
    /// Why it was not survived.
    pub(crate) failure: Option<String>,
}

impl Verdict {
    /// One line, for progress.
    pub(crate) fn line(&self) -> String {
        let mark = if self.failure.is_none() { "✓" } else { "✗" };
        format!(
            "{mark} {} · {} · {} ({:.1} s)",
            self.scenario,
            self.effect,
            self.point.name(),
            self.took.as_secs_f64()
        )
    }
}

/// One line to standard error while it goes on; a closed one is no reason to stop.
pub(crate) fn progress(line: &str) {
    let _closed = writeln!(std::io::stderr().lock(), "{line}");
}

/// Prints everything; how many points were survived.
pub(crate) fn print(kind: &str, verdicts: &[Verdict]) -> Result<usize> {
    let mut out = std::io::stdout().lock();
    let effect = verdicts
        .iter()
        .map(|verdict| verdict.effect.chars().count())
        .max()
        .unwrap_or(0);
    let scenario = verdicts.iter().map(|verdict| verdict.scenario.len()).max().unwrap_or(0);
    writeln!(
        out,
        "{kind}: the agent dies or freezes, another one finishes; same world, every change exactly once"
    )?;
    for verdict in verdicts {
        let what = if verdict.failure.is_none() {
            "survived"
        } else {
            "NOT SURVIVED"
        };
        writeln!(
            out,
            "  {:scenario$}  {:effect$}  {:38} {what} in {:.1} s",
            verdict.scenario,
            verdict.effect,
            verdict.point.name(),
            verdict.took.as_secs_f64()
        )?;
    }
    for verdict in verdicts {
        if let Some(failure) = &verdict.failure {
            writeln!(out, "\n{}:\n{failure}", verdict.line())?;
        }
    }
    let survived = verdicts.iter().filter(|verdict| verdict.failure.is_none()).count();
    writeln!(out, "{survived}/{} points survived", verdicts.len())?;
    Ok(survived)
}
