//! Checks by other programs: rustfmt, clippy, buf.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::problem::Problem;
use crate::tools::manifest;

/// `cargo fmt --check`.
pub(crate) fn fmt(root: &Path) -> Result<Vec<Problem>> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .current_dir(root)
        .args(["fmt", "--all", "--", "--check", "--files-with-diff"]);
    let output = cargo.output().context("running cargo fmt")?;
    let files = String::from_utf8_lossy(&output.stdout).into_owned();
    let generated = |file: &&str| !file.contains("/gen/");
    Ok(files
        .lines()
        .filter(generated)
        .map(|file| unformatted(root, file))
        .collect())
}

fn unformatted(root: &Path, file: &str) -> Problem {
    let path = PathBuf::from(file);
    Problem {
        file: path.strip_prefix(root).unwrap_or(&path).to_owned(),
        line: 0,
        what: "is not formatted".into(),
        mend: "cargo fmt".into(),
    }
}

/// `cargo clippy` on every target, warnings as errors.
pub(crate) fn clippy(root: &Path) -> Result<Vec<Problem>> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root).args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--message-format",
        "short",
    ]);
    let output = cargo
        .args(["--", "-D", "warnings"])
        .output()
        .context("running cargo clippy")?;
    if output.status.success() {
        return Ok(Vec::new());
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let findings = text.lines().filter_map(finding);
    let mut problems: Vec<Problem> = findings.collect();
    if problems.is_empty() {
        problems.push(Problem {
            file: "Cargo.toml".into(),
            line: 0,
            what: text,
            mend: "see above".into(),
        });
    }
    Ok(problems)
}

/// `file:line:column: error: …`
fn finding(text: &str) -> Option<Problem> {
    let mut parts = text.splitn(4, ':');
    let (file, line, _column) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?);
    let what = parts.next()?.trim().to_owned();
    Some(Problem {
        file: file.into(),
        line,
        what,
        mend: "as clippy says; #[expect(…, reason)] if it is wrong here".into(),
    })
}

/// `buf lint` on the protocol.
pub(crate) fn buf(root: &Path) -> Result<Vec<Problem>> {
    let programs = manifest::read(&manifest::cache()?);
    let buf = programs.get("buf").context("buf is not there")?;
    let output = Command::new(buf)
        .current_dir(root.join("proto"))
        .arg("lint")
        .output()
        .context("running buf lint")?;
    if output.status.success() {
        return Ok(Vec::new());
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let problems = text.lines().filter(|line| !line.trim().is_empty()).map(|line| {
        let mut parts = line.splitn(4, ':');
        let file = Path::new("proto").join(parts.next().unwrap_or_default());
        let at = parts.next().and_then(|line| line.parse().ok()).unwrap_or(0);
        let what = format!("buf lint: {}", parts.nth(1).unwrap_or(line));
        Problem {
            file,
            line: at,
            what,
            mend: "the protocol follows buf's STANDARD rules".into(),
        }
    });
    Ok(problems.collect())
}
