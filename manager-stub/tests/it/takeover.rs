//! An agent id belongs to the key that speaks under it while that is heard of: another proof of the same rule takes
//! nothing from a living agent, and says nothing for it.

use std::time::{Duration, Instant};

use deputy_proto::v1;
use deputy_proto::v1::agent_client::AgentClient;
use deputy_proto::v1::session_response::Frame;
use deputy_proto::v1::tasks_client::TasksClient;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::agent::{Agent, SOON, hello, submit_request};
use crate::oidc::issuing;
use crate::secured::{Member, Secured, csr, key};

/// Of the genuine agent; told to nobody.
pub(crate) const INSTANCE: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";

const HEARTBEAT: Duration = Duration::from_millis(800);

/// Longer than the three heartbeats in which an agent keeps its id without a word.
pub(crate) const GONE: Duration = Duration::from_millis(2600);

/// A manager that takes whoever was silent for three heartbeats for gone, and keeps leases much longer.
pub(crate) async fn started() -> Secured {
    let start = Secured::with(|settings| {
        settings.oidc = Some(issuing());
        settings.timing.heartbeat = HEARTBEAT;
        settings.timing.lease_ttl = Duration::from_secs(60);
        settings.timing.start_deadline = Duration::from_secs(10);
    });
    start.await
}

pub(crate) async fn says_hello(secured: &Secured, member: &Member, instance: &str) -> (Agent, Frame) {
    let channel = secured.channel(Some(&member.identity())).await;
    Agent::dial_over(channel, hello("a1", instance, 2)).await
}

/// The genuine agent, with a session and a task that it runs.
pub(crate) async fn at_work(secured: &Secured, token: &str) -> (Member, Agent, v1::AttemptRef) {
    let member = secured.join("a1", token).await.expect("joined");
    let (mut agent, first) = says_hello(secured, &member, INSTANCE).await;
    assert!(matches!(first, Frame::Welcome(_)), "{first:?}");
    let request = secured.admin(submit_request("r1", ""));
    let queued = TasksClient::new(secured.channel(None).await).submit(request).await;
    queued.expect("queued");
    let attempt = agent.assignment().await.attempt.expect("an attempt");
    agent.start(&attempt).await;
    (member, agent, attempt)
}

/// Says hello with what it runs: nothing of it is stale, and it is its own.
pub(crate) async fn goes_on(secured: &Secured, member: &Member, attempt: &v1::AttemptRef) -> Agent {
    let channel = secured.channel(Some(&member.identity())).await;
    let hello = v1::Hello {
        inventory: vec![v1::HeldAttempt {
            attempt: Some(attempt.clone()),
            started: true,
        }],
        ..hello("a1", INSTANCE, 2)
    };
    let (session, answer) = Agent::dial_over(channel, hello).await;
    match answer {
        Frame::Welcome(welcome) => assert_eq!(welcome.stale, []),
        other => panic!("{other:?}"),
    }
    mint(&mut secured.agent(member).await, attempt)
        .await
        .expect("what it runs is its own");
    session
}

async fn mint(client: &mut AgentClient<Channel>, attempt: &v1::AttemptRef) -> Result<(), Status> {
    minted(client, attempt).await.map(drop)
}

/// A token about this attempt.
pub(crate) async fn minted(client: &mut AgentClient<Channel>, attempt: &v1::AttemptRef) -> Result<String, Status> {
    let request = v1::MintTokenRequest {
        attempt: Some(attempt.clone()),
        audience: String::new(),
        agent_id: "a1".into(),
        instance_id: INSTANCE.into(),
    };
    Ok(client.mint_token(request).await?.into_inner().token)
}

/// The same agent with the certificate that it has renewed.
pub(crate) async fn renewed(secured: &Secured, member: &Member) -> Member {
    // Certificates tell whole seconds.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let key = key();
    let request = v1::RenewCertificateRequest { csr: csr(&key).into() };
    let answer = secured.agent(member).await.renew_certificate(request).await;
    Member {
        key,
        certificate: answer
            .expect("renewed")
            .into_inner()
            .certificate
            .expect("a certificate"),
    }
}

fn copy_files(from: &std::path::Path, to: &std::path::Path) {
    for entry in std::fs::read_dir(from).expect("read").flatten() {
        if entry.file_type().expect("a type").is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
        }
    }
}

/// A log frame about this attempt; the reason for which it was refused.
async fn log(client: &mut AgentClient<Channel>, attempt: &v1::AttemptRef) -> String {
    let data = bytes::Bytes::from_static(b"forged\n");
    let frame = v1::PushLogsRequest {
        attempt: Some(attempt.clone()),
        crc32: crc32fast::hash(&data),
        data,
        ..v1::PushLogsRequest::default()
    };
    let answers = client.push_logs(tokio_stream::iter([frame])).await.expect("taken");
    let answer = answers.into_inner().message().await.expect("answered");
    answer.expect("an answer").refused
}

