//! Sessions over a real socket, against a manager that does what the test says.
#![expect(clippy::disallowed_methods, reason = "each test joins or drops what it spawns")]

use deputy_logs::SpoolConfig;
use deputy_proto::v1::session_request::Frame as Sent;
use deputy_proto::v1::session_response::Frame as Answer;
use deputy_task::attempt::AttemptRef;
use deputy_task::message::{WriteOp, WriteVerdict};
use deputy_task::record::{Direction, EffectClass, EffectKey, Intent, Record, RecordBody, Sealing};
use tokio::task::JoinHandle;

use super::*;
use crate::clock::boot_now;
use crate::scripted_manager::{ScriptedManager, patiently, welcome};

/// The executor's and the supervisor's ends.
struct Agent {
    events: Option<mpsc::Sender<Event>>,
    commands: mpsc::Receiver<Command>,
    stage: watch::Sender<Stage>,
    capabilities: watch::Sender<Capabilities>,
    session: JoinHandle<Result<(), SessionError>>,
    _folder: tempfile::TempDir,
}

impl Agent {
    fn start(manager: &ScriptedManager) -> Self {
        Self::start_with(manager.config())
    }

    fn start_with(config: SessionConfig) -> Self {
        let (events, events_in) = mpsc::channel(64);
        let (commands_out, commands) = mpsc::channel(64);
        let (blobs, _) = mpsc::channel(1);
        let (tokens, _) = mpsc::channel(1);
        let (stage, stage_in) = watch::channel(Stage::Serving);
        let (capabilities, capabilities_in) = watch::channel(Capabilities {
            slots: 3,
            ..Capabilities::default()
        });
        let folder = tempfile::tempdir().expect("folder");
        let ports = SessionPorts {
            events: events_in,
            commands: commands_out,
            blobs,
            tokens,
            capabilities: capabilities_in,
            spool: Spool::open(SpoolConfig::in_folder(folder.path())).expect("spool"),
            stage: stage_in,
            state: watch::channel(LinkState::Connecting).0,
        };
        let session = tokio::spawn(Session::new(config, ports).run());
        Self {
            events: Some(events),
            commands,
            stage,
            capabilities,
            session,
            _folder: folder,
        }
    }

    async fn write(&self, id: u64, epoch: u64, op: WriteOp) {
        let event = Event::Write {
            id,
            attempt: attempt(epoch),
            op,
        };
        self.events.as_ref().expect("open").send(event).await.expect("taken");
    }

    /// The next command that is no lease.
    async fn next(&mut self) -> Command {
        loop {
            match patiently(self.commands.recv()).await.expect("a command") {
                Command::Lease { .. } => {}
                other => return other,
            }
        }
    }
}

fn attempt(epoch: u64) -> AttemptRef {
    AttemptRef {
        project: "p".parse().expect("id"),
        task: "t".parse().expect("id"),
        run: 1,
        epoch,
    }
}

fn intent(name: &str) -> WriteOp {
    let class = EffectClass::Held { retry_safe: false };
    let intent = Intent {
        class,
        plan_digest: "ab".into(),
        direction: Direction::Forward,
        summary: String::new(),
    };
    record(name, RecordBody::Intent(intent))
}

fn done(name: &str) -> WriteOp {
    record(name, RecordBody::Done(1.into()))
}

fn record(name: &str, body: RecordBody) -> WriteOp {
    let key = EffectKey::new("step", name);
    WriteOp::Append(Record {
        key,
        program_version: 1,
        step_kind: "shell".into(),
        body,
        epoch: 0,
        sealing: Sealing::default(),
    })
}

fn release() -> WriteOp {
    WriteOp::Release {
        reason: "drained".into(),
    }
}

fn assignment(epoch: u64) -> Answer {
    Answer::Assignment(v1::Assignment {
        attempt: Some(to_wire::attempt(&attempt(epoch))),
        document: br#"{"document":{"apiVersion":"deputy.dev/v1","kind":"Task","metadata":{"name":"t"},"spec":{"steps":[{"name":"a","noopEffect":{}}]}},"inputs":{}}"#
            .as_slice()
            .into(),
        start_deadline_ms: 10_000,
        ..v1::Assignment::default()
    })
}

fn epochs(hello: &v1::Hello) -> Vec<(u64, bool)> {
    let held = hello.inventory.iter();
    held.map(|held| (held.attempt.as_ref().expect("attempt").epoch, held.started))
        .collect()
}

