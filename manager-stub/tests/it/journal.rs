//! The journal over the wire: idempotency by natural keys, contradictions, limits, undo.

use deputy_manager::dispatcher::timing::Timing;
use deputy_proto::v1;
use deputy_proto::v1::WriteCode::{Invalid, Nondeterministic, Ok as Good, UndoDecided};
use deputy_proto::v1::write_op::Op;

use crate::agent::{Agent, World, complete, done, intent, start};

async fn running() -> (World, Agent, v1::AttemptRef) {
    let world = World::start(Timing::default()).await;
    let mut agent = Agent::connect(&world, "a1", "i1").await;
    world.submit("").await;
    let attempt = agent.assignment().await.attempt.expect("an attempt");
    agent.start(&attempt).await;
    (world, agent, attempt)
}

#[tokio::test]
async fn everything_may_be_sent_twice() {
    let (world, mut agent, attempt) = running().await;
    let everything = || vec![start(), Op::Append(intent("one/a")), Op::Append(done("one/a", "1"))];
    assert_eq!(agent.write(&attempt, everything()).await, [Good; 3]);
    assert_eq!(agent.write(&attempt, everything()).await, [Good; 3]);
    assert_eq!(
        agent.write(&attempt, vec![complete(v1::TaskState::Succeeded)]).await,
        [Good]
    );
    assert_eq!(
        agent
            .write(
                &attempt,
                vec![Op::Append(done("one/a", "1")), complete(v1::TaskState::Succeeded)]
            )
            .await,
        [Good; 2]
    );
    assert_eq!(world.journal(&attempt.task_id).await.len(), 2);
}

#[tokio::test]
async fn the_same_key_with_another_value_is_a_contradiction() {
    let (_world, mut agent, attempt) = running().await;
    let other_plan = v1::Record {
        plan_digest: bytes::Bytes::from_static(&[8; 32]),
        ..intent("one/a")
    };
    let codes = agent
        .write(
            &attempt,
            vec![
                Op::Append(intent("one/a")),
                Op::Append(other_plan),
                Op::Append(done("one/a", "1")),
                Op::Append(done("one/a", "2")),
            ],
        )
        .await;
    assert_eq!(codes, [Good, Nondeterministic, Good, Nondeterministic]);
}

#[tokio::test]
async fn what_is_malformed_is_refused_and_the_rest_of_the_frame_is_taken() {
    let (world, mut agent, attempt) = running().await;
    let large = v1::Record {
        payload: vec![b'x'; 256 * 1024 + 1].into(),
        ..done("one/a", "")
    };
    let long = v1::Record {
        budget_ms: 20_001,
        ..intent("one/b")
    };
    let codes = agent
        .write(
            &attempt,
            vec![
                Op::Append(intent("one/a")),
                Op::Append(large),
                Op::Append(long),
                Op::Append(done("one/never", "1")),
            ],
        )
        .await;
    assert_eq!(codes, [Good, Invalid, Invalid, Invalid]);
    assert_eq!(world.journal(&attempt.task_id).await.len(), 1);
}

#[tokio::test]
async fn after_the_decision_to_undo_only_the_undo_program_may_intend() {
    let (_world, mut agent, attempt) = running().await;
    let decision = v1::Record {
        key: "task/undo".into(),
        kind: v1::RecordKind::Decision.into(),
        payload: r#"{"undo":{"reason":"failed"}}"#.into(),
        ..v1::Record::default()
    };
    let undo = v1::Record {
        undo: true,
        ..intent("one/undo-a")
    };
    let codes = agent
        .write(
            &attempt,
            vec![
                Op::Append(intent("one/a")),
                Op::Append(decision.clone()),
                Op::Append(intent("one/b")),
                Op::Append(undo),
                Op::Append(done("one/a", "1")),
                Op::Append(decision),
            ],
        )
        .await;
    assert_eq!(codes, [Good, Good, UndoDecided, Good, Good, Good]);
}

#[tokio::test]
async fn a_run_that_was_released_goes_on_with_its_journal() {
    let (world, mut agent, attempt) = running().await;
    let release = Op::Release(v1::ReleaseOp {
        reason: "draining".into(),
    });
    agent
        .send(v1::session_request::Frame::DrainNotice(v1::DrainNotice {
            reason: "draining".into(),
        }))
        .await;
    assert_eq!(
        agent
            .write(&attempt, vec![Op::Append(intent("one/a")), release.clone()])
            .await,
        [Good; 2]
    );
    assert_eq!(agent.write(&attempt, vec![release]).await, [Good]);
    let mut other = Agent::connect(&world, "a2", "i2").await;
    let resumed = other.assignment().await;
    assert_eq!(
        resumed.attempt.as_ref().map(|attempt| (attempt.run, attempt.epoch)),
        Some((1, 2))
    );
    assert_eq!(
        resumed
            .journal
            .iter()
            .map(|record| (record.key.as_str(), record.epoch))
            .collect::<Vec<_>>(),
        [("one/a", 1)]
    );
    assert!(resumed.run_started_at_ms > 0);
}

#[tokio::test]
async fn a_journal_that_no_agent_can_replay_waits_and_explain_says_so() {
    let (world, mut agent, attempt) = running().await;
    agent
        .send(v1::session_request::Frame::DrainNotice(v1::DrainNotice {
            reason: "draining".into(),
        }))
        .await;
    let newer = v1::Record {
        program_version: 9,
        ..intent("one/a")
    };
    let release = Op::Release(v1::ReleaseOp {
        reason: "draining".into(),
    });
    let over = v1::Record {
        program_version: 9,
        ..done("one/a", "1")
    };
    assert_eq!(
        agent
            .write(&attempt, vec![Op::Append(newer), Op::Append(over), release])
            .await,
        [Good; 3]
    );
    let _other = Agent::connect(&world, "a2", "i2").await;
    let why = world.explain(&attempt.task_id).await;
    let reasons = &why
        .agents
        .iter()
        .find(|verdict| verdict.agent_id == "a2")
        .expect("a2")
        .reasons;
    assert_eq!(
        reasons,
        &["it replays journals of noopEffect in versions 1 to 1; this run's was written by version 9"]
    );
}
