//! `dispatch`: from the call of Submit until the first line of the child's script has run.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::baseline::{DurableCommit, ProcessSpawn, RoundTrip, Samples, millis, read_mark, unix_now};
use crate::processes::{Pair, submit_request};
use crate::table::{Goal, Row};

const ROUNDS: usize = 300;
/// Rounds that warm everything up and are not counted.
const WARM_UP: usize = 20;
/// Before each measurement. All four wake a machine that has gone idle, as a submission does.
const PAUSE: Duration = Duration::from_millis(10);

/// Submits one task after the other to an idle pair, and measures in turn what the machine itself costs.
pub(crate) async fn measure(programs: &Path) -> Result<Vec<Row>> {
    let pair = Pair::start(programs, 4).await?;
    let folder = pair.folder.path();
    let mut client = pair.tasks().await?;
    let mut call = RoundTrip::to(&pair.access).await?;
    let (store, process) = (DurableCommit::on(folder)?, ProcessSpawn::from(folder)?);
    let [mut round_trips, mut commits, mut spawns, mut samples] = [const { Vec::new() }; 4];
    for round in 0..ROUNDS {
        tokio::time::sleep(PAUSE).await;
        round_trips.push(call.once().await?);
        tokio::time::sleep(PAUSE).await;
        commits.push(store.once()?);
        tokio::time::sleep(PAUSE).await;
        spawns.push(process.once()?);
        tokio::time::sleep(PAUSE).await;
        let mark = pair.marks.join(round.to_string());
        let request = submit_request(&document(&mark));
        let started = unix_now();
        client.submit(request).await?;
        samples.push(wait_for_mark(&mark).await?.saturating_sub(started));
    }
    let counted = |mut all: Vec<Duration>| Samples::new(all.split_off(WARM_UP));
    let (round_trip, commit, spawn) = (counted(round_trips), counted(commits), counted(spawns));
    let samples = counted(samples);
    let goal = 3 * (commit.percentile(50) + 2 * round_trip.percentile(50)) + spawn.percentile(50);
    let measured = samples.percentile(50);
    Ok(vec![
        Row::baseline("dispatch: one tonic round trip", round_trip.show()),
        Row::baseline("dispatch: one durable commit", commit.show()),
        Row::baseline("dispatch: one process spawn", spawn.show()),
        Row::goal(
            "dispatch: submit → child started",
            samples.show(),
            format!("p50 ≤ {} = 3 × (commit + 2 round trips) + spawn", millis(goal)),
            Goal::met_if(|| measured <= goal),
        ),
    ])
}

fn document(mark: &Path) -> String {
    format!(
        "apiVersion: deputy.dev/v1\nkind: Task\nmetadata: {{ name: dispatch }}\nspec:\n  steps:\n    - name: mark\n      shell: {{ run: \"echo $EPOCHREALTIME > {}\" }}\n",
        mark.display()
    )
}

async fn wait_for_mark(mark: &Path) -> Result<Duration> {
    for _ in 0..10_000 {
        if std::fs::metadata(mark).is_ok_and(|file| file.len() > 0) {
            return read_mark(mark);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    bail!("no child wrote {} within 10 s", mark.display())
}
