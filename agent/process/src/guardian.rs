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

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::time::Duration;

    use super::*;

    /// Every shell that is here: the script must not need a particular one.
    fn shells() -> Vec<Vec<&'static str>> {
        let known = [
            vec!["/usr/bin/dash"],
            vec!["/usr/bin/bash"],
            vec!["/usr/bin/busybox", "sh"],
            vec!["/bin/sh"],
        ];
        known
            .into_iter()
            .filter(|shell| std::path::Path::new(shell[0]).exists())
            .collect()
    }

    #[test]
    fn groups_and_daemons_of_a_dead_agent_are_killed() {
        for shell in shells() {
            let mark = format!("DEPUTY_PROCESS=test-{}.", shell.concat().replace('/', "-"));
            let (theirs, mut ours) = io::pipe().expect("pipe");
            let mut guardian = Command::new(shell[0])
                .args(&shell[1..])
                .args(["-c", SCRIPT, "deputy-guardian", &mark])
                .stdin(theirs)
                .stderr(Stdio::null())
                .process_group(0)
                .spawn()
                .expect("guardian");
            let sleeper = |env: &str| {
                Command::new("sleep")
                    .arg("100")
                    .env("DEPUTY_PROCESS", env)
                    .process_group(0)
                    .spawn()
                    .expect("sleep")
            };
            let mut told = sleeper("");
            let mut forgotten = sleeper("");
            let mut marked = sleeper(
                mark.strip_prefix("DEPUTY_PROCESS=")
                    .map(|mark| format!("{mark}7"))
                    .expect("mark")
                    .as_str(),
            );
            writeln!(ours, "+ {}\n+ {}\n- {}", told.id(), forgotten.id(), forgotten.id()).expect("told");
            assert!(told.try_wait().expect("status").is_none() && marked.try_wait().expect("status").is_none());
            drop(ours);
            assert!(!told.wait().expect("status").success(), "{shell:?}");
            assert!(!marked.wait().expect("status").success(), "{shell:?}");
            assert!(guardian.wait().expect("status").success(), "{shell:?}");
            assert!(forgotten.try_wait().expect("status").is_none(), "{shell:?}");
            forgotten.kill().expect("killed");
            forgotten.wait().expect("reaped");
        }
    }

    /// A whole agent that is killed: this test program itself, run again.
    #[test]
    fn children_do_not_outlive_an_agent_that_was_killed() {
        if std::env::var_os("DEPUTY_TEST_AGENT").is_some() {
            let runtime = tokio::runtime::Runtime::new().expect("runtime");
            runtime.block_on(async {
                let script = "setsid sleep 100 & sleep 100 & echo $$ $! >&2; wait";
                let command = crate::ChildCommand::new("bash")
                    .args(["-c", script])
                    .env("PATH", "/usr/bin:/bin");
                struct Print;
                impl crate::OutputSink for Print {
                    fn write(&mut self, _: crate::StreamKind, bytes: &[u8]) {
                        let _ = io::stderr().write_all(bytes);
                    }
                }
                command
                    .spawn()
                    .expect("bash")
                    .run(&mut Print, std::future::pending::<crate::Stop<()>>())
                    .await;
            });
            return;
        }
        let mut agent = Command::new(std::env::current_exe().expect("path"))
            .args([
                "--exact",
                "guardian::tests::children_do_not_outlive_an_agent_that_was_killed",
                "--nocapture",
            ])
            .env("DEPUTY_TEST_AGENT", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("agent");
        let mut lines = BufReader::new(agent.stderr.take().expect("stderr")).lines();
        let line = lines.next().expect("a line").expect("text");
        let pids: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(pids.len(), 2, "{line}");
        agent.kill().expect("killed");
        agent.wait().expect("reaped");
        let alive =
            |pid: &&str| std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
        for _ in 0..500 {
            if !pids.iter().any(alive) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{line} are alive");
    }
}
