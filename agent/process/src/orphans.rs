//! Reaping what dies here and is nobody's child any more. Called by the agent where it is process 1 of a container:
//! whatever loses its parent becomes its child, and stays a zombie until it is waited for.
//!
//! Our own children are waited for within moments by those who started them. So only what is seen dead in two looks
//! is an orphan; to take a child's end from its waiter would lose its exit code.

use std::collections::HashSet;
use std::time::Duration;

use rustix::process::{Pid, WaitId, WaitIdOptions, getpid, waitid};

use crate::stat::processes;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Does this process inherit orphans?
#[must_use]
pub fn inherits() -> bool {
    getpid().is_init()
}

/// Reaps orphans for as long as it is polled.
pub async fn reap() {
    let mut seen = HashSet::new();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let dead = tokio::task::spawn_blocking(dead_children).await.unwrap_or_default();
        for orphan in dead.intersection(&seen) {
            // Gone meanwhile: somebody did wait for it.
            let reaped = waitid(WaitId::Pid(*orphan), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
            tracing::debug!(pid = %orphan.as_raw_nonzero(), reaped = reaped.is_ok(), "an orphan has ended");
        }
        seen = dead;
    }
}

fn dead_children() -> HashSet<Pid> {
    let own = getpid().as_raw_nonzero().get();
    let dead = processes().filter(|(_, stat)| stat.dead && stat.parent == own);
    dead.map(|(pid, _)| pid).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_child_of_our_own_is_found_until_it_is_waited_for() {
        let mut child = std::process::Command::new("true").spawn().expect("true");
        let pid = Pid::from_child(&child);
        while !dead_children().contains(&pid) {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(child.wait().expect("its end").success());
        assert!(!dead_children().contains(&pid));
    }
}
