//! Starts, replays, refusals, results.

use std::time::Duration;

use deputy_task::message::{Command, Event, WriteOp, WriteVerdict};
use deputy_task::outcome::{Outcome, World as Left};
use deputy_task::progress::StepStatus;
use deputy_task::record::RecordBody;
use serde_json::json;
use tokio::sync::mpsc;

use super::bench::{Bench, attempt, label};
use super::script::{Do, Script};

fn puts() -> Script {
    Script::from([
        ("a", vec![Do::Put("x", "1"), Do::Output("url", "http://x")]),
        (
            "b",
            vec![Do::Put("y", "2"), Do::Wait(Duration::from_secs(60)), Do::Put("z", "3")],
        ),
    ])
}

#[tokio::test(start_paused = true)]
async fn a_task_runs_its_steps_and_its_result_is_the_last_message() {
    let mut bench = Bench::new(puts(), json!({}));
    let completion = bench.run().await.expect("complete");
    assert_eq!(
        (completion.outcome, completion.world),
        (Outcome::Succeeded, Left::Changed)
    );
    assert_eq!(
        completion.steps.iter().map(|step| step.status).collect::<Vec<_>>(),
        [StepStatus::Succeeded; 2]
    );
    assert_eq!(completion.steps[0].outputs["url"], "http://x");
    let labels: Vec<_> = bench.journal.records().iter().map(label).collect();
    assert_eq!(
        labels,
        [
            "fact a/before/x",
            "intent a/put/x",
            "done a/put/x",
            "fact a/outputs",
            "fact b/before/y",
            "intent b/put/y",
            "done b/put/y",
            "fact b/before/z",
            "intent b/put/z",
            "done b/put/z",
        ]
    );
    assert!(
        bench
            .progress
            .iter()
            .any(|step| step.name == "b" && step.waiting_for == "time to pass")
    );
}

#[tokio::test(start_paused = true)]
async fn a_replay_changes_nothing_and_looks_at_nothing_again() {
    let mut bench = Bench::new(puts(), json!({}));
    bench.run().await.expect("complete");
    let mutations = bench.world.state().mutations.clone();
    let looks = bench.world.state().looks;
    let records = bench.journal.records().to_vec();
    bench.journal = crate::local::MemoryJournal::resume(records.clone());
    bench
        .world
        .state()
        .objects
        .insert("x".into(), "changed by somebody since".into());
    let completion = bench.run().await.expect("complete");
    assert_eq!(completion.outcome, Outcome::Succeeded);
    assert_eq!(bench.world.state().mutations, mutations);
    assert_eq!(bench.world.state().looks, looks);
    assert_eq!(bench.journal.records(), records);
}

#[tokio::test(start_paused = true)]
async fn a_short_task_says_nothing_but_its_result() {
    let mut bench = Bench::new(Script::from([("a", vec![Do::Put("x", "1")])]), json!({}));
    bench.run().await.expect("complete");
    assert!(bench.progress.is_empty());
    // Start, fact, intent, done, complete.
    assert_eq!(bench.writes, 5);
}

#[tokio::test(start_paused = true)]
async fn what_the_service_refused_changed_nothing_and_fails_the_same_way_on_replay() {
    let mut bench = Bench::new(Script::from([("a", vec![Do::Refused])]), json!({}));
    for _ in 0..2 {
        let completion = bench.run().await.expect("complete");
        assert_eq!(
            (completion.outcome, completion.world),
            (Outcome::Failed, Left::Unchanged)
        );
        let failure = completion.failure.expect("why");
        assert_eq!((failure.class.as_str(), failure.step.as_str()), ("denied", "a"));
        assert_eq!(completion.repair, "deputy retry task-1");
        bench.journal = crate::local::MemoryJournal::resume(bench.journal.records().to_vec());
    }
}

