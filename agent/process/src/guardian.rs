//! Kills the children of an agent that was itself killed.
//!
//! In a container nothing outlives the agent. On a plain host a script would go on after
//! `kill -9` of the agent, unseen, while its task may be run again elsewhere. So with the first
//! child a small shell is started that reads from a pipe which only the agent holds open: when the
//! pipe ends, the agent is dead, and the shell kills the process groups it was told of and, by
//! their mark, everything else the agent's children started. Where there is no `sh` there is no
//! guardian, and no shell step either.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::Pid;

use crate::descendants::{AGENT_MARK, MARK_VARIABLE};

/// `$1` is what the environment of every descendant contains. Works in dash, bash and busybox.
const SCRIPT: &str = include_str!("guardian.sh");

/// The pipe; `None` if there is no guardian.
static PIPE: LazyLock<Mutex<Option<io::PipeWriter>>> = LazyLock::new(|| match start() {
    Ok(pipe) => Mutex::new(Some(pipe)),
    Err(error) => {
        tracing::warn!(%error, "children would survive a kill -9 of this agent: their guardian cannot be started");
        Mutex::new(None)
    }
});

/// Before the first child is started.
pub(crate) fn ensure_started() {
    LazyLock::force(&PIPE);
}

/// A group to be killed with the agent.
pub(crate) fn watch(leader: Pid) {
    tell('+', leader);
}

/// The group is gone.
pub(crate) fn unwatch(leader: Pid) {
    tell('-', leader);
}

fn tell(what: char, leader: Pid) {
    let mut pipe = PIPE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(open) = pipe.as_mut()
        && let Err(error) = open.write_all(format!("{what} {}\n", leader.as_raw_nonzero()).as_bytes())
    {
        tracing::warn!(%error, "children would survive a kill -9 of this agent: their guardian is gone");
        *pipe = None;
    }
}

fn start() -> io::Result<io::PipeWriter> {
    let (theirs, ours) = io::pipe()?;
    // A guardian that does not read must not stop the agent.
    fcntl_setfl(&ours, fcntl_getfl(&ours)? | OFlags::NONBLOCK)?;
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    Command::new("sh")
        .args([
            "-c",
            SCRIPT,
            "deputy-guardian",
            &format!("{MARK_VARIABLE}={}.", *AGENT_MARK),
        ])
        .env_clear()
        .env("PATH", path)
        .current_dir("/")
        .stdin(theirs)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()?;
    Ok(ours)
}
