//! Running the targets, some beside each other, and the table at the end. What they find interesting is kept in the
//! cache, so that a run begins where the last one ended; what continuous integration runs begins with the committed
//! seeds alone and is the same every time.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::build::build;
use super::libfuzzer::Reached;
use super::target::{TARGETS, Target};
use crate::test::summary::Summary;
use crate::tools::manifest;
use crate::tools::progress::elapsed;

/// A single input may take so long; libFuzzer calls a slower one a finding.
const SLOWEST_SECONDS: u32 = 10;

/// A target that needs more memory than this is a finding.
const MEMORY_MIB: u32 = 2048;

/// Longest input that is made.
const MAX_INPUT_BYTES: u32 = 16 * 1024;

/// Of the output of a target, so many bytes at its end are kept: a finding is told there.
const KEPT_LINES: usize = 400;

/// How often a target that runs says where it is.
const SAID_EVERY: Duration = Duration::from_secs(30);

/// Targets beside each other.
const BESIDE: usize = 2;

/// What the run is told.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Options {
    /// Only these targets
    targets: Vec<String>,
    /// Executions of each target at most
    #[arg(long, default_value_t = 1_000_000)]
    runs: u64,
    /// Seconds for each target at most
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// What continuous integration runs: from the committed seeds alone, some seconds each, the same every time
    #[arg(long, conflicts_with_all = ["runs"])]
    glance: bool,
}

/// How a target's run ended.
struct Outcome {
    target: Target,
    reached: Reached,
    took: Duration,
    /// The end of what libFuzzer printed, if it found something.
    finding: Option<String>,
}

/// Runs it.
pub(crate) fn run(root: &Path, options: &Options) -> Result<ExitCode> {
    let summary = all(root, options)?;
    Ok(if summary.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A look at every target, as a part of everything that can fail.
pub(crate) fn glance(root: &Path) -> Result<Summary> {
    let options = Options {
        seconds: 120,
        glance: true,
        ..Options::default()
    };
    all(root, &options)
}

fn all(root: &Path, options: &Options) -> Result<Summary> {
    let unknown = |name: &&String| !TARGETS.iter().any(|target| target.name == **name);
    if let Some(name) = options.targets.iter().find(unknown) {
        bail!(
            "there is no target {name}; there are {}",
            TARGETS.map(|target| target.name).join(", ")
        );
    }
    let wanted = |target: &Target| options.targets.is_empty() || options.targets.iter().any(|name| name == target.name);
    let since = Instant::now();
    let built = build(root)?;
    println!("  built in {}", elapsed(since.elapsed()));
    let waiting = Mutex::new(TARGETS.into_iter().filter(wanted).collect::<VecDeque<_>>());
    let worker = || -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        while let Some(target) = next(&waiting) {
            outcomes.push(fuzz(root, &built.join(target.name), target, options)?);
        }
        Ok(outcomes)
    };
    let outcomes: Result<Vec<Vec<Outcome>>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..BESIDE).map(|_| scope.spawn(worker)).collect();
        let join =
            |worker: std::thread::ScopedJoinHandle<'_, _>| worker.join().unwrap_or_else(|_| bail!("a thread broke"));
        workers.into_iter().map(join).collect()
    });
    let outcomes: Vec<Outcome> = outcomes?.into_iter().flatten().collect();
    table(&outcomes, since.elapsed());
    let mut summary = Summary::default();
    for outcome in &outcomes {
        summary.add(Summary::one(outcome.finding.is_none()));
    }
    Ok(summary)
}

fn next(waiting: &Mutex<VecDeque<Target>>) -> Option<Target> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
}

