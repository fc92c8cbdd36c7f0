//! `deputy-agent run`: from a checked configuration to a running supervisor, and back to an exit.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;

use deputy_credentials::env::Env;
use deputy_executor::WorkFolder;
use deputy_logs::{Spool, SpoolConfig};
use deputy_task::id::InstanceId;

use crate::agent_id::agent_id;
use crate::children::{children, own_places, profile_places};
use crate::config::checked::Config;
use crate::exit::{Exit, StartupError};
use crate::identity_file::IdentityFile;
use crate::join::membership;
use crate::own_identity::own_identity;
use crate::pool_ring;
use crate::supervisor::{Parts, supervise};
use crate::telemetry;
use crate::work_root::{SPOOL, WORKSPACES, look_through, work_root};

/// Work needs little of the agent itself; what is heavy runs in children.
const WORKERS: usize = 2;

/// Serves until SIGTERM.
pub(crate) fn run(config: Config) -> Result<Exit, StartupError> {
    if let Some(path) = config
        .tools_path
        .as_ref()
        .filter(|path| std::env::var_os("PATH").as_ref() != Some(*path))
    {
        return Err(with_path(path.clone()));
    }
    telemetry::install(&config.log);
    let env = Env::from_process();
    // Before anything is written there: it is made for this user alone.
    let pool_keys = pool_ring::open(config.pool_key_file.as_deref(), &own_identity(&config, env.clone()))?;
    let kept = config
        .state_folder
        .as_deref()
        .map(IdentityFile::in_folder)
        .transpose()?;
    let agent_id = agent_id(&config)?;
    look_through(config.work_folder.as_deref())?;
    let root = work_root(config.work_folder.as_deref())?;
    let mut hidden = own_places(&config, &root);
    hidden.extend(profile_places(config.aws_profile.as_deref(), &env)?);
    let children = children(config.confinement, hidden, config.writable_folders.clone(), &env)?;
    let mut work = WorkFolder::open(&root.join(WORKSPACES)).map_err(|source| StartupError::Folder {
        what: "the work folder",
        path: root.clone(),
        source: Box::new(source),
    })?;
    work.name(agent_id.as_str()).map_err(|source| StartupError::Folder {
        what: "the work folder",
        path: root.clone(),
        source: Box::new(source),
    })?;
    for swept in work.swept() {
        tracing::info!(folder = %swept.display(), "removed what a dead agent left behind");
    }
    let spool = Spool::open(SpoolConfig {
        attempt_cap_bytes: config.spool_task_limit_bytes,
        total_cap_bytes: config.spool_limit_bytes,
        ..SpoolConfig::in_folder(root.join(SPOOL))
    });
    let spool = spool.map_err(|source| StartupError::Folder {
        what: "the log spool",
        path: root.clone(),
        source: Box::new(source),
    })?;
    let identities = own_identity(&config, env.clone());
    let ambient = identities.ambient();
    if !ambient.warning.is_empty() {
        tracing::warn!("{}", ambient.warning);
    }
    let keeping = kept.map(|kept| kept.keeping(agent_id.as_str())).unwrap_or_default();
    // Joining happens on the session's thread, so it has an HTTP client of its own.
    let membership = membership(&config, &agent_id, keeping, &own_identity(&config, env))?;
    let parts = Parts {
        agent_id,
        membership,
        instance_id: InstanceId::generate(),
        work,
        spool,
        identities,
        children,
        pool_keys,
        path: std::env::var_os("PATH").unwrap_or_default(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_name("work")
        .enable_all()
        .build()
        .map_err(StartupError::Threads)?;
    let exit = runtime.block_on(supervise(config, parts));
    // Whatever still blocks a thread (a read of a dead disk) must not keep the process.
    runtime.shutdown_background();
    exit
}

/// Starts this program anew with another PATH, so that the agent, its report and its children all
/// see the same tools. Comes back only if that fails.
fn with_path(path: OsString) -> StartupError {
    let failed = |source| StartupError::Unreadable {
        path: "/proc/self/exe".into(),
        source,
    };
    match std::env::current_exe() {
        Ok(program) => failed(
            std::process::Command::new(program)
                .args(std::env::args_os().skip(1))
                .env("PATH", path)
                .exec(),
        ),
        Err(error) => failed(error),
    }
}
