//! Everything: what the integration tests left, the scenarios in a recorded world, once more under `strace`, the search, and the planted leaks.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use deputy_proto::v1;
use deputy_seal::pool_key::PoolKey;
use deputy_tests::agent_process::AgentOptions;
use deputy_tests::cloud::{Cloud, EcsTasks};
use deputy_tests::leaks::canary::{Canaries, Canary};
use deputy_tests::leaks::pool_keys;
use deputy_tests::leaks::scan::{Extent, Hit, Scanner};
use deputy_tests::leaks::strace::{self, Trace};
use deputy_tests::programs::Tools;
use deputy_tests::world::World;
use tempfile::{NamedTempFile, TempDir};

use crate::documented::{self, Caller, is_documented};
use crate::ecs::RollingDeploy;
use crate::identity::Ambient;
use crate::planted;
use crate::scenario::{self, Scenario, Way, play, play_refused};
use crate::shell::{GIT_VARIABLE, SECRET_VARIABLE, git_folder};
use crate::suite::Suite;

/// The canary in the variable that the script asks for.
pub(crate) const SECRET_VARIABLE_CANARY: &str = "a secret of a script";

/// Where the script that asks for it lies while it runs, and what it is called.
const SCRIPT_FOLDER: &str = "/step-careless-";
const SCRIPT_FILE: &str = "/script";

/// The token of a private repository.
pub(crate) const GIT_CANARY: &str = "the token of a repository";

/// The password of the customer's proxy, which platforms name in the agent's environment.
pub(crate) const PROXY_CANARY: &str = "the password of a proxy";

/// While somebody else builds them.
const TOOLS_WITHIN: Duration = Duration::from_secs(900);