#[tokio::test]
async fn a_second_token_of_the_rule_takes_nothing_from_an_agent_that_is_heard_of() {
    let secured = started().await;
    let (first, second) = (secured.join_token("rule", 1).await, secured.join_token("rule", 1).await);
    let member = secured.join("a1", &first).await.expect("joined");
    let refused = secured.join("a1", &second).await.expect_err("before its hello too");
    assert!(
        refused.message().contains("is in use by another process"),
        "{refused:?}"
    );
    let (mut agent, welcome) = says_hello(&secured, &member, INSTANCE).await;
    assert!(matches!(welcome, Frame::Welcome(_)), "{welcome:?}");
    for _ in 0..5 {
        let before = Instant::now();
        agent.heartbeat().await;
        let refused = secured.join("a1", &second).await.expect_err("it is heard of");
        let elapsed = before.elapsed();
        assert_eq!(refused.code(), Code::PermissionDenied);
        for said in ["--agent-id", "wait", "deputy fleet revoke a1"] {
            assert!(refused.message().contains(said), "{said}: {refused:?}");
        }
        assert!(!refused.message().contains(INSTANCE), "{refused:?}");
        let again = refused
            .metadata()
            .get("deputy-agent-id-in-use")
            .expect("when to ask again");
        let again: u64 = again.to_str().expect("text").parse().expect("milliseconds");
        let again = Duration::from_millis(again);
        // And a little, that who asks then is not too early. The manager counts in whole milliseconds.
        let told = HEARTBEAT * 3 + Duration::from_millis(100);
        let counted = again + elapsed + Duration::from_millis(2);
        assert!(
            again <= told && counted >= told,
            "three heartbeats from the last one: {again:?} after {elapsed:?}"
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let tokens = secured
        .fleet()
        .await
        .list_join_tokens(secured.admin(v1::ListJoinTokensRequest {}))
        .await;
    let uses: Vec<u32> = tokens
        .expect("listed")
        .into_inner()
        .tokens
        .iter()
        .map(|token| token.uses)
        .collect();
    assert_eq!(uses, [1, 0], "a refusal uses no token up");
    // The same key is the same agent: it may ask again, and renew.
    secured
        .join_with(&member.key, "a1", &second)
        .await
        .expect("the same key");
    let mut live = secured.agent(&member).await;
    live.renew_certificate(v1::RenewCertificateRequest {
        csr: csr(&key()).into(),
    })
    .await
    .expect("it is not locked out");
    // Revoked, it has no id to keep.
    secured.revoke("a1", "replaced").await;
    let third = secured.join_token("rule", 1).await;
    secured.join("a1", &third).await.expect("another key, at once");
}

#[tokio::test]
async fn who_replaces_an_agent_that_crashed_is_let_in_at_the_time_that_it_was_told() {
    let secured = started().await;
    let token = secured.join_token("rule", 5).await;
    let member = secured.join("a1", &token).await.expect("joined");
    let (agent, welcome) = says_hello(&secured, &member, INSTANCE).await;
    assert!(matches!(welcome, Frame::Welcome(_)), "{welcome:?}");
    drop(agent);
    let refused = secured.join("a1", &token).await.expect_err("it was heard of just now");
    let again = refused.metadata().get("deputy-agent-id-in-use").expect("when");
    let again: u64 = again.to_str().expect("text").parse().expect("milliseconds");
    tokio::time::sleep(Duration::from_millis(again)).await;
    secured.join("a1", &token).await.expect("at the second try");
}

#[tokio::test]
async fn who_has_the_id_of_a_silent_agent_says_nothing_for_what_that_one_runs() {
    let secured = started().await;
    let tokens = secured.join_token("rule", 5).await;
    let (member, mut genuine, attempt) = at_work(&secured, &tokens).await;
    let mut theirs = secured.agent(&member).await;
    mint(&mut theirs, &attempt).await.expect("its own");
    assert_eq!(log(&mut theirs, &attempt).await, "");
    tokio::time::sleep(GONE).await;
    let other = secured.join("a1", &tokens).await.expect("nobody is heard of");
    genuine.heartbeat().await;
    let mut others = secured.agent(&other).await;
    let refused = mint(&mut others, &attempt)
        .await
        .expect_err("the other one is back first");
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
    assert!(
        refused.message().contains("is in use by another process"),
        "{refused:?}"
    );
    mint(&mut theirs, &attempt).await.expect("nothing was taken from it");

    tokio::time::sleep(GONE).await;
    let refused = mint(&mut others, &attempt)
        .await
        .expect_err("its key has no such attempt");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    let blob = v1::FetchBlobRequest {
        project: "default".into(),
        sha256: "0".repeat(64),
        offset: 0,
    };
    let refused = others.fetch_blob(blob).await.map(drop).expect_err("nor its files");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    // The id has gone to the other key: the connections of before end with it.
    let told = tokio::time::timeout(SOON, async {
        loop {
            match genuine.next().await {
                Some(Frame::Disconnect(told)) => return told,
                Some(_) => {}
                None => panic!("ended without a word"),
            }
        }
    });
    assert_eq!(told.await.expect("told").code, "superseded");
    mint(&mut theirs, &attempt)
        .await
        .expect_err("its certificate is replaced");

    let (_session, answer) = says_hello(&secured, &other, INSTANCE).await;
    match answer {
        Frame::Disconnect(told) => assert_eq!(told.code, "other_key", "{told:?}"),
        other => panic!("{other:?}"),
    }
    let (_session, answer) = says_hello(&secured, &other, "1111").await;
    assert!(matches!(answer, Frame::Welcome(_)), "a process of its own: {answer:?}");
}

#[tokio::test]
async fn an_instance_belongs_to_its_key_over_a_start_of_the_manager() {
    let mut secured = started().await;
    let tokens = secured.join_token("rule", 5).await;
    let (member, genuine, attempt) = at_work(&secured, &tokens).await;
    drop(genuine);
    secured.restart().await;
    let refused = secured
        .join("a1", &tokens)
        .await
        .expect_err("it may not have found the manager yet");
    assert!(
        refused.message().contains("is in use by another process"),
        "{refused:?}"
    );
    mint(&mut secured.agent(&member).await, &attempt)
        .await
        .expect("its own");
    tokio::time::sleep(GONE).await;
    let other = secured.join("a1", &tokens).await.expect("nobody is heard of");
    let (_session, answer) = says_hello(&secured, &other, INSTANCE).await;
    match answer {
        Frame::Disconnect(told) => assert_eq!(told.code, "other_key", "{told:?}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_agent_that_renewed_after_the_backup_goes_on_with_the_restored_manager() {
    let mut secured = started().await;
    let token = secured.join_token("rule", 1).await;
    let (member, genuine, attempt) = at_work(&secured, &token).await;
    drop(genuine);
    let backup = tempfile::tempdir().expect("a folder");
    secured.restart_after(|folder| copy_files(folder, backup.path())).await;
    let member = renewed(&secured, &member).await;
    let (session, answer) = says_hello(&secured, &member, INSTANCE).await;
    assert!(matches!(answer, Frame::Welcome(_)), "{answer:?}");
    drop(session);
    secured.restart_after(|folder| copy_files(backup.path(), folder)).await;

    let mut session = goes_on(&secured, &member, &attempt).await;
    // And on: the next renewal is of the same line, and another join gets nothing by all this.
    let member = renewed(&secured, &member).await;
    mint(&mut secured.agent(&member).await, &attempt)
        .await
        .expect("the same line");
    let second = secured.join_token("rule", 1).await;
    session.heartbeat().await;
    let refused = secured.join("a1", &second).await.expect_err("it is heard of");
    assert!(
        refused.message().contains("is in use by another process"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn an_agent_whose_key_is_forgotten_goes_on_by_its_last_certificate_and_nobody_else_does() {
    let secured = started().await;
    let tokens = secured.join_token("rule", 5).await;
    let (member, mut genuine, attempt) = at_work(&secured, &tokens).await;
    genuine.heartbeat().await;
    let member = renewed(&secured, &member).await;
    let leaf = member.certificate.chain[0].to_vec();
    let mut fleet = secured.fleet().await;
    secured.revoke("a1", "by mistake").await;
    let request = v1::ForgetRequest { agent_id: "a1".into() };
    fleet.forget(secured.admin(request)).await.expect("forgotten");

    let again = secured.join_after(leaf.clone(), &member.key, "a1", &tokens).await;
    let again = Member {
        key: member.key,
        certificate: again.expect("joined again"),
    };
    let mut session = goes_on(&secured, &again, &attempt).await;
    // A certificate is no secret: without its key it says nothing.
    session.heartbeat().await;
    let refused = secured
        .join_after(leaf, &key(), "a1", &tokens)
        .await
        .expect_err("not its key");
    assert!(
        refused.message().contains("is in use by another process"),
        "{refused:?}"
    );
}
