//! `logs`: bytes per second from a child's standard output to acknowledged at the manager, with no secrets in the
//! redactor, with 50, and with one of the largest or the shortest beside them; and `cat` into a file.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use deputy_proto::v1::{GetRequest, LogState, Task};

use crate::footprint::rss_mib;
use crate::processes::{Pair, submit_request};
use crate::table::{Goal, Row};

// Below the cap of a task's spool, so that nothing is dropped even where the manager is slower than the child.
const BYTES: u64 = 192 * 1024 * 1024;
const ROUNDS: usize = 5;
const GOAL_MB_PER_SECOND: f64 = 150.0;
const SECRETS: u32 = 50;
/// The most that AWS Secrets Manager keeps.
const LARGEST_SECRET_BYTES: usize = 64 * 1024;
/// So short that nothing of a log can be passed over.
const SHORTEST_SECRET: &[u8] = b"q8X-";
/// Their names in the agent's folder of secrets.
const LARGEST: &str = "largest";
const SHORTEST: &str = "shortest";
/// Of the throughput without secrets.
const MOST_COST_PERCENT: f64 = 25.0;

/// What there is to hide.
#[derive(Debug, Clone, Copy)]
enum Hidden {
    Nothing,
    Many,
    /// And one of the file of that name.
    ManyAnd(&'static str),
}

impl Hidden {
    const ALL: [Self; 4] = [
        Self::Nothing,
        Self::Many,
        Self::ManyAnd(LARGEST),
        Self::ManyAnd(SHORTEST),
    ];

    const fn secrets(self) -> u32 {
        match self {
            Self::Nothing => 0,
            Self::Many | Self::ManyAnd(_) => SECRETS,
        }
    }
}

/// Lets a child print a file, and waits until its last byte is acknowledged.
pub(crate) async fn measure(programs: &Path) -> Result<Vec<Row>> {
    let pair = Pair::start(programs, 4).await?;
    let input = pair.folder.path().join("input.txt");
    write_input(&input)?;
    write_largest_secret(&pair.secrets_folder.join(LARGEST))?;
    std::fs::write(pair.secrets_folder.join(SHORTEST), SHORTEST_SECRET)?;
    let mut cat = Vec::new();
    for _ in 0..ROUNDS {
        let started = Instant::now();
        let output = std::fs::File::create(pair.folder.path().join("output.txt"))?;
        Command::new("cat")
            .arg(&input)
            .stdout(output.try_clone()?)
            .status()
            .context("cat")?;
        output.sync_data()?;
        cat.push(rate(started.elapsed()));
    }
    let mut rates = Hidden::ALL.map(|_| Vec::new());
    let mut peak = 0.0_f64;
    // In turn, so that a slow moment of the machine is on every side.
    for _ in 0..ROUNDS {
        for (hidden, rates) in Hidden::ALL.into_iter().zip(&mut rates) {
            let (rate, memory) = push(&pair, &input, hidden).await?;
            rates.push(rate);
            peak = peak.max(memory);
        }
    }
    cat.sort_by(f64::total_cmp);
    for rates in &mut rates {
        rates.sort_by(f64::total_cmp);
    }
    let [without, many, largest, shortest] = &rates;
    let free = without[ROUNDS / 2];
    let cost_row = |what: &str, rates: &[f64]| {
        let cost = 100.0 * (1.0 - rates[ROUNDS / 2] / free);
        Row::goal(
            format!("logs: what {what} cost of it"),
            format!("{cost:.0} %"),
            format!("≤ {MOST_COST_PERCENT:.0} %"),
            Goal::met_if(|| cost <= MOST_COST_PERCENT),
        )
    };
    Ok(vec![
        Row::baseline("logs: cat into a file, synced", spread(&cat)),
        Row::goal(
            "logs: child → acknowledged, 50 secrets",
            spread(many),
            format!("≥ {GOAL_MB_PER_SECOND:.0} MB/s"),
            Goal::met_if(|| many[ROUNDS / 2] >= GOAL_MB_PER_SECOND),
        ),
        Row::baseline("logs: child → acknowledged, no secrets", spread(without)),
        Row::baseline(
            "logs: child → acknowledged, 50 secrets and one of 64 KiB",
            spread(largest),
        ),
        Row::baseline(
            "logs: child → acknowledged, 50 secrets and one of 4 bytes",
            spread(shortest),
        ),
        cost_row("50 secrets", many),
        cost_row("50 secrets and one of 64 KiB", largest),
        cost_row("50 secrets and one of 4 bytes", shortest),
        Row::baseline("logs: agent's memory meanwhile, peak", format!("{peak:.1} MiB")),
    ])
}

/// The middle of sorted rates, with the lowest and the highest.
fn spread(rates: &[f64]) -> String {
    let [low, middle, high] = [0, ROUNDS / 2, ROUNDS - 1].map(|at| rates[at]);
    format!("{middle:.0} MB/s ({low:.0}–{high:.0})")
}

fn rate(elapsed: Duration) -> f64 {
    f64::from(u32::try_from(BYTES / 1_000_000).unwrap_or(u32::MAX)) / elapsed.as_secs_f64()
}

/// Text as build tools print it: lines of some 100 bytes, hardly compressible numbers in them.
fn write_input(path: &Path) -> Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    let mut written = 0_u64;
    while written < BYTES {
        let line = format!(
            "2026-01-01T00:00:00Z INFO deploy step={:08x} downloading layer sha256:{:032x} of checkout-api\n",
            rand::random::<u32>(),
            rand::random::<u128>()
        );
        file.write_all(line.as_bytes())?;
        written += u64::try_from(line.len())?;
    }
    file.flush()?;
    Ok(())
}

