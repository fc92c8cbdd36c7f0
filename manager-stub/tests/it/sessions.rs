//! Who may speak for an agent, versions, wishes, the fleet.

use std::time::Duration;

use deputy_manager::dispatcher::timing::Timing;
use deputy_proto::v1;
use deputy_proto::v1::session_response::Frame;

use crate::agent::{Agent, World, hello, quick};

fn code(frame: Option<Frame>) -> String {
    match frame {
        Some(Frame::Disconnect(disconnect)) => disconnect.code,
        other => panic!("no disconnect: {other:?}"),
    }
}

#[tokio::test]
async fn an_agent_of_another_protocol_is_told_so() {
    let world = World::start(quick()).await;
    let (_, first) = Agent::dial(
        &world,
        v1::Hello {
            protocol_min: 7,
            protocol_max: 9,
            ..hello("a1", "i1", 1)
        },
    )
    .await;
    match first {
        Frame::Disconnect(disconnect) => {
            assert_eq!(disconnect.code, "version");
            assert!(disconnect.reason.contains("7 to 9"), "{}", disconnect.reason);
        }
        other => panic!("no disconnect: {other:?}"),
    }
}

fn refusal(frame: Frame) -> v1::Disconnect {
    match frame {
        Frame::Disconnect(disconnect) => disconnect,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_living_instance_keeps_its_id_and_its_twin_is_refused() {
    let world = World::start(Timing::default()).await;
    let mut older = Agent::connect(&world, "a1", "i1").await;
    for _ in 0..5 {
        let (_, refused) = Agent::dial(&world, hello("a1", "i2", 1)).await;
        let refused = refusal(refused);
        assert_eq!(refused.code, "identity_conflict");
        assert_eq!(refused.retry_after_ms, 10_000);
        for words in ["agent id a1", "give each agent an id of its own"] {
            assert!(refused.reason.contains(words), "{}", refused.reason);
        }
        assert!(
            !refused.reason.contains("i1"),
            "which instance it is, is told to nobody: {}",
            refused.reason
        );
    }
    older.heartbeat().await;
    drop(older);
    // A connection that broke is no end of its process.
    let (_, refused) = Agent::dial(&world, hello("a1", "i2", 1)).await;
    assert_eq!(refusal(refused).code, "identity_conflict");
    let _back = Agent::connect(&world, "a1", "i1").await;
    let _other = Agent::connect(&world, "a2", "i3").await;
}

#[tokio::test]
async fn an_instance_that_is_silent_for_two_heartbeats_gives_way() {
    let heartbeat = Duration::from_millis(500);
    let world = World::start(Timing { heartbeat, ..quick() }).await;
    let mut silent = Agent::connect(&world, "a1", "i1").await;
    tokio::time::sleep(heartbeat * 2 + Duration::from_millis(50)).await;
    let mut newer = Agent::connect(&world, "a1", "i2").await;
    assert_eq!(code(silent.next().await), "superseded");
    let channel = world.channel().await;
    newer.heartbeat().await;
    let (_, refused) = Agent::dial_over(channel, hello("a1", "i1", 1)).await;
    assert_eq!(refusal(refused).code, "identity_conflict");
}

#[tokio::test]
async fn an_instance_that_said_goodbye_gives_way_at_once() {
    let world = World::start(Timing::default()).await;
    let mut older = Agent::connect(&world, "a1", "i1").await;
    let goodbye = v1::Goodbye { reason: "done".into() };
    older.send(v1::session_request::Frame::Goodbye(goodbye)).await;
    assert!(older.next().await.is_none());
    let _newer = Agent::connect(&world, "a1", "i2").await;
}

#[tokio::test]
async fn after_a_restart_of_the_manager_a_twin_does_not_come_first() {
    let mut world = World::start(Timing::default()).await;
    let older = Agent::connect(&world, "a1", "i1").await;
    drop(older);
    world.restart().await;
    let (_, refused) = Agent::dial(&world, hello("a1", "i2", 1)).await;
    assert_eq!(refusal(refused).code, "identity_conflict");
    let _older = Agent::connect(&world, "a1", "i1").await;
}

#[tokio::test]
async fn a_reconnect_of_the_same_instance_is_no_conflict() {
    let world = World::start(Timing::default()).await;
    let mut agents = Vec::new();
    for _ in 0..8 {
        agents.push(Agent::connect(&world, "a1", "i1").await);
    }
}

#[tokio::test]
async fn a_drain_is_wished_with_every_heartbeat_and_nothing_new_is_assigned() {
    let world = World::start(Timing::default()).await;
    let mut agent = Agent::connect(&world, "a1", "i1").await;
    let request = v1::DrainRequest {
        agent_id: "a1".into(),
        reason: "upgrade".into(),
    };
    let info = world
        .fleet()
        .await
        .drain(request)
        .await
        .expect("wished")
        .into_inner()
        .agent
        .expect("an agent");
    assert_eq!(info.status(), v1::AgentStatus::Draining);
    assert!(matches!(agent.next().await, Some(Frame::Drain(wish)) if wish.reason == "upgrade"));
    let id = world.submit("").await;
    agent.heartbeat().await;
    assert!(matches!(agent.next().await, Some(Frame::Drain(_))));
    let why = world.explain(&id).await;
    assert_eq!(why.agents[0].reasons, ["it drains: upgrade"]);
}

#[tokio::test]
async fn the_fleet_shows_who_is_there_and_who_said_goodbye() {
    let world = World::start(Timing::default()).await;
    let mut agent = Agent::connect(&world, "a1", "i1").await;
    let mut fleet = world.fleet().await;
    let info = fleet
        .explain(v1::FleetExplainRequest { agent_id: "a1".into() })
        .await
        .expect("explained")
        .into_inner();
    assert_eq!(info.notes, ["it can take 2 more tasks"]);
    agent
        .send(v1::session_request::Frame::Goodbye(v1::Goodbye {
            reason: "done".into(),
        }))
        .await;
    assert!(agent.next().await.is_none());
    assert!(
        fleet
            .list(v1::FleetListRequest::default())
            .await
            .expect("listed")
            .into_inner()
            .agents
            .is_empty()
    );
    let all = fleet
        .list(v1::FleetListRequest { include_gone: true })
        .await
        .expect("listed")
        .into_inner()
        .agents;
    assert_eq!(all[0].status(), v1::AgentStatus::Gone);
}
