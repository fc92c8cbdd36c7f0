//! A world: a manager, agents and the CLI as processes, and the emulated cloud that they deploy to.
//!
//! Everything is in one temporary folder, listens on 127.0.0.1, and ends with the `World`. With
//! `DEPUTY_KEEP=1` the folder stays.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use deputy_proto::v1;
use serde_json::Value;
use tempfile::TempDir;

use crate::agent_process::{AgentOptions, AgentProcess, NO_METADATA, Start};
use crate::cloud::{AWAY, Cloud, Cluster};
use crate::command_output::CommandOutput;
use crate::container_credentials::{ContainerCredentials, root_config};
use crate::leaks::{pool_keys, whole_run::WholeRun};
use crate::link::Link;
use crate::manager_process::{ManagerOptions, ManagerProcess};
use crate::microburst::Microburst;
use crate::programs::{Binaries, path_with_tools};
use crate::proxy::relay::Proxy;
use crate::tasks::Tasks;

/// How long [`World::agent`] waits for the manager to know the agent.
const JOINED_WITHIN: Duration = Duration::from_secs(60);

/// Joins by the one join token of a world: restarts of agents without what they kept take one each.
const JOINS: u32 = 1000;

/// What a world is made of.
#[derive(Debug, Default)]
pub struct Builder {
    cloud: Option<Arc<Cloud>>,
    manager: ManagerOptions,
    kubernetes: Kubernetes,
    faults: Option<Value>,
    binaries: Option<Binaries>,
    ca_file: Option<PathBuf>,
    parent: Option<PathBuf>,
}

/// Whether agents reach the cluster through a proxy of the test's own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Kubernetes {
    #[default]
    Direct,
    BehindProxy,
}

/// A running world.
#[derive(Debug)]
pub struct World {
    /// The manager.
    pub manager: ManagerProcess,
    /// The agents, in the order in which they were added.
    pub agents: Vec<AgentProcess>,
    /// The manager's API.
    pub tasks: Tasks,
    /// The file of the join token of all agents of this world.
    join_token: PathBuf,
    aws: Option<Aws>,
    binaries: Binaries,
    name: String,
    folder: PathBuf,
    root: PathBuf,
    _kept: Option<TempDir>,
}

#[derive(Debug)]
struct Aws {
    cloud: Arc<Cloud>,
    proxy: Arc<Proxy>,
    kubernetes_proxy: Option<Proxy>,
    credentials: ContainerCredentials,
    microburst: Option<Microburst>,
}

impl Builder {
    /// With this emulated cloud; without it agents have no AWS identity.
    #[must_use]
    pub fn cloud(mut self, cloud: &Arc<Cloud>) -> Self {
        self.cloud = Some(Arc::clone(cloud));
        self
    }

    /// With another manager.
    #[must_use]
    pub fn manager(mut self, change: impl FnOnce(&mut ManagerOptions)) -> Self {
        change(&mut self.manager);
        self
    }

    /// Agents reach the EKS cluster through a recording proxy, as they do AWS.
    #[must_use]
    pub fn proxy_before_kubernetes(mut self) -> Self {
        self.kubernetes = Kubernetes::BehindProxy;
        self
    }

    /// Agents reach AWS through microburst, which injects by these rules; the recording proxy stands before it.
    #[must_use]
    pub fn faults(mut self, rules: Value) -> Self {
        self.faults = Some(rules);
        self
    }

    /// The authority of the manager's own certificate, where it is not the manager's.
    #[must_use]
    pub fn ca_file(mut self, path: &Path) -> Self {
        self.ca_file = Some(path.into());
        self
    }

    /// Its folder is made in this one, and not among temporary files: steps cannot make files beside what is hidden.
    #[must_use]
    pub fn in_folder(mut self, parent: &Path) -> Self {
        self.parent = Some(parent.into());
        self
    }

