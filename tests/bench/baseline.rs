//! What the machine itself costs: a round trip, a durable commit, a process spawn.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use deputy_tests::access::{Access, Client};
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
pub(crate) struct RoundTrip(HealthClient<Client>);

impl RoundTrip {
    /// Connects.
    pub(crate) async fn to(access: &Access) -> Result<Self> {
        let mut call = Self(HealthClient::new(access.client()?));
        // The first call makes the connection.
        call.once().await?;
        Ok(call)
    }

    /// Calls once.
    pub(crate) async fn once(&mut self) -> Result<Duration> {
        let started = Instant::now();
        self.0.check(HealthCheckRequest { service: String::new() }).await?;
        Ok(started.elapsed())
    }
}

/// One small row committed by SQLite, WAL, `synchronous=FULL`.
pub(crate) struct DurableCommit(rusqlite::Connection);

impl DurableCommit {
    /// On the disk under `folder`.
    pub(crate) fn on(folder: &Path) -> Result<Self> {
        let connection = rusqlite::Connection::open(folder.join("baseline.db"))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.execute("CREATE TABLE row (id INTEGER PRIMARY KEY, text TEXT)", [])?;
        Ok(Self(connection))
    }

    /// Commits once.
    pub(crate) fn once(&self) -> Result<Duration> {
        let mut statement = self.0.prepare_cached("INSERT INTO row (text) VALUES (?1)")?;
        let started = Instant::now();
        statement.execute(["x".repeat(200)])?;
        Ok(started.elapsed())
    }
}

/// From just before spawn until a bash script's first line has run, as the script's clock says.
pub(crate) struct ProcessSpawn {
    script: PathBuf,
    mark: PathBuf,
}

impl ProcessSpawn {
    /// With its script in `folder`.
    pub(crate) fn from(folder: &Path) -> Result<Self> {
        let (script, mark) = (folder.join("baseline.sh"), folder.join("baseline.mark"));
        std::fs::write(&script, format!("echo $EPOCHREALTIME > {}\n", mark.display()))?;
        Ok(Self { script, mark })
    }

    /// Spawns once.
    pub(crate) fn once(&self) -> Result<Duration> {
        let started = unix_now();
        Command::new("bash").arg(&self.script).status().context("bash")?;
        Ok(read_mark(&self.mark)?.saturating_sub(started))
    }
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
