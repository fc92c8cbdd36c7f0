//! Keeps the time of a child that may only run until some moment, for an agent that cannot do it
//! itself: one that is frozen (SIGSTOP, a debugger, a cgroup freezer) while its child is not.
//!
//! Called by steps whose script is run again elsewhere when a lease is over. A small shell is told
//! the moment again and again, and kills the child when the last one told has passed.

use std::io::{self, Write};
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use crate::descendants::{MARK_VARIABLE, Mark};

/// Works in dash, bash and busybox.
const SCRIPT: &str = include_str!("keeper.sh");

/// What the shell ends with when it has killed.
const KILLED: i32 = 3;

/// How long it may take to end.
const END_BOUND: Duration = Duration::from_secs(2);

/// The keeper of one child's time. Dropping it lets the child run on.
#[derive(Debug)]
pub struct Keeper {
    pipe: io::PipeWriter,
    shell: tokio::process::Child,
}

impl Keeper {
    pub(crate) fn of(group: u32, mark: &Mark) -> io::Result<Self> {
        let (theirs, pipe) = io::pipe()?;
        // A keeper that does not read must not stop the agent.
        fcntl_setfl(&pipe, fcntl_getfl(&pipe)? | OFlags::NONBLOCK)?;
        let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
        let shell = tokio::process::Command::new("sh")
            .args(["-c", SCRIPT, "deputy-keeper", &group.to_string()])
            .arg(format!("{MARK_VARIABLE}={}", mark.as_str()))
            .env_clear()
            .env("PATH", path)
            .current_dir("/")
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Self { pipe, shell })
    }

    /// The child may run until then: a time since the machine booted (CLOCK_BOOTTIME).
    ///
    /// # Errors
    /// If the keeper is gone.
    pub fn until(&mut self, since_boot: Duration) -> io::Result<()> {
        let hundredths = since_boot.as_millis() / 10;
        self.pipe.write_all(format!("{hundredths}\n").as_bytes())
    }

    /// Sends the keeper away. Had it killed the child?
    pub async fn has_killed(mut self) -> bool {
        drop(self.pipe);
        let ended = tokio::time::timeout(END_BOUND, self.shell.wait()).await;
        matches!(ended, Ok(Ok(status)) if status.code() == Some(KILLED))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use rustix::process::{Pid, Signal, kill_process_group};

    use super::*;

    fn uptime() -> Duration {
        let text = std::fs::read_to_string("/proc/uptime").expect("uptime");
        Duration::from_secs_f64(text.split(' ').next().expect("a number").parse().expect("a number"))
    }

    #[tokio::test]
    async fn a_child_is_killed_when_the_last_time_told_is_over_and_not_before() {
        let mut sleeper = Command::new("sleep")
            .arg("100")
            .process_group(0)
            .spawn()
            .expect("sleep");
        let mut keeper = Keeper::of(sleeper.id(), &Mark::new()).expect("a keeper");
        // It stands still until it was told both, however long that takes.
        let shell = keeper.shell.id().and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
        let shell = shell.expect("it runs");
        kill_process_group(shell, Signal::STOP).expect("stopped");
        keeper.until(uptime() + Duration::from_millis(200)).expect("told");
        let began = std::time::Instant::now();
        keeper.until(uptime() + Duration::from_millis(1200)).expect("told");
        kill_process_group(shell, Signal::CONT).expect("goes on");
        let status = tokio::task::spawn_blocking(move || sleeper.wait())
            .await
            .expect("joined");
        assert!(!status.expect("status").success());
        assert!(began.elapsed() >= Duration::from_millis(1150), "{:?}", began.elapsed());
        assert!(keeper.has_killed().await);
    }

    #[tokio::test]
    async fn a_child_whose_keeper_is_sent_away_runs_on() {
        let mut sleeper = Command::new("sleep")
            .arg("100")
            .process_group(0)
            .spawn()
            .expect("sleep");
        let mut keeper = Keeper::of(sleeper.id(), &Mark::new()).expect("a keeper");
        keeper.until(uptime() + Duration::from_secs(100)).expect("told");
        assert!(!keeper.has_killed().await);
        assert!(sleeper.try_wait().expect("status").is_none());
        sleeper.kill().expect("killed");
        sleeper.wait().expect("reaped");
    }
}
