//! Whatever the point at which the agent dies, the next attempt ends in the same world, and every
//! mutation happens once.

use deputy_task::outcome::Outcome;
use proptest::prelude::*;
use serde_json::json;

use super::bench::{Bench, Crash};
use super::script::{Do, Instead, Script};
use super::sealed::ring;

const NAMES: [&str; 4] = ["w", "x", "y", "z"];
const STEPS: [&str; 3] = ["a", "b", "c"];

/// Every way to die in a run that makes so many writes and calls.
fn crashes(writes: usize, calls: usize) -> Vec<(Crash, Option<(usize, Instead)>)> {
    let at_writes = (1..=writes).flat_map(|n| [Crash::WriteLost(n), Crash::WriteUnacknowledged(n)]);
    let in_calls = (1..=calls).flat_map(|n| [(n, Instead::NotSent), (n, Instead::NoReply)]);
    at_writes
        .map(|crash| (crash, None))
        .chain(in_calls.map(|call| (Crash::InTheWorld, Some(call))))
        .collect()
}

fn bench(script: &Script, on_failure: &str, pool: Pool) -> Bench {
    let mut bench = Bench::new(script.clone(), json!({ "onFailure": on_failure }));
    bench.world.state().objects.insert("w".into(), "before".into());
    bench.pool_keys = match pool {
        Pool::HasKey => Some(ring(&[1])),
        Pool::HasNone => None,
    };
    bench
}

/// Has the pool a key?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pool {
    HasKey,
    HasNone,
}

async fn survives_every_crash(script: Script, on_failure: &str) {
    for pool in [Pool::HasNone, Pool::HasKey] {
        survives_every_crash_in(pool, &script, on_failure).await;
    }
}

async fn survives_every_crash_in(pool: Pool, script: &Script, on_failure: &str) {
    let mut calm = bench(script, on_failure, pool);
    let expected = calm.run().await.expect("complete");
    let (writes, calls) = (calm.writes, calm.world.state().calls);
    let (objects, mut mutations) = (calm.world.objects(), calm.world.state().mutations.clone());
    mutations.sort();
    for (crash, call) in crashes(writes, calls) {
        let mut bench = bench(script, on_failure, pool);
        bench.world.state().crash = call;
        let crashed = bench.attempt(Some(crash)).await;
        bench.world.state().crash = None;
        if crashed && bench.journal.completion().is_none() {
            bench.attempt(None).await;
        }
        let completion = bench.journal.completion().cloned().expect("complete");
        let mut seen = bench.world.state().mutations.clone();
        seen.sort();
        assert_eq!(
            (&seen, &bench.world.objects()),
            (&mutations, &objects),
            "{crash:?} {call:?} {script:?}"
        );
        assert_eq!(
            (completion.outcome, completion.world, &completion.remains),
            (expected.outcome, expected.world, &expected.remains),
            "{crash:?} {call:?} {script:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_successful_task_survives_every_crash() {
    let script = Script::from([
        ("a", vec![Do::Put("w", "1"), Do::Put("x", "2")]),
        ("b", vec![Do::Put("w", "3")]),
    ]);
    survives_every_crash(script, "stop").await;
}

#[tokio::test(start_paused = true)]
async fn a_rolled_back_task_survives_every_crash() {
    let script = Script::from([
        ("a", vec![Do::Put("w", "1"), Do::Output("o", "v")]),
        ("b", vec![Do::Put("x", "2"), Do::Refused]),
    ]);
    let mut calm = bench(&script, "rollback", Pool::HasNone);
    let completion = calm.run().await.expect("complete");
    assert_eq!(
        (completion.outcome, completion.world),
        (Outcome::Failed, deputy_task::outcome::World::RolledBack)
    );
    assert_eq!(calm.world.objects()["w"], "before");
    survives_every_crash(script, "rollback").await;
}

fn scripts() -> impl Strategy<Value = Script> {
    let put = (0..NAMES.len(), 0..3_usize).prop_map(|(name, value)| Do::Put(NAMES[name], ["1", "2", "3"][value]));
    // One effect per natural id within a step: that is what keys are.
    let step = proptest::collection::vec(put, 0..3).prop_map(|mut step| {
        step.dedup_by_key(|action| match action {
            Do::Put(name, _) => *name,
            _ => "",
        });
        let mut seen = std::collections::BTreeSet::new();
        step.retain(|action| matches!(action, Do::Put(name, _) if seen.insert(*name)));
        step
    });
    (proptest::collection::vec(step, 1..=3), any::<bool>()).prop_map(|(steps, fails)| {
        let mut script: Script = STEPS.into_iter().zip(steps).collect();
        if fails && let Some(mut last) = script.last_entry() {
            last.get_mut().push(Do::Fail);
        }
        script
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_task_survives_every_crash(script in scripts(), rollback: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("runtime");
        runtime.block_on(survives_every_crash(script, if rollback { "rollback" } else { "stop" }));
    }
}
