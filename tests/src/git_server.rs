//! A git server over https: `testbed/git_server.py` as a child, and repositories for it.

use std::io::{BufRead as _, BufReader, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::child::{Child, Output};
use crate::programs::{Tools, workspace};

/// A server. It ends when it is dropped.
#[derive(Debug)]
pub struct GitServer {
    folder: PathBuf,
    port: u64,
    _input: std::process::ChildStdin,
    _child: Child,
}

impl GitServer {
    /// Serves the repositories below `folder`; those in `private/` want this token.
    pub fn start(folder: &Path, token: &str) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let tools = Tools::load()?;
        let mut command = Command::new(tools.get("python")?);
        command.arg(workspace().join("tests/testbed/git_server.py"));
        command.arg(folder).arg(token).env("PYTHONDONTWRITEBYTECODE", "1");
        let mut child = Child::spawn("git-server", command, &folder.join("server.log"), Output::Piped)?;
        let (input, output) = child.pipes().context("the server's pipes")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let ready: Value = serde_json::from_str(&line).with_context(|| child.tail())?;
        Ok(Self {
            folder: folder.into(),
            port: ready["port"].as_u64().context("a port")?,
            _input: input,
            _child: child,
        })
    }

    /// The address of a repository.
    #[must_use]
    pub fn url(&self, repository: &str) -> String {
        format!("https://localhost:{}/{repository}", self.port)
    }

    /// Its certificate authority.
    #[must_use]
    pub fn authority(&self) -> String {
        self.folder.join("ca.crt").display().to_string()
    }

    /// Requests so far, a line each: which server, method, path, credentials.
    #[must_use]
    pub fn requests(&self) -> String {
        std::fs::read_to_string(self.folder.join("requests.log")).unwrap_or_default()
    }

    /// Runs git in a working copy of the repository (`private/app.git`, made at the first call), commits everything that
    /// `change` did there, pushes to `main`, and answers the commit.
    pub fn commit(&self, repository: &str, change: impl FnOnce(&Path) -> Result<()>) -> Result<String> {
        let bare = self.folder.join(repository);
        let copy = self.folder.join("copies").join(repository);
        if !bare.exists() {
            std::fs::create_dir_all(&bare)?;
            std::fs::create_dir_all(&copy)?;
            git(&bare, &["init", "--quiet", "--bare", "--initial-branch=main"])?;
            git(&copy, &["init", "--quiet", "--initial-branch=main"])?;
        }
        change(&copy)?;
        git(&copy, &["add", "--all"])?;
        git(&copy, &["commit", "--quiet", "--message", "a change", "--allow-empty"])?;
        let bare = bare.display().to_string();
        git(&copy, &["push", "--quiet", "--force", &bare, "HEAD:refs/heads/main"])?;
        Ok(git(&copy, &["rev-parse", "HEAD"])?.trim().to_owned())
    }

    /// Runs git in the working copy of the repository.
    pub fn git(&self, repository: &str, arguments: &[&str]) -> Result<String> {
        git(&self.folder.join("copies").join(repository), arguments)
    }

    /// The same with something to read.
    pub fn git_with(&self, repository: &str, arguments: &[&str], input: &[u8]) -> Result<String> {
        git_with(&self.folder.join("copies").join(repository), arguments, input)
    }

    /// Where the repository itself is, to push to.
    #[must_use]
    pub fn bare(&self, repository: &str) -> String {
        self.folder.join(repository).display().to_string()
    }
}

fn git(folder: &Path, arguments: &[&str]) -> Result<String> {
    git_with(folder, arguments, b"")
}

fn git_with(folder: &Path, arguments: &[&str], input: &[u8]) -> Result<String> {
    let mut read = tempfile::tempfile()?;
    read.write_all(input)?;
    read.rewind()?;
    let mut command = Command::new("git");
    command.args(arguments).current_dir(folder).stdin(read);
    for (name, value) in [
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_AUTHOR_NAME", "Somebody"),
        ("GIT_AUTHOR_EMAIL", "somebody@example.invalid"),
        ("GIT_COMMITTER_NAME", "Somebody"),
        ("GIT_COMMITTER_EMAIL", "somebody@example.invalid"),
    ] {
        command.env(name, value);
    }
    let output = command.output()?;
    if !output.status.success() {
        bail!("git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
