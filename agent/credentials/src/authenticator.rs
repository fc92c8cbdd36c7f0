//! The program that makes EKS tokens: `aws-iam-authenticator` where one is found and runs on this
//! CPU, else this agent's own `eks-token`. Says why when the found one cannot be used.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

/// The program looked for.
pub const AUTHENTICATOR: &str = "aws-iam-authenticator";

/// A program that does not answer `version` by then is broken.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Where to look. Injected: nothing here reads the process's environment by itself.
#[derive(Debug, Clone)]
pub struct ToolLookup {
    /// Folders, as `PATH` has them.
    pub path: OsString,
    /// This agent's own executable, whose `eks-token` is the fallback.
    pub own_exe: PathBuf,
}

/// What will make the tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenProgram {
    /// `aws-iam-authenticator`.
    Authenticator {
        /// Where.
        path: PathBuf,
        /// What it says of itself.
        version: String,
    },
    /// This agent's `eks-token`.
    BuiltIn {
        /// Where.
        path: PathBuf,
        /// Why not the authenticator, in words.
        because: String,
    },
}

impl ToolLookup {
    /// `PATH` and the executable of this process.
    #[must_use]
    pub fn from_process() -> Self {
        Self::of_path(std::env::var_os("PATH").unwrap_or_default())
    }

    /// Another `PATH`, and the executable of this process.
    #[must_use]
    pub fn of_path(path: OsString) -> Self {
        Self {
            path,
            own_exe: std::env::current_exe().unwrap_or_else(|_| PathBuf::from("deputy-agent")),
        }
    }

    /// Finds the authenticator and checks that it runs, or falls back.
    pub async fn token_program(&self) -> TokenProgram {
        let built_in = |because: String| TokenProgram::BuiltIn {
            path: self.own_exe.clone(),
            because,
        };
        let Ok(path) = which::which_in(AUTHENTICATOR, Some(&self.path), "/") else {
            return built_in(format!("there is no {AUTHENTICATOR} in PATH"));
        };
        if let Some(problem) = wrong_cpu(&path) {
            return built_in(problem);
        }
        match probe(&path).await {
            Ok(version) => TokenProgram::Authenticator { path, version },
            Err(problem) => built_in(problem),
        }
    }
}

impl TokenProgram {
    /// One line for the task's log.
    #[must_use]
    pub fn narration(&self) -> String {
        match self {
            Self::Authenticator { path, version } => format!("EKS tokens by {} {version}", path.display()),
            Self::BuiltIn { because, .. } => format!("EKS tokens by the agent itself: {because}"),
        }
    }
}

/// Does an ELF header say that the program is for another CPU?
fn wrong_cpu(path: &Path) -> Option<String> {
    let mut header = [0_u8; 20];
    File::open(path).ok()?.read_exact(&mut header).ok()?;
    let machine = machine_of(&header)?;
    let ours = std::env::consts::ARCH;
    let theirs = cpu_name(machine);
    (theirs != ours).then(|| format!("{} is built for {theirs}, and this host is {ours}", path.display()))
}

/// `e_machine` of an ELF header; none for a script.
fn machine_of(header: &[u8; 20]) -> Option<u16> {
    let big_endian = header[5] == 2;
    let machine = [header[18], header[19]];
    header.starts_with(b"\x7fELF").then(|| {
        if big_endian {
            u16::from_be_bytes(machine)
        } else {
            u16::from_le_bytes(machine)
        }
    })
}

/// As `std::env::consts::ARCH` names them.
fn cpu_name(machine: u16) -> &'static str {
    match machine {
        3 => "x86",
        21 => "powerpc64",
        22 => "s390x",
        40 => "arm",
        62 => "x86_64",
        183 => "aarch64",
        243 => "riscv64",
        _ => "another CPU",
    }
}

/// Runs `version` in an empty environment, bounded.
async fn probe(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let mut command = tokio::process::Command::new(path);
    command
        .arg("version")
        .env_clear()
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let output = match tokio::time::timeout(PROBE_TIMEOUT, command.output()).await {
        Err(_) => {
            return Err(format!(
                "{shown} did not answer `version` within {} s",
                PROBE_TIMEOUT.as_secs()
            ));
        }
        Ok(Err(error)) => return Err(format!("{shown} does not run: {error}")),
        Ok(Ok(output)) => output,
    };
    if !output.status.success() {
        return Err(format!("{shown} is broken: `version` ended with {}", output.status));
    }
    Ok(version_in(&String::from_utf8_lossy(&output.stdout)))
}

/// It prints `{"Version":"0.6.13","Commit":"…"}`, or plain text in some builds.
fn version_in(text: &str) -> String {
    let json: Option<Value> = serde_json::from_str(text).ok();
    let version = json
        .as_ref()
        .and_then(|json| json["Version"].as_str())
        .or_else(|| text.lines().next());
    version
        .unwrap_or_default()
        .trim()
        .chars()
        .filter(|c| !c.is_control())
        .take(60)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    async fn found(content: &[u8]) -> String {
        let folder = tempfile::tempdir().expect("folder");
        let (draft, file) = (folder.path().join("draft"), folder.path().join(AUTHENTICATOR));
        std::fs::write(&draft, content).expect("write");
        std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o755)).expect("mode");
        // Copied by another process: a child that another test forks meanwhile would keep our own
        // descriptor open for writing, and the file could not be run ("text file busy").
        assert!(
            std::process::Command::new("cp")
                .arg(&draft)
                .arg(&file)
                .status()
                .expect("cp")
                .success()
        );
        let lookup = ToolLookup {
            path: folder.path().into(),
            own_exe: "/opt/deputy-agent".into(),
        };
        lookup
            .token_program()
            .await
            .narration()
            .replace(&folder.path().display().to_string(), "[bin]")
    }

    #[tokio::test]
    async fn a_program_that_cannot_be_used_is_explained_and_replaced() {
        let mut elf = *b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\0\0";
        let foreign: u16 = if cfg!(target_arch = "aarch64") { 62 } else { 183 };
        elf[18..].copy_from_slice(&foreign.to_le_bytes());
        let other = cpu_name(foreign);
        let ours = std::env::consts::ARCH;
        assert_eq!(
            found(&elf).await,
            format!(
                "EKS tokens by the agent itself: [bin]/{AUTHENTICATOR} is built for {other}, and this host is {ours}"
            )
        );
        assert_eq!(
            found(b"#!/bin/sh\nexit 3\n").await,
            format!(
                "EKS tokens by the agent itself: [bin]/{AUTHENTICATOR} is broken: `version` ended with exit status: 3"
            )
        );
        assert!(found(b"\x7fELF garbage").await.contains("does not run"), "a torn file");
        let nothing = ToolLookup {
            path: "/nowhere".into(),
            own_exe: "/opt/deputy-agent".into(),
        }
        .token_program()
        .await;
        assert_eq!(
            nothing.narration(),
            format!("EKS tokens by the agent itself: there is no {AUTHENTICATOR} in PATH")
        );
    }

    #[tokio::test]
    async fn a_program_that_runs_is_used_with_its_version() {
        let line = found(b"#!/bin/sh\necho '{\"Version\":\"0.6.13\",\"Commit\":\"x\"}'\n").await;
        assert_eq!(line, format!("EKS tokens by [bin]/{AUTHENTICATOR} 0.6.13"));
    }
}
