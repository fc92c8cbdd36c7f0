//! The only place of a running agent that spawns: it owns every task and the session's thread, joins
//! them, and carries nothing itself. Executor and session are joined by their channels here and do
//! not know each other.

use std::collections::HashMap;
use std::ffi::OsString;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use deputy_credentials::Identities;
use deputy_executor::{AgentFacts, Environment, Executor, ExecutorConfig, WorkFolder};
use deputy_logs::{Logs, Spool};
use deputy_seal::KeyRing;
use deputy_session::bulk::{self, Finish};
use deputy_session::config::SessionConfig;
use deputy_session::membership::Membership;
use deputy_session::session::{LinkState, Session, SessionError, SessionPorts, Stage};
use deputy_task::boot_time::BootTime;
use deputy_task::id::{AgentId, InstanceId};
use deputy_task::message::Command;
use deputy_task::repair::Steering;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{Id, JoinError, JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::capabilities;
use crate::children::Children;
use crate::config::checked::Config;
use crate::drain::{Schedule, Staged, at_most, stage};
use crate::exit::{Exit, StartupError};
use crate::health::{self, Health, Readiness};

/// Events and commands between executor and session. Enough that neither waits for the other's
/// scheduling under load; what does not fit waits at its sender.
const CHANNEL: usize = 1024;

/// Bundles asked for and not yet begun.
const BLOB_REQUESTS: usize = 64;
/// Tokens that may wait to be asked for: no more than roles of all tasks that are renewed at the same time.
const TOKEN_REQUESTS: usize = 64;

/// The part that brings the logs to the manager.
const UPLOADER: &str = "log uploader";

/// How long the executor may take to stop what was revoked.
const STOP_REVOKED: Duration = Duration::from_secs(15);

/// What was made before the runtime.
pub(crate) struct Parts {
    pub(crate) agent_id: AgentId,
    pub(crate) membership: Membership,
    pub(crate) instance_id: InstanceId,
    pub(crate) work: WorkFolder,
    pub(crate) spool: Spool,
    pub(crate) identities: Identities,
    pub(crate) children: Children,
    /// The keys of the pool, if it has any.
    pub(crate) pool_keys: Option<Arc<KeyRing>>,
    pub(crate) path: OsString,
}

/// A running agent.
struct Supervisor {
    schedule: Schedule,
    executor: JoinHandle<()>,
    session: oneshot::Receiver<Result<(), SessionError>>,
    session_abort: CancellationToken,
    uploads: JoinHandle<()>,
    /// Tools, blobs, health: dropped at the end, nothing is lost with them.
    background: Background,
    commands: mpsc::Sender<Command>,
    stage: watch::Sender<Stage>,
    readiness: watch::Sender<Readiness>,
    finish: watch::Sender<Finish>,
    spool: Spool,
    membership: Membership,
}

/// Why a running agent stops.
enum Cause {
    /// SIGTERM or SIGINT.
    Signal,
    /// The executor has ended: the manager wished a drain, or it panicked.
    Executor(Result<(), JoinError>),
    /// The session has ended without being told to.
    Session(Result<(), StartupError>),
    /// One of the other parts broke: work that needs it would wait for it for ever.
    Part(&'static str),
}

/// Parts that no stage of leaving waits for.
#[derive(Default)]
struct Background {
    parts: JoinSet<()>,
    names: HashMap<Id, &'static str>,
}

impl Background {
    fn spawn(&mut self, name: &'static str, part: impl Future<Output = ()> + Send + 'static) {
        let spawned = self.parts.spawn(part);
        self.names.insert(spawned.id(), name);
    }

    /// The name of the next part that panics. One that returns has lost its counterpart, whose own end is noticed.
    /// Cancel-safe.
    async fn broken(&mut self) -> &'static str {
        loop {
            match self.parts.join_next_with_id().await {
                Some(Ok((id, ()))) => debug!(part = self.names.remove(&id), "a part has ended"),
                Some(Err(broken)) => {
                    let name = self.names.remove(&broken.id()).unwrap_or("background work");
                    error!(part = name, %broken, "a part broke");
                    return name;
                }
                None => return std::future::pending().await,
            }
        }
    }

    async fn abort(mut self) {
        self.parts.shutdown().await;
    }
}

/// Runs the agent until it is told to leave.
pub(crate) async fn supervise(config: Config, parts: Parts) -> Result<Exit, StartupError> {
    let signals = |kind| signal(kind).map_err(StartupError::Threads);
    let (mut term, mut int) = (signals(SignalKind::terminate())?, signals(SignalKind::interrupt())?);
    let listener = match config.health_listen {
        Some(address) => Some(health::listen(address).await?),
        None => None,
    };
    let mut agent = start(config, parts)?;
    if let Some(listener) = listener {
        let health = agent.health.clone();
        agent
            .supervisor
            .background
            .spawn("health checks", health::serve(listener, health));
    }
    let supervisor = agent.supervisor;
    supervisor.watch(&mut term, &mut int).await
}

/// The supervisor, and what health checks read.
struct Started {
    supervisor: Supervisor,
    health: Health,
}

#[expect(
    clippy::disallowed_methods,
    reason = "the supervisor is where tasks are spawned; it joins each"
)]
fn start(config: Config, parts: Parts) -> Result<Started, StartupError> {
    let (events, events_in) = mpsc::channel(CHANNEL);
    let (commands, commands_in) = mpsc::channel(CHANNEL);
    let (blobs, blobs_in) = mpsc::channel(BLOB_REQUESTS);
    let (tokens, tokens_in) = mpsc::channel(TOKEN_REQUESTS);
    let (stage, stage_in) = watch::channel(Stage::Serving);
    let (readiness, readiness_in) = watch::channel(Readiness::Serving);
    let (finish, finish_in) = watch::channel(Finish::Never);
    let (state, link) = watch::channel(LinkState::Connecting);
    let (offers, capabilities) = watch::channel(capabilities::at_start(
        &config,
        &parts.path,
        &parts.identities,
        (&parts.children, parts.pool_keys.as_deref()),
    ));
    info!(
        agent_id = %parts.agent_id, instance_id = %parts.instance_id, manager = %config.manager,
        slots = config.slots, ambient = %parts.identities.ambient(), version = env!("CARGO_PKG_VERSION"), "agent starts"
    );
    if let Some(warning) = config.policy.warning() {
        warn!(policy = warning, "the agent's policy");
    }
    let unsealed = config.signers.without_pool_key();
    if let Some(warning) = unsealed.filter(|_| parts.pool_keys.is_none()) {
        warn!("{warning}");
    }
    if let Err(unusable) = config.signers.names() {
        warn!(%unusable, "signed tasks are not taken");
    }
    let session_config = SessionConfig {
        manager: config.manager,
        membership: parts.membership.clone(),
        agent_id: parts.agent_id.clone(),
        instance_id: parts.instance_id,
        version: env!("CARGO_PKG_VERSION").into(),
        backoff: config.backoff,
        connect_timeout: config.connect_timeout,
    };
    let environment = Environment {
        work: parts.work,
        logs: Logs::spooled(parts.spool.clone()),
        identities: parts.identities,
        confinement: parts.children.confinement,
        policy: config.policy.clone(),
        signers: config.signers.clone(),
        pool_keys: parts.pool_keys,
        agent: AgentFacts {
            id: parts.agent_id.to_string(),
            labels: config.labels,
            version: env!("CARGO_PKG_VERSION").into(),
        },
        steering: Steering::Manager,
        secrets_folder: config.secrets_folder,
    };
    let ports = SessionPorts {
        events: events_in,
        commands: commands.clone(),
        blobs,
        tokens,
        capabilities,
        spool: parts.spool.clone(),
        stage: stage_in,
        state,
    };
    let session_abort = CancellationToken::new();
    let session = session_thread(Session::new(session_config.clone(), ports), session_abort.clone())?;
    let executor = Executor::new(ExecutorConfig::with_slots(config.slots), environment);
    let executor = tokio::spawn(executor.run(commands_in, events));
    let uploads = tokio::spawn(bulk::upload_logs(
        session_config.clone(),
        parts.spool.clone(),
        finish_in,
    ));
    let mut background = Background::default();
    background.spawn("keeper of the certificate", parts.membership.clone().keep_up());
    background.spawn(
        "bundle fetcher",
        bulk::fetch_blobs(session_config.clone(), blobs_in, commands.clone()),
    );
    background.spawn(
        "token requests",
        bulk::mint_tokens(session_config, tokens_in, commands.clone()),
    );
    background.spawn(
        "capability report",
        capabilities::keep_current(
            offers,
            parts.path,
            (parts.spool.clone(), config.policy, parts.membership.clone()),
        ),
    );
    if deputy_process::orphans::inherits() {
        background.spawn("orphan reaper", deputy_process::orphans::reap());
    }
    let supervisor = Supervisor {
        schedule: Schedule::new(config.drain_timeout, config.grace),
        executor,
        session,
        session_abort,
        uploads,
        background,
        commands,
        stage,
        readiness,
        finish,
        spool: parts.spool,
        membership: parts.membership,
    };
    Ok(Started {
        supervisor,
        health: Health {
            link,
            readiness: readiness_in,
        },
    })
}

