//! Builds the test programs and says which they are.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// One test program.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Binary {
    /// `deputy-task (lib)`.
    pub(crate) name: String,
    /// What is run.
    pub(crate) executable: PathBuf,
    /// Where: the package's folder.
    pub(crate) folder: PathBuf,
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    executable: Option<PathBuf>,
    #[serde(default)]
    manifest_path: PathBuf,
    #[serde(default)]
    target: Target,
    #[serde(default)]
    profile: Profile,
}

#[derive(Deserialize, Default)]
struct Target {
    #[serde(default)]
    name: String,
    #[serde(default)]
    kind: Vec<String>,
}

#[derive(Deserialize, Default)]
struct Profile {
    #[serde(default)]
    test: bool,
}

/// Builds all of them; integration tests come last.
pub(crate) fn build(root: &Path) -> Result<Vec<Binary>> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root).args([
        "test",
        "--workspace",
        "--no-run",
        "--message-format",
        "json-render-diagnostics",
    ]);
    let mut child = cargo
        .stdout(Stdio::piped())
        .spawn()
        .context("running cargo test --no-run")?;
    let output = child.stdout.take().context("cargo's output")?;
    let mut binaries = Vec::new();
    for line in BufReader::new(output).lines() {
        let Ok(message) = serde_json::from_str::<Message>(&line?) else {
            continue;
        };
        if message.reason == "compiler-artifact" && message.profile.test {
            binaries.extend(binary(message));
        }
    }
    if !child.wait()?.success() {
        bail!("the tests do not compile; see above");
    }
    binaries.sort_by_key(|binary| (binary.name.ends_with("(test)"), binary.name.clone()));
    Ok(binaries)
}

fn binary(message: Message) -> Option<Binary> {
    let folder = message.manifest_path.parent()?.to_owned();
    let kind = message.target.kind.first().cloned().unwrap_or_default();
    Some(Binary {
        name: format!("{} ({kind})", message.target.name),
        executable: message.executable?,
        folder,
    })
}