#[tokio::test]
async fn an_assignment_is_started_and_start_shares_its_frame_with_the_first_intent() {
    let mut manager = ScriptedManager::start().await;
    let mut agent = Agent::start(&manager);
    let (mut session, hello) = manager.welcomed(vec![]).await;
    assert_eq!(
        (hello.agent_id.as_str(), hello.capabilities.expect("given").slots),
        ("agent", 3)
    );
    session.answer(assignment(1)).await;
    assert!(matches!(agent.next().await, Command::Assign(task) if task.attempt == attempt(1)));
    agent.write(1, 1, WriteOp::Start).await;
    agent.write(2, 1, intent("effect")).await;
    let write = session.next_write().await;
    assert_eq!((write.seq, write.ops.len()), (1, 2));
    session.acknowledge(&write).await;
    for expected in [1, 2] {
        assert!(
            matches!(agent.next().await, Command::Written { id, verdict: WriteVerdict::Ok { .. } } if id == expected)
        );
    }
    agent.write(3, 1, done("effect")).await;
    agent.write(4, 1, release()).await;
    assert_eq!(session.next_write().await.ops.len(), 2);
}

#[tokio::test]
async fn a_lonely_result_is_sent_without_waiting_for_company() {
    let mut manager = ScriptedManager::start().await;
    let agent = Agent::start(&manager);
    let (mut session, _) = manager.welcomed(vec![]).await;
    agent.write(1, 1, done("effect")).await;
    assert_eq!(session.next_write().await.ops.len(), 1);
}

/// The manager breaks off after so many steps of its own; whatever it had done by then, the agent
/// sends what is not acknowledged again, says what it holds, and every write is answered once.
#[tokio::test]
async fn a_connection_cut_at_any_point_loses_nothing_and_answers_nothing_twice() {
    for cut in 0..=6 {
        let mut manager = ScriptedManager::start().await;
        let mut agent = Agent::start(&manager);
        let mut left = cut;
        let mut survives = || {
            left -= 1;
            left >= 0
        };
        let (session, _) = manager.session().await;
        let mut session = Some(session);
        let mut acknowledged = 0;
        // welcome, assignment, then two frames, each read and acknowledged.
        let script = async {
            let s = session.as_mut().expect("open");
            if !survives() {
                return;
            }
            s.answer(Answer::Welcome(welcome())).await;
            if !survives() {
                return;
            }
            s.answer(assignment(1)).await;
            assert!(matches!(agent.next().await, Command::Assign(_)));
            agent.write(1, 1, WriteOp::Start).await;
            for id in [1, 2] {
                if !survives() {
                    return;
                }
                let write = s.next_write().await;
                if !survives() {
                    return;
                }
                s.acknowledge(&write).await;
                assert!(matches!(agent.next().await, Command::Written { id: got, .. } if got == id));
                acknowledged = id;
                if id == 1 {
                    agent.write(2, 1, intent("effect")).await;
                }
            }
        };
        script.await;
        drop(session.take());
        let (mut session, hello) = manager.welcomed(vec![]).await;
        let assigned = cut >= 2;
        let expected = if assigned { vec![(1, acknowledged >= 1)] } else { vec![] };
        assert_eq!(epochs(&hello), expected, "cut after {cut}");
        if !assigned {
            continue;
        }
        agent.write(9, 1, release()).await;
        let mut answered = Vec::new();
        while answered.last() != Some(&9) {
            let write = session.next_write().await;
            session.acknowledge(&write).await;
            for _ in &write.ops {
                match agent.next().await {
                    Command::Written { id, .. } => answered.push(id),
                    other => panic!("{other:?}"),
                }
            }
        }
        let all: Vec<u64> = match acknowledged {
            0 => vec![1, 9],
            1 => vec![2, 9],
            _ => vec![9],
        };
        assert_eq!(answered, all, "cut after {cut}");
    }
}

