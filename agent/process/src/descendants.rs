//! Descendants of a child that left its process group (daemons), found by a mark in their
//! environment. Called by the child when its first process has ended.
//!
//! A process that both leaves the group and clears its environment is not found; only a PID
//! namespace could hold it.

use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use crate::stat::{Stat, processes};

/// Every child and its descendants have it.
pub(crate) const MARK_VARIABLE: &str = "DEPUTY_PROCESS";

/// The part of every mark that belongs to this agent process.
pub(crate) static AGENT_MARK: LazyLock<String> =
    LazyLock::new(|| format!("{:016x}", RandomState::new().build_hasher().finish()));

/// Tells the descendants of one child.
#[derive(Debug, Clone)]
pub(crate) struct Mark(Arc<str>);

impl Mark {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(format!("{}.{}", *AGENT_MARK, NEXT.fetch_add(1, Ordering::Relaxed)).into())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Kills every process with the mark and answers how many are alive. Those of `group` are counted, mark or not, but
/// left to whoever kills the group. Reads /proc: milliseconds on a machine with many processes.
pub(crate) fn kill(mark: &Mark, group: u32) -> usize {
    let variable = format!("{MARK_VARIABLE}={}", mark.as_str());
    let mut found = 0;
    for (pid, of) in living() {
        if of.group == group {
            found += 1;
            continue;
        }
        // Of other users' processes nothing can be read.
        let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else {
            continue;
        };
        let mut lines = environment.split(|byte| *byte == 0);
        if !lines.any(|line| line == variable.as_bytes()) {
            continue;
        }
        found += 1;
        if kill_process(pid, Signal::KILL).is_ok() {
            // Ours to reap only if we are process 1.
            let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        }
    }
    found
}

/// Is a process of the group alive?
pub(crate) fn group_lives(group: u32) -> bool {
    living().any(|(_, one)| one.group == group)
}

/// A dead process that nobody has reaped yet is not alive, though it can be signalled.
fn living() -> impl Iterator<Item = (Pid, Stat)> {
    processes().filter(|(_, stat)| !stat.dead)
}
