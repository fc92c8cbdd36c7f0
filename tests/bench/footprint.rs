//! `footprint`: what an idle agent costs, how fast it is ready, how large its program is.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::baseline::{Samples, millis};
use crate::processes::Pair;
use crate::table::{Goal, Row};

const GOAL_RSS_MIB: f64 = 15.0;
const GOAL_READY: Duration = Duration::from_millis(150);
const ROUNDS: usize = 9;

/// Starts a pair several times.
pub(crate) async fn measure(programs: &Path) -> Result<Vec<Row>> {
    let mut ready = Vec::new();
    let mut agent = Vec::new();
    let mut manager = 0.0;
    for _ in 0..ROUNDS {
        let pair = Pair::start(programs, 4).await?;
        ready.push(pair.agent_ready);
        tokio::time::sleep(Duration::from_millis(1500)).await;
        agent.push(rss_mib(pair.agent.pid())?);
        manager = rss_mib(pair.manager.pid())?;
    }
    agent.sort_by(f64::total_cmp);
    let ready = Samples::new(ready);
    let size = |name: &str| -> Result<f64> { Ok(mib(std::fs::metadata(programs.join(name))?.len())) };
    let rss = agent[ROUNDS / 2];
    Ok(vec![
        Row::goal(
            "footprint: agent idle, resident",
            format!("{rss:.1} MiB ({:.1}–{:.1})", agent[0], agent[ROUNDS - 1]),
            format!("≤ {GOAL_RSS_MIB:.0} MiB"),
            Goal::met_if(|| rss <= GOAL_RSS_MIB),
        ),
        Row::goal(
            "footprint: agent start → ready",
            ready.show(),
            format!("p50 ≤ {}", millis(GOAL_READY)),
            Goal::met_if(|| ready.percentile(50) <= GOAL_READY),
        ),
        Row::baseline("footprint: manager idle, resident", format!("{manager:.1} MiB")),
        Row::baseline(
            "footprint: deputy-agent, program",
            format!("{:.1} MiB", size("deputy-agent")?),
        ),
        Row::baseline(
            "footprint: deputy-manager, program",
            format!("{:.1} MiB", size("deputy-manager")?),
        ),
        Row::baseline("footprint: deputy, program", format!("{:.1} MiB", size("deputy")?)),
    ])
}

/// Resident memory of a process.
pub(crate) fn rss_mib(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .context("no VmRSS")?;
    let kib: u64 = line.split_whitespace().nth(1).context("no figure")?.parse()?;
    Ok(mib(kib * 1024))
}

fn mib(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes / 1024).unwrap_or(u32::MAX)) / 1024.0
}
