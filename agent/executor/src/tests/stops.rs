//! Cancel, timeouts, revocation, drain, the end of the lease.

use std::time::Duration;

use deputy_steps::effect::RetrySafe;
use deputy_steps::permit;
use deputy_task::boot_time::BootTime;
use deputy_task::message::Command;
use deputy_task::outcome::{Outcome, World as Left};
use deputy_task::progress::StepStatus;
use serde_json::json;
use tokio::time::Instant;

use super::bench::{Bench, label};
use super::script::{Do, Script};

const LONG: Duration = Duration::from_secs(600);

fn put_and_wait() -> Script {
    Script::from([("a", vec![Do::Put("x", "1"), Do::Wait(LONG), Do::Put("y", "2")])])
}

fn cancel(attempt: &deputy_task::attempt::AttemptRef) -> Command {
    Command::Cancel {
        attempt: attempt.clone(),
        reason: "changed my mind".into(),
    }
}

fn drain_within(time: Duration) -> impl Fn(&deputy_task::attempt::AttemptRef) -> Command + Send + 'static {
    move |_| Command::Drain {
        deadline: permit::now().after(time),
        reason: "SIGTERM".into(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancel_ends_a_wait_at_once_and_says_what_remains() {
    let mut bench = Bench::new(put_and_wait(), json!({})).say("done a/put/x", cancel);
    let completion = bench.run().await.expect("complete");
    assert_eq!(
        (completion.outcome, completion.world),
        (Outcome::Cancelled, Left::Changed)
    );
    assert_eq!(completion.remains, ["Put x was done and stays"]);
    assert_eq!(completion.steps[0].status, StepStatus::Interrupted);
    assert_eq!(bench.world.state().mutations.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_cancel_before_the_start_changes_nothing() {
    let mut bench = Bench::new(put_and_wait(), json!({}));
    bench.cancel = Some("too late".into());
    let completion = bench.run().await.expect("complete");
    assert_eq!(
        (completion.outcome, completion.world),
        (Outcome::Cancelled, Left::Unchanged)
    );
}

#[tokio::test(start_paused = true)]
async fn an_intent_whose_acknowledgement_crossed_a_cancel_is_not_acted_on() {
    let mut bench = Bench::new(put_and_wait(), json!({})).say("fact a/before/x", cancel);
    let completion = bench.run().await.expect("complete");
    assert_eq!(
        (completion.outcome, completion.world),
        (Outcome::Cancelled, Left::Unchanged)
    );
    assert!(bench.world.state().mutations.is_empty());
}

#[tokio::test(start_paused = true)]
async fn timeouts_of_task_and_step_are_told_apart() {
    for (spec, step, outcome, class) in [
        (json!({ "timeout": "1m" }), None, Outcome::TimedOut, "task.timeout"),
        (json!({ "timeout": "1h" }), Some("2m"), Outcome::Failed, "step.timeout"),
    ] {
        let mut bench = Bench::new(put_and_wait(), spec);
        let mut document = bench.document.as_ref().clone();
        document.spec.steps[0].timeout = step.map(str::to_owned);
        bench.document = document.into();
        let completion = bench.run().await.expect("complete");
        assert_eq!((completion.outcome, completion.world), (outcome, Left::Changed));
        assert_eq!(completion.failure.expect("why").class, class);
    }
}

#[tokio::test(start_paused = true)]
async fn a_revoked_attempt_touches_nothing_and_says_nothing_more() {
    let revoke = |attempt: &deputy_task::attempt::AttemptRef| Command::Revoke {
        attempt: attempt.clone(),
        reason: "given away".into(),
    };
    let script = Script::from([("a", vec![Do::Put("x", "1"), Do::Child("y", LONG, RetrySafe::No)])]);
    let mut bench = Bench::new(script, json!({ "onFailure": "rollback" })).say("intent a/child/y", revoke);
    bench
        .says
        .push(("intent a/child/y", Box::new(drain_within(Duration::ZERO))));
    assert_eq!(bench.run().await, None);
    assert_eq!(bench.journal.released(), None);
    assert_eq!(
        bench.world.state().children.last().copied().unwrap_or("killed"),
        "killed"
    );
    assert_eq!(
        bench.journal.records().last().map(label).as_deref(),
        Some("intent a/child/y")
    );
}

#[tokio::test(start_paused = true)]
async fn a_stale_answer_stops_the_attempt() {
    let script = Script::from([("a", vec![Do::Put("x", "1"), Do::Put("y", "2")])]);
    let mut bench = Bench::new(script, json!({}));
    bench.journal = crate::local::MemoryJournal::default();
    bench.attempt(Some(super::bench::Crash::WriteLost(3))).await;
    let records = bench.journal.records().len();
    // Another agent has it: every write of this one is stale.
    let epoch = bench.journal.next_epoch();
    let mut late = bench.assignment(epoch);
    late.attempt.epoch = epoch - 1;
    let (commands, inbox) = tokio::sync::mpsc::channel(8);
    let (outbox, mut events) = tokio::sync::mpsc::channel(8);
    let mut running = tokio::task::JoinSet::new();
    running.spawn(bench.executor().run(inbox, outbox));
    commands.send(Command::Assign(Box::new(late))).await.expect("lives");
    while let Ok(Some(event)) = tokio::time::timeout(Duration::from_secs(60), events.recv()).await {
        if let Some(answer) = bench.journal.answer(event) {
            commands.send(answer).await.expect("lives");
        }
    }
    assert!(bench.world.state().mutations.is_empty());
    assert_eq!(bench.journal.records().len(), records);
}

#[tokio::test(start_paused = true)]
async fn a_drain_releases_bounded_work_at_once_and_the_next_attempt_goes_on() {
    let mut bench = Bench::new(put_and_wait(), json!({})).say("done a/put/x", drain_within(LONG));
    let begun = Instant::now();
    assert_eq!(bench.run().await, None);
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_eq!(bench.journal.released(), Some("the agent drains"));
    bench.says.clear();
    let completion = bench.run().await.expect("complete");
    assert_eq!(completion.outcome, Outcome::Succeeded);
    assert_eq!(bench.world.state().mutations, ["a/put/x: x=1", "a/put/y: y=2"]);
}

#[tokio::test(start_paused = true)]
async fn a_drain_lets_held_work_finish_within_its_deadline() {
    let script = Script::from([
        ("a", vec![Do::Child("x", Duration::from_secs(5), RetrySafe::No)]),
        ("b", vec![Do::Put("y", "2")]),
    ]);
    let mut bench = Bench::new(script, json!({})).say("intent a/child/x", drain_within(LONG));
    assert_eq!(bench.run().await, None);
    assert_eq!(bench.world.state().children, ["started", "ended"]);
    assert_eq!(bench.journal.released(), Some("the agent drains"));
    assert!(
        bench
            .journal
            .records()
            .iter()
            .any(|record| label(record) == "done a/child/x")
    );
}

#[tokio::test(start_paused = true)]
async fn held_work_that_outlives_the_drain_is_killed_and_released_without_a_result() {
    let script = Script::from([("a", vec![Do::Child("x", LONG, RetrySafe::No)])]);
    let mut bench = Bench::new(script, json!({})).say("intent a/child/x", drain_within(Duration::ZERO));
    assert_eq!(bench.run().await, None);
    assert_eq!(bench.world.state().children, ["started", "killed"]);
    assert_eq!(bench.journal.released(), Some("the agent drains"));
    bench.says.clear();
    let completion = bench.run().await.expect("complete");
    assert_eq!((completion.outcome, completion.world), (Outcome::Failed, Left::Unknown));
    assert_eq!(completion.failure.expect("why").class, "unclear");
}

#[tokio::test(start_paused = true)]
async fn at_the_end_of_the_lease_only_retry_safe_work_is_killed() {
    for (retry_safe, children) in [
        (RetrySafe::Yes, ["started", "killed"]),
        (RetrySafe::No, ["started", "ended"]),
    ] {
        let script = Script::from([("a", vec![Do::Child("x", Duration::from_secs(5), retry_safe)])]);
        let ends_now = |_: &deputy_task::attempt::AttemptRef| Command::Lease { until: permit::now() };
        let mut bench = Bench::new(script, json!({})).say("intent a/child/x", ends_now);
        let completion = bench.run().await;
        assert_eq!(bench.world.state().children, children);
        assert_eq!(completion.is_some(), retry_safe == RetrySafe::No);
        assert_eq!(bench.journal.released().is_some(), retry_safe == RetrySafe::Yes);
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_that_does_not_stop_is_dropped_after_its_grace() {
    let mut bench =
        Bench::new(Script::from([("a", vec![Do::Put("x", "1"), Do::Hang])]), json!({})).say("done a/put/x", cancel);
    let begun = Instant::now();
    let completion = bench.run().await.expect("complete");
    assert_eq!(completion.outcome, Outcome::Cancelled);
    assert!(begun.elapsed() >= bench.config.stop_grace);
}

#[tokio::test(start_paused = true)]
async fn no_lease_means_no_end_of_it() {
    let script = Script::from([("a", vec![Do::Child("x", LONG, RetrySafe::Yes)])]);
    let mut bench = Bench::new(script, json!({})).say("start", |_| Command::Lease { until: BootTime::NEVER });
    assert_eq!(bench.run().await.expect("complete").outcome, Outcome::Succeeded);
}
