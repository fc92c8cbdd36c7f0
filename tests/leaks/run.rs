//! The whole suite: the scenarios in a recorded world, once more under `strace`, the search, and the planted leaks.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use deputy_proto::v1;
use deputy_tests::agent_process::AgentOptions;
use deputy_tests::cloud::{Cloud, EcsTasks};
use deputy_tests::leaks::canary::{Canaries, Canary};
use deputy_tests::leaks::scan::{Extent, Hit, Scanner};
use deputy_tests::leaks::strace::{self, Trace};
use deputy_tests::leaks::witness;
use deputy_tests::programs::Tools;
use deputy_tests::world::World;
use tempfile::TempDir;

use crate::documented::is_documented;
use crate::planted;
use crate::scenario::{self, Way, play};
use crate::shell::SECRET_VARIABLE;

/// The canary in the variable that the script asks for.
pub(crate) const SECRET_VARIABLE_CANARY: &str = "a secret of a script";

/// While somebody else builds them.
const TOOLS_WITHIN: Duration = Duration::from_secs(900);

/// An agent without work leaves at once; `strace` makes it slower.
const LEAVING: Duration = Duration::from_secs(60);

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    canaries: usize,
    received: Extent,
    files: Extent,
    calls: Extent,
    executions: u64,
    files_written: u64,
    tasks: u64,
    leaks: BTreeSet<Hit>,
    planted: planted::Planted,
}

impl Found {
    /// No leak, and every planted one was found.
    pub(crate) fn is_good(&self) -> bool {
        self.leaks.is_empty() && self.planted.missed.is_empty()
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for leak in &self.leaks {
            writeln!(f, "LEAK {leak}")?;
        }
        for missed in &self.planted.missed {
            writeln!(f, "MISSED a leak that was planted: {missed}")?;
        }
        writeln!(f, "{} tasks, forward and back", self.tasks)?;
        writeln!(
            f,
            "{} bytes captured in {} requests to the manager",
            self.received.bytes, self.received.places
        )?;
        writeln!(
            f,
            "{} bytes in {} files looked through",
            self.files.bytes, self.files.places
        )?;
        writeln!(
            f,
            "{} executions seen, {} files written, {} bytes in {} calls",
            self.executions, self.files_written, self.calls.bytes, self.calls.places
        )?;
        write!(
            f,
            "{} canaries, {} found, {} of {} planted leaks found",
            self.canaries,
            self.leaks.len(),
            self.planted.found,
            self.planted.found + self.planted.missed.len()
        )
    }
}

/// A world whose every request is recorded, and the secrets that are in it.
struct Recorded {
    world: World,
    requests: TempDir,
    canaries: Canaries,
}

impl Recorded {
    async fn start(cloud: &Arc<Cloud>, agent: impl FnOnce(&World) -> AgentOptions) -> Result<Self> {
        let requests = tempfile::Builder::new().prefix("deputy-leaks-").tempdir()?;
        let folder = requests.path().display().to_string();
        let mut world = World::builder()
            .cloud(cloud)
            .proxy_before_kubernetes()
            .manager(move |options| options.environment.push((witness::VARIABLE.into(), folder)))
            .start()
            .await?;
        let canaries = Canaries::default();
        let password = canaries.make(SECRET_VARIABLE_CANARY);
        let options = agent(&world).env(SECRET_VARIABLE, &password);
        world.agent(options).await?;
        Ok(Self {
            world,
            requests,
            canaries,
        })
    }

    /// Every secret that is or was anywhere in this world.
    fn secrets(&self) -> Result<Vec<Canary>> {
        let mut all = self.canaries.all();
        all.extend(self.world.proxy()?.secrets().all());
        all.extend(self.world.kubernetes_proxy()?.secrets().all());
        all.extend(self.world.credentials()?.secrets().all());
        Ok(all)
    }

