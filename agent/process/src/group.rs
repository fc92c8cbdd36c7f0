//! A process group and its signals. Called by the child. While it lives the guardian knows it.

use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::guardian;

/// The group of a child; killed when dropped.
pub(crate) struct Group {
    leader: Pid,
    leader_reaped: AtomicBool,
}

impl Group {
    pub(crate) fn of(leader: Pid) -> Self {
        guardian::watch(leader);
        Self {
            leader,
            leader_reaped: AtomicBool::new(false),
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.leader.as_raw_nonzero().get().unsigned_abs()
    }

    /// From here on zombies of the group that are ours are orphans, and may be reaped by us.
    pub(crate) fn leader_was_reaped(&self) {
        self.leader_reaped.store(true, Ordering::Relaxed);
    }

    /// Asks every process of the group to end. A stopped one must go on to hear it.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
        self.signal(Signal::CONT);
    }

    /// Kills every process of the group.
    pub(crate) fn kill(&self) {
        // As process 1 of a container we inherit orphans, and nobody else reaps them.
        if self.leader_reaped.load(Ordering::Relaxed) {
            let orphan = || {
                waitid(
                    WaitId::Pgid(Some(self.leader)),
                    WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
                )
            };
            while let Ok(Some(_)) = orphan() {}
        }
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        match kill_process_group(self.leader, signal) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => tracing::warn!(group = self.id(), ?signal, %error, "a process group cannot be signalled"),
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.leader_reaped.load(Ordering::Relaxed) {
            self.signal(Signal::KILL);
        }
        guardian::unwatch(self.leader);
    }
}
