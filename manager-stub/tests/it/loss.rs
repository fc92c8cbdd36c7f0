//! Leases that run out: LOST, resume, hold, rollback, and the return of the lost agent.

use std::time::Duration;

use deputy_manager::dispatcher::timing::Timing;
use deputy_proto::v1;
use deputy_proto::v1::WriteCode::{Ok as Good, StaleEpoch};
use deputy_proto::v1::write_op::Op;

use crate::agent::{Agent, World, complete, done, held, hello, intent, quick, start};

/// Runs out within a test, and not between two frames of an agent that lives.
const LEASE: Duration = Duration::from_millis(1500);

/// A task that runs on an agent which then falls silent, with this record in its journal.
async fn lost(spec: &str, record: v1::Record) -> (World, Agent, v1::AttemptRef) {
    let timing = Timing {
        lease_ttl: LEASE,
        ..quick()
    };
    let world = World::start(timing).await;
    world.submit(spec).await;
    let mut agent = Agent::connect(&world, "a1", "i1").await;
    let attempt = agent.assignment().await.attempt.expect("an attempt");
    assert_eq!(
        agent.write(&attempt, vec![start(), Op::Append(record)]).await,
        [Good; 2]
    );
    (world, agent, attempt)
}

fn resolve(task: &str, resolution: v1::Resolution) -> v1::ResolveRequest {
    v1::ResolveRequest {
        task_id: task.into(),
        resolution: resolution.into(),
        reason: "looked".into(),
        ..v1::ResolveRequest::default()
    }
}

#[tokio::test]
async fn a_bounded_step_is_resumed_elsewhere_and_the_lost_agent_is_stale() {
    let (world, mut agent, old) = lost("", intent("one/a")).await;
    let mut other = Agent::connect(&world, "a2", "i2").await;
    let resumed = keep_alive_until_assigned(&mut other).await;
    let new = resumed.attempt.expect("an attempt");
    assert_eq!((new.run, new.epoch, resumed.journal.len()), (1, 2, 1));
    assert_eq!(
        agent.write(&old, vec![Op::Append(done("one/a", "1"))]).await,
        [StaleEpoch]
    );
    assert_eq!(
        other
            .write(
                &new,
                vec![start(), Op::Append(intent("one/a")), Op::Append(done("one/a", "1"))]
            )
            .await,
        [Good; 3]
    );
    assert_eq!(
        other.write(&new, vec![complete(v1::TaskState::Succeeded)]).await,
        [Good]
    );
}

