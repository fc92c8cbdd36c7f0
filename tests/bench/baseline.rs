//! What the machine itself costs: a round trip, a durable commit, a process spawn.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

/// Several measurements of the same thing, sorted.
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    /// From unsorted measurements; at least one.
    pub(crate) fn new(mut samples: Vec<Duration>) -> Self {
        samples.sort_unstable();
        Self(samples)
    }

    /// The sample below which `percent` of them lie.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let last = self.0.len().saturating_sub(1);
        self.0
            .get((self.0.len() * percent / 100).min(last))
            .copied()
            .unwrap_or_default()
    }

    /// `p50 1.20 ms, p99 3.40 ms`
    pub(crate) fn show(&self) -> String {
        format!(
            "p50 {}, p99 {}",
            millis(self.percentile(50)),
            millis(self.percentile(99))
        )
    }
}

/// Milliseconds with two decimals.
pub(crate) fn millis(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1e3)
}

/// A unary call that does nothing, to the manager, over a warm connection.
pub(crate) async fn round_trip(url: &str) -> Result<Samples> {
    let channel = tonic::transport::Endpoint::from_shared(url.to_owned())?
        .connect()
        .await?;
    let mut client = HealthClient::new(channel);
    let mut samples = Vec::new();
    for _ in 0..600 {
        let started = Instant::now();
        client.check(HealthCheckRequest { service: String::new() }).await?;
        samples.push(started.elapsed());
    }
    Ok(Samples::new(samples.split_off(100)))
}

/// One small row committed by SQLite, WAL, `synchronous=FULL`, on the disk under `folder`.
pub(crate) fn durable_commit(folder: &Path) -> Result<Samples> {
    let connection = rusqlite::Connection::open(folder.join("baseline.db"))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute("CREATE TABLE row (id INTEGER PRIMARY KEY, text TEXT)", [])?;
    let mut statement = connection.prepare("INSERT INTO row (text) VALUES (?1)")?;
    let mut samples = Vec::new();
    for _ in 0..300 {
        let started = Instant::now();
        statement.execute(["x".repeat(200)])?;
        samples.push(started.elapsed());
    }
    Ok(Samples::new(samples.split_off(50)))
}

/// From just before spawn until a bash script's first line has run, as the script's clock says.
pub(crate) fn process_spawn(folder: &Path) -> Result<Samples> {
    let script = folder.join("baseline.sh");
    let mark = folder.join("baseline.mark");
    std::fs::write(&script, format!("echo $EPOCHREALTIME > {}\n", mark.display()))?;
    let mut samples = Vec::new();
    for _ in 0..200 {
        let started = unix_now();
        Command::new("bash").arg(&script).status().context("bash")?;
        samples.push(read_mark(&mark)?.saturating_sub(started));
    }
    Ok(Samples::new(samples))
}

/// What a script wrote with `echo $EPOCHREALTIME`, as time since the Unix epoch.
pub(crate) fn read_mark(path: &Path) -> Result<Duration> {
    let text = std::fs::read_to_string(path)?;
    let seconds: f64 = text
        .trim()
        .replace(',', ".")
        .parse()
        .with_context(|| format!("{text:?} is not a time"))?;
    Ok(Duration::from_secs_f64(seconds))
}

/// Now, since the Unix epoch.
pub(crate) fn unix_now() -> Duration {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
}