/// An agent without work leaves at once; `strace` makes it slower.
const LEAVING: Duration = Duration::from_secs(60);

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    suite: Suite,
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
        self.leaks.is_empty() && self.suite.leaks.is_empty() && self.planted.missed.is_empty()
    }

    /// What the manager of a world received, and every file: the agent's folder, the manager's database, logs and
    /// blobs, both logs.
    fn look_through(&mut self, ended: &Ended) -> Result<()> {
        let scanner = Scanner::new(ended.secrets.clone())?;
        self.canaries += ended.secrets.len();
        let received = scanner.scan_folder(ended.requests.path(), &mut self.received)?;
        let files = scanner.scan_folder(ended.world.whole_folder(), &mut self.files)?;
        let received = received.into_iter().filter(|hit| !documented::in_request(hit));
        let files = files.into_iter().filter(|hit| !documented::in_file(hit));
        self.leaks.extend(received.chain(files));
        Ok(())
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for leak in self.suite.leaks.iter().chain(&self.leaks) {
            writeln!(f, "LEAK {leak}")?;
        }
        for missed in &self.planted.missed {
            writeln!(f, "MISSED a leak that was planted: {missed}")?;
        }
        if self.suite.managers > 0 {
            writeln!(f, "the integration tests, under record:")?;
            writeln!(
                f,
                "  {} bytes captured in {} requests to {} managers",
                self.suite.received.bytes, self.suite.received.places, self.suite.managers
            )?;
            writeln!(
                f,
                "  {} bytes in {} files looked through",
                self.suite.files.bytes, self.suite.files.places
            )?;
            writeln!(
                f,
                "  {} canaries, {} found",
                self.suite.canaries,
                self.suite.leaks.len()
            )?;
            for skipped in &self.suite.skipped {
                writeln!(f, "  not run here: {skipped}")?;
            }
        }
        writeln!(f, "every step and every identity, over canaries:")?;
        writeln!(f, "  {} tasks", self.tasks)?;
        writeln!(
            f,
            "  {} bytes captured in {} requests to the manager",
            self.received.bytes, self.received.places
        )?;
        writeln!(
            f,
            "  {} bytes in {} files looked through",
            self.files.bytes, self.files.places
        )?;
        writeln!(
            f,
            "  {} executions seen, {} files written, {} bytes in {} calls",
            self.executions, self.files_written, self.calls.bytes, self.calls.places
        )?;
        write!(
            f,
            "  {} canaries, {} found\n{} of {} planted leaks found",
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
    /// What the journals of its agents are sealed with.
    pool: Option<PoolKey>,
}

impl Recorded {
    async fn start(cloud: &Arc<Cloud>, flags: &[String]) -> Result<Self> {
        let requests = tempfile::Builder::new().prefix("deputy-leaks-").tempdir()?;
        let folder = requests.path().to_owned();
        let world = World::builder()
            .cloud(cloud)
            .proxy_before_kubernetes()
            .manager(|options| {
                options.witness = Some(folder);
                options.flags.extend_from_slice(flags);
            })
            .start()
            .await?;
        Ok(Self {
            world,
            requests,
            canaries: Canaries::default(),
            pool: None,
        })
    }

    /// The same agent with the key of a pool, which is a canary like every other secret.
    async fn sealing(&mut self, options: AgentOptions) -> Result<AgentOptions> {
        // A folder of its own: the key's is hidden from steps.
        std::fs::create_dir_all(self.world.whole_folder().join("mounted").join("pool"))?;
        let ring = self.world.pool_key("mounted/pool/pool-key").await?;
        let key = pool_keys::of_ring(&std::fs::read(&ring)?)?.pop().context("a key")?;
        self.canaries.learn_pool_key(&key);
        self.pool = Some(key);
        Ok(options.pool_key(&ring))
    }

    /// Where the pool has a key, no run went unsealed.
    async fn every_journal_is_sealed(&self) -> Result<()> {
        let Some(key) = &self.pool else {
            return Ok(());
        };
        let request = v1::ListRequest {
            page_size: 1000,
            ..v1::ListRequest::default()
        };
        for task in self.world.tasks.client().list(request).await?.into_inner().tasks {
            let journal = self.world.tasks.journal(&task.task_id).await?;
            let id = key.id().to_string();
            ensure!(
                journal.iter().any(|record| record.pool_key == id),
                "the journal of {} is not sealed",
                task.task_id
            );
        }
        Ok(())
    }

    /// Adds the agent, with a secret of its own for scripts.
    async fn agent(&mut self, options: AgentOptions) -> Result<()> {
        let password = self.canaries.make(SECRET_VARIABLE_CANARY);
        let authority = git_folder(&self.world).join("ca.crt");
        let options = options
            .slots(2)
            .env(SECRET_VARIABLE, &password)
            .env(GIT_VARIABLE, &self.canaries.make_plain(GIT_CANARY))
            // All is on this machine: nothing goes through it.
            .env("NO_PROXY", "*")
            .env("HTTPS_PROXY", &self.proxy())
            .env("GIT_SSL_CAINFO", &authority.display().to_string());
        self.world.agent(options).await?;
        Ok(())
    }

    /// The address of a proxy whose password has to be written in another way than it is sent.
    fn proxy(&self) -> String {
        let password = self.canaries.make(PROXY_CANARY);
        let written = password.bytes().map(|byte| match byte {
            byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        });
        format!("http://deputy:{}@127.0.0.1:9", written.collect::<String>())
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
        self.every_journal_is_sealed().await?;
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
pub(crate) async fn everything(suite: Suite) -> Result<Found> {
    Tools::load_with_kubernetes(TOOLS_WITHIN).await?;
    say("the world: an emulated AWS, a real Kubernetes, a manager that records every request");
    let cloud = Cloud::start(EcsTasks::Pretended).await?;
    let mut found = Found {
        suite,
        ..Found::default()
    };
    forward_and_back(&cloud, &mut found).await?;
    under_strace(&cloud, &mut found).await?;
    say("planting a leak of each kind");
    found.planted = planted::all(&cloud).await?;
    Ok(found)
}

/// Every scenario, both ways and refused; everything that the manager received and every file is looked through.
async fn forward_and_back(cloud: &Arc<Cloud>, found: &mut Found) -> Result<()> {
    let mut recorded = Recorded::start(cloud, &[]).await?;
    recorded.agent(AgentOptions::default()).await?;
    scenario::are_complete(&recorded.world).await?;
    for scenario in scenario::all() {
        for way in [Way::Forward, Way::Back] {
            say(&format!("  {} {way:?}", scenario.kind()));
            play(scenario.as_ref(), way, &recorded.world, &recorded.canaries).await?;
            found.tasks += 1;
        }
        say(&format!("  {} refused", scenario.kind()));
        found.tasks += play_refused(scenario.as_ref(), &recorded.world, &recorded.canaries).await?;
    }
    found.look_through(&recorded.end().await?)?;
    ensure!(found.received.bytes > 10_000, "the manager recorded next to nothing");
    Ok(())
}

/// One run of each scenario, sealed, and one of each identity, with an agent that `strace` follows, with everything
/// that it starts.
async fn under_strace(cloud: &Arc<Cloud>, found: &mut Found) -> Result<()> {
    let mut followed = Followed::start(cloud, &[]).await?;
    let sealing = followed.recorded.sealing(AgentOptions::default()).await?;
    followed.agent(sealing).await?;
    for scenario in scenario::all() {
        say(&format!("  {} under strace, sealed", scenario.kind()));
        followed.play(scenario.as_ref(), Way::Forward, found).await?;
    }
    say("  ecsRollingDeploy back under strace, sealed");
    followed.play(&RollingDeploy, Way::Back, found).await?;
    followed.end(found).await?;
    for identity in Ambient::ALL {
        say(&format!("  {identity:?} as the agent's identity, under strace"));
        let flags = identity.manager()?;
        let mut followed = Followed::start(cloud, &flags).await?;
        let surroundings = identity.surroundings(&followed.recorded.world, &flags).await?;
        followed.agent(surroundings.agent.clone()).await?;
        followed
            .play(surroundings.scenario.as_ref(), Way::Forward, found)
            .await?;
        followed.end(found).await?;
    }
    Ok(())
}

/// A recorded world whose agent `strace` follows.
struct Followed {
    recorded: Recorded,
    trace: NamedTempFile,
}

impl Followed {
    async fn start(cloud: &Arc<Cloud>, flags: &[String]) -> Result<Self> {
        Ok(Self {
            recorded: Recorded::start(cloud, flags).await?,
            trace: NamedTempFile::new()?,
        })
    }

    async fn agent(&mut self, options: AgentOptions) -> Result<()> {
        let before = std::iter::once("strace".into()).chain(strace::arguments(self.trace.path()));
        let before = before.collect();
        self.recorded.agent(AgentOptions { before, ..options }).await
    }

    async fn play(&self, scenario: &dyn Scenario, way: Way, found: &mut Found) -> Result<()> {
        found.tasks += 1;
        play(scenario, way, &self.recorded.world, &self.recorded.canaries).await
    }

    /// Looks through what the agent and its children did, what the manager received and every file.
    async fn end(self, found: &mut Found) -> Result<()> {
        let agent = self.recorded.world.agent_program().to_owned();
        let ended = self.recorded.end().await?;
        found.look_through(&ended)?;
        let scanner = Scanner::new(ended.secrets.clone())?;
        let seen = Trace::read(self.trace.path()).context("the trace")?;
        ensure!(seen.executions > 0, "strace saw nothing");
        found.executions += seen.executions;
        found.files_written += u64::try_from(seen.files_written.len())?;
        found.calls.places += seen.extent.places;
        found.calls.bytes += seen.extent.bytes;
        found.leaks.extend(in_trace(&scanner, &seen, &agent));
        Ok(())
    }
}

/// What is in a trace and not in a documented place.
pub(crate) fn in_trace(scanner: &Scanner, seen: &Trace, agent: &Path) -> BTreeSet<Hit> {
    let scripts = scripts(seen);
    let mut undocumented = BTreeSet::new();
    for call in &seen.seen {
        let is_script = scripts.iter().any(|script| seen.descends(call.process, *script));
        let caller = if is_script { Caller::Script } else { Caller::Other };
        let hits = scanner.scan(&call.place, &call.bytes);
        undocumented.extend(hits.into_iter().filter(|hit| !is_documented(hit, agent, caller)));
    }
    undocumented
}

/// The shells that run the script with the secret: its file is their argument.
fn scripts(seen: &Trace) -> BTreeSet<u32> {
    let shells = seen.seen.iter().filter(|call| {
        let arguments = String::from_utf8_lossy(&call.bytes);
        call.place.starts_with("execve of ")
            && call.place.ends_with(", arguments")
            && arguments
                .split('\0')
                .any(|one| one.contains(SCRIPT_FOLDER) && one.ends_with(SCRIPT_FILE))
    });
    shells.map(|call| call.process).collect()
}
