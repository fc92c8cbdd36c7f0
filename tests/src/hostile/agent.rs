//! A real agent before a hostile manager: its process, its memory, and what its tasks may leave behind.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::server::HostileManager;
use crate::child::{Child, Output};
use crate::programs::Binaries;

/// An agent. Killed when it is dropped.
pub struct BesetAgent {
    child: Child,
    root: TempDir,
}

impl BesetAgent {
    /// Starts it with two slots. `rules` are its policy; without any it may do everything. `surroundings` are more of
    /// its environment, `flags` more of its arguments.
    pub fn start(
        manager: &HostileManager,
        rules: Option<&str>,
        surroundings: Vec<(String, OsString)>,
        flags: &[&str],
    ) -> Result<Self> {
        let root = tempfile::Builder::new().prefix("deputy-hostile-").tempdir()?;
        let (home, shared) = (root.path().join("agent"), root.path().join("shared"));
        std::fs::create_dir(&home)?;
        std::fs::create_dir(&shared)?;
        let mut command = Command::new(Binaries::beside_this()?.agent);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &home)
            .env("TMPDIR", &home)
            .envs(surroundings)
            .arg("run")
            .args(["--manager", &format!("http://{}", manager.address())])
            .args(["--agent-id", "beset", "--slots", "2", "--log-level", "info"])
            .args(["--reconnect-base", "20ms", "--reconnect-max", "100ms"])
            .arg("--work-folder")
            .arg(home.join("work"));
        match rules {
            None => drop(command.arg("--allow-all")),
            Some(rules) => {
                let file = home.join("agent.cedar");
                std::fs::write(&file, rules)?;
                command.arg("--policy-file").arg(file);
            }
        }
        command.args(flags).current_dir(&home);
        let child = Child::spawn("beset", command, &root.path().join("agent.log"), Output::ToLog)?;
        Ok(Self { child, root })
    }

    /// Where scripts of tasks may leave a mark.
    #[must_use]
    pub fn shared(&self) -> PathBuf {
        self.root.path().join("shared")
    }

    /// Everything of the agent: its home, its workspaces, its spool.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.root.path().join("agent")
    }

    /// The most memory that it ever had, in KiB.
    pub fn peak_memory_kib(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.pid())).context("its status")?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .context("VmHWM")?;
        let number = line.trim().split(' ').next().context("a number")?;
        Ok(number.parse()?)
    }

    /// It runs, and no part of it has panicked.
    ///
    /// # Panics
    /// If that is not so.
    pub fn assert_is_well(&mut self) {
        assert!(self.child.is_running(), "the agent has ended\n{}", self.child.tail());
        let log = self.child.log();
        assert!(
            !log.contains("panicked"),
            "a part of the agent panicked\n{}",
            self.child.tail()
        );
    }

    /// The end of its log.
    #[must_use]
    pub fn tail(&self) -> String {
        self.child.tail()
    }

    /// Every file below a folder whose name begins so.
    pub fn files_called(folder: &Path, begin: &str) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(begin) {
                found.push(entry.path());
            }
            if entry.file_type()?.is_dir() {
                found.extend(Self::files_called(&entry.path(), begin)?);
            }
        }
        Ok(found)
    }
}

impl Drop for BesetAgent {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        crate::child::kill_below(self.root.path());
    }
}