fn table(outcomes: &[Outcome], took: Duration) {
    println!(
        "\n  {:<18} {:>12} {:>10} {:>8} {:>9} {:>14} {:>12}",
        "target", "executions", "a second", "edges", "features", "corpus", "time"
    );
    for outcome in outcomes {
        let verdict = if outcome.finding.is_none() { "✓" } else { "✗" };
        let Reached {
            executions,
            edges,
            features,
            corpus,
        } = &outcome.reached;
        println!(
            "{verdict} {:<18} {executions:>12} {:>10} {edges:>8} {features:>9} {corpus:>14} {:>12}",
            outcome.target.name,
            executions / outcome.took.as_secs().max(1),
            elapsed(outcome.took)
        );
    }
    let executions: u64 = outcomes.iter().map(|outcome| outcome.reached.executions).sum();
    println!("  {executions} executions in all, in {}", elapsed(took));
    for finding in outcomes.iter().filter_map(|outcome| outcome.finding.as_ref()) {
        println!("{finding}");
    }
}

fn fuzz(root: &Path, program: &Path, target: Target, options: &Options) -> Result<Outcome> {
    let since = Instant::now();
    let cache = manifest::cache()?.join("fuzz");
    let findings = cache.join("findings").join(target.name);
    // What is found in a glance is not kept: the next one begins as this one did.
    let thrown_away = tempfile::tempdir().context("making a folder for what is found interesting")?;
    let kept = if options.glance {
        thrown_away.path().to_owned()
    } else {
        cache.join("corpus").join(target.name)
    };
    for folder in [&kept, &findings] {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let mut command = command(program, &findings, options, target);
    command.arg(&kept).args(target.seeds(root));
    let mut child = command
        .spawn()
        .with_context(|| format!("running {}", program.display()))?;
    let output = child.stderr.take().context("a pipe was asked for")?;
    let (reached, end) = follow(target, output, since)?;
    let status = child.wait().with_context(|| format!("waiting for {}", target.name))?;
    let finding = (!status.success()).then(|| told(target, &end, &findings));
    let verdict = if finding.is_none() { "✓" } else { "✗" };
    println!(
        "  {verdict} {:<18} {} executions, {}",
        target.name,
        reached.executions,
        elapsed(since.elapsed())
    );
    Ok(Outcome {
        target,
        reached,
        took: since.elapsed(),
        finding,
    })
}

fn command(program: &Path, findings: &Path, options: &Options, target: Target) -> Command {
    let runs = if options.glance { target.glance } else { options.runs };
    let mut command = Command::new(program);
    command
        .arg(format!("-runs={runs}"))
        .arg(format!("-max_total_time={}", options.seconds))
        .arg(format!("-timeout={SLOWEST_SECONDS}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
        .arg(format!("-max_len={MAX_INPUT_BYTES}"))
        .arg(format!("-artifact_prefix={}/", findings.display()));
    if options.glance {
        command.arg("-seed=1");
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// Reads what a target prints until it ends; how far it came, and its last lines.
fn follow(target: Target, output: impl Read, since: Instant) -> Result<(Reached, VecDeque<String>)> {
    let (mut reached, mut end, mut said) = (Reached::default(), VecDeque::new(), Instant::now());
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line.with_context(|| format!("reading what {} prints", target.name))?)
            .into_owned();
        reached.take(&line);
        if said.elapsed() >= SAID_EVERY {
            said = Instant::now();
            println!(
                "  … {:<18} {} executions, {} edges, {}",
                target.name,
                reached.executions,
                reached.edges,
                elapsed(since.elapsed())
            );
        }
        end.push_back(line);
        if end.len() > KEPT_LINES {
            end.pop_front();
        }
    }
    Ok((reached, end))
}

fn told(target: Target, end: &VecDeque<String>, findings: &Path) -> String {
    let lines: Vec<&str> = end
        .iter()
        .map(String::as_str)
        .filter(|line| !line.starts_with('#'))
        .collect();
    format!(
        "FOUND {} by the target {}; the input is in {}; make a test of it, and a seed in tests/fuzz/seeds/{}\n{}",
        lines
            .iter()
            .find(|line| line.contains("panicked at"))
            .unwrap_or(&"something"),
        target.name,
        PathBuf::from(findings).display(),
        target.name,
        lines.join("\n")
    )
}
