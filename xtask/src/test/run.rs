//! Runs everything, prints a line per test program, failures in full, and the closing line.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result};

use super::binaries::{self, Binary};
use super::summary::Summary;
use crate::tools::ensure;
use crate::tools::progress::elapsed;
use crate::{fuzz, leaks, sweep, tidy};

/// Integration tests wait more than they compute.
const TEST_THREADS: &str = "4";

/// What the test run is told.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only tests whose path contains this; leaves out tidy and the sweep
    pub(crate) filter: Option<String>,
}

/// How much is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// What a change is tested with.
    Test,
    /// That, and what takes longer to build.
    Ci,
}

/// Runs it.
pub(crate) fn run(root: &Path, options: &Options) -> Result<ExitCode> {
    run_all(root, options, Extent::Test)
}

fn run_all(root: &Path, options: &Options, extent: Extent) -> Result<ExitCode> {
    let since = Instant::now();
    println!("tools");
    ensure::ensure(root, ensure::everything())?;
    let mut summary = Summary::default();
    let mut failures = Vec::new();
    if options.filter.is_none() {
        println!("tidy");
        let problems = tidy::run::problems(root, &tidy::run::Options { quick: false })?;
        summary.add(Summary::one(problems == 0));
        if problems > 0 {
            failures.push(format!("tidy: {problems} to mend, see above"));
        }
    }
    println!("build");
    let binaries = binaries::build(root)?;
    println!("test");
    let skipped = tempfile::NamedTempFile::new()?;
    for binary in &binaries {
        let (one, output) = run_binary(binary, options.filter.as_deref(), skipped.path())?;
        summary.add(one);
        if one.failed > 0 {
            failures.push(format!("{}\n{output}", binary.name));
        }
    }
    let (docs, output) = doc_tests(root, options.filter.as_deref())?;
    summary.add(docs);
    if docs.failed > 0 {
        failures.push(format!("doc tests\n{output}"));
    }
    let skipped = std::fs::read_to_string(skipped.path()).unwrap_or_default();
    let skipped: Vec<&str> = skipped.lines().collect();
    summary.move_to_skipped(u64::try_from(skipped.len())?);
    if options.filter.is_none() {
        println!("sweep");
        summary.add(sweep::short(root)?);
        println!("leaks");
        summary.add(leaks::short(root)?);
    }
    if extent == Extent::Ci {
        println!("fuzz");
        summary.add(fuzz::run::glance(root)?);
    }
    println!();
    for failure in &failures {
        println!("FAILED {failure}\n");
    }
    for line in &skipped {
        println!("skipped {line}");
    }
    println!("in {}", elapsed(since.elapsed()));
    println!("{summary}");
    Ok(if summary.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn run_binary(binary: &Binary, filter: Option<&str>, skipped: &Path) -> Result<(Summary, String)> {
    let since = Instant::now();
    let mut command = Command::new(&binary.executable);
    command
        .current_dir(&binary.folder)
        .env("CARGO_MANIFEST_DIR", &binary.folder);
    command
        .env("RUST_TEST_THREADS", TEST_THREADS)
        .env("DEPUTY_SKIPPED_FILE", skipped)
        .env("INSTA_UPDATE", "no");
    command.env("RUST_BACKTRACE", "0");
    command.args(filter);
    let output = command
        .output()
        .with_context(|| format!("running {}", binary.executable.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let mut summary = Summary::of_output(&text).unwrap_or(Summary::one(output.status.success()));
    if !output.status.success() && summary.failed == 0 {
        summary.failed = 1;
    }
    print_line(&binary.name, summary, &elapsed(since.elapsed()));
    Ok((summary, text))
}

fn doc_tests(root: &Path, filter: Option<&str>) -> Result<(Summary, String)> {
    let since = Instant::now();
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .current_dir(root)
        .args(["test", "--workspace", "--doc", "--no-fail-fast", "--quiet"]);
    cargo.arg("--").args(filter);
    let output = cargo.output().context("running doc tests")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let mut summary = Summary::of_output(&text).unwrap_or_default();
    if !output.status.success() && summary.failed == 0 {
        summary.failed = 1;
    }
    print_line("doc tests", summary, &elapsed(since.elapsed()));
    Ok((summary, text))
}

fn print_line(name: &str, summary: Summary, time: &str) {
    if summary != Summary::default() {
        let verdict = if summary.failed == 0 { "✓" } else { "✗" };
        println!("  {verdict} {name:<34} {summary}, {time}");
    }
}

/// What continuous integration runs.
pub(crate) fn ci(root: &Path) -> Result<ExitCode> {
    run_all(root, &Options { filter: None }, Extent::Ci)
}