/// The session's own thread and runtime: whatever the work does to the other threads, heartbeats go
/// out and acknowledgements come in.
fn session_thread(
    session: Session,
    abort: CancellationToken,
) -> Result<oneshot::Receiver<Result<(), SessionError>>, StartupError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartupError::Threads)?;
    let (ended, outcome) = oneshot::channel();
    let body = move || {
        let result = runtime.block_on(async {
            tokio::select! {
                result = session.run() => result,
                () = abort.cancelled() => Ok(()),
            }
        });
        // The supervisor has given up waiting.
        let _ = ended.send(result);
    };
    std::thread::Builder::new()
        .name("session".into())
        .spawn(body)
        .map_err(StartupError::Threads)?;
    Ok(outcome)
}

impl Supervisor {
    async fn watch(mut self, term: &mut Signal, int: &mut Signal) -> Result<Exit, StartupError> {
        let cause = tokio::select! {
            _ = term.recv() => Cause::Signal,
            _ = int.recv() => Cause::Signal,
            ended = &mut self.executor => Cause::Executor(ended),
            ended = &mut self.session => Cause::Session(session_end(ended)),
            ended = &mut self.uploads => {
                error!(?ended, "a part broke");
                Cause::Part(UPLOADER)
            }
            name = self.background.broken() => Cause::Part(name),
        };
        match cause {
            Cause::Signal => self.leave("the agent was told to stop", term).await,
            Cause::Executor(Ok(())) => {
                info!("drained as the manager wished");
                self.readiness
                    .send_replace(Readiness::Draining("as the manager wished".into()));
                let leaving = Instant::now();
                self.after_work(leaving, "drained as the manager wished", term)
                    .await
                    .map(|()| Exit::Success)
            }
            Cause::Executor(Err(panic)) => {
                error!(%panic, "the executor broke; its tasks wait at the manager for their lease");
                Err(StartupError::Broken("executor"))
            }
            Cause::Session(ended) => self.abandoned(ended).await,
            // The rest still works: what goes on is handed back in order, and the platform starts the agent again.
            Cause::Part(name) => {
                self.leave(&format!("the agent's {name} broke"), term).await?;
                Err(StartupError::Broken(name))
            }
        }
    }

