//! The table at the end: what was measured, the goal, and whether it is met.

use std::io::Write as _;

use anyhow::Result;

/// One line of the table.
pub(crate) struct Row {
    /// What was measured, with its unit.
    pub(crate) what: String,
    /// The figure.
    pub(crate) measured: String,
    /// The goal; empty for baselines.
    pub(crate) goal: String,
    /// Whether it is met; `None` for baselines.
    pub(crate) met: Option<bool>,
}

impl Row {
    /// A figure without a goal: what something costs on this machine.
    pub(crate) fn baseline(what: impl Into<String>, measured: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            measured: measured.into(),
            goal: String::new(),
            met: None,
        }
    }

    /// A figure with a goal.
    pub(crate) fn goal(
        what: impl Into<String>,
        measured: impl Into<String>,
        goal: impl Into<String>,
        met: bool,
    ) -> Self {
        Self {
            what: what.into(),
            measured: measured.into(),
            goal: goal.into(),
            met: Some(met),
        }
    }
}

/// Prints the table to standard output.
pub(crate) fn print(rows: &[Row]) -> Result<()> {
    let width = |field: fn(&Row) -> &str, least: usize| {
        rows.iter()
            .map(|row| field(row).chars().count())
            .max()
            .unwrap_or(0)
            .max(least)
    };
    let (what, measured, goal) = (width(|r| &r.what, 4), width(|r| &r.measured, 8), width(|r| &r.goal, 4));
    let mut out = std::io::stdout().lock();
    writeln!(out, "{:what$}  {:>measured$}  {:goal$}", "what", "measured", "goal")?;
    for row in rows {
        let verdict = match row.met {
            None => "",
            Some(true) => "met",
            Some(false) => "MISSED (see docs/performance.md)",
        };
        writeln!(
            out,
            "{:what$}  {:>measured$}  {:goal$}  {verdict}",
            row.what, row.measured, row.goal
        )?;
    }
    Ok(())
}
