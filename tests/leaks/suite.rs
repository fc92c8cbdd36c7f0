//! The whole integration suite under record: what its managers received and what its worlds left is looked through for
//! every secret that any test knew of.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use deputy_tests::leaks::canary::{Canaries, Canary};
use deputy_tests::leaks::scan::{Extent, Hit, Scanner};
use deputy_tests::leaks::whole_run::{self, WholeRun};
use deputy_tests::programs::workspace;
use serde_json::Value;

use crate::documented;

/// As many tests at the same time as `cargo xtask test` runs.
const TEST_THREADS: &str = "4";

/// What was found in the whole suite.
#[derive(Debug, Default)]
pub(crate) struct Suite {
    pub(crate) received: Extent,
    pub(crate) files: Extent,
    pub(crate) managers: usize,
    pub(crate) canaries: usize,
    pub(crate) leaks: BTreeSet<Hit>,
    /// Tests that could not run here, each with the reason.
    pub(crate) skipped: Vec<String>,
}

/// Runs the test program, whose output is ours, and looks everything through.
pub(crate) fn run(program: &Path) -> Result<Suite> {
    let folder = tempfile::Builder::new().prefix("deputy-leaks-").tempdir()?;
    let skipped = folder.path().join("skipped");
    let status = Command::new(program)
        .current_dir(workspace().join("tests"))
        .env(whole_run::VARIABLE, folder.path())
        .env("DEPUTY_SKIPPED_FILE", &skipped)
        .env("RUST_TEST_THREADS", TEST_THREADS)
        .env("INSTA_UPDATE", "no")
        .status()
        .with_context(|| program.display().to_string())?;
    ensure!(
        status.success(),
        "a test failed; a search is worth something only where all have run"
    );
    let mut suite = look_through(&WholeRun::in_folder(folder.path()))?;
    if skipped.exists() {
        suite.skipped = std::fs::read_to_string(skipped)?.lines().map(str::to_owned).collect();
    }
    Ok(suite)
}

fn look_through(run: &WholeRun) -> Result<Suite> {
    let canaries = Canaries::of_run(run)?.all();
    let mut suite = Suite {
        canaries: canaries.len(),
        managers: std::fs::read_dir(run.requests())?.count(),
        ..Suite::default()
    };
    ensure!(
        suite.canaries > 100,
        "the tests knew next to no secrets: {}",
        suite.canaries
    );
    let scanner = Scanner::new(canaries.clone())?;
    let keys = Canaries::default();
    let mut logs = 0;
    for world in std::fs::read_dir(run.worlds())? {
        let world = world?.path();
        for folder in written_by_us(&world)? {
            let hits = scanner.scan_folder(&folder, &mut suite.files)?;
            suite
                .leaks
                .extend(hits.into_iter().filter(|hit| !documented::while_a_step_runs(hit)));
        }
        for log in logs_of_agents(&world)? {
            suite.leaks.extend(scanner.scan_file(&log, &mut suite.files)?);
            logs += 1;
        }
        keys_of_agents(&world, &keys)?;
    }
    // An agent's own key is in its state folder, and never on the wire.
    let keys: Vec<Canary> = keys.all();
    ensure!(!keys.is_empty(), "no agent kept a key");
    ensure!(logs > 0, "no agent left a log");
    suite.canaries += keys.len();
    let everything = Scanner::new(canaries.into_iter().chain(keys).collect())?;
    let received = everything.scan_folder(&run.requests(), &mut suite.received)?;
    suite
        .leaks
        .extend(received.into_iter().filter(|hit| !documented::in_request(hit)));
    ensure!(
        suite.received.bytes > 1_000_000,
        "the managers recorded next to nothing"
    );
    Ok(suite)
}

/// What managers and agents wrote in a world, without what tests and scripts put there.
fn written_by_us(world: &Path) -> Result<Vec<PathBuf>> {
    let mut folders = vec![world.join("manager")];
    for agent in agents(world)? {
        folders.extend([agent.join("work"), agent.join("state")]);
    }
    folders.retain(|folder| folder.is_dir());
    Ok(folders)
}

/// What agents said of themselves: their standard output and error.
fn logs_of_agents(world: &Path) -> Result<Vec<PathBuf>> {
    let mut logs = Vec::new();
    for agent in agents(world)? {
        let name = agent
            .file_name()
            .context("an agent's folder")?
            .to_string_lossy()
            .into_owned();
        let log = agent.join(format!("{name}.log"));
        logs.extend(log.is_file().then_some(log));
    }
    Ok(logs)
}

fn agents(world: &Path) -> Result<Vec<PathBuf>> {
    let agents = world.join("agents");
    if !agents.is_dir() {
        return Ok(Vec::new());
    }
    std::fs::read_dir(agents)?.map(|agent| Ok(agent?.path())).collect()
}

/// Before the number that is the private key itself, in the `ECPrivateKey` of RFC 5915 for P-256.
const BEFORE_KEY: [u8; 5] = [0x02, 0x01, 0x01, 0x04, 0x20];
const KEY_LENGTH: usize = 32;

/// The private keys of this world's agents, from their state folders.
fn keys_of_agents(world: &Path, keys: &Canaries) -> Result<()> {
    for agent in agents(world)? {
        let Ok(text) = std::fs::read_to_string(agent.join("state").join("identity.json")) else {
            continue;
        };
        // Half a file where the agent was killed while it wrote.
        let Ok(kept) = serde_json::from_str::<Value>(&text) else {
            continue;
        };
        let key = STANDARD.decode(kept["key"].as_str().context("a key")?)?;
        let at = key.windows(BEFORE_KEY.len()).position(|bytes| bytes == BEFORE_KEY);
        let from = at.context("a key of P-256")? + BEFORE_KEY.len();
        let number = key.get(from..from + KEY_LENGTH).context("a whole key")?;
        keys.learn_bytes("the key of an agent's certificate", number);
    }
    Ok(())
}
