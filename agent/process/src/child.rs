//! One running child, from its start to the last of its descendants.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::time::Duration;

use rustix::process::Pid;
use tokio::time::Instant;

use crate::descendants::Mark;
use crate::exit::{Ended, Exit};
use crate::group::Group;
use crate::keeper::Keeper;
use crate::output::OutputPipes;
use crate::sink::OutputSink;
use crate::{descendants, memory};

/// After the first process has ended, others may hold its pipes open for so long.
const DRAIN: Duration = Duration::from_secs(2);

/// Between two SIGKILLs to what does not die.
const KILL_AGAIN: Duration = Duration::from_millis(100);

/// Between two looks at whether a stopped group still has work to do.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What survives SIGKILL for so long hangs in the kernel and is given up.
const KILL_BOUND: Duration = Duration::from_secs(5);

/// How a child is to be stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop<R> {
    /// Handed back in [`Ended`].
    pub reason: R,
    /// Between SIGTERM and SIGKILL; zero for SIGKILL at once.
    pub grace: Duration,
}

/// A child that runs. Dropping it kills its process group.
pub struct Child {
    leader: tokio::process::Child,
    group: Group,
    output: OutputPipes,
    mark: Mark,
    oom_kills: u64,
}

impl Child {
    pub(crate) fn started(
        leader: tokio::process::Child,
        output: OutputPipes,
        mark: Mark,
        oom_kills: u64,
    ) -> io::Result<Self> {
        let pid = leader
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("the process has no id"))?;
        Ok(Self {
            leader,
            group: Group::of(pid),
            output,
            mark,
            oom_kills,
        })
    }

    /// The process id, which is also its group's.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.group.id()
    }

    /// A keeper of its time: kills it when this agent cannot.
    ///
    /// # Errors
    /// If there is no `sh`.
    pub fn keeper(&self) -> io::Result<Keeper> {
        Keeper::of(self.group.id(), &self.mark)
    }

    /// Hands output to the sink until the child has ended, or `stop` says to stop it: SIGTERM to
    /// its group, after the grace SIGKILL. The grace is the whole group's: the shell around a program
    /// dies of SIGTERM at once, while the program may have work to finish. Ends when the child and
    /// everything it started is gone, at the latest a few seconds after its first process ended or
    /// its group was killed.
    pub async fn run<R>(mut self, sink: &mut impl OutputSink, stop: impl Future<Output = Stop<R>>) -> Ended<R> {
        let mut stop = pin!(stop);
        let mut ended = Ended {
            exit: Exit::Unknown,
            stopped: None,
            killed: false,
            leftovers: 0,
            out_of_memory: false,
        };
        let mut alive = true;
        // When something must happen if nothing does: the grace, the next SIGKILL, or the drain is over.
        let mut deadline = None;
        let mut give_up = None;
        // Stopped, its first process has ended, others of its group use their grace.
        let mut finishing = false;
        while alive || finishing || self.output.is_open() {
            tokio::select! {
                exit = self.leader.wait(), if alive => {
                    alive = false;
                    ended.exit = exit.map_or(Exit::Unknown, Exit::from);
                    self.group.leader_was_reaped();
                    finishing = ended.stopped.is_some() && !ended.killed;
                    if !finishing {
                        deadline = Some(Instant::now() + DRAIN);
                    }
                }
                () = tokio::time::sleep(LOOK_AGAIN), if finishing => {
                    finishing = self.group_lives().await;
                    if !finishing {
                        deadline = Some(Instant::now() + DRAIN);
                    }
                }
                stop = &mut stop, if ended.stopped.is_none() && alive => {
                    ended.stopped = Some(stop.reason);
                    deadline = Some(Instant::now() + stop.grace);
                    if !stop.grace.is_zero() {
                        self.group.terminate();
                    }
                }
                () = passed(deadline) => {
                    if !alive && !finishing {
                        break;
                    }
                    ended.killed = true;
                    self.group.kill();
                    if finishing {
                        finishing = false;
                        deadline = Some(Instant::now() + DRAIN);
                        continue;
                    }
                    let now = Instant::now();
                    if now >= *give_up.get_or_insert(now + KILL_BOUND) {
                        tracing::error!(pid = self.id(), "a process survives SIGKILL and is given up");
                        break;
                    }
                    deadline = Some(now + KILL_AGAIN);
                }
                () = self.output.pump(sink), if self.output.is_open() => {}
            }
        }
        ended.leftovers = self.remove_leftovers().await;
        ended.out_of_memory = memory::oom_kills() > self.oom_kills;
        ended
    }

    /// Is a process of the group still at work?
    async fn group_lives(&self) -> bool {
        let group = self.group.id();
        tokio::task::spawn_blocking(move || descendants::group_lives(group))
            .await
            .unwrap_or(false)
    }

    /// Kills what the child left behind, in its group and outside, and answers how many there were.
    async fn remove_leftovers(&self) -> usize {
        let give_up = Instant::now() + KILL_BOUND;
        let mut killed = 0;
        let mut pause = Duration::from_millis(1);
        loop {
            let mark = self.mark.clone();
            let group = self.group.id();
            let found = tokio::task::spawn_blocking(move || descendants::kill(&mark, group))
                .await
                .unwrap_or(0);
            killed = killed.max(found);
            self.group.kill();
            if found == 0 {
                return killed;
            }
            if Instant::now() >= give_up {
                tracing::error!(
                    pid = self.id(),
                    "descendants of a child survive SIGKILL and are given up"
                );
                return killed;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(KILL_AGAIN);
        }
    }
}

async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
