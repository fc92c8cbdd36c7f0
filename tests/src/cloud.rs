//! The emulated cloud: `testbed/cloud.py` as a child, and wishes to it.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::child::{Child, Output};
use crate::programs::{Tools, workspace};

/// The emulator answers in well under a second; a cluster takes five on a machine with nothing else to do.
const WISH_DEADLINE: Duration = Duration::from_secs(180);

/// The account with the roles `deployer` and `reader`.
pub const AWAY: &str = "222222222222";
/// The account where agents live.
pub const HOME: &str = "000000000000";

/// An emulated cloud. It ends when it is dropped.
#[derive(Debug)]
pub struct Cloud {
    pipe: Arc<Mutex<Pipe>>,
    scenery: Scenery,
    kubernetes: OnceCell<Cluster>,
    folder: PathBuf,
}

/// What a fresh cloud holds.
#[derive(Debug, Clone, Deserialize)]
pub struct Scenery {
    /// `http://127.0.0.1:…`; the proxies of the worlds stand in front of it.
    pub endpoint: String,
    /// The role that agents have.
    pub agent_role: String,
    /// May do what deployments need; trusts the agent's role with the external id.
    pub deployer_role: String,
    /// May only look; trusts the agent's role with the external id.
    pub reader_role: String,
    /// For tasks that are containers.
    pub execution_role: String,
    /// What both roles ask for.
    pub external_id: String,
    /// Where everything is.
    pub region: String,
    /// Whose tokens the agent's role accepts.
    pub issuer: String,
    /// The subject that they must have.
    pub service_account: String,
}

/// An EKS cluster, which is a real Kubernetes.
#[derive(Debug, Clone, Deserialize)]
pub struct Cluster {
    /// As EKS knows it.
    pub name: String,
    /// `https://localhost:…`
    pub endpoint: String,
    /// Logs, certificates, `admin.kubeconfig`, `audit.log`.
    pub folder: PathBuf,
}

/// What runs the tasks of ECS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EcsTasks {
    /// Nothing: they are running at once, and never fail.
    Pretended,
    /// Podman: they are real.
    Containers,
}

#[derive(Debug)]
struct Pipe {
    child: Child,
    wishes: Option<ChildStdin>,
    answers: Receiver<String>,
}

impl Cloud {
    /// The one that the tests of this process share. Use names of your own in it.
    pub async fn shared() -> Result<Arc<Self>> {
        static SHARED: OnceCell<Arc<Cloud>> = OnceCell::const_new();
        SHARED
            .get_or_try_init(|| Self::start(EcsTasks::Pretended))
            .await
            .cloned()
    }

    /// The one with containers that the tests of this process share. Ask [`crate::podman::missing`] first.
    pub async fn shared_with_containers() -> Result<Arc<Self>> {
        static SHARED: OnceCell<Arc<Cloud>> = OnceCell::const_new();
        SHARED
            .get_or_try_init(|| Self::start(EcsTasks::Containers))
            .await
            .cloned()
    }

    /// A new one of the caller's own.
    pub async fn start(tasks: EcsTasks) -> Result<Arc<Self>> {
        Self::started(&Tools::load()?, tasks, None).await
    }

    /// A new one of the caller's own, of these programs.
    pub async fn of_tools(tools: &Tools) -> Result<Arc<Self>> {
        Self::started(tools, EcsTasks::Pretended, None).await
    }

    /// A new one of the caller's own, whose role sessions and EKS tokens end after this many seconds, whatever was
    /// asked for.
    pub async fn with_sessions_of(seconds: u32) -> Result<Arc<Self>> {
        Self::started(&Tools::load()?, EcsTasks::Pretended, Some(seconds)).await
    }

    async fn started(tools: &Tools, tasks: EcsTasks, session_seconds: Option<u32>) -> Result<Arc<Self>> {
        // Removed by the cloud itself: a shared one outlives every destructor of this process.
        let folder = tempfile::Builder::new().prefix("deputy-cloud-").tempdir()?.keep();
        let keep = std::env::var_os("DEPUTY_KEEP").is_some();
        let mut command = Command::new(tools.get("python")?);
        command
            .arg(workspace().join("tests/testbed/cloud.py"))
            .arg("--folder")
            .arg(&folder);
        command.arg("--manifest").arg(tools.manifest());
        if tasks == EcsTasks::Containers {
            command.arg("--containers");
        }
        if let Some(seconds) = session_seconds {
            command.arg("--session-seconds").arg(seconds.to_string());
        }
        if keep {
            command.arg("--keep");
        }
        command.env("PYTHONDONTWRITEBYTECODE", "1").current_dir(&folder);
        let log = folder.join("cloud.log");
        let pipe = Arc::new(Mutex::new(Pipe::open(Child::spawn(
            "cloud",
            command,
            &log,
            Output::Piped,
        )?)?));
        let ready = {
            let pipe = Arc::clone(&pipe);
            tokio::task::spawn_blocking(move || lock(&pipe).next_answer()).await??
        };
        let scenery = serde_json::from_value(ready["ready"].clone()).context("the cloud's first line")?;
        Ok(Arc::new(Self {
            pipe,
            scenery,
            kubernetes: OnceCell::new(),
            folder,
        }))
    }

