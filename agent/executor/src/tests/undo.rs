//! Rollback: order, exactness, its own time, and another agent that takes it over.

use std::time::Duration;

use deputy_steps::effect::RetrySafe;
use deputy_task::message::{Command, WriteVerdict};
use deputy_task::outcome::{Outcome, World as Left};
use deputy_task::progress::StepStatus;
use deputy_task::record::{Decision, Record, RecordBody, Sealing};
use serde_json::json;

use super::bench::{Bench, label};
use super::script::{Do, Script};
use crate::local::MemoryJournal;

fn fails_in_c() -> Script {
    Script::from([
        ("a", vec![Do::Put("x", "1"), Do::Put("y", "1")]),
        ("b", vec![Do::Put("z", "1")]),
        ("c", vec![Do::Fail]),
    ])
}

fn rollback(script: Script) -> Bench {
    Bench::new(script, json!({ "onFailure": "rollback" }))
}

#[tokio::test(start_paused = true)]
async fn the_last_change_is_undone_first_and_the_decision_comes_before() {
    let mut bench = rollback(fails_in_c());
    let completion = bench.run().await.expect("complete");
    assert_eq!(
        (completion.outcome, completion.world),
        (Outcome::Failed, Left::RolledBack)
    );
    assert!(completion.remains.is_empty());
    let undone: Vec<_> = bench
        .journal
        .records()
        .iter()
        .map(label)
        .skip_while(|label| !label.contains("@task"))
        .collect();
    assert_eq!(
        undone,
        [
            "fact @task/ending",
            "decision @task/undo",
            "intent b/undo:restore/z",
            "done b/undo:restore/z",
            "fact b/undo:undone",
            "intent a/undo:restore/y",
            "done a/undo:restore/y",
            "intent a/undo:restore/x",
            "done a/undo:restore/x",
            "fact a/undo:undone",
        ]
    );
    let statuses: Vec<_> = completion.steps.iter().map(|step| step.status).collect();
    assert_eq!(statuses, [StepStatus::Undone, StepStatus::Undone, StepStatus::Failed]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_undone_when_nothing_was_changed_or_nobody_asked() {
    let mut bench = rollback(Script::from([("a", vec![Do::Fail])]));
    let completion = bench.run().await.expect("complete");
    assert_eq!(
        (completion.outcome, completion.world),
        (Outcome::Failed, Left::Unchanged)
    );
    assert!(bench.journal.records().is_empty());
    let mut bench = Bench::new(fails_in_c(), json!({ "onFailure": "stop" }));
    let completion = bench.run().await.expect("complete");
    assert_eq!((completion.outcome, completion.world), (Outcome::Failed, Left::Changed));
    assert_eq!(
        completion.remains,
        [
            "Put x was done and stays",
            "Put y was done and stays",
            "Put z was done and stays"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn what_an_undo_leaves_alone_is_named() {
    let child = Do::Child("y", Duration::from_secs(1), RetrySafe::No);
    let mut bench = rollback(Script::from([
        ("a", vec![Do::Put("x", "1"), child]),
        ("b", vec![Do::Fail]),
    ]));
    let completion = bench.run().await.expect("complete");
    assert_eq!(
        (completion.outcome, completion.world),
        (Outcome::Failed, Left::RollbackFailed)
    );
    assert_eq!(completion.remains, ["a: y was set by a child"]);
    assert_eq!(
        completion.repair,
        "deputy get task-1 --journal   # put back by hand what is left of step a; then: deputy retry task-1"
    );
    assert_eq!(bench.world.objects()["x"], "");
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_task_is_rolled_back_and_a_second_cancel_does_not_stop_that() {
    let script = Script::from([("a", vec![Do::Put("x", "1"), Do::Wait(Duration::from_secs(60))])]);
    let cancel = |attempt: &deputy_task::attempt::AttemptRef| Command::Cancel {
        attempt: attempt.clone(),
        reason: "no".into(),
    };
    let mut bench = rollback(script)
        .say("done a/put/x", cancel)
        .say("decision @task/undo", cancel);
    let completion = bench.run().await.expect("complete");
    assert_eq!(
        (completion.outcome, completion.world),
        (Outcome::Cancelled, Left::RolledBack)
    );
}

#[tokio::test(start_paused = true)]
async fn a_decision_of_the_manager_is_obeyed_at_once() {
    let mut bench = Bench::new(
        Script::from([("a", vec![Do::Put("x", "1"), Do::Wait(Duration::from_secs(600))])]),
        json!({}),
    );
    bench.attempt(Some(super::bench::Crash::WriteLost(5))).await;
    let mut records = bench.journal.records().to_vec();
    let body = RecordBody::Decision(Decision::Undo {
        reason: "its agent was lost".into(),
    });
    let key = deputy_task::record::EffectKey::new("task", "undo");
    records.push(Record {
        key,
        program_version: 0,
        step_kind: String::new(),
        body,
        epoch: 1,
        sealing: Sealing::default(),
    });
    bench.journal = MemoryJournal::resume(records);
    let completion = bench.run().await.expect("complete");
    assert_eq!(
        (completion.outcome, completion.world),
        (Outcome::Failed, Left::RolledBack)
    );
    assert_eq!(completion.failure.expect("why").class, "task.undone");
    assert_eq!(bench.world.objects()["x"], "");
}

#[tokio::test(start_paused = true)]
async fn another_agent_goes_on_with_an_undo_and_keeps_the_reason() {
    let drain = |_: &deputy_task::attempt::AttemptRef| Command::Drain {
        deadline: deputy_steps::permit::now(),
        reason: "SIGTERM".into(),
    };
    let mut bench = rollback(fails_in_c()).say("done b/undo:restore/z", drain);
    assert_eq!(bench.run().await, None);
    assert!(bench.journal.released().is_some());
    bench.says.clear();
    let completion = bench.run().await.expect("complete");
    assert_eq!(
        (completion.outcome, completion.world),
        (Outcome::Failed, Left::RolledBack)
    );
    assert_eq!(completion.failure.expect("why").class, "script.fail");
    let restored = bench
        .world
        .state()
        .mutations
        .iter()
        .filter(|what| what.contains("restore"))
        .count();
    assert_eq!(restored, 3);
}

#[tokio::test(start_paused = true)]
async fn an_ending_that_was_recorded_before_a_crash_is_kept_by_the_attempt_that_decides() {
    let script = Script::from([("a", vec![Do::Put("x", "1"), Do::Wait(Duration::from_secs(600))])]);
    let cancel = |attempt: &deputy_task::attempt::AttemptRef| Command::Cancel {
        attempt: attempt.clone(),
        reason: "no".into(),
    };
    let mut bench = Bench::new(script, json!({ "onFailure": "rollback", "timeout": "1m" })).say("done a/put/x", cancel);
    // Start, before, intent, done, ending; and the agent dies at the decision.
    assert!(bench.attempt(Some(super::bench::Crash::WriteLost(6))).await);
    assert_eq!(
        bench.journal.records().last().map(label).as_deref(),
        Some("fact @task/ending")
    );
    bench.says.clear();
    let completion = bench.run().await.expect("complete");
    assert_eq!(
        (completion.outcome, completion.world),
        (Outcome::Cancelled, Left::RolledBack),
        "{completion:?}"
    );
    assert_eq!(bench.world.objects()["x"], "");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_undone_when_the_decision_is_refused() {
    let mut bench = rollback(fails_in_c());
    bench.refuses = Some(("decision", WriteVerdict::Invalid("no room".into())));
    let completion = bench.run().await.expect("complete");
    assert_eq!((completion.outcome, completion.world), (Outcome::Failed, Left::Unknown));
    let failure = completion.failure.expect("why");
    assert_eq!(failure.class, "script.fail");
    assert!(failure.hint.contains("no room"), "{failure:?}");
    assert!(
        completion.remains.contains(&"Put x was done and stays".to_owned()),
        "{:?}",
        completion.remains
    );
    assert!(
        completion.repair.starts_with("deputy get task-1 --journal "),
        "{}",
        completion.repair
    );
    assert_eq!(completion.steps[0].status, StepStatus::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn an_undo_that_finds_that_nothing_had_happened_says_so() {
    let script = Script::from([("a", vec![Do::Put("x", "1")])]);
    let mut bench = rollback(script);
    bench.world.state().crash = Some((1, super::script::Instead::NotSent));
    assert!(bench.attempt(Some(super::bench::Crash::InTheWorld)).await);
    bench.cancel = Some("no".into());
    let completion = bench.run().await.expect("complete");
    assert_eq!(
        (completion.outcome, completion.world),
        (Outcome::Cancelled, Left::Unchanged),
        "{completion:?}"
    );
    assert!(bench.world.state().mutations.is_empty());
}
