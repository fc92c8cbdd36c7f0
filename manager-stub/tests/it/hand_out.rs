//! Two-phase hand-out, completion, refusal, cancel.

use deputy_proto::v1;
use deputy_proto::v1::session_response::Frame;
use deputy_proto::v1::write_op::Op;

use crate::agent::{Agent, World, complete, done, hello, intent, start, submit_request};
use deputy_manager::dispatcher::timing::Timing;

#[tokio::test]
async fn a_task_is_assigned_started_journaled_and_completed() {
    let world = World::start(Timing::default()).await;
    let mut agent = Agent::connect(&world, "a1", "i1").await;
    let id = world.submit("").await;
    let assignment = agent.assignment().await;
    let attempt = assignment.attempt.expect("an attempt");
    assert_eq!(
        (attempt.task_id.as_str(), attempt.run, attempt.epoch),
        (id.as_str(), 1, 1)
    );
    assert_eq!(assignment.submitter, "tester");
    assert!(
        std::str::from_utf8(&assignment.document)
            .expect("JSON")
            .contains("noopEffect")
    );
    let begun = agent
        .write(&attempt, vec![start(), Op::Append(intent("one/act"))])
        .await;
    assert_eq!(begun, [v1::WriteCode::Ok; 2]);
    assert_eq!(world.task(&id).await.state(), v1::TaskState::Running);
    let ended = agent
        .write(
            &attempt,
            vec![Op::Append(done("one/act", "{}")), complete(v1::TaskState::Succeeded)],
        )
        .await;
    assert_eq!(ended, [v1::WriteCode::Ok; 2]);
    let task = world.task(&id).await;
    assert_eq!(
        (task.state(), task.result.expect("a result").world()),
        (v1::TaskState::Succeeded, v1::World::Changed)
    );
    assert_eq!(
        world
            .journal(&id)
            .await
            .iter()
            .map(v1::Record::kind)
            .collect::<Vec<_>>(),
        [v1::RecordKind::Intent, v1::RecordKind::Done]
    );
}

#[tokio::test]
async fn slots_are_not_exceeded_and_a_completion_brings_the_next_task() {
    let world = World::start(Timing::default()).await;
    let mut agent = Agent::connect_with(&world, hello("a1", "i1", 1)).await;
    let first = world.submit("").await;
    let second = world.submit("").await;
    let attempt = agent.assignment().await.attempt.expect("an attempt");
    assert_eq!(attempt.task_id, first);
    agent.heartbeat().await;
    assert_eq!(world.task(&second).await.state(), v1::TaskState::Queued);
    agent.start(&attempt).await;
    assert_eq!(
        agent.write(&attempt, vec![complete(v1::TaskState::Succeeded)]).await,
        [v1::WriteCode::Ok]
    );
    assert_eq!(agent.assignment().await.attempt.expect("an attempt").task_id, second);
}

#[tokio::test]
async fn a_task_that_is_not_started_goes_to_another_agent_and_the_late_start_is_stale() {
    let timing = Timing {
        start_deadline: std::time::Duration::from_secs(1),
        ..Timing::default()
    };
    let world = World::start(timing).await;
    let mut slow = Agent::connect(&world, "slow", "i1").await;
    let id = world.submit("").await;
    let old = slow.assignment().await.attempt.expect("an attempt");
    // It takes nothing again, which the manager knows before the deadline passes.
    slow.send(v1::session_request::Frame::DrainNotice(v1::DrainNotice {
        reason: "busy".into(),
    }))
    .await;
    slow.heartbeat().await;
    let mut other = Agent::connect(&world, "other", "i2").await;
    let new = other.assignment().await.attempt.expect("an attempt");
    assert_eq!((new.task_id.as_str(), new.epoch), (id.as_str(), 2));
    assert_eq!(slow.write(&old, vec![start()]).await, [v1::WriteCode::StaleEpoch]);
    other.start(&new).await;
}

#[tokio::test]
async fn a_permanent_refusal_rejects_and_a_passing_one_asks_again() {
    let world = World::start(Timing::default()).await;
    let mut agent = Agent::connect(&world, "a1", "i1").await;
    let id = world.submit("").await;
    let attempt = agent.assignment().await.attempt.expect("an attempt");
    let passing = Op::Refuse(v1::RefuseOp {
        reason: "no disk".into(),
        ..v1::RefuseOp::default()
    });
    assert_eq!(agent.write(&attempt, vec![passing]).await, [v1::WriteCode::Ok]);
    let attempt = agent.assignment().await.attempt.expect("again");
    assert_eq!(attempt.epoch, 2);
    let failure = v1::Failure {
        class: "policy.denied".into(),
        summary: "rule 7 forbids it".into(),
        ..v1::Failure::default()
    };
    let permanent = Op::Refuse(v1::RefuseOp {
        reason: "policy".into(),
        permanent: true,
        failure: Some(failure),
    });
    assert_eq!(agent.write(&attempt, vec![permanent]).await, [v1::WriteCode::Ok]);
    let task = world.task(&id).await;
    assert_eq!(task.state(), v1::TaskState::Rejected);
    assert_eq!(
        task.result
            .and_then(|result| result.failure)
            .expect("a failure")
            .summary,
        "rule 7 forbids it"
    );
}

