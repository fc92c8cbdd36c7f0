//! `cargo xtask fuzz`: the targets of `tests/fuzz`, built once with coverage and run within bounds. What they find
//! interesting is kept in the cache, so that every run begins where the last one ended; the seeds are committed.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::program;
use crate::test::summary::Summary;
use crate::tools::progress::elapsed;
use crate::tools::recipe::Half;
use crate::tools::{ensure, manifest};

/// The targets, in the order in which they run, each with folders of the project that are seeds too.
const TARGETS: [(&str, &[&str]); 6] = [
    ("task_document", &["examples", "tests/bad"]),
    ("expression", &[]),
    ("redactor", &[]),
    ("bundle", &[]),
    ("agent_wire", &[]),
    ("log_records", &[]),
];

/// A single input may take so long; libFuzzer calls a slower one a finding.
const SLOWEST_SECONDS: u32 = 10;

/// A target that needs more memory than this is a finding.
const MEMORY_MIB: u32 = 2048;

/// What the run is told.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only these targets
    targets: Vec<String>,
    /// Executions of each target at most
    #[arg(long, default_value_t = 200_000)]
    runs: u64,
    /// Seconds for each target at most
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// How a target's run ended.
struct Outcome {
    executions: u64,
    /// What libFuzzer printed, if it found something.
    finding: Option<String>,
}

/// Runs it.
pub(crate) fn run(root: &Path, options: &Options) -> Result<ExitCode> {
    let unknown = |name: &&String| !TARGETS.iter().any(|(target, _)| target == name);
    if let Some(name) = options.targets.iter().find(unknown) {
        let names = TARGETS.map(|(target, _)| target).join(", ");
        bail!("there is no target {name}; there are {names}");
    }
    let summary = each(root, options)?;
    Ok(if summary.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn each(root: &Path, options: &Options) -> Result<Summary> {
    let wanted = |target: &str| options.targets.is_empty() || options.targets.iter().any(|name| name == target);
    let built = build(root)?;
    let (mut summary, mut all) = (Summary::default(), 0);
    for (target, more) in TARGETS.iter().filter(|(target, _)| wanted(target)) {
        let since = Instant::now();
        let outcome = fuzz(root, &built, (target, more), options)?;
        all += outcome.executions;
        summary.add(Summary::one(outcome.finding.is_none()));
        let verdict = if outcome.finding.is_none() { "✓" } else { "✗" };
        println!(
            "  {verdict} {target:<34} {} executions, {}",
            outcome.executions,
            elapsed(since.elapsed())
        );
        if let Some(text) = outcome.finding {
            println!("{text}");
        }
    }
    println!("  {all} executions in all");
    Ok(summary)
}

/// Builds all targets and says where they are.
fn build(root: &Path) -> Result<PathBuf> {
    let programs = ensure::ensure(root, &[Half::Fuzzing])?;
    let cargo_fuzz = programs
        .get("cargo-fuzz")
        .context("cargo-fuzz is not in the manifest")?;
    let folder = program::target(root)?.join("fuzz");
    let mut command = Command::new(cargo_fuzz);
    // Without a sanitizer it builds with the project's own compiler; there is no unsafe code for one to watch.
    command
        .current_dir(root)
        .env("CARGO", env!("CARGO"))
        .args([
            "fuzz",
            "build",
            "--sanitizer",
            "none",
            "--fuzz-dir",
            "tests/fuzz",
            "--target-dir",
        ])
        .arg(&folder);
    if !command.status().context("running cargo fuzz build")?.success() {
        bail!("the fuzz targets do not build; see above");
    }
    Ok(folder.join("x86_64-unknown-linux-gnu/release"))
}

fn fuzz(root: &Path, built: &Path, (target, more): (&str, &[&str]), options: &Options) -> Result<Outcome> {
    let kept = manifest::cache()?.join("fuzz").join(target);
    let findings = program::target(root)?.join("fuzz/findings").join(target);
    for folder in [&kept, &findings] {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let mut command = Command::new(built.join(target));
    command
        .arg(format!("-runs={}", options.runs))
        .arg(format!("-max_total_time={}", options.seconds))
        .arg(format!("-timeout={SLOWEST_SECONDS}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
        .arg(format!("-artifact_prefix={}/", findings.display()))
        .args(["-max_len=16384", "-print_final_stats=1", "-verbosity=0"]);
    command.arg(&kept).arg(root.join("tests/fuzz/seeds").join(target));
    command.args(more.iter().map(|folder| root.join(folder)));
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running the fuzz target {target}"))?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok(Outcome {
        executions: executions(&text).unwrap_or(0),
        finding: (!output.status.success()).then_some(text),
    })
}

/// From the statistics that libFuzzer ends with.
fn executions(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statistics_of_a_run_are_understood() {
        let text =
            "Done 1000 runs in 1 second(s)\nstat::number_of_executed_units: 1003\nstat::average_exec_per_sec:     0\n";
        assert_eq!(executions(text), Some(1003));
        assert_eq!(executions("it broke"), None);
    }

    #[test]
    fn every_target_is_one_of_the_package_and_has_seeds() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz");
        let manifest = std::fs::read_to_string(root.join("Cargo.toml")).expect("the package");
        assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
        for (target, _) in TARGETS {
            assert!(
                manifest.contains(&format!("name = \"{target}\"")),
                "{target} is not in the package"
            );
            let seeds = std::fs::read_dir(root.join("seeds").join(target)).map(Iterator::count);
            assert!(seeds.unwrap_or(0) > 0, "{target} has no seeds");
        }
    }
}