    /// The world ends, and its files stay until they have been looked through.
    async fn end(mut self) -> Result<Ended> {
        let secrets = self.secrets()?;
        // A drain, and no signal: one for `strace` would not reach the agent.
        for agent in &mut self.world.agents {
            let request = v1::DrainRequest {
                agent_id: agent.id.clone(),
                reason: "the suite is over".into(),
            };
            self.world.tasks.fleet().drain(request).await?;
            agent.child.ended(LEAVING).await?;
        }
        self.world.manager.kill()?;
        Ok(Ended {
            secrets,
            world: self.world,
            requests: self.requests,
        })
    }
}

/// A world that has ended; its files go with it.
struct Ended {
    secrets: Vec<Canary>,
    world: World,
    requests: TempDir,
}

/// How it goes, for whoever watches.
pub(crate) fn say(line: &str) {
    // Nobody may be watching; the exit code says the same.
    drop(writeln!(std::io::stdout().lock(), "{line}"));
}

/// Runs everything.
pub(crate) async fn everything() -> Result<Found> {
    Tools::load_with_kubernetes(TOOLS_WITHIN).await?;
    say("the world: an emulated AWS, a real Kubernetes, a manager that records every request");
    let cloud = Cloud::start(EcsTasks::Pretended).await?;
    let mut found = Found::default();
    forward_and_back(&cloud, &mut found).await?;
    under_strace(&cloud, &mut found).await?;
    say("planting a leak of each kind");
    found.planted = planted::all().await?;
    Ok(found)
}

/// Every scenario, both ways; everything that the manager received and every file is looked through.
async fn forward_and_back(cloud: &Arc<Cloud>, found: &mut Found) -> Result<()> {
    let recorded = Recorded::start(cloud, |_| AgentOptions::default().slots(2)).await?;
    scenario::are_complete(&recorded.world).await?;
    for scenario in scenario::all() {
        for way in [Way::Forward, Way::Back] {
            say(&format!("  {} {way:?}", scenario.kind()));
            play(scenario.as_ref(), way, &recorded.world, &recorded.canaries).await?;
            found.tasks += 1;
        }
    }
    let ended = recorded.end().await?;
    let scanner = Scanner::new(ended.secrets.clone())?;
    found.canaries += ended.secrets.len();
    let received = scanner.scan_folder(ended.requests.path(), &mut found.received)?;
    anyhow::ensure!(found.received.bytes > 10_000, "the manager recorded next to nothing");
    found.leaks.extend(received);
    // The agent's folder, the manager's database, logs and blobs, both logs.
    found
        .leaks
        .extend(scanner.scan_folder(ended.world.whole_folder(), &mut found.files)?);
    Ok(())
}

/// One run of each scenario with an agent that `strace` follows, with everything that it starts.
async fn under_strace(cloud: &Arc<Cloud>, found: &mut Found) -> Result<()> {
    let trace = tempfile::NamedTempFile::new()?;
    let before = std::iter::once("strace".into()).chain(strace::arguments(trace.path()));
    let before = before.collect();
    let recorded = Recorded::start(cloud, |_| AgentOptions {
        before,
        ..AgentOptions::default().slots(2)
    })
    .await?;
    for scenario in scenario::all() {
        say(&format!("  {} under strace", scenario.kind()));
        play(scenario.as_ref(), Way::Forward, &recorded.world, &recorded.canaries).await?;
        found.tasks += 1;
    }
    let agent = recorded.world.agent_program().to_owned();
    let ended = recorded.end().await?;
    found.canaries += ended.secrets.len();
    let scanner = Scanner::new(ended.secrets.clone())?;
    let seen = Trace::read(trace.path()).context("the trace")?;
    anyhow::ensure!(seen.executions > 10, "strace saw next to nothing");
    found.executions += seen.executions;
    found.files_written += u64::try_from(seen.files_written.len())?;
    found.calls = seen.extent;
    found.leaks.extend(in_trace(&scanner, &seen, &agent));
    Ok(())
}

/// What is in a trace and not in a documented place.
pub(crate) fn in_trace(scanner: &Scanner, seen: &Trace, agent: &Path) -> BTreeSet<Hit> {
    let hits = seen.seen.iter().flat_map(|seen| scanner.scan(&seen.place, &seen.bytes));
    hits.filter(|hit| !is_documented(hit, agent)).collect()
}