    /// SIGTERM: see [`crate::drain`].
    async fn leave(mut self, reason: &str, again: &mut Signal) -> Result<Exit, StartupError> {
        let begun = Instant::now();
        info!(reason, within = ?self.schedule.all, "leaving");
        self.readiness.send_replace(Readiness::Draining(reason.into()));
        self.stage.send_replace(Stage::Draining(reason.into()));
        let held_until = deputy_steps::permit::now().after(self.schedule.held);
        let told = self.commands.send(drain(held_until, reason));
        let mut exit = Exit::Success;
        let work = async {
            // The executor may be gone already; then there is nothing to wait for.
            let _ = told.await;
            (&mut self.executor).await
        };
        if let Staged::CutShort = stage("work", begun + self.schedule.work, again, work).await {
            warn!("work was still going on; its tasks wait at the manager for the end of the lease");
            self.executor.abort();
            let _ = (&mut self.executor).await;
            exit = Exit::LeftWorkBehind;
        }
        self.after_work(begun, reason, again).await?;
        Ok(exit)
    }

    /// Results are written, or given up: logs, then goodbye.
    async fn after_work(mut self, begun: Instant, reason: &str, again: &mut Signal) -> Result<(), StartupError> {
        self.finish.send_replace(Finish::WhenEmpty);
        let uploaded = async {
            // Joined before, it broke; nothing is uploaded any more.
            if self.uploads.is_finished() {
                return false;
            }
            (&mut self.uploads).await.is_ok()
        };
        let uploaded = stage("logs", begun + self.schedule.logs, again, uploaded).await;
        if uploaded != Staged::Done(true) && self.spool.pending_bytes() > 0 {
            warn!(bytes = self.spool.pending_bytes(), "logs are left behind");
        }
        self.uploads.abort();
        self.stage.send_replace(Stage::Leaving(reason.into()));
        let ended = at_most(begun + self.schedule.all, &mut self.session).await;
        self.session_abort.cancel();
        match ended {
            Some(ended) => session_end(ended)?,
            None => warn!("the manager did not hear everything in time; it will when the lease is over"),
        }
        // Why it is still not there has been told.
        let _ = at_most(begun + self.schedule.all, self.membership.keep_at_last()).await;
        info!(elapsed_ms = begun.elapsed().as_millis(), "left");
        Ok(())
    }

