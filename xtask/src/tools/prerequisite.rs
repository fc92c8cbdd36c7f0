//! What must be on the machine already: Python and Go in good versions. (Rust is, or nobody reads this.)

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Python 3.11 is the oldest that the emulated cloud runs on.
const PYTHON_MINIMUM: (u32, u32) = (3, 11);
/// Kubernetes 1.37 asks for this Go.
const GO_MINIMUM: (u32, u32) = (1, 26);

/// A Python of a good version that can make environments.
pub(crate) fn python() -> Result<PathBuf> {
    let mut seen = Vec::new();
    for name in ["python3", "python3.14", "python3.13", "python3.12", "python3.11"] {
        let Some(answer) = ask(name, &["-c", "import sys; print('%d.%d' % sys.version_info[:2])"]) else {
            continue;
        };
        if version(&answer).is_none_or(|found| found < PYTHON_MINIMUM) {
            seen.push(format!("{name} is {}", answer.trim()));
            continue;
        }
        if ask(name, &["-c", "import venv, ensurepip; print('ok')"]).is_none() {
            seen.push(format!(
                "{name} {} has no venv module (Debian: apt-get install python3-venv)",
                answer.trim()
            ));
            continue;
        }
        return Ok(PathBuf::from(name));
    }
    let found = if seen.is_empty() {
        "none was found on PATH".to_owned()
    } else {
        seen.join("; ")
    };
    bail!(
        "the emulated cloud needs Python {}.{} or newer, and {found}\nhint: install it (Debian: apt-get install python3 \
         python3-venv; macOS: brew install python) and run this again",
        PYTHON_MINIMUM.0,
        PYTHON_MINIMUM.1
    );
}

/// A Go of a good version.
pub(crate) fn go() -> Result<PathBuf> {
    let Some(answer) = ask("go", &["env", "GOVERSION"]) else {
        bail!(
            "the Kubernetes programs are built with Go {}.{} or newer, and no `go` is on PATH\nhint: install it from \
             https://go.dev/doc/install and run this again",
            GO_MINIMUM.0,
            GO_MINIMUM.1
        );
    };
    if version(answer.trim().trim_start_matches("go")).is_none_or(|found| found < GO_MINIMUM) {
        bail!(
            "the Kubernetes programs are built with Go {}.{} or newer, and the `go` on PATH is {}\nhint: install a newer \
             one from https://go.dev/doc/install and run this again",
            GO_MINIMUM.0,
            GO_MINIMUM.1,
            answer.trim()
        );
    }
    Ok(PathBuf::from("go"))
}

/// debootstrap, which only root can use.
pub(crate) fn debootstrap() -> Result<PathBuf> {
    if !rustix::process::geteuid().is_root() {
        bail!("the base of the agent's image is made by debootstrap, which only root can use");
    }
    let found = ["/usr/sbin/debootstrap", "/usr/bin/debootstrap"]
        .map(PathBuf::from)
        .into_iter()
        .find(|path| path.is_file());
    found.context("the base of the agent's image is made by debootstrap, which is not installed\nhint: apt-get install debootstrap podman buildah runc")
}

/// Where this machine's own packages of that release come from.
pub(crate) fn debian_mirror(release: &str) -> Result<String> {
    let answer = ask("apt-get", &["indextargets", "--format", "$(SITE) $(RELEASE)"]).unwrap_or_default();
    let mut mirrors = answer.lines().filter_map(|line| line.split_once(' '));
    let found = mirrors.find(|(_, named)| *named == release);
    found
        .map(|(site, _)| site.to_owned())
        .with_context(|| format!("apt-get knows no mirror of Debian {release} here"))
}

/// What a program prints, if it can be run and succeeds.
pub(crate) fn ask(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim().split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(version("3.9").expect("parses") < PYTHON_MINIMUM);
        assert_eq!(version("1.26.8\n"), Some((1, 26)));
        assert_eq!(version("devel"), None);
    }
}