#[tokio::test]
async fn a_cancel_is_done_in_the_queue_and_a_wish_while_it_runs() {
    let world = World::start(Timing::default()).await;
    let queued = world.submit("").await;
    let cancel = |task_id: &str| v1::CancelRequest {
        task_id: task_id.into(),
        reason: "enough".into(),
        ..v1::CancelRequest::default()
    };
    let task = world
        .tasks()
        .await
        .cancel(cancel(&queued))
        .await
        .expect("cancelled")
        .into_inner()
        .task
        .expect("a task");
    assert_eq!(task.state(), v1::TaskState::Cancelled);
    let mut agent = Agent::connect(&world, "a1", "i1").await;
    let running = world.submit("").await;
    let attempt = agent.assignment().await.attempt.expect("an attempt");
    agent.start(&attempt).await;
    let task = world
        .tasks()
        .await
        .cancel(cancel(&running))
        .await
        .expect("wished")
        .into_inner()
        .task
        .expect("a task");
    assert_eq!(
        (task.state(), task.cancel_reason.as_str()),
        (v1::TaskState::Running, "enough")
    );
    match agent.next().await {
        Some(Frame::Cancel(wish)) => assert_eq!(
            (wish.attempt.as_ref(), wish.reason.as_str()),
            (Some(&attempt), "enough")
        ),
        other => panic!("no wish: {other:?}"),
    }
    // The agent's fact wins over the wish.
    assert_eq!(
        agent.write(&attempt, vec![complete(v1::TaskState::Succeeded)]).await,
        [v1::WriteCode::Ok]
    );
    assert_eq!(world.task(&running).await.state(), v1::TaskState::Succeeded);
}

#[tokio::test]
async fn one_task_of_an_exclusive_key_runs_at_a_time() {
    let world = World::start(Timing::default()).await;
    let mut agent = Agent::connect(&world, "a1", "i1").await;
    let first = world.submit("  exclusiveKey: k\n").await;
    let second = world.submit("  exclusiveKey: k\n").await;
    let attempt = agent.assignment().await.attempt.expect("an attempt");
    assert_eq!(attempt.task_id, first);
    agent.start(&attempt).await;
    let why = world.explain(&second).await;
    assert_eq!(
        why.agents[0].reasons,
        [format!("task {first} holds the exclusive key k")]
    );
    assert_eq!(
        agent.write(&attempt, vec![complete(v1::TaskState::Failed)]).await,
        [v1::WriteCode::Ok]
    );
    assert_eq!(agent.assignment().await.attempt.expect("an attempt").task_id, second);
}

/// It would be handed out to one agent after the other, and break the session of each.
#[tokio::test]
async fn a_task_that_is_too_large_for_an_agent_is_not_queued() {
    let world = World::start(Timing::default()).await;
    let sized = |bytes: usize| v1::SubmitRequest {
        inputs: format!("{{\"text\": \"{}\"}}", "x".repeat(bytes)).into(),
        ..submit_request(&format!("r-{bytes}"), "  inputs: { text: { type: string } }\n")
    };
    let mut tasks = world.tasks().await;
    tasks.submit(sized(7 << 20)).await.expect("large, and taken");
    let refused = tasks.submit(sized(9 << 20)).await.expect_err("too large");
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    assert!(refused.message().contains("at most 8388608 are taken"), "{refused}");
    // Nor is what an agent would not build in its memory: in the inputs, or with the rest of the document.
    let valued = |values: usize| v1::SubmitRequest {
        inputs: format!("{{\"many\": [{}]}}", vec!["{}"; values].join(",")).into(),
        ..submit_request(&format!("v-{values}"), "  inputs: { many: { type: object } }\n")
    };
    tasks.submit(valued(90_000)).await.expect("many, and taken");
    for values in [99_997, 1_500_000] {
        let refused = tasks.submit(valued(values)).await.expect_err("too many values");
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        let told = refused.message();
        assert!(
            told.contains("more than 100000 values") && told.contains("as a source"),
            "{refused}"
        );
    }
}
