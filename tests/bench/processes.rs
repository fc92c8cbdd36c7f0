//! The release programs, started for a measurement and killed when it is over.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use deputy_proto::v1::fleet_client::FleetClient;
use deputy_proto::v1::tasks_client::TasksClient;
use deputy_proto::v1::{AgentStatus, FleetListRequest, ListRequest, SubmitRequest, TaskState};
use deputy_tests::access::{Access, Client};

/// A process that does not outlive the measurement.
pub(crate) struct Running(Child);

impl Running {
    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _already_gone = self.0.kill();
        let _already_reaped = self.0.wait();
    }
}

/// One manager and one agent.
pub(crate) struct Pair {
    /// Where everything of this measurement is.
    pub(crate) folder: tempfile::TempDir,
    /// Files in it may be given to tasks as secrets.
    pub(crate) secrets_folder: PathBuf,
    /// Steps may write into it.
    pub(crate) marks: PathBuf,
    /// How the manager is reached.
    pub(crate) access: Access,
    /// The manager.
    pub(crate) manager: Running,
    /// The agent.
    pub(crate) agent: Running,
    /// From exec of the agent until it was ready for tasks.
    pub(crate) agent_ready: Duration,
}

impl Pair {
    /// Starts both and waits until the agent is ready.
    pub(crate) async fn start(programs: &Path, slots: u32) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("deputy-bench-")
            .tempdir_in(measured_disk()?)?;
        let ready = folder.path().join("manager.ready");
        let manager = spawn(
            &programs.join("deputy-manager"),
            &[
                "--listen",
                "127.0.0.1:0",
                "--data",
                &text(folder.path(), "data"),
                "--ready-file",
                &text(folder.path(), "manager.ready"),
            ],
            &folder.path().join("manager.log"),
        )?;
        let address = wait_for_file(&ready)
            .await
            .with_context(|| log_tail(&folder.path().join("manager.log")))?;
        let access = Access::of(address.parse()?, &folder.path().join("data"))?;
        std::fs::write(folder.path().join("join-token"), access.join_token(1).await?)?;
        let secrets_folder = folder.path().join("secrets");
        let marks = folder.path().join("marks");
        std::fs::create_dir(&secrets_folder)?;
        std::fs::create_dir(&marks)?;
        let started = Instant::now();
        let agent = spawn(
            &programs.join("deputy-agent"),
            &[
                "run",
                "--manager",
                &access.url(),
                "--ca-file",
                &access.ca_file.display().to_string(),
                "--join-token-file",
                &text(folder.path(), "join-token"),
                "--agent-id",
                "bench",
                "--allow-all",
                "--slots",
                &slots.to_string(),
                "--work-folder",
                &text(folder.path(), "work"),
                "--secrets-folder",
                &secrets_folder.display().to_string(),
                "--writable-folders",
                &marks.display().to_string(),
            ],
            &folder.path().join("agent.log"),
        )?;
        wait_until_online(&access)
            .await
            .with_context(|| log_tail(&folder.path().join("agent.log")))?;
        let agent_ready = started.elapsed();
        Ok(Self {
            folder,
            secrets_folder,
            marks,
            access,
            manager,
            agent,
            agent_ready,
        })
    }

    /// A client of the manager.
    pub(crate) async fn tasks(&self) -> Result<TasksClient<Client>> {
        let mut tasks = TasksClient::new(self.access.client()?);
        // The first call makes the connection.
        tasks.list(ListRequest::default()).await?;
        Ok(tasks)
    }
}

/// A folder on the disk that is measured: the one with the build, not a memory file system.
fn measured_disk() -> Result<PathBuf> {
    let folder = std::env::current_exe()?
        .parent()
        .context("the program has no folder")?
        .join("bench");
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn text(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string()
}

fn spawn(program: &Path, arguments: &[&str], log: &Path) -> Result<Running> {
    let log = std::fs::File::create(log)?;
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .map(Running)
        .with_context(|| format!("starting {}", program.display()))
}

/// An agent is ready when the manager would give it a task.
async fn wait_until_online(access: &Access) -> Result<()> {
    let mut fleet = FleetClient::new(access.client()?);
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        let agents = fleet.list(FleetListRequest::default()).await?.into_inner().agents;
        if agents.iter().any(|agent| agent.status() == AgentStatus::Online) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    bail!("the agent was not online within 20 s")
}

async fn wait_for_file(path: &Path) -> Result<String> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        if let Ok(text) = std::fs::read_to_string(path)
            && !text.trim().is_empty()
        {
            return Ok(text.trim().to_owned());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    bail!("{} did not appear within 20 s", path.display())
}

fn log_tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(15).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// A request with a fresh client request id.
pub(crate) fn submit_request(document: &str) -> SubmitRequest {
    SubmitRequest {
        client_request_id: format!("bench-{:032x}", rand::random::<u128>()),
        document: document.as_bytes().to_vec().into(),
        submitter: "bench".into(),
        ..SubmitRequest::default()
    }
}

/// Waits until no task is live any more.
pub(crate) async fn wait_until_idle(client: &mut TasksClient<Client>, limit: Duration) -> Result<()> {
    let live = [
        TaskState::Queued,
        TaskState::Assigned,
        TaskState::Running,
        TaskState::Lost,
    ];
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        let request = ListRequest {
            states: live.map(i32::from).to_vec(),
            page_size: 1,
            ..ListRequest::default()
        };
        if client.list(request).await?.into_inner().tasks.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bail!("tasks were still live after {} s", limit.as_secs())
}