#[tokio::test]
async fn the_lease_counts_from_when_the_heartbeat_was_sent() {
    let mut manager = ScriptedManager::start().await;
    let mut agent = Agent::start(&manager);
    let before = boot_now();
    let often = v1::Welcome {
        heartbeat_interval_ms: 500,
        ..welcome()
    };
    let (mut session, _) = manager.welcomed_with(often).await;
    let Some(Sent::Heartbeat(heartbeat)) = session.next().await else {
        panic!("no heartbeat")
    };
    let received = boot_now();
    // The answer is late: there is a newer heartbeat by then, for which it does not count.
    assert!(matches!(session.next().await, Some(Sent::Heartbeat(newer)) if newer.seq > heartbeat.seq));
    session
        .answer(Answer::HeartbeatAck(v1::HeartbeatAck { seq: heartbeat.seq }))
        .await;
    let Some(Command::Lease { until }) = patiently(agent.commands.recv()).await else {
        panic!("no lease")
    };
    let ttl = Duration::from_secs(60);
    assert!(
        until >= before.after(ttl) && until <= received.after(ttl),
        "the way back does not count"
    );
}

#[tokio::test]
async fn an_attempt_that_the_manager_calls_stale_is_revoked_and_not_held_any_more() {
    let mut manager = ScriptedManager::start().await;
    let mut agent = Agent::start(&manager);
    let (session, _) = manager.welcomed(vec![]).await;
    session.answer(assignment(4)).await;
    assert!(matches!(agent.next().await, Command::Assign(_)));
    drop(session);
    let (session, hello) = manager.welcomed(vec![to_wire::attempt(&attempt(4))]).await;
    assert_eq!(epochs(&hello), [(4, false)]);
    assert!(matches!(agent.next().await, Command::Revoke { attempt: gone, .. } if gone == attempt(4)));
    drop(session);
    let (_session, hello) = manager.welcomed(vec![]).await;
    assert_eq!(epochs(&hello), []);
}

#[tokio::test]
async fn an_attempt_that_is_given_up_is_not_held_any_more() {
    let mut manager = ScriptedManager::start().await;
    let mut agent = Agent::start(&manager);
    let (mut session, _) = manager.welcomed(vec![]).await;
    session.answer(assignment(4)).await;
    session.answer(assignment(5)).await;
    for _ in [4, 5] {
        assert!(matches!(agent.next().await, Command::Assign(_)));
    }
    let given_up = Event::GivenUp { attempt: attempt(4) };
    let events = agent.events.as_ref().expect("open");
    events.send(given_up).await.expect("taken");
    // Events are taken in order: what comes after it says that it was taken.
    agent.write(1, 5, done("effect")).await;
    session.next_write().await;
    drop(session);
    let (_session, hello) = manager.welcomed(vec![]).await;
    assert_eq!(epochs(&hello), [(5, false)]);
}

