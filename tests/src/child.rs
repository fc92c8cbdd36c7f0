//! A child process of the harness: signals, its log, and an end with its owner.
//!
//! The programs under test ask the kernel to be killed when the thread that made them ends, so one thread
//! that never ends makes all; a test that is killed itself leaves nothing behind.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

type Order = (Command, mpsc::Sender<std::io::Result<std::process::Child>>);

static SPAWNER: LazyLock<Mutex<mpsc::Sender<Order>>> = LazyLock::new(|| {
    let (orders, inbox) = mpsc::channel::<Order>();
    std::thread::spawn(move || {
        for (mut command, answer) in inbox {
            let _ = answer.send(command.spawn());
        }
    });
    Mutex::new(orders)
});

/// Lines of a log that a failed test shows.
const TAIL_LINES: usize = 40;

/// A running child. Killed when it is dropped.
#[derive(Debug)]
pub struct Child {
    name: String,
    inner: std::process::Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Child {
    /// Starts a program; standard error goes to `log`, and standard output too unless it was set.
    pub fn spawn(name: &str, mut command: Command, log: &Path, output: Output) -> Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| log.display().to_string())?;
        match output {
            Output::ToLog => command.stdin(Stdio::null()).stdout(file.try_clone()?),
            Output::Piped => command.stdin(Stdio::piped()).stdout(Stdio::piped()),
        };
        command.stderr(file);
        let (answer, outcome) = mpsc::channel();
        let program = command.get_program().to_string_lossy().into_owned();
        SPAWNER
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .send((command, answer))
            .context("the spawner")?;
        let inner = outcome
            .recv()
            .context("the spawner")?
            .with_context(|| format!("starting {program}"))?;
        Ok(Self {
            name: name.into(),
            inner,
            log: log.into(),
            ended: None,
        })
    }

    /// What it is called in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.inner.id()
    }

    /// Its pipes, with [`Output::Piped`].
    pub(crate) fn pipes(&mut self) -> Option<(std::process::ChildStdin, std::process::ChildStdout)> {
        Some((self.inner.stdin.take()?, self.inner.stdout.take()?))
    }

    /// Has not ended.
    pub fn is_running(&mut self) -> bool {
        self.poll().is_none()
    }

    /// Sends a signal, if it still runs.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.is_running() {
            let pid = i32::try_from(self.pid())
                .ok()
                .and_then(Pid::from_raw)
                .context("a process id")?;
            kill_process(pid, signal).with_context(|| format!("sending {signal:?} to {}", self.name))?;
        }
        Ok(())
    }

    /// SIGKILL, and its end.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        if self.ended.is_none() {
            self.ended = Some(self.inner.wait()?);
        }
        Ok(())
    }

    /// SIGSTOP.
    pub fn pause(&mut self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT.
    pub fn go_on(&mut self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Whether it is stopped by a signal (a failpoint with `stop`, [`Child::pause`]).
    #[must_use]
    pub fn is_paused(&self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        status.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    }

    /// Waits until it is stopped by a signal.
    pub async fn paused(&mut self, within: Duration) -> Result<()> {
        let deadline = tokio::time::Instant::now() + within;
        while !self.is_paused() {
            if let Some(status) = self.poll() {
                bail!("{} ended ({status}) instead of stopping\n{}", self.name, self.tail());
            }
            if tokio::time::Instant::now() > deadline {
                bail!("{} was not stopped within {within:?}\n{}", self.name, self.tail());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Waits for its end.
    pub async fn ended(&mut self, within: Duration) -> Result<ExitStatus> {
        let deadline = tokio::time::Instant::now() + within;
        loop {
            if let Some(status) = self.poll() {
                return Ok(status);
            }
            if tokio::time::Instant::now() > deadline {
                bail!("{} did not end within {within:?}\n{}", self.name, self.tail());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Its whole log.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The end of its log, with a heading.
    #[must_use]
    pub fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
        format!(
            "--- {} (pid {}), end of {}\n{tail}\n",
            self.name,
            self.pid(),
            self.log.display()
        )
    }

    fn poll(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.inner.try_wait().ok().flatten();
        }
        self.ended
    }
}

/// Where standard output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// To the log, with standard error.
    ToLog,
    /// To a pipe, and standard input from one.
    Piped,
}

impl Drop for Child {
    fn drop(&mut self) {
        // It has ended, or nobody can do anything about it.
        let _ended = self.kill();
    }
}

/// Kills every process whose working directory is below `folder`, which must be a temporary folder of ours.
pub(crate) fn kill_below(folder: &Path) {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return;
    };
    for process in processes.flatten() {
        let pid = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
            .and_then(Pid::from_raw);
        let below = std::fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder));
        if let (Some(pid), true) = (pid, below) {
            let _gone = kill_process(pid, Signal::KILL);
        }
    }
}