#[tokio::test(start_paused = true)]
async fn a_program_that_plans_otherwise_than_recorded_is_held() {
    let mut bench = Bench::new(
        Script::from([("a", vec![Do::Roulette])]),
        json!({ "onFailure": "rollback" }),
    );
    bench.run().await.expect("complete");
    bench.journal = crate::local::MemoryJournal::resume(bench.journal.records().to_vec());
    let completion = bench.run().await.expect("complete");
    assert_eq!((completion.outcome, completion.world), (Outcome::Failed, Left::Unknown));
    assert_eq!(completion.failure.expect("why").class, "journal.nondeterministic");
    assert_eq!(bench.world.state().mutations.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_too_large_fails_the_task_and_not_the_agent() {
    let mut bench = Bench::new(Script::from([("a", vec![Do::Boast])]), json!({}));
    let completion = bench.run().await.expect("complete");
    assert_eq!(completion.failure.expect("why").class, "journal.refused");
}

#[tokio::test(start_paused = true)]
async fn a_panic_becomes_a_failed_task_with_a_name() {
    let mut bench = Bench::new(Script::from([("a", vec![Do::Put("x", "1"), Do::Panic])]), json!({}));
    let completion = bench.run().await.expect("complete");
    assert_eq!((completion.outcome, completion.world), (Outcome::Failed, Left::Changed));
    let failure = completion.failure.expect("why");
    assert_eq!(failure.class, "agent.panic");
    assert!(failure.summary.contains("the script says so"), "{failure}");
}

#[tokio::test(start_paused = true)]
async fn skipped_steps_are_not_run_and_a_wrong_when_fails_the_task() {
    let mut bench = Bench::new(Script::from([("a", vec![Do::Fail])]), json!({}));
    let with_when = |bench: &Bench, when: &str| {
        let mut document = bench.document.as_ref().clone();
        document.spec.steps[0].when = Some(when.into());
        document
    };
    bench.document = with_when(&bench, "task.name == 'other'").into();
    let completion = bench.run().await.expect("complete");
    assert_eq!(
        (completion.outcome, completion.world),
        (Outcome::Succeeded, Left::Unchanged)
    );
    assert_eq!(completion.steps[0].status, StepStatus::Skipped);
    bench.journal = crate::local::MemoryJournal::default();
    bench.document = with_when(&bench, "agent.id == 'agent-1' and steps.none.outputs.x").into();
    let completion = bench.run().await.expect("complete");
    assert_eq!(completion.failure.expect("why").class, "expression");
    assert_eq!(
        bench.journal.records().iter().map(label).collect::<Vec<_>>(),
        ["fact @task/agent"]
    );
}

/// Sends assignments to one executor and answers nothing; collects what it refuses.
pub(super) async fn refusals(
    bench: &Bench,
    assignments: Vec<deputy_task::message::Assignment>,
    first: Option<Command>,
) -> Vec<String> {
    let (commands, inbox) = mpsc::channel(64);
    let (outbox, mut events) = mpsc::channel(64);
    let mut running = tokio::task::JoinSet::new();
    running.spawn(bench.executor().run(inbox, outbox));
    if let Some(first) = first {
        running.spawn(std::future::pending());
        commands.send(first).await.expect("lives");
    }
    for assignment in assignments {
        commands
            .send(Command::Assign(Box::new(assignment)))
            .await
            .expect("lives");
    }
    let mut refused = Vec::new();
    while let Ok(Some(event)) = tokio::time::timeout(Duration::from_secs(1), events.recv()).await {
        if let Event::Write {
            op: WriteOp::Refuse { reason, .. },
            ..
        } = event
        {
            refused.push(reason);
        }
    }
    refused
}

#[tokio::test(start_paused = true)]
async fn more_than_the_slots_is_refused_and_a_repeated_assignment_is_not() {
    let bench = Bench::new(Script::from([("a", vec![Do::Hang])]), json!({}));
    let task = |name: &str| {
        let mut assignment = bench.assignment(1);
        assignment.attempt.task = name.parse().expect("id");
        assignment
    };
    let refused = refusals(&bench, vec![task("t1"), task("t1"), task("t2"), task("t3")], None).await;
    assert_eq!(refused, ["every slot of the agent is taken"]);
}

#[tokio::test(start_paused = true)]
async fn tenants_whose_children_are_not_confined_wait_for_each_other() {
    let mut bench = Bench::new(Script::from([("a", vec![Do::Hang])]), json!({}));
    bench.config.slots = 8;
    let task = |name: &str, project: &str, role: Option<&str>| {
        let mut assignment = bench.assignment(1);
        assignment.attempt.task = name.parse().expect("id");
        assignment.attempt.project = project.parse().expect("id");
        let mut document = assignment.document.as_ref().clone();
        let aws = role.map(|role| json!({ "region": "eu-west-1", "assumeRole": [{ "roleArn": role }] }));
        document.spec.aws = aws.map(|aws| serde_json::from_value(aws).expect("aws"));
        assignment.document = document.into();
        assignment
    };
    let role = "arn:aws:iam::222222222222:role/deployer";
    let all = || {
        vec![
            task("t1", "shop", Some(role)),
            task("t2", "shop", Some(role)),
            task("t3", "shop", Some("arn:aws:iam::222222222222:role/reader")),
            task("t4", "shop", None),
            task("t5", "bank", Some(role)),
        ]
    };
    assert_eq!(refusals(&bench, all(), None).await, [""; 0]);
    let assignments = all();
    bench.confinement = None;
    let refused = refusals(&bench, assignments, None).await;
    assert_eq!(refused.len(), 3, "{refused:?}");
    let told = refused
        .iter()
        .all(|reason| reason.starts_with("the agent cannot confine children") && reason.contains("task t1 runs"));
    // Of two that run, either may be named.
    let told = told
        || refused
            .iter()
            .all(|reason| reason.contains("task t1 runs") || reason.contains("task t2 runs"));
    assert!(told, "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_journal_of_an_unknown_program_version_is_refused() {
    let mut bench = Bench::new(Script::from([("a", vec![Do::Put("x", "1")])]), json!({}));
    bench.run().await.expect("complete");
    let mut assignment = bench.assignment(2);
    assignment.journal[0].program_version = 99;
    let refused = refusals(&bench, vec![assignment], None).await;
    assert_eq!(
        refused,
        ["its journal was written by version 99 of noopEffect, which this agent cannot replay"]
    );
}

#[tokio::test(start_paused = true)]
async fn an_assignment_after_its_start_deadline_is_refused_without_a_start() {
    let bench = Bench::new(puts(), json!({}));
    let mut assignment = bench.assignment(1);
    assignment.start_deadline = deputy_task::boot_time::BootTime::from_nanos(1);
    assert_eq!(
        refusals(&bench, vec![assignment], None).await,
        ["the deadline for starting it had passed"]
    );
    assert_eq!(attempt(1).epoch, 1);
}

/// The steps as shell steps, so that their text is evaluated.
fn with_text(bench: &mut Bench, texts: &[(&str, &str)]) {
    let mut document = bench.document.as_ref().clone();
    for (name, text) in texts {
        let step = document
            .spec
            .steps
            .iter_mut()
            .find(|step| step.name == *name)
            .expect("step");
        step.kind = serde_json::from_value(json!({ "shell": { "run": text } })).expect("shell");
    }
    bench.document = document.into();
}

#[tokio::test(start_paused = true)]
async fn a_secret_output_never_leaves_and_is_lost_with_its_agent() {
    let script = Script::from([
        ("a", vec![Do::Secret("TOKEN", "hunter2-hunter2")]),
        ("b", vec![Do::Put("x", "1"), Do::Tell("it was hunter2-hunter2")]),
    ]);
    let mut bench = Bench::new(script, json!({}));
    with_text(&mut bench, &[("b", "use ${{ steps.a.outputs.TOKEN }}")]);
    let completion = bench.run().await.expect("complete");
    assert_eq!(completion.failure.as_ref().expect("why").class, "told");
    let said = format!(
        "{completion:?} {:?} {:?} {}",
        bench.journal.records(),
        bench.progress,
        bench.log.lock().expect("log")
    );
    assert!(!said.contains("hunter2") && said.contains("it was"), "{said}");
    // The next agent has the journal, which names the secret and does not hold it.
    bench.journal = crate::local::MemoryJournal::resume(bench.journal.records().to_vec());
    let failure = bench.run().await.expect("complete").failure.expect("why");
    assert_eq!((failure.class.as_str(), failure.step.as_str()), ("expression", "b"));
    assert!(failure.hint.contains("a.TOKEN"), "{failure:?}");
}

#[tokio::test(start_paused = true)]
async fn a_step_that_names_a_secret_output_is_undone_by_any_agent() {
    let script = Script::from([
        ("a", vec![Do::Secret("TOKEN", "hunter2-hunter2")]),
        ("b", vec![Do::Put("x", "1")]),
        ("c", vec![Do::Wait(Duration::from_secs(5)), Do::Fail]),
    ]);
    let rollback = json!({ "onFailure": "rollback" });
    let mut bench = Bench::new(script.clone(), rollback.clone());
    with_text(&mut bench, &[("b", "use ${{ steps.a.outputs.TOKEN }}")]);
    let completion = bench.run().await.expect("complete");
    assert_eq!(completion.world, Left::RolledBack, "{:?}", completion.remains);
    // And by one that never had the secret.
    let mut bench = Bench::new(script, rollback).say("done b/put/x", |_| Command::Drain {
        deadline: deputy_steps::permit::now(),
        reason: "SIGTERM".into(),
    });
    with_text(&mut bench, &[("b", "use ${{ steps.a.outputs.TOKEN }}")]);
    assert_eq!(bench.run().await, None);
    bench.says.clear();
    let completion = bench.run().await.expect("complete");
    assert_eq!(completion.world, Left::RolledBack, "{:?}", completion.remains);
    assert_eq!(bench.world.objects()["x"], "");
}

#[tokio::test(start_paused = true)]
async fn a_plan_does_not_depend_on_what_the_redactor_knows() {
    let script = Script::from([
        ("a", vec![Do::Secret("TOKEN", "hunter2-hunter2")]),
        ("b", vec![Do::Plan("hunter2-hunter2"), Do::Wait(Duration::from_secs(5))]),
    ]);
    let mut bench = Bench::new(script, json!({})).say("done b/plan", |_| Command::Drain {
        deadline: deputy_steps::permit::now(),
        reason: "SIGTERM".into(),
    });
    assert_eq!(bench.run().await, None);
    bench.says.clear();
    // The next agent never heard of the secret.
    let completion = bench.run().await.expect("complete");
    assert_eq!(completion.outcome, Outcome::Succeeded, "{:?}", completion.failure);
    assert_eq!(bench.world.state().mutations, ["p: p=p"]);
}

#[tokio::test(start_paused = true)]
async fn a_plan_has_the_names_of_secret_outputs_and_not_their_values() {
    let script = Script::from([
        ("a", vec![Do::Secret("TOKEN", "hunter2-hunter2")]),
        ("b", vec![Do::Plan("use hunter2-hunter2")]),
    ]);
    let mut bench = Bench::new(script, json!({}));
    with_text(&mut bench, &[("b", "use ${{ steps.a.outputs.TOKEN }}")]);
    assert_eq!(bench.run().await.expect("complete").outcome, Outcome::Succeeded);
    let named = crate::plan::digest(&json!("use <secret a.TOKEN>"));
    let planned = bench.journal.records().iter().find_map(|record| match &record.body {
        RecordBody::Intent(intent) => Some(&intent.plan_digest),
        _ => None,
    });
    assert_eq!(planned, Some(&named));
}

#[tokio::test(start_paused = true)]
async fn what_was_said_of_the_first_agent_is_what_the_second_hears() {
    let mut bench = Bench::new(
        Script::from([("a", vec![Do::Put("x", "1"), Do::Wait(Duration::from_secs(5))])]),
        json!({}),
    );
    with_text(&mut bench, &[("a", "${{ agent.id }}")]);
    bench.attempt(Some(super::bench::Crash::WriteLost(5))).await;
    let fact = bench
        .journal
        .records()
        .iter()
        .find(|record| label(record) == "fact @task/agent")
        .cloned();
    assert!(format!("{fact:?}").contains("agent-1"));
    bench.run().await.expect("complete");
    let facts = bench
        .journal
        .records()
        .iter()
        .filter(|record| label(record) == "fact @task/agent")
        .count();
    assert_eq!(facts, 1);
}

#[tokio::test]
async fn a_source_is_fetched_and_unpacked_once_and_gone_at_the_end() {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(5);
    header.set_mode(0o644);
    archive
        .append_data(&mut header, "hello.txt", &b"hello"[..])
        .expect("packs");
    let packed = zstd::stream::encode_all(&archive.into_inner().expect("packs")[..], 3).expect("packs");
    let mut bench = Bench::new(
        Script::from([("a", vec![Do::Source])]),
        json!({ "sources": [{ "bundle": "./dir" }] }),
    );
    bench.bundle = packed;
    let completion = bench.run().await.expect("complete");
    assert_eq!(completion.outcome, Outcome::Succeeded, "{:?}", completion.failure);
    assert_eq!(completion.steps[0].outputs["text"], "hello");
    assert_eq!(std::fs::read_dir(bench.root.path()).expect("root").count(), 0);
    bench.journal = crate::local::MemoryJournal::default();
    bench.bundle = b"garbage".to_vec();
    let failure = bench.run().await.expect("complete").failure.expect("why");
    assert_eq!(failure.class, "source.unpack");
}

#[tokio::test(start_paused = true)]
async fn a_newer_attempt_of_the_same_task_begins_after_the_older_one_has_ended() {
    let bench = Bench::new(Script::from([("a", vec![Do::Hang])]), json!({}));
    let (commands, inbox) = mpsc::channel(64);
    let (outbox, mut events) = mpsc::channel(64);
    let mut running = tokio::task::JoinSet::new();
    running.spawn(bench.executor().run(inbox, outbox));
    let begun = tokio::time::Instant::now();
    for epoch in [1, 2] {
        let assignment = Command::Assign(Box::new(bench.assignment(epoch)));
        commands.send(assignment).await.expect("lives");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let mut starts = Vec::new();
    while let Ok(Some(event)) = tokio::time::timeout(Duration::from_secs(200), events.recv()).await {
        if let Event::Write {
            op: WriteOp::Start,
            attempt,
            ..
        } = event
        {
            starts.push((attempt.epoch, begun.elapsed() >= bench.config.stop_grace));
        }
    }
    assert_eq!(starts, [(1, false), (2, true)]);
}

/// What is said while the manager answers nothing.
async fn said_unanswered(epoch: u64) -> Vec<Event> {
    let bench = Bench::new(Script::from([("a", vec![Do::Put("x", "1")])]), json!({}));
    let (commands, inbox) = mpsc::channel(64);
    let (outbox, mut events) = mpsc::channel(64);
    let mut running = tokio::task::JoinSet::new();
    running.spawn(bench.executor().run(inbox, outbox));
    let assignment = Command::Assign(Box::new(bench.assignment(epoch)));
    commands.send(assignment).await.expect("lives");
    let mut said = Vec::new();
    while let Ok(Some(event)) = tokio::time::timeout(Duration::from_secs(5), events.recv()).await {
        if !matches!(event, Event::FreeSlots(_)) {
            said.push(event);
        }
    }
    said
}

#[tokio::test(start_paused = true)]
async fn a_task_that_was_handed_out_before_is_not_begun_until_its_start_is_known() {
    let is_start = |event: &Event| matches!(event, Event::Write { op: WriteOp::Start, .. });
    let again = said_unanswered(2).await;
    assert!(matches!(again.as_slice(), [start] if is_start(start)), "{again:?}");
    // The first time, what it begins with is in the same commit.
    let first = said_unanswered(1).await;
    assert!(first.len() > 1 && is_start(&first[0]), "{first:?}");
}

#[tokio::test(start_paused = true)]
async fn the_newest_attempt_revokes_every_older_one_and_waits_for_all() {
    // Several times: the older ones are in no order.
    for _ in 0..8 {
        let mut bench = Bench::new(Script::from([("a", vec![Do::Hang])]), json!({}));
        bench.config.slots = 3;
        let (commands, inbox) = mpsc::channel(64);
        let (outbox, mut events) = mpsc::channel(64);
        let mut running = tokio::task::JoinSet::new();
        running.spawn(bench.executor().run(inbox, outbox));
        let begun = tokio::time::Instant::now();
        // The second waits for the first, which does not stop; the third finds both.
        for epoch in [1, 2, 3] {
            let assignment = Command::Assign(Box::new(bench.assignment(epoch)));
            commands.send(assignment).await.expect("lives");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let mut starts = Vec::new();
        while let Ok(Some(event)) = tokio::time::timeout(Duration::from_secs(200), events.recv()).await {
            if let Event::Write {
                op: WriteOp::Start,
                attempt,
                ..
            } = event
            {
                starts.push((attempt.epoch, begun.elapsed() >= bench.config.stop_grace));
            }
        }
        assert_eq!(starts, [(1, false), (3, true)]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_whose_last_message_is_refused_is_given_up() {
    for (refused, given_up) in [("complete", 1), ("release", 1), ("no such message", 0)] {
        let mut bench = Bench::new(puts(), json!({}));
        if refused == "release" {
            bench = bench.say("done a/put/x", |_| Command::Drain {
                deadline: deputy_steps::permit::now(),
                reason: "SIGTERM".into(),
            });
        }
        bench.refuses = Some((refused, WriteVerdict::Invalid("no room".into())));
        assert_eq!(bench.run().await.is_some(), given_up == 0, "{refused}");
        assert_eq!(bench.given_up, given_up, "{refused}");
    }
}