#[tokio::test]
async fn codes_that_a_proxy_can_fake_and_silence_lead_to_a_new_connection() {
    let mut manager = ScriptedManager::start().await;
    let _agent = Agent::start(&manager);
    for status in [
        tonic::Status::internal("RST_STREAM"),
        tonic::Status::unimplemented("proxy"),
        tonic::Status::permission_denied("proxy"),
        tonic::Status::unauthenticated("proxy"),
    ] {
        let (session, _) = manager.welcomed(vec![]).await;
        session.fail(status).await;
    }
    // Welcomed, and then nothing more: three heartbeats later the agent comes back.
    let (silent, _) = manager.session().await;
    let begun = Instant::now();
    let often = v1::Welcome {
        heartbeat_interval_ms: 40,
        ..welcome()
    };
    silent.answer(Answer::Welcome(often)).await;
    let (_session, _) = manager.session().await;
    assert!(begun.elapsed() >= Duration::from_millis(100), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_manager_that_asks_for_patience_gets_it() {
    let mut manager = ScriptedManager::start().await;
    let _agent = Agent::start(&manager);
    let (session, _) = manager.welcomed(vec![]).await;
    let told = v1::Disconnect {
        code: "shutting_down".into(),
        reason: String::new(),
        retry_after_ms: 300,
    };
    let begun = Instant::now();
    session.answer(Answer::Disconnect(told)).await;
    let (_session, _) = manager.session().await;
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_manager_of_another_version_is_tried_again_slowly() {
    let mut manager = ScriptedManager::start().await;
    let mut config = manager.config();
    config.backoff = crate::backoff::Backoff::new(Duration::from_millis(1), Duration::from_millis(400)).expect("good");
    let _agent = Agent::start_with(config);
    let (session, _) = manager.session().await;
    let begun = Instant::now();
    session
        .answer(Answer::Welcome(v1::Welcome {
            protocol: 99,
            ..welcome()
        }))
        .await;
    let (session, _) = manager.session().await;
    assert!(begun.elapsed() >= Duration::from_millis(400), "{:?}", begun.elapsed());
    let told = v1::Disconnect {
        code: "version".into(),
        reason: "upgrade".into(),
        retry_after_ms: 0,
    };
    let begun = Instant::now();
    session.answer(Answer::Disconnect(told)).await;
    let (_session, _) = manager.session().await;
    assert!(begun.elapsed() >= Duration::from_millis(400), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_superseded_instance_revokes_everything_and_ends() {
    let mut manager = ScriptedManager::start().await;
    let mut agent = Agent::start(&manager);
    let (session, _) = manager.welcomed(vec![]).await;
    session.answer(assignment(1)).await;
    assert!(matches!(agent.next().await, Command::Assign(_)));
    let told = v1::Disconnect {
        code: "superseded".into(),
        reason: "instance x".into(),
        retry_after_ms: 0,
    };
    session.answer(Answer::Disconnect(told)).await;
    assert!(matches!(agent.next().await, Command::Revoke { .. }));
    let ended = patiently(agent.session).await.expect("no panic");
    assert_eq!(ended, Err(SessionError::Superseded("instance x".into())));
}

fn in_use() -> Answer {
    Answer::Disconnect(v1::Disconnect {
        code: "identity_conflict".into(),
        reason: "instance x is alive".into(),
        retry_after_ms: 30,
    })
}

#[tokio::test]
async fn an_instance_whose_id_is_in_use_waits_and_then_ends() {
    let mut manager = ScriptedManager::start().await;
    let agent = Agent::start(&manager);
    let begun = Instant::now();
    for _ in 0..4 {
        let (session, _) = manager.session().await;
        session.answer(in_use()).await;
    }
    let ended = patiently(agent.session).await.expect("no panic");
    assert_eq!(ended, Err(SessionError::IdInUse("instance x is alive".into())));
    assert!(begun.elapsed() >= Duration::from_millis(90), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn an_instance_whose_id_becomes_free_is_welcome_and_counts_anew() {
    let mut manager = ScriptedManager::start().await;
    let mut agent = Agent::start(&manager);
    for epoch in 1..=2 {
        for _ in 0..3 {
            let (session, _) = manager.session().await;
            session.answer(in_use()).await;
        }
        let (session, _) = manager.welcomed(vec![]).await;
        session.answer(assignment(epoch)).await;
        assert!(matches!(agent.next().await, Command::Assign(_)));
    }
    assert!(!agent.session.is_finished());
}

#[tokio::test]
async fn leaving_writes_everything_says_goodbye_and_ends() {
    let mut manager = ScriptedManager::start().await;
    let mut agent = Agent::start(&manager);
    let (mut session, _) = manager.welcomed(vec![]).await;
    session.answer(assignment(1)).await;
    assert!(matches!(agent.next().await, Command::Assign(_)));
    agent.stage.send_replace(Stage::Draining("sigterm".into()));
    assert!(matches!(session.next_work().await, Some(Sent::DrainNotice(_))));
    agent.write(1, 1, release()).await;
    agent.events = None;
    agent.stage.send_replace(Stage::Leaving("sigterm".into()));
    let write = session.next_write().await;
    session.acknowledge(&write).await;
    loop {
        match session.next_work().await {
            Some(Sent::Goodbye(_)) => break,
            Some(_) => {}
            None => panic!("closed without goodbye"),
        }
    }
    assert!(session.next_work().await.is_none());
    drop(session);
    assert_eq!(patiently(agent.session).await.expect("no panic"), Ok(()));
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_and_later_capabilities_are_sent() {
    let mut manager = ScriptedManager::start().await;
    let agent = Agent::start(&manager);
    let (mut session, _) = manager.welcomed(vec![]).await;
    let Answer::Assignment(mut bad) = assignment(7) else {
        panic!("an assignment")
    };
    bad.document = b"{".as_slice().into();
    session.answer(Answer::Assignment(bad)).await;
    let write = session.next_write().await;
    let Some(v1::write_op::Op::Refuse(refusal)) = &write.ops[0].op else {
        panic!("{write:?}")
    };
    assert!(refusal.permanent);
    session.acknowledge(&write).await;
    agent.capabilities.send_modify(|now| now.slots = 9);
    assert!(matches!(session.next_work().await, Some(Sent::Capabilities(now)) if now.slots == 9));
}