    /// The session ended: another process has the agent id, or it broke. Everything held is revoked or will be.
    async fn abandoned(self, ended: Result<(), StartupError>) -> Result<Exit, StartupError> {
        let Self {
            executor,
            commands,
            background,
            uploads,
            ..
        } = self;
        uploads.abort();
        // With their commands closed, attempts stop without touching the world.
        background.abort().await;
        drop(commands);
        if at_most(Instant::now() + STOP_REVOKED, executor).await.is_none() {
            warn!("work did not stop in time and is dropped");
        }
        ended.map(|()| Exit::Success)
    }
}

fn drain(deadline: BootTime, reason: &str) -> Command {
    Command::Drain {
        deadline,
        reason: reason.to_owned(),
    }
}

/// A session thread that ends without a word has panicked.
fn session_end(ended: Result<Result<(), SessionError>, oneshot::error::RecvError>) -> Result<(), StartupError> {
    match ended {
        Ok(result) => result.map_err(StartupError::Session),
        Err(_) => Err(StartupError::Broken("session")),
    }
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::disallowed_methods,
        reason = "the supervisor joins what these tests spawn for it"
    )]

    use deputy_dial::proxy::ProxyRule;
    use deputy_logs::SpoolConfig;
    use deputy_session::way::Transport;

    use super::*;

    /// A supervisor of an executor that ends when it is drained, and of a session that leaves when it is told to.
    fn supervisor(folder: &std::path::Path, uploads: JoinHandle<()>, background: Background) -> Supervisor {
        let (commands, mut commands_in) = mpsc::channel(CHANNEL);
        let (stage, mut stage_in) = watch::channel(Stage::Serving);
        let (readiness, _) = watch::channel(Readiness::Serving);
        let (finish, _) = watch::channel(Finish::Never);
        let (ended, session) = oneshot::channel();
        let executor = tokio::spawn(async move {
            while let Some(command) = commands_in.recv().await {
                if matches!(command, Command::Drain { .. }) {
                    return;
                }
            }
        });
        tokio::spawn(async move {
            let left = stage_in.wait_for(|stage| matches!(stage, Stage::Leaving(_))).await;
            drop(left);
            let _ = ended.send(Ok(()));
        });
        Supervisor {
            schedule: Schedule::new(Duration::from_secs(8), Duration::from_secs(1)),
            executor,
            session,
            session_abort: CancellationToken::new(),
            uploads,
            background,
            commands,
            stage,
            readiness,
            finish,
            spool: Spool::open(SpoolConfig::in_folder(folder.to_owned())).expect("spool"),
            membership: Membership::new(
                "http://127.0.0.1:1".parse().expect("an address"),
                "a1".parse().expect("an id"),
                (ProxyRule::default(), Duration::from_secs(1), Transport::Stream),
                None,
            ),
        }
    }

    async fn end_of(supervisor: Supervisor) -> Result<Exit, StartupError> {
        let quiet = || signal(SignalKind::user_defined2()).expect("signal");
        let watched = async { supervisor.watch(&mut quiet(), &mut quiet()).await };
        let ended = tokio::time::timeout(Duration::from_secs(30), watched).await;
        ended.expect("it does not go on without its part")
    }

    #[tokio::test]
    async fn an_agent_whose_log_uploader_broke_hands_its_work_back_and_ends() {
        let folder = tempfile::tempdir().expect("folder");
        let uploads = tokio::spawn(async { panic!("the test says so") });
        let supervisor = supervisor(folder.path(), uploads, Background::default());
        let ended = end_of(supervisor).await;
        assert!(matches!(ended, Err(StartupError::Broken("log uploader"))), "{ended:?}");
    }

    #[tokio::test]
    async fn an_agent_whose_bundle_fetcher_broke_hands_its_work_back_and_ends() {
        let folder = tempfile::tempdir().expect("folder");
        let mut background = Background::default();
        background.spawn("capability report", async {});
        background.spawn("bundle fetcher", async { panic!("the test says so") });
        // As the real one does once it is told that no more comes.
        let uploads = tokio::spawn(tokio::time::sleep(Duration::from_secs(2)));
        let supervisor = supervisor(folder.path(), uploads, background);
        let ended = end_of(supervisor).await;
        assert!(
            matches!(ended, Err(StartupError::Broken("bundle fetcher"))),
            "{ended:?}"
        );
    }
}