    /// Other programs than those built beside this one.
    #[must_use]
    pub fn binaries(mut self, binaries: Binaries) -> Self {
        self.binaries = Some(binaries);
        self
    }

    /// Starts the manager, without agents.
    pub async fn start(self) -> Result<World> {
        let parent = self.parent.unwrap_or_else(std::env::temp_dir);
        let kept = tempfile::Builder::new().prefix("deputy-world-").tempdir_in(parent)?;
        let root = kept.path().to_owned();
        let folder = root.join("shared");
        std::fs::create_dir(&folder)?;
        let kept = if std::env::var_os("DEPUTY_KEEP").is_some() {
            let _ = kept.keep();
            None
        } else {
            Some(kept)
        };
        let binaries = self.binaries.map_or_else(Binaries::beside_this, Ok)?;
        let aws = match self.cloud {
            Some(cloud) => Some(Aws::before(cloud, self.kubernetes, self.faults.as_ref(), &folder).await?),
            None => None,
        };
        let mut manager = ManagerProcess::start(&binaries, &root.join("manager"), self.manager).await?;
        manager.ca_file = self.ca_file;
        let access = manager.access()?;
        let tasks = Tasks::of(&access)?;
        let join_token = root.join("join-token");
        std::fs::write(&join_token, access.join_token(JOINS).await?)?;
        let name = format!("{:08x}", rand::random::<u32>());
        Ok(World {
            manager,
            join_token,
            agents: Vec::new(),
            tasks,
            aws,
            binaries,
            name,
            folder,
            root,
            _kept: kept,
        })
    }
}

impl Aws {
    async fn before(cloud: Arc<Cloud>, kubernetes: Kubernetes, faults: Option<&Value>, folder: &Path) -> Result<Self> {
        let microburst = match faults {
            Some(rules) => Some(Microburst::before(cloud.address()?, rules, folder).await?),
            None => None,
        };
        let upstream = microburst
            .as_ref()
            .map_or_else(|| cloud.address(), |it| Ok(it.address()))?;
        let proxy = Arc::new(Proxy::before_aws(upstream).await?);
        let kubernetes_proxy = match kubernetes {
            Kubernetes::Direct => None,
            Kubernetes::BehindProxy => {
                let cluster = cloud.kubernetes().await?;
                let upstream = ([127, 0, 0, 1], cluster.port()?).into();
                let before = Proxy::before_kubernetes(upstream, &cluster.folder).await?;
                let endpoint = format!("https://localhost:{}", before.address().port());
                proxy.replace_in_replies(&cluster.endpoint, &endpoint);
                Some(before)
            }
        };
        let learner = Arc::clone(&proxy);
        let learn = move |key: &str, caller: &str| learner.learn(key, caller);
        let credentials = ContainerCredentials::start(&cloud, &cloud.scenery().agent_role, learn).await?;
        Ok(Self {
            cloud,
            proxy,
            kubernetes_proxy,
            credentials,
            microburst,
        })
    }
}

impl World {
    /// What a world is made of.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A manager and one agent, without a cloud.
    pub async fn with_one_agent() -> Result<Self> {
        let mut world = Self::builder().start().await?;
        world.agent(AgentOptions::default()).await?;
        Ok(world)
    }

    /// A manager and one agent in front of the cloud that all tests of this process share.
    pub async fn with_shared_cloud() -> Result<Self> {
        let mut world = Self::builder().cloud(&Cloud::shared().await?).start().await?;
        world.agent(AgentOptions::default()).await?;
        Ok(world)
    }

    /// After the manager was started on another data folder: it has another authority, and knows nobody.
    pub async fn introduce_again(&mut self) -> Result<()> {
        let access = self.manager.access()?;
        self.tasks = Tasks::of(&access)?;
        std::fs::write(&self.join_token, access.join_token(JOINS).await?)?;
        Ok(())
    }

