//! `cargo xtask sweep <step kind>`: kills the agent at every point of every effect of a step, by the program
//! `deputy-sweep` of `tests/`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use crate::program::{self, Profile};
use crate::test::summary::Summary;
use crate::tools::ensure;
use crate::tools::recipe::Half;

/// The kinds of steps that the short form goes through.
const SHORT: [&str; 2] = ["ecsRollingDeploy", "kubernetesRollingDeploy"];

/// What the sweep is told.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The step kind, for example ecsRollingDeploy
    kind: String,
    /// Only one point of each sort
    #[arg(long)]
    short: bool,
}

/// Runs it.
pub(crate) fn run(root: &Path, options: &Options) -> Result<ExitCode> {
    ensure::ensure(root, &[Half::Aws, Half::Kubernetes])?;
    let sweep = program::build(root, "deputy-sweep", Profile::Dev)?;
    let mut arguments = vec![options.kind.as_str()];
    if options.short {
        arguments.push("--short");
    }
    program::run(&sweep, &arguments)
}

/// The short form that `cargo xtask test` runs once it has built everything: each survived point is a passed test.
pub(crate) fn short(root: &Path) -> Result<Summary> {
    let sweep = program::built(root, "deputy-sweep", Profile::Dev)?;
    let mut summary = Summary::default();
    for kind in SHORT {
        let output = program::output(&sweep, &[kind, "--short"])?;
        let points = points(&output);
        if points.is_none_or(|points| points.failed > 0) {
            println!("{output}");
        }
        let points = points.unwrap_or(Summary::one(false));
        println!("  {} {kind:<34} {points}", if points.failed == 0 { "✓" } else { "✗" });
        summary.add(points);
    }
    Ok(summary)
}

/// The last `n/m points survived`.
fn points(output: &str) -> Option<Summary> {
    let line = output
        .lines()
        .rev()
        .find_map(|line| line.trim().strip_suffix(" points survived"))?;
    let (survived, all) = line.rsplit(' ').next()?.split_once('/')?;
    let (survived, all) = (survived.parse::<u64>().ok()?, all.parse::<u64>().ok()?);
    Some(Summary {
        passed: survived,
        failed: all.checked_sub(survived)?,
        skipped: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_a_sweep_is_understood() {
        let summary = points("a table\n11/12 points survived\n").expect("a line");
        assert_eq!(
            summary,
            Summary {
                passed: 11,
                failed: 1,
                skipped: 0
            }
        );
        assert_eq!(points("it broke"), None);
    }
}