/// Random bytes: the lines of their base64 are as many forms as one secret can have.
fn write_largest_secret(path: &Path) -> Result<()> {
    let bytes: Vec<u8> = std::iter::repeat_with(rand::random)
        .take(LARGEST_SECRET_BYTES)
        .collect();
    Ok(std::fs::write(path, bytes)?)
}

/// The secrets become known to the redactor in the first step: as its secret outputs, and one more as a file for it.
fn document(input: &Path, hidden: Hidden) -> String {
    let secrets = hidden.secrets();
    let names: Vec<String> = (0..secrets).map(|n| format!("s{n}")).collect();
    let given = match hidden {
        Hidden::Nothing | Hidden::Many => "{}".to_owned(),
        Hidden::ManyAnd(file) => format!("{{ FILE: {{ as: file, file: {file} }} }}"),
    };
    format!(
        "apiVersion: deputy.dev/v1\nkind: Task\nmetadata: {{ name: logs }}\nspec:\n  steps:\n    - name: secrets\n      shell:\n        secrets: {given}\n        secretOutputs: [{}]\n        run: |\n          for n in $(seq {secrets}); do n=$((n - 1)); echo \"s$n=secret-value-$n-$RANDOM$RANDOM\" >> \"$DEPUTY_OUTPUT\"; done\n    - name: print\n      shell: {{ run: \"cat {}\" }}\n",
        names.join(", "),
        input.display()
    )
}

async fn push(pair: &Pair, input: &Path, hidden: Hidden) -> Result<(f64, f64)> {
    let mut client = pair.tasks().await?;
    let task = client
        .submit(submit_request(&document(input, hidden)))
        .await?
        .into_inner()
        .task_id;
    let mut started = None;
    let mut peak = 0.0_f64;
    let deadline = Instant::now() + Duration::from_secs(120);
    while Instant::now() < deadline {
        let request = GetRequest {
            task_id: task.clone(),
            ..GetRequest::default()
        };
        let state: Task = client.get(request).await?.into_inner().task.context("no task")?;
        if started.is_none()
            && state
                .steps
                .iter()
                .any(|step| step.name == "print" && step.started_at_ms > 0)
        {
            started = Some(Instant::now());
        }
        peak = peak.max(rss_mib(pair.agent.pid())?);
        if state.log_state() == LogState::Complete && state.finished_at_ms > 0 {
            if let Some(failure) = state.result.and_then(|result| result.failure) {
                bail!("the task failed: {}", failure.summary);
            }
            let print = state
                .steps
                .iter()
                .find(|step| step.name == "print")
                .context("no step")?;
            let begun = Duration::from_millis(u64::try_from(print.started_at_ms)?);
            return Ok((rate(crate::baseline::unix_now().saturating_sub(begun)), peak));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bail!("the log was not complete after 120 s")
}