    /// What it holds.
    #[must_use]
    pub fn scenery(&self) -> &Scenery {
        &self.scenery
    }

    /// The emulator's address, without any proxy.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.scenery.endpoint.trim_start_matches("http://").parse()?)
    }

    /// Its folder, with all logs.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The EKS cluster `prod` with the namespace `shop` that `deployer` may edit; made at the first call.
    pub async fn kubernetes(&self) -> Result<&Cluster> {
        let make = || async {
            let cluster = self
                .wish(json!({ "wish": "kubernetes", "name": "prod", "namespaces": ["shop"] }))
                .await?;
            Ok::<Cluster, anyhow::Error>(serde_json::from_value(cluster)?)
        };
        self.kubernetes.get_or_try_init(make).await
    }

    /// Another namespace in `prod` that `deployer` may edit.
    pub async fn namespace(&self, name: &str) -> Result<()> {
        let cluster = self.kubernetes().await?;
        self.wish(json!({ "wish": "namespace", "cluster": cluster.name, "namespace": name }))
            .await?;
        Ok(())
    }

    /// Another ECS cluster in the account of `deployer`.
    pub async fn ecs_cluster(&self, name: &str) -> Result<()> {
        self.wish(json!({ "wish": "ecs_cluster", "name": name })).await?;
        Ok(())
    }

    /// A role of the test's own in [`AWAY`], which trusts the agent's role with the external id; its ARN.
    pub async fn role(&self, name: &str, actions: &[&str]) -> Result<String> {
        self.made_role(name, actions, None).await
    }

    /// The same, which may do no more than `boundary`.
    pub async fn role_within(&self, name: &str, actions: &[&str], boundary: &[&str]) -> Result<String> {
        self.made_role(name, actions, Some(boundary)).await
    }

    async fn made_role(&self, name: &str, actions: &[&str], boundary: Option<&[&str]>) -> Result<String> {
        let wish = json!({
            "wish": "role", "account": AWAY, "name": name, "trusts": self.scenery.agent_role, "actions": actions,
            "external_id": self.scenery.external_id, "boundary": boundary,
        });
        let role = self.wish(wish).await?;
        Ok(role["arn"].as_str().context("the role's ARN")?.to_owned())
    }

    /// A wish in the cloud's own words (`testbed/scenery.py`).
    pub async fn wish(&self, wish: Value) -> Result<Value> {
        let pipe = Arc::clone(&self.pipe);
        let answer = tokio::task::spawn_blocking(move || lock(&pipe).wish(&wish)).await??;
        Ok(answer["ok"].clone())
    }

    /// The end of its log.
    #[must_use]
    pub fn tail(&self) -> String {
        lock(&self.pipe).child.tail()
    }
}

impl Pipe {
    fn open(mut child: Child) -> Result<Self> {
        let (wishes, output) = child.pipes().context("the cloud's pipes")?;
        let (lines, answers) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if lines.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            child,
            wishes: Some(wishes),
            answers,
        })
    }

    fn wish(&mut self, wish: &Value) -> Result<Value> {
        let pipe = self.wishes.as_mut().context("the cloud has been closed")?;
        writeln!(pipe, "{wish}")
            .and_then(|()| pipe.flush())
            .with_context(|| self.child.tail())?;
        self.next_answer()
            .with_context(|| format!("the emulated cloud refused {wish}"))
    }

    fn next_answer(&mut self) -> Result<Value> {
        let line = self.answers.recv_timeout(WISH_DEADLINE).map_err(|error| match error {
            RecvTimeoutError::Timeout => anyhow!("no answer within {WISH_DEADLINE:?}\n{}", self.child.tail()),
            RecvTimeoutError::Disconnected => anyhow!("the emulated cloud ended\n{}", self.child.tail()),
        })?;
        let answer: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
        if let Some(error) = answer["error"].as_str() {
            bail!("{error}\n{}", self.child.tail());
        }
        Ok(answer)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // The end of its input makes it kill the clusters and remove the containers; then it is killed anyway.
        self.wishes = None;
        for _ in 0..500 {
            if !self.child.is_running() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
