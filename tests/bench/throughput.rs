//! `throughput`: tasks of one effect that changes nothing, submitted, assigned, started, intended,
//! done and completed, every acknowledgement after fsync.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use deputy_proto::v1::{ListRequest, TaskState};

use crate::processes::{Pair, submit_request, wait_until_idle};
use crate::table::{Goal, Row};

const TASKS: usize = 20_000;
const SUBMITTERS: usize = 64;
const SLOTS: u32 = 256;
const GOAL_PER_SECOND: f64 = 3000.0;
const DOCUMENT: &str = r#"{"apiVersion":"deputy.dev/v1","kind":"Task","metadata":{"name":"noop"},"spec":{"steps":[{"name":"noop","noopEffect":{}}]}}"#;

/// Pushes a bounded number of tasks through one manager and one agent.
pub(crate) async fn measure(programs: &Path) -> Result<Vec<Row>> {
    let pair = Pair::start(programs, SLOTS).await?;
    let mut client = pair.tasks().await?;
    run(&pair, 2_000).await?;
    let mut rates = Vec::new();
    for _ in 0..3 {
        rates.push(run(&pair, TASKS).await?);
    }
    let failed = ListRequest {
        states: [
            TaskState::Failed,
            TaskState::Rejected,
            TaskState::Cancelled,
            TaskState::TimedOut,
        ]
        .map(i32::from)
        .to_vec(),
        page_size: 1,
        ..ListRequest::default()
    };
    if let Some(task) = client.list(failed).await?.into_inner().tasks.first() {
        bail!("task {} did not succeed: {:?}", task.task_id, task.result);
    }
    rates.sort_by(f64::total_cmp);
    let (low, middle, high) = (rates[0], rates[1], rates[2]);
    Ok(vec![Row::goal(
        "throughput: effect-only tasks per second",
        format!("{middle:.0}/s ({low:.0}–{high:.0})"),
        format!("≥ {GOAL_PER_SECOND:.0}/s"),
        Goal::met_if(|| middle >= GOAL_PER_SECOND),
    )])
}

async fn run(pair: &Pair, tasks: usize) -> Result<f64> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut submitters = tokio::task::JoinSet::new();
    let started = Instant::now();
    // Four connections, as four users would have.
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(pair.tasks().await?);
    }
    for submitter in 0..SUBMITTERS {
        let (next, mut client) = (next.clone(), clients[submitter % clients.len()].clone());
        submitters.spawn(async move {
            while next.fetch_add(1, Ordering::Relaxed) < tasks {
                client.submit(submit_request(DOCUMENT)).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = submitters.join_next().await {
        done??;
    }
    wait_until_idle(&mut pair.tasks().await?, Duration::from_secs(120)).await?;
    let tasks = f64::from(u32::try_from(tasks)?);
    Ok(tasks / started.elapsed().as_secs_f64())
}
