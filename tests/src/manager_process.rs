//! The manager as a process: always the same data folder and, after the first start, the same port.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::access::Access;
use crate::child::{Child, Output};
use crate::leaks::whole_run::WholeRun;
use crate::leaks::witness;
use crate::programs::Binaries;

const READY_WITHIN: Duration = Duration::from_secs(30);

/// How the manager is started. Times are short by default, so that losses are seen within a test's patience.
#[derive(Debug, Clone)]
pub struct ManagerOptions {
    /// Asked of agents.
    pub heartbeat: Duration,
    /// How long an instance's lease lasts.
    pub lease_ttl: Duration,
    /// Waited after a lease before a task goes elsewhere.
    pub guard: Duration,
    /// Between assignment and Start.
    pub start_deadline: Duration,
    /// How long a killed child may take to be gone.
    pub kill_grace: Duration,
    /// More arguments.
    pub flags: Vec<String>,
    /// More environment.
    pub environment: Vec<(String, String)>,
    /// A folder for everything that it receives. In a run that is recorded as a whole every manager has one.
    pub witness: Option<PathBuf>,
}

impl Default for ManagerOptions {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(500),
            lease_ttl: Duration::from_secs(4),
            guard: Duration::from_secs(1),
            start_deadline: Duration::from_secs(5),
            kill_grace: Duration::from_secs(1),
            flags: Vec::new(),
            environment: Vec::new(),
            witness: None,
        }
    }
}

/// A manager. Killed when it is dropped.
#[derive(Debug)]
pub struct ManagerProcess {
    /// The authority of its own certificate, where that is not its own.
    pub ca_file: Option<PathBuf>,
    child: Option<Child>,
    program: PathBuf,
    options: ManagerOptions,
    folder: PathBuf,
    address: Option<SocketAddr>,
}

impl ManagerProcess {
    /// Starts one whose data and log are in `folder`.
    pub async fn start(binaries: &Binaries, folder: &Path, mut options: ManagerOptions) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        if options.witness.is_none()
            && let Some(run) = WholeRun::asked_for()
        {
            options.witness = Some(run.requests_of_a_manager()?);
        }
        let program = binaries.manager.clone();
        let mut manager = Self {
            ca_file: None,
            child: None,
            program,
            options,
            folder: folder.into(),
            address: None,
        };
        manager.start_again().await?;
        Ok(manager)
    }

    /// Starts it again on the same data and port, after [`ManagerProcess::kill`] or its own end.
    pub async fn start_again(&mut self) -> Result<()> {
        let ready = self.folder.join("ready");
        let _ = std::fs::remove_file(&ready);
        let listen = self
            .address
            .map_or_else(|| "127.0.0.1:0".to_owned(), |address| address.to_string());
        let mut child = Child::spawn(
            "manager",
            self.command(&listen, &ready),
            &self.log_path(),
            Output::ToLog,
        )?;
        let deadline = tokio::time::Instant::now() + READY_WITHIN;
        let address = loop {
            if let Some(address) = std::fs::read_to_string(&ready).ok().as_deref().and_then(address_in) {
                break address;
            }
            if !child.is_running() || tokio::time::Instant::now() > deadline {
                bail!("the manager was not ready within {READY_WITHIN:?}\n{}", child.tail());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        self.address = Some(address);
        self.child = Some(child);
        Ok(())
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.child()?.kill()
    }

    /// SIGKILL, and a new process on the same data and port.
    pub async fn kill_and_start_again(&mut self) -> Result<()> {
        self.kill()?;
        self.start_again().await
    }

    /// The process.
    pub fn child(&mut self) -> Result<&mut Child> {
        self.child.as_mut().context("the manager has not been started")
    }

    /// Where it listens.
    pub fn address(&self) -> Result<SocketAddr> {
        self.address.context("the manager has not been started")
    }

    /// What its administrator has.
    pub fn access(&self) -> Result<Access> {
        let access = Access::of(self.address()?, &self.data())?;
        Ok(match &self.ca_file {
            None => access,
            Some(ca_file) => Access {
                ca_file: ca_file.clone(),
                ..access
            },
        })
    }

    /// Its data folder.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The end of its log.
    #[must_use]
    pub fn tail(&self) -> String {
        self.child.as_ref().map(Child::tail).unwrap_or_default()
    }

    /// All of its log.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("manager.log")
    }

    fn command(&self, listen: &str, ready: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .env("RUST_BACKTRACE", "1")
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(self.options.environment.iter().map(|(name, value)| (name, value)))
            .envs(self.options.witness.iter().map(|folder| (witness::VARIABLE, folder)));
        command
            .args(["--listen", listen])
            .arg("--data")
            .arg(self.data())
            .arg("--ready-file")
            .arg(ready);
        for (flag, time) in [
            ("--heartbeat", self.options.heartbeat),
            ("--lease-ttl", self.options.lease_ttl),
            ("--guard", self.options.guard),
            ("--start-deadline", self.options.start_deadline),
            ("--kill-grace", self.options.kill_grace),
        ] {
            command.arg(flag).arg(format!("{}ms", time.as_millis()));
        }
        command.args(&self.options.flags).current_dir(&self.folder);
        command
    }
}

/// The ready file names the address; whatever else is in it is not of interest here.
fn address_in(text: &str) -> Option<SocketAddr> {
    let start = text.find("127.0.0.1:")?;
    let rest = &text[start..];
    let end = rest
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | ':')))
        .unwrap_or(rest.len());
    rest[..end].parse().ok()
}