async fn keep_alive_until_assigned(agent: &mut Agent) -> v1::Assignment {
    use deputy_proto::v1::session_response::Frame;
    let deadline = tokio::time::Instant::now() + crate::agent::SOON;
    loop {
        assert!(tokio::time::Instant::now() < deadline, "nothing was assigned");
        agent
            .send(v1::session_request::Frame::Heartbeat(v1::Heartbeat {
                seq: 1,
                free_slots: 1,
                spool_bytes: 0,
            }))
            .await;
        match agent.next().await {
            Some(Frame::Assignment(assignment)) => return assignment,
            Some(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            None => panic!("the session ended"),
        }
    }
}

#[tokio::test]
async fn a_held_step_stays_with_its_agent_until_an_operator_decides() {
    let (world, _agent, old) = lost("", held("one/run")).await;
    let task = world.until(&old.task_id, v1::TaskState::Lost).await;
    assert!(
        task.condition.contains("not retrySafe") && task.condition.contains("deputy resolve"),
        "{}",
        task.condition
    );
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(world.task(&old.task_id).await.state(), v1::TaskState::Lost);
    let mut other = Agent::connect(&world, "a2", "i2").await;
    world
        .tasks()
        .await
        .resolve(resolve(&old.task_id, v1::Resolution::Resume))
        .await
        .expect("resolved");
    let resumed = keep_alive_until_assigned(&mut other).await;
    let kinds: Vec<_> = resumed
        .journal
        .iter()
        .map(|record| (record.key.as_str(), record.kind()))
        .collect();
    assert_eq!(
        kinds,
        [
            ("one/run", v1::RecordKind::Intent),
            ("one/run", v1::RecordKind::Decision)
        ]
    );
    assert!(resumed.journal[1].payload.starts_with(br#"{"redo""#));
}

#[tokio::test]
async fn a_retry_safe_step_is_given_away_by_the_timer() {
    let retry_safe = v1::Record {
        retry_safe: true,
        ..held("one/run")
    };
    let (world, _agent, old) = lost("", retry_safe).await;
    let mut other = Agent::connect(&world, "a2", "i2").await;
    assert_eq!(
        keep_alive_until_assigned(&mut other)
            .await
            .attempt
            .map(|attempt| attempt.task_id),
        Some(old.task_id)
    );
}

#[tokio::test]
async fn hold_waits_and_rollback_decides_undo() {
    let (world, _agent, old) = lost("  onAgentLoss: hold\n", intent("one/a")).await;
    let task = world.until(&old.task_id, v1::TaskState::Lost).await;
    assert!(
        task.condition.starts_with("held: onAgentLoss is hold"),
        "{}",
        task.condition
    );
    world
        .tasks()
        .await
        .resolve(resolve(&old.task_id, v1::Resolution::Fail))
        .await
        .expect("resolved");
    let task = world.task(&old.task_id).await;
    let result = task.result.clone().expect("a result");
    assert_eq!(
        (task.state(), result.world()),
        (v1::TaskState::Failed, v1::World::Unknown)
    );
    // An ended task cannot be resolved; it is looked at first, and only then begun again.
    assert!(
        result
            .repair
            .starts_with(&format!("deputy get {} --journal ", old.task_id)),
        "{}",
        result.repair
    );

    let (world, _agent, old) = lost("  onAgentLoss: rollback\n", intent("one/a")).await;
    let mut other = Agent::connect(&world, "a2", "i2").await;
    let resumed = keep_alive_until_assigned(&mut other).await;
    assert!(resumed.journal[1].payload.starts_with(br#"{"undo""#));
    let new = resumed.attempt.expect("an attempt");
    assert_eq!(new.task_id, old.task_id);
    assert_eq!(
        other.write(&new, vec![start(), Op::Append(intent("one/b"))]).await,
        [Good, v1::WriteCode::UndoDecided]
    );
}

#[tokio::test]
async fn the_same_instance_takes_its_lost_task_up_again() {
    let (world, agent, old) = lost("  onAgentLoss: hold\n", intent("one/a")).await;
    drop(agent);
    world.until(&old.task_id, v1::TaskState::Lost).await;
    let mut again = hello("a1", "i1", 2);
    again.inventory = vec![v1::HeldAttempt {
        attempt: Some(old.clone()),
        started: true,
    }];
    let mut agent = Agent::connect_with(&world, again).await;
    assert!(agent.welcome.as_ref().expect("welcome").stale.is_empty());
    world.until(&old.task_id, v1::TaskState::Running).await;
    assert_eq!(
        agent
            .write(
                &old,
                vec![Op::Append(done("one/a", "1")), complete(v1::TaskState::Succeeded)]
            )
            .await,
        [Good; 2]
    );
}

#[tokio::test]
async fn heartbeats_keep_the_lease() {
    let (world, mut agent, old) = lost("", intent("one/a")).await;
    for _ in 0..10 {
        tokio::time::sleep(LEASE / 6).await;
        agent.heartbeat().await;
    }
    assert_eq!(world.task(&old.task_id).await.state(), v1::TaskState::Running);
}

#[tokio::test]
async fn after_a_restart_of_the_manager_nothing_is_lost_and_no_lease_ends_early() {
    let (mut world, agent, old) = lost("", intent("one/a")).await;
    drop(agent);
    world.restart().await;
    assert_eq!(world.task(&old.task_id).await.state(), v1::TaskState::Running);
    let mut again = hello("a1", "i1", 2);
    let unknown = v1::AttemptRef {
        task_id: "nobody".into(),
        ..old.clone()
    };
    again.inventory = [old.clone(), unknown.clone()]
        .map(|attempt| v1::HeldAttempt {
            attempt: Some(attempt),
            started: true,
        })
        .into();
    let mut agent = Agent::connect_with(&world, again).await;
    assert_eq!(agent.welcome.as_ref().expect("welcome").stale, [unknown]);
    assert_eq!(
        agent
            .write(
                &old,
                vec![Op::Append(done("one/a", "1")), complete(v1::TaskState::Succeeded)]
            )
            .await,
        [Good; 2]
    );
    assert_eq!(world.task(&old.task_id).await.state(), v1::TaskState::Succeeded);
}

#[tokio::test]
async fn what_an_instance_does_not_hold_any_more_is_lost_at_once() {
    let (world, agent, old) = lost("  onAgentLoss: hold\n", intent("one/a")).await;
    drop(agent);
    let _agent = Agent::connect_with(&world, hello("a1", "i1", 2)).await;
    let task = world.task(&old.task_id).await;
    assert_eq!(task.state(), v1::TaskState::Lost);
}

/// What `explain` says of the task first, and what it says to do next.
async fn explained(world: &World, id: &str) -> (String, Vec<String>) {
    let answer = world.explain(id).await;
    (answer.summary, answer.next)
}

#[tokio::test]
async fn of_a_lost_task_it_is_said_whether_its_process_can_come_back() {
    let (world, agent, old) = lost("  onAgentLoss: hold\n", intent("one/a")).await;
    drop(agent);
    world.until(&old.task_id, v1::TaskState::Lost).await;
    let (summary, next) = explained(&world, &old.task_id).await;
    assert!(
        summary.starts_with("it is lost: the process of a1 that has it does not answer;"),
        "{summary}"
    );
    assert!(next[0].starts_with("if that process of a1 still runs"), "{next:?}");

    let _newer = Agent::connect(&world, "a1", "i2").await;
    let (summary, next) = explained(&world, &old.task_id).await;
    assert!(
        summary.contains("the one that has its id now does not know the task") && !summary.contains("waiting for"),
        "what can no longer come is not waited for: {summary}"
    );
    assert!(next[0].starts_with("deputy resolve"), "{next:?}");
    assert_eq!(world.task(&old.task_id).await.state(), v1::TaskState::Lost);
}
