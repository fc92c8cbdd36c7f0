//! What becomes of an effect whose intent is recorded and whose result is not.

use std::time::Duration;

use deputy_steps::effect::RetrySafe;
use deputy_task::outcome::{Outcome, World as Left};
use deputy_task::record::{Decision, EffectKey, Record, RecordBody, Sealing};
use serde_json::json;
use tokio::time::Instant;

use super::bench::{Bench, Crash};
use super::script::{Do, Instead, Script};
use crate::local::MemoryJournal;

fn one_put() -> Bench {
    Bench::new(Script::from([("a", vec![Do::Put("x", "1")])]), json!({}))
}

async fn crash_in_the_world(bench: &mut Bench, instead: Instead) {
    bench.world.state().crash = Some((1, instead));
    assert!(bench.attempt(Some(Crash::InTheWorld)).await);
}

#[tokio::test(start_paused = true)]
async fn mine_is_adopted_and_not_done_again() {
    let mut bench = one_put();
    crash_in_the_world(&mut bench, Instead::NoReply).await;
    let completion = bench.run().await.expect("complete");
    assert_eq!(
        (completion.outcome, completion.world),
        (Outcome::Succeeded, Left::Changed)
    );
    assert_eq!(bench.world.state().mutations, ["a/put/x: x=1"]);
}

#[tokio::test(start_paused = true)]
async fn absent_is_believed_only_after_the_settle_time() {
    let mut bench = one_put();
    crash_in_the_world(&mut bench, Instead::NotSent).await;
    let begun = Instant::now();
    bench.run().await.expect("complete");
    assert!(begun.elapsed() >= Duration::from_secs(5));
    assert_eq!(bench.world.state().mutations, ["a/put/x: x=1"]);
}

#[tokio::test(start_paused = true)]
async fn what_becomes_visible_within_the_settle_time_is_adopted() {
    let mut bench = one_put();
    bench.world.state().lag = Duration::from_secs(4);
    crash_in_the_world(&mut bench, Instead::NoReply).await;
    bench.run().await.expect("complete");
    assert_eq!(bench.world.state().mutations, ["a/put/x: x=1"]);
    assert!(bench.world.state().looks > 1);
}

#[tokio::test(start_paused = true)]
async fn what_somebody_else_changed_since_stops_the_task() {
    let mut bench = one_put();
    crash_in_the_world(&mut bench, Instead::NotSent).await;
    bench
        .world
        .state()
        .writers
        .insert("x".into(), ("stranger".into(), Instant::now()));
    let completion = bench.run().await.expect("complete");
    assert_eq!((completion.outcome, completion.world), (Outcome::Failed, Left::Unknown));
    assert_eq!(completion.failure.expect("why").class, "foreign");
    assert_eq!(completion.remains, ["it is not known whether Put x happened"]);
    assert!(bench.world.state().mutations.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_broken_connection_is_looked_into_at_once() {
    let mut bench = one_put();
    bench.world.state().crash = Some((1, Instead::Broken));
    let completion = bench.run().await.expect("complete");
    assert_eq!(completion.outcome, Outcome::Succeeded);
    assert_eq!(bench.world.state().mutations, ["a/put/x: x=1"]);
}

fn one_child(retry_safe: RetrySafe) -> Bench {
    Bench::new(
        Script::from([("a", vec![Do::Child("x", Duration::from_secs(30), retry_safe)])]),
        json!({}),
    )
}

#[tokio::test(start_paused = true)]
async fn a_child_that_was_interrupted_is_run_again_only_if_it_is_retry_safe_or_decided() {
    for (retry_safe, redo, started) in [
        (RetrySafe::No, false, 1),
        (RetrySafe::Yes, false, 2),
        (RetrySafe::No, true, 2),
    ] {
        let mut bench = one_child(retry_safe);
        crash_in_the_world(&mut bench, Instead::NotSent).await;
        let mut records = bench.journal.records().to_vec();
        if redo {
            let body = RecordBody::Decision(Decision::Redo {
                reason: "an operator".into(),
            });
            let key = EffectKey::new("a", "child/x");
            records.push(Record {
                key,
                program_version: 0,
                step_kind: String::new(),
                body,
                epoch: 1,
                sealing: Sealing::default(),
            });
        }
        bench.journal = MemoryJournal::resume(records);
        let completion = bench.run().await.expect("complete");
        let expected = if started == 2 {
            Outcome::Succeeded
        } else {
            Outcome::Failed
        };
        assert_eq!(completion.outcome, expected, "{retry_safe:?} {redo}");
        assert_eq!(
            bench
                .world
                .state()
                .children
                .iter()
                .filter(|what| **what == "started")
                .count(),
            started
        );
        if expected == Outcome::Failed {
            assert_eq!(completion.world, Left::Unknown);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_decision_to_run_a_child_again_counts_once() {
    let mut bench = one_child(RetrySafe::No);
    crash_in_the_world(&mut bench, Instead::NotSent).await;
    let mut records = bench.journal.records().to_vec();
    let body = RecordBody::Decision(Decision::Redo {
        reason: "an operator".into(),
    });
    records.push(Record {
        key: EffectKey::new("a", "child/x"),
        program_version: 0,
        step_kind: String::new(),
        body,
        epoch: 1,
        sealing: Sealing::default(),
    });
    bench.journal = MemoryJournal::resume(records);
    bench.world.state().crash = Some((2, Instead::NotSent));
    assert!(bench.attempt(Some(Crash::InTheWorld)).await);
    let completion = bench.run().await.expect("complete");
    assert_eq!(completion.outcome, Outcome::Failed);
}