    /// Adds an agent and waits until the manager knows it; its place in [`World::agents`].
    pub async fn agent(&mut self, options: AgentOptions) -> Result<usize> {
        let place = self.launch(options).await?;
        let id = self.agents[place].id.clone();
        self.joined(&id).await?;
        Ok(place)
    }

    /// Adds an agent that need not be let in; its place in [`World::agents`].
    pub async fn launch(&mut self, options: AgentOptions) -> Result<usize> {
        let id = options
            .id
            .clone()
            .unwrap_or_else(|| format!("agent-{}", self.agents.len() + 1));
        let link = Link::to(self.manager.address()?).await?;
        let folder = options.folder.clone().unwrap_or_else(|| self.agent_folder(&id));
        let mut start = Start::new(&self.binaries, &folder, options);
        start.environment = self.aws_environment();
        start.ca_file = self.manager.access()?.ca_file;
        start.join_token.clone_from(&self.join_token);
        self.agents.push(AgentProcess::start(&id, link, start)?);
        Ok(self.agents.len() - 1)
    }

    /// Waits until the manager has a session with the agent.
    pub async fn joined(&mut self, id: &str) -> Result<()> {
        let deadline = tokio::time::Instant::now() + JOINED_WITHIN;
        loop {
            let listed = self.tasks.fleet().list(v1::FleetListRequest::default()).await;
            let agents = listed.map(|answer| answer.into_inner().agents).unwrap_or_default();
            if agents
                .iter()
                .any(|agent| agent.agent_id == id && agent.status() == v1::AgentStatus::Online)
            {
                return Ok(());
            }
            let gone = self
                .agents
                .iter_mut()
                .any(|agent| agent.id == id && !agent.child.is_running());
            if gone || tokio::time::Instant::now() > deadline {
                anyhow::bail!("agent {id} did not join within {JOINED_WITHIN:?}\n{}", self.report());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Queues a document; the task's id.
    pub async fn submit(&self, document: &str) -> Result<String> {
        self.tasks
            .submit(document)
            .await
            .map_err(|error| self.with_report(error))
    }

    /// Queues a document with inputs; the task's id.
    pub async fn submit_with(&self, document: &str, inputs: serde_json::Value) -> Result<String> {
        self.tasks
            .submit_with(document, &inputs)
            .await
            .map_err(|error| self.with_report(error))
    }

    /// Waits until the task is in this state; fails at once when it ends in another.
    pub async fn wait_state(&self, task: &str, state: v1::TaskState, within: Duration) -> Result<v1::Task> {
        self.tasks
            .wait_for(task, &[state], within)
            .await
            .map_err(|error| self.with_report(error))
    }

    /// Waits until the task has succeeded.
    pub async fn succeeded(&self, task: &str, within: Duration) -> Result<v1::Task> {
        self.wait_state(task, v1::TaskState::Succeeded, within).await
    }

    /// Waits until the task has ended, however.
    pub async fn ended(&self, task: &str, within: Duration) -> Result<v1::Task> {
        self.tasks
            .wait_ended(task, within)
            .await
            .map_err(|error| self.with_report(error))
    }

    /// Waits until something is true.
    pub async fn eventually(&self, what: &str, within: Duration, mut is_true: impl AsyncFnMut() -> bool) -> Result<()> {
        let deadline = tokio::time::Instant::now() + within;
        while !is_true().await {
            if tokio::time::Instant::now() > deadline {
                return Err(self.with_report(anyhow::anyhow!("not within {within:?}: {what}")));
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        Ok(())
    }

    /// The log of a task once all of it is there.
    pub async fn logs(&self, task: &str) -> Result<String> {
        let complete = |task: &v1::Task| Ok(task.log_state() == v1::LogState::Complete);
        let waited = self
            .tasks
            .wait_until(task, Duration::from_secs(20), "logged completely", complete)
            .await;
        waited.map_err(|error| self.with_report(error))?;
        self.tasks.logs(task).await
    }

    /// Runs `deputy` against this manager.
    pub async fn deputy(&self, arguments: &[&str]) -> Result<CommandOutput> {
        let mut command = self.deputy_command()?;
        command.args(arguments);
        CommandOutput::of(command).await
    }

    /// Runs `deputy-agent doctor` in the surroundings of this world's agents.
    pub async fn doctor(&self, arguments: &[&str]) -> Result<CommandOutput> {
        self.doctor_with(&[], arguments).await
    }

    /// The same with more environment.
    pub async fn doctor_with(&self, environment: &[(&str, &str)], arguments: &[&str]) -> Result<CommandOutput> {
        let mut command = Command::new(&self.binaries.agent);
        command
            .env_clear()
            .env("HOME", &self.folder)
            .env("TMPDIR", &self.folder)
            .envs(NO_METADATA)
            .envs(self.agent_environment())
            .envs(environment.iter().copied());
        command
            .args(["doctor", "--manager", &format!("https://{}", self.manager.address()?)])
            .arg("--ca-file")
            .arg(self.manager.access()?.ca_file);
        if !arguments.contains(&"--work-folder") {
            command.arg("--work-folder").arg(self.folder.join("doctor-work"));
        }
        if !arguments.iter().any(|argument| argument.starts_with("--join")) {
            command.arg("--join-token-file").arg(&self.join_token);
        }
        if !arguments.contains(&"--policy-file") {
            command.arg("--allow-all");
        }
        command.args(arguments).current_dir(&self.folder);
        CommandOutput::of(command).await
    }

    /// Runs `deputy-agent doctor` as one of this world's agents, in its place, with these arguments beside its own.
    pub async fn doctor_of(&self, id: &str, arguments: &[&str]) -> Result<CommandOutput> {
        let agent = self.agents.iter().find(|agent| agent.id == id);
        let mut command = agent.with_context(|| format!("no agent {id}"))?.doctor();
        command.args(arguments);
        CommandOutput::of(command).await
    }

    /// `deputy` with the environment that names this manager, for a caller that wants to run it itself.
    pub fn deputy_command(&self) -> Result<Command> {
        let mut command = Command::new(&self.binaries.cli);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.folder);
        let access = self.manager.access()?;
        command
            .env("DEPUTY_MANAGER", access.url())
            .env("DEPUTY_CA_FILE", &access.ca_file)
            .env("DEPUTY_TOKEN", &access.token)
            .current_dir(&self.folder);
        Ok(command)
    }

    /// The environment of this world's agents, for one that is started in another way.
    #[must_use]
    pub fn surroundings(&self) -> Vec<(String, OsString)> {
        self.agent_environment()
    }

    /// The recording proxy in front of AWS. Only with a cloud.
    pub fn proxy(&self) -> Result<&Proxy> {
        Ok(&self.aws()?.proxy)
    }

    /// The recording proxy in front of Kubernetes. Only with [`Builder::proxy_before_kubernetes`].
    pub fn kubernetes_proxy(&self) -> Result<&Proxy> {
        self.aws()?
            .kubernetes_proxy
            .as_ref()
            .context("this world was built without a proxy before Kubernetes")
    }

    /// What injects faults. Only with [`Builder::faults`].
    pub fn microburst(&self) -> Result<&Microburst> {
        self.aws()?
            .microburst
            .as_ref()
            .context("this world was built without faults")
    }

    /// The cloud.
    pub fn cloud(&self) -> Result<&Arc<Cloud>> {
        Ok(&self.aws()?.cloud)
    }

    /// What gives the agents their identity.
    pub fn credentials(&self) -> Result<&ContainerCredentials> {
        Ok(&self.aws()?.credentials)
    }

    /// ECS as the root of the account that is deployed to, straight to the emulator.
    pub fn ecs(&self) -> Result<aws_sdk_ecs::Client> {
        Ok(aws_sdk_ecs::Client::new(&root_config(self.cloud()?, AWAY)))
    }

    /// What clients of that account's root are made from, straight to the emulator.
    pub fn root(&self) -> Result<aws_config::SdkConfig> {
        Ok(root_config(self.cloud()?, AWAY))
    }

    /// The EKS cluster `prod`.
    pub async fn kubernetes(&self) -> Result<&Cluster> {
        self.aws()?.cloud.kubernetes().await
    }

    /// A client of the cluster, as its administrator.
    ///
    /// # Errors
    /// If the cluster cannot be started.
    pub async fn cluster_admin(&self) -> Result<kube::Client> {
        self.kubernetes().await?.admin().await
    }

    /// A namespace of this world's own in `prod`, which `deployer` may edit.
    pub async fn namespace(&self, stem: &str) -> Result<String> {
        let name = self.unique(stem);
        self.cloud()?.namespace(&name).await?;
        Ok(name)
    }

    /// `stem` with this world's mark: clouds are shared, names are not.
    #[must_use]
    pub fn unique(&self, stem: &str) -> String {
        format!("{stem}-{}", self.name)
    }

    /// The program of the agents.
    #[must_use]
    pub fn agent_program(&self) -> &Path {
        &self.binaries.agent
    }

    /// Everything of this world: the manager's data and log, the agents' folders, what is shared.
    #[must_use]
    pub fn whole_folder(&self) -> &Path {
        &self.root
    }

    /// The file of a new pool key: not where scripts write, for what is hidden closes its folder to them.
    pub async fn pool_key(&self, name: &str) -> Result<PathBuf> {
        pool_keys::make(&self.binaries.agent, self.root.join(name)).await
    }

    /// The folder of the agent with this id: its working directory, its home, its log.
    #[must_use]
    pub fn agent_folder(&self, id: &str) -> PathBuf {
        self.root.join("agents").join(id)
    }

    /// The folder that the test and the scripts of its tasks share.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The end of every log and what went through the proxies, for the message of a failed test.
    #[must_use]
    pub fn report(&self) -> String {
        let mut report = self.manager.tail();
        for agent in &self.agents {
            report.push_str(&agent.child.tail());
        }
        if let Some(aws) = &self.aws {
            report.push_str("--- AWS\n");
            report.push_str(&aws.proxy.transcript());
            if let Some(proxy) = &aws.kubernetes_proxy {
                report.push_str("--- Kubernetes\n");
                report.push_str(&proxy.transcript());
            }
        }
        report
    }

    fn with_report(&self, error: anyhow::Error) -> anyhow::Error {
        anyhow::anyhow!("{error:#}\n{}", self.report())
    }

    fn aws(&self) -> Result<&Aws> {
        self.aws.as_ref().context("this world was built without a cloud")
    }

    fn agent_environment(&self) -> Vec<(String, OsString)> {
        let mut environment = vec![("PATH".to_owned(), path_with_tools())];
        environment.extend(self.aws_environment());
        environment
    }

    /// What its platform would give an agent for AWS; nothing in a world without a cloud.
    #[must_use]
    pub fn aws_environment(&self) -> Vec<(String, OsString)> {
        let mut environment = Vec::new();
        if let Some(aws) = &self.aws {
            environment.extend(
                aws.credentials
                    .environment()
                    .map(|(name, value)| (name.to_owned(), value.into())),
            );
            environment.push(("AWS_ENDPOINT_URL".into(), aws.proxy.url().into()));
            environment.push(("AWS_REGION".into(), aws.cloud.scenery().region.clone().into()));
        }
        environment
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // An agent that is killed leaves the children of its steps behind; they work below our folder.
        for agent in &mut self.agents {
            let _ = agent.kill();
        }
        crate::child::kill_below(&self.root);
        if let Some(run) = WholeRun::asked_for() {
            // A manager that still writes would leave half of it behind.
            let _ = self.manager.kill();
            // The search must not go on without it.
            let kept = run.keep(&self.root);
            assert!(kept.is_ok(), "a world is not in the record: {kept:?}");
        }
    }
}
