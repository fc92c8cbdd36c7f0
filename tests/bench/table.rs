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
    pub(crate) goal_is: Option<Goal>,
}

/// Whether a goal is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Goal {
    /// It is.
    Met,
    /// It is not.
    Missed,
}

impl Goal {
    /// From a comparison.
    pub(crate) fn met_if(holds: impl FnOnce() -> bool) -> Self {
        if holds() { Self::Met } else { Self::Missed }
    }
}

impl Row {
    /// A figure without a goal: what something costs on this machine.
    pub(crate) fn baseline(what: impl Into<String>, measured: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            measured: measured.into(),
            goal: String::new(),
            goal_is: None,
        }
    }

    /// A figure with a goal.
    pub(crate) fn goal(
        what: impl Into<String>,
        measured: impl Into<String>,
        goal: impl Into<String>,
        goal_is: Goal,
    ) -> Self {
        Self {
            what: what.into(),
            measured: measured.into(),
            goal: goal.into(),
            goal_is: Some(goal_is),
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
        let verdict = match row.goal_is {
            None => "",
            Some(Goal::Met) => "met",
            Some(Goal::Missed) => "MISSED (see docs/performance.md)",
        };
        writeln!(
            out,
            "{:what$}  {:>measured$}  {:goal$}  {verdict}",
            row.what, row.measured, row.goal
        )?;
    }
    Ok(())
}
