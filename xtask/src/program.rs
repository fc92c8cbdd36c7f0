//! The programs of `tests/src/bin` that subcommands stand for: built, then run with our own terminal.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// How a program is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Quick to build.
    Dev,
    /// What is measured.
    Release,
}

/// Builds a program of `tests/` together with the programs under test.
pub(crate) fn build(root: &Path, name: &str, profile: Profile) -> Result<PathBuf> {
    if profile == Profile::Release {
        // Apart from the tests, which would turn on the failpoints.
        cargo_build(
            root,
            &[
                "--release",
                "-p",
                "deputy-agent",
                "-p",
                "deputy-manager",
                "-p",
                "deputy-cli",
            ],
        )?;
    }
    let mut arguments = vec!["-p", "deputy-tests", "--bins"];
    if profile == Profile::Release {
        arguments = vec!["-p", "deputy-tests", "--bin", name, "--release"];
    }
    cargo_build(root, &arguments)?;
    built(root, name, profile)
}

/// A program of `tests/` that has been built with everything else. Building it alone would choose other features of
/// its dependencies, and compile all of them once more.
pub(crate) fn built(root: &Path, name: &str, profile: Profile) -> Result<PathBuf> {
    let folder = match profile {
        Profile::Release => "release",
        Profile::Dev => "debug",
    };
    Ok(target(root)?.join(folder).join(name))
}

/// Runs a program to its end; its exit code is ours.
pub(crate) fn run(program: &Path, arguments: &[&str]) -> Result<ExitCode> {
    run_beside(program, arguments, || true)
}

/// The same, and ends it when the work beside it is not worth waiting for any more.
pub(crate) fn run_beside(program: &Path, arguments: &[&str], goes_on: impl Fn() -> bool) -> Result<ExitCode> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::inherit())
        .spawn()
        .with_context(|| format!("starting {}", program.display()))?;
    loop {
        if let Some(status) = child.try_wait()? {
            let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
            return Ok(ExitCode::from(code));
        }
        if !goes_on() {
            child.kill()?;
            child.wait()?;
            return Ok(ExitCode::FAILURE);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Runs a program and returns what it prints.
pub(crate) fn output(program: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| format!("starting {}", program.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

fn cargo_build(root: &Path, arguments: &[&str]) -> Result<()> {
    let status = Command::new(env!("CARGO"))
        .current_dir(root)
        .arg("build")
        .args(arguments)
        .status();
    if !status.context("running cargo build")?.success() {
        bail!("cargo build {} failed; see above", arguments.join(" "));
    }
    Ok(())
}

/// Where cargo builds.
pub(crate) fn target(root: &Path) -> Result<PathBuf> {
    let mut cargo = Command::new(env!("CARGO"));
    let output = cargo
        .current_dir(root)
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .output()?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    Ok(metadata["target_directory"]
        .as_str()
        .context("target_directory in cargo metadata")?
        .into())
}
