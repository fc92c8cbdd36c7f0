//! Joining by token, certificates and their ends: what is good once, what is good until something else is used, and
//! what is never good.

use std::time::Duration;

use deputy_dial::authority::{Authority, ClientIdentity};
use deputy_dial::dialer::Dialer;
use deputy_manager::trust::authority::{Authority as Signer, SigningRequest};
use deputy_proto::v1;
use deputy_proto::v1::agent_client::AgentClient;
use deputy_proto::v1::session_request::Frame as Request;
use deputy_proto::v1::session_response::Frame;
use sha2::{Digest, Sha256};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::secured::{Member, Secured, csr, key};

const SOON: Duration = Duration::from_secs(10);
/// Nothing is waited for but one last word.
const AT_ONCE: Duration = Duration::from_secs(2);

/// Says hello as this agent; the answers.
async fn hello(
    mut client: AgentClient<Channel>,
    agent_id: &str,
    instance: &str,
) -> Result<
    (
        tokio::sync::mpsc::Sender<v1::SessionRequest>,
        Streaming<v1::SessionResponse>,
    ),
    Status,
> {
    let (frames, outbound) = tokio::sync::mpsc::channel(16);
    let hello = v1::Hello {
        protocol_min: 1,
        protocol_max: 1,
        agent_id: agent_id.into(),
        instance_id: instance.into(),
        ..v1::Hello::default()
    };
    let frame = Some(Request::Hello(hello));
    frames.send(v1::SessionRequest { frame }).await.expect("sent");
    let answers = client.session(ReceiverStream::new(outbound)).await?.into_inner();
    Ok((frames, answers))
}

async fn next(answers: &mut Streaming<v1::SessionResponse>) -> Option<Frame> {
    let frame = tokio::time::timeout(SOON, answers.message()).await.expect("in time");
    frame.ok().flatten().and_then(|response| response.frame)
}

/// The agent a1 at work: welcomed, with an open stream of logs.
struct Open {
    client: AgentClient<Channel>,
    answers: Streaming<v1::SessionResponse>,
    pushed: Streaming<v1::PushLogsResponse>,
    _frames: tokio::sync::mpsc::Sender<v1::SessionRequest>,
    _pieces: tokio::sync::mpsc::Sender<v1::PushLogsRequest>,
}

impl Open {
    async fn by(secured: &Secured, member: &Member) -> Self {
        let mut client = secured.agent(member).await;
        let (frames, mut answers) = hello(client.clone(), "a1", "i1").await.expect("answered");
        assert!(matches!(next(&mut answers).await, Some(Frame::Welcome(_))));
        let (pieces, pushing) = tokio::sync::mpsc::channel(1);
        let pushed = client.push_logs(ReceiverStream::new(pushing)).await;
        Self {
            client,
            answers,
            pushed: pushed.expect("a log stream").into_inner(),
            _frames: frames,
            _pieces: pieces,
        }
    }

    /// The stream of logs ends at once, and with its connection.
    async fn is_cut(&mut self) {
        let cut = tokio::time::timeout(AT_ONCE, self.pushed.message()).await;
        cut.expect("an open stream ends at once")
            .expect_err("with its connection");
    }
}

async fn renew(client: &mut AgentClient<Channel>) -> Result<Member, Status> {
    let key = key();
    let request = v1::RenewCertificateRequest { csr: csr(&key).into() };
    let certificate = client.renew_certificate(request).await?.into_inner().certificate;
    Ok(Member {
        key,
        certificate: certificate.expect("a certificate"),
    })
}

fn key_again(key: &rcgen::KeyPair) -> rcgen::KeyPair {
    rcgen::KeyPair::try_from(key.serialize_der()).expect("the same key")
}

/// Any call of the Agent service: says only whether the certificate is taken.
async fn call(client: &mut AgentClient<Channel>) -> Result<(), Status> {
    match client.fetch_blob(v1::FetchBlobRequest::default()).await {
        Err(status) if status.code() == Code::Unauthenticated => Err(status),
        _ => Ok(()),
    }
}

#[tokio::test]
async fn a_join_token_is_good_for_the_joins_it_was_made_for() {
    let secured = Secured::start().await;
    let token = secured.join_token("rule", 2).await;
    let member = secured.join("a1", &token).await.expect("joined");
    assert_eq!(
        (&*member.certificate.pool, &*member.certificate.join_rule),
        ("eu", "rule")
    );
    let key = key();
    secured.join_with(&key, "a2", &token).await.expect("joined");
    // The answer was lost on the way: the same agent asks again with the same key.
    secured.join_with(&key, "a2", &token).await.expect("the same join");
    let listed = secured
        .fleet()
        .await
        .list(secured.admin(v1::FleetListRequest::default()))
        .await;
    let agents = listed.expect("listed").into_inner().agents;
    let warned = |agent: &v1::AgentInfo| {
        agent
            .capabilities
            .iter()
            .all(|offered| offered.warnings[0].contains("joined"))
    };
    assert!(agents.len() == 2 && agents.iter().all(warned), "{agents:?}");
    let refused = secured.join("a3", &token).await.expect_err("used up");
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("is used up (2 of 2 uses)"), "{refused:?}");
    let forged = token.replace("dpj_", "dpj_0");
    for bad in ["", "x", &forged, &token.to_uppercase()] {
        let refused = secured.join("a4", bad).await.expect_err("no token");
        assert!(refused.message().contains("is not known"), "{refused:?}");
    }
}

#[tokio::test]
async fn a_join_token_ends_with_its_time() {
    let secured = Secured::start().await;
    let good = secured.join_token("rule", 2).await;
    let request = v1::CreateJoinTokenRequest {
        rule: "rule".into(),
        uses: 2,
        life_ms: 3000,
    };
    let made = secured.fleet().await.create_join_token(secured.admin(request)).await;
    let token = made.expect("made").into_inner().token;
    secured.join("a1", &token).await.expect("in time");
    tokio::time::sleep(Duration::from_millis(3050)).await;
    let refused = secured.join("a2", &token).await.expect_err("too late");
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("has expired; make a new one"), "{refused:?}");
    secured.join("a2", &good).await.expect("another token is good");
}

#[tokio::test]
async fn a_join_is_asked_for_again_by_its_own_token_a_few_times_and_not_once_it_was_answered() {
    let secured = Secured::start().await;
    let (token, another) = (secured.join_token("rule", 1).await, secured.join_token("rule", 1).await);
    let key = key();
    secured.join_with(&key, "a1", &token).await.expect("joined");
    for _ in 0..16 {
        secured.join_with(&key, "a1", &token).await.expect("the same join");
    }
    let refused = secured.join_with(&key, "a1", &token).await.expect_err("often enough");
    assert!(refused.message().contains("is used up (1 of 1 uses)"), "{refused:?}");
    // Another token of the rule is another join, and has its own use.
    secured.join_with(&key, "a1", &another).await.expect("a use of its own");
    let last = secured.join_with(&key, "a1", &another).await.expect("the same join");
    let refused = secured.join_with(&key, "a1", &token).await.expect_err("used up");
    assert!(refused.message().contains("is used up (1 of 1 uses)"), "{refused:?}");
    call(
        &mut secured
            .agent(&Member {
                key: key_again(&key),
                certificate: last,
            })
            .await,
    )
    .await
    .expect("good");
    let refused = secured
        .join_with(&key, "a1", &another)
        .await
        .expect_err("it was answered: the certificate is in use");
    assert!(refused.message().contains("is used up (1 of 1 uses)"), "{refused:?}");
}

#[tokio::test]
async fn a_join_that_is_only_repeated_does_not_keep_an_id_from_others() {
    let secured = Secured::start().await;
    let (token, another) = (secured.join_token("rule", 1).await, secured.join_token("rule", 1).await);
    let key = key();
    secured.join_with(&key, "a1", &token).await.expect("joined");
    let until = tokio::time::Instant::now() + SOON;
    loop {
        secured.join_with(&key, "a1", &token).await.expect("the same join");
        match secured.join("a1", &another).await {
            Ok(_) => break,
            Err(refused) => assert!(refused.message().contains("in use by another process"), "{refused:?}"),
        }
        assert!(tokio::time::Instant::now() < until, "it is kept by repetitions");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_used_up_join_token_does_not_let_a_revoked_agent_back_in_with_its_old_key() {
    let secured = Secured::start().await;
    let token = secured.join_token("rule", 1).await;
    let key = key();
    secured.join_with(&key, "a1", &token).await.expect("joined");
    secured.join_with(&key, "a1", &token).await.expect("the same join");
    secured.revoke("a1", "laptop lost").await;
    for _ in 0..2 {
        let refused = secured.join_with(&key, "a1", &token).await.expect_err("used up");
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert!(refused.message().contains("is used up (1 of 1 uses)"), "{refused:?}");
    }
    let another = secured.join_token("rule", 1).await;
    secured
        .join_with(&key, "a1", &another)
        .await
        .expect("a new token lets it in");
}

#[tokio::test]
async fn a_challenge_is_good_once() {
    let secured = Secured::start().await;
    let token = secured.join_token("rule", 5).await;
    let (mut enrollment, challenge) = secured.challenge().await.expect("a challenge");
    assert_eq!(challenge.trust_domain, "test");
    let proof = v1::join_request::Proof::Token(v1::TokenProof { token });
    let request = v1::JoinRequest {
        csr: csr(&key()).into(),
        agent_id: "a1".into(),
        nonce: challenge.nonce,
        proof: Some(proof),
        before: bytes::Bytes::new(),
    };
    enrollment.join(request.clone()).await.expect("joined");
    let refused = enrollment.join(request.clone()).await.expect_err("replayed");
    assert!(refused.message().contains("was used before"), "{refused:?}");
    let strange = v1::JoinRequest {
        nonce: vec![7; 32].into(),
        ..request
    };
    let refused = enrollment.join(strange).await.expect_err("not of this manager");
    assert!(refused.message().contains("not of this manager"), "{refused:?}");
}

#[tokio::test]
async fn a_join_that_is_refused_or_only_asked_about_uses_no_challenge_up() {
    let secured = Secured::with(|settings| {
        settings.timing.heartbeat = Duration::from_secs(5);
        settings.timing.lease_ttl = Duration::from_secs(60);
    });
    let secured = secured.await;
    let (used, revoked, good) = (
        secured.join_token("rule", 1).await,
        secured.join_token("rule", 1).await,
        secured.join_token("rule", 1).await,
    );
    secured.join("a2", &used).await.expect("joined");
    let id = revoked.split('_').nth(1).expect("an id").to_owned();
    let request = v1::RevokeJoinTokenRequest { id };
    secured
        .fleet()
        .await
        .revoke_join_token(secured.admin(request))
        .await
        .expect("revoked");
    let (mut enrollment, challenge) = secured.challenge().await.expect("a challenge");
    let join = |token: &str, agent_id: &str| v1::JoinRequest {
        csr: csr(&key()).into(),
        agent_id: agent_id.into(),
        nonce: challenge.nonce.clone(),
        proof: Some(v1::join_request::Proof::Token(v1::TokenProof { token: token.into() })),
        before: bytes::Bytes::new(),
    };
    for (token, agent_id, why) in [
        (&used, "a1", "is used up"),
        (&revoked, "a1", "was revoked"),
        (&good, "a2", "is in use by another process"),
    ] {
        let refused = enrollment.join(join(token, agent_id)).await.expect_err("refused");
        assert!(refused.message().contains(why), "{refused:?}");
    }
    for _ in 0..2 {
        let request = v1::CheckJoinRequest {
            join: Some(join(&good, "a1")),
            renew_expired: None,
        };
        enrollment.check_join(request).await.expect("it would be let in");
    }
    enrollment
        .join(join(&good, "a1"))
        .await
        .expect("the challenge is still good");
    let refused = enrollment.join(join(&good, "a1")).await.expect_err("it is used");
    assert!(refused.message().contains("was used before"), "{refused:?}");
}

#[tokio::test]
async fn joins_that_strangers_make_up_use_no_challenge_up() {
    let secured = Secured::start().await;
    let token = secured.join_token("rule", 1).await;
    let (mut enrollment, challenge) = secured.challenge().await.expect("a challenge");
    let nonce = challenge.nonce;
    let proof = |token: &str| Some(v1::join_request::Proof::Token(v1::TokenProof { token: token.into() }));
    let good = v1::JoinRequest {
        csr: csr(&key()).into(),
        agent_id: "a1".into(),
        nonce: nonce.clone(),
        proof: proof(&token),
        before: bytes::Bytes::new(),
    };
    let made_up = [
        v1::JoinRequest {
            csr: bytes::Bytes::from_static(b"no request"),
            ..good.clone()
        },
        v1::JoinRequest {
            agent_id: "no id".into(),
            ..good.clone()
        },
        v1::JoinRequest {
            proof: None,
            ..good.clone()
        },
        v1::JoinRequest {
            proof: proof("dpj_x"),
            ..good.clone()
        },
    ];
    for request in made_up {
        let refused = enrollment.join(request).await.expect_err("made up");
        assert!(!refused.message().contains("challenge"), "{refused:?}");
    }
    let renewal = v1::RenewExpiredRequest {
        csr: good.csr.clone(),
        nonce,
        ..v1::RenewExpiredRequest::default()
    };
    enrollment.renew_expired(renewal).await.expect_err("made up");
    enrollment
        .join(good.clone())
        .await
        .expect("the challenge is still good");
    let refused = enrollment.join(good).await.expect_err("and then it is used");
    assert!(refused.message().contains("was used before"), "{refused:?}");
}

/// Connections from another address of this machine that say nothing.
async fn silent(secured: &Secured, count: usize) -> Vec<tokio::net::TcpStream> {
    let address = secured.manager.as_ref().expect("up").address();
    let mut streams = Vec::new();
    for _ in 0..count {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.2:0".parse().expect("an address")).expect("bound");
        streams.push(socket.connect(address).await.expect("connected"));
    }
    streams
}

#[tokio::test]
async fn who_connects_and_says_nothing_keeps_nobody_else_out() {
    let secured = Secured::start().await;
    let _silent = silent(&secured, 300).await;
    let joined = tokio::time::timeout(Duration::from_secs(5), async {
        let token = secured.join_token("rule", 1).await;
        secured.join("a1", &token).await.expect("joined");
    });
    joined.await.expect("at once");
}

#[tokio::test]
async fn one_address_has_its_share_of_connections_and_no_more() {
    use tokio::io::AsyncReadExt;
    let secured = Secured::with(|settings| settings.security.connections.per_source = 8).await;
    let mut streams = silent(&secured, 9).await;
    let mut last = streams.pop().expect("nine");
    let read = tokio::time::timeout(Duration::from_secs(5), last.read(&mut [0; 1])).await;
    assert!(!matches!(read.expect("closed at once"), Ok(1..)));
    secured.channel(None).await;
    drop(streams);
    // As soon as the manager has read their ends.
    let let_in = async {
        loop {
            let mut again = silent(&secured, 1).await.remove(0);
            let read = tokio::time::timeout(Duration::from_secs(1), again.read(&mut [0; 1])).await;
            match read {
                Err(_) => return,
                Ok(closed) => assert!(!matches!(closed, Ok(1..)), "nothing is said to it"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, let_in)
        .await
        .expect("one is let in and waited for");
}

#[tokio::test]
async fn an_agent_id_of_another_rule_is_not_taken_over() {
    let secured = Secured::start().await;
    let (first, second) = (
        secured.join_token("first", 5).await,
        secured.join_token("second", 5).await,
    );
    secured.join("a1", &first).await.expect("joined");
    tokio::time::sleep(Duration::from_millis(500)).await;
    secured
        .join("a1", &first)
        .await
        .expect("the same subject may join again when nobody is heard of");
    let refused = secured.join("a1", &second).await.expect_err("refused");
    assert!(refused.message().contains("belongs to token:first"), "{refused:?}");
}

#[tokio::test]
async fn a_session_speaks_for_the_agent_of_its_certificate_only() {
    let secured = Secured::start().await;
    let token = secured.join_token("rule", 5).await;
    let member = secured.join("a1", &token).await.expect("joined");
    let (_frames, mut answers) = hello(secured.agent(&member).await, "a2", "i1").await.expect("answered");
    match next(&mut answers).await {
        Some(Frame::Disconnect(told)) => {
            assert_eq!(told.code, "identity");
            assert!(told.reason.contains("is the agent a1's"), "{told:?}");
        }
        other => panic!("{other:?}"),
    }
    let (_frames, mut answers) = hello(secured.agent(&member).await, "a1", "i1").await.expect("answered");
    assert!(matches!(next(&mut answers).await, Some(Frame::Welcome(_))));
    let listed = secured
        .fleet()
        .await
        .list(secured.admin(v1::FleetListRequest::default()))
        .await;
    let agents = listed.expect("listed").into_inner().agents;
    assert_eq!((&*agents[0].pool, &*agents[0].join_rule), ("eu", "rule"));
    assert_eq!(agents[0].certificate_ends_ms, member.certificate.not_after_ms);
}

#[tokio::test]
async fn old_and_new_certificate_are_good_until_the_new_one_is_used() {
    let mut secured = Secured::start().await;
    let token = secured.join_token("rule", 1).await;
    let old = secured.join("a1", &token).await.expect("joined");
    let mut live = secured.agent(&old).await;
    let new = renew(&mut live).await.expect("renewed");
    call(&mut live).await.expect("the old one is good");
    call(&mut secured.agent(&old).await)
        .await
        .expect("on a new connection too");
    call(&mut secured.agent(&new).await).await.expect("the new one is good");
    call(&mut live).await.expect("a connection from before goes on");
    let newest = renew(&mut live).await.expect("and may renew again");
    let refused = call(&mut secured.agent(&old).await).await.expect_err("replaced");
    assert!(refused.message().contains("replaced by a newer one"), "{refused:?}");
    assert!(refused.metadata().contains_key("deputy-certificate-refused"));
    secured.restart().await;
    call(&mut secured.agent(&old).await)
        .await
        .expect_err("replaced, over a restart");
    call(&mut secured.agent(&new).await)
        .await
        .expect("good until the newest is used");
    call(&mut secured.agent(&newest).await).await.expect("good");
}

/// The headers of the answer to who only shows a certificate.
async fn shown(secured: &Secured, member: &Member) -> tonic::metadata::MetadataMap {
    let mut only = tonic::Request::new(v1::FetchBlobRequest::default());
    only.metadata_mut()
        .insert("deputy-only-shown", tonic::metadata::MetadataValue::from_static("1"));
    let answer = secured.agent(member).await.fetch_blob(only).await;
    answer.expect_err("nothing is served").metadata().clone()
}

/// Guards that looking at a certificate is no use of it, which would end the one before.
#[tokio::test]
async fn a_certificate_that_is_only_shown_is_not_used() {
    let secured = Secured::start().await;
    let token = secured.join_token("rule", 1).await;
    let old = secured.join("a1", &token).await.expect("joined");
    let new = renew(&mut secured.agent(&old).await).await.expect("renewed");
    for member in [&new, &old, &new] {
        assert!(shown(&secured, member).await.contains_key("deputy-certificate-taken"));
    }
    call(&mut secured.agent(&old).await).await.expect("still good");
    call(&mut secured.agent(&new).await).await.expect("used");
    let replaced = shown(&secured, &old).await;
    assert!(replaced.contains_key("deputy-certificate-refused") && !replaced.contains_key("deputy-certificate-taken"));
}

#[tokio::test]
async fn a_revoked_agent_loses_its_session_at_once_and_may_join_again_and_a_banned_one_may_not() {
    let secured = Secured::start().await;
    let token = secured.join_token("rule", 5).await;
    let member = secured.join("a1", &token).await.expect("joined");
    let mut open = Open::by(&secured, &member).await;
    let revoked = secured.revoke("a1", "laptop lost").await;
    assert_eq!(revoked.certificates, 1);
    match next(&mut open.answers).await {
        Some(Frame::Disconnect(told)) => assert_eq!((&*told.code, &*told.reason), ("revoked", "laptop lost")),
        other => panic!("{other:?}"),
    }
    open.is_cut().await;
    // It dials anew, with the same certificate.
    let refused = call(&mut open.client).await.expect_err("revoked");
    assert!(refused.message().contains("was revoked: laptop lost"), "{refused:?}");
    let refused = call(&mut secured.agent(&member).await).await.expect_err("revoked");
    assert!(refused.message().contains("was revoked: laptop lost"), "{refused:?}");
    let again = secured.join("a1", &token).await.expect("joins again");
    call(&mut secured.agent(&again).await).await.expect("good");
    call(&mut secured.agent(&member).await)
        .await
        .expect_err("the old certificate stays revoked");

    let request = v1::BanRequest {
        agent_id: "a1".into(),
        reason: "never again".into(),
    };
    secured.fleet().await.ban(secured.admin(request)).await.expect("banned");
    let refused = secured.join("a1", &token).await.expect_err("banned");
    assert!(refused.message().contains("is banned: never again"), "{refused:?}");
    let dead = secured.join_token("rule", 1).await;
    secured.join("a9", &dead).await.expect("joined");
    let refused = secured.join("a1", &dead).await.expect_err("banned");
    assert!(
        refused.message().contains("is banned: never again"),
        "whatever the token is worth: {refused:?}"
    );
    let request = v1::UnbanRequest { agent_id: "a1".into() };
    secured
        .fleet()
        .await
        .unban(secured.admin(request))
        .await
        .expect("unbanned");
    call(&mut secured.agent(&again).await)
        .await
        .expect_err("it has to join again");
    secured.join("a1", &token).await.expect("joins again");
}

/// Guards that what an administrator began does not depend on whether he waits for its end.
#[tokio::test]
async fn a_revoke_that_is_broken_off_is_whole() {
    let secured = Secured::start().await;
    let token = secured.join_token("rule", 1).await;
    let member = secured.join("a1", &token).await.expect("joined");
    let mut open = Open::by(&secured, &member).await;
    tokio::select! {
        told = next(&mut open.answers) => assert!(matches!(told, Some(Frame::Disconnect(_))), "{told:?}"),
        revoked = secured.revoke("a1", "laptop lost") => panic!("the last word comes first: {revoked:?}"),
    }
    open.is_cut().await;
}

/// Guards the other end of a revoke: whoever copied certificates that nobody has used yet uses them while it goes on, and
/// the agent itself is back at once. Nothing of what was revoked goes on beside it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_are_used_first_during_a_revoke_keep_nothing_open() {
    let secured = Secured::start().await;
    let token = secured.join_token("rule", 3).await;
    let member = secured.join("a1", &token).await.expect("joined");
    let mut live = secured.agent(&member).await;
    call(&mut live).await.expect("used");
    let mut calls = Vec::new();
    for n in 0..28 {
        let mut client = secured.agent(&renew(&mut live).await.expect("renewed")).await;
        let at = Duration::from_millis(n);
        calls.push(async move {
            tokio::time::sleep(at).await;
            let (pieces, pushing) = tokio::sync::mpsc::channel::<v1::PushLogsRequest>(1);
            let opened = client.push_logs(ReceiverStream::new(pushing)).await;
            opened.ok().map(|stream| (stream.into_inner(), pieces))
        });
    }
    let mut fleet = secured.fleet().await;
    let request = secured.admin(v1::RevokeRequest {
        agent_id: "a1".into(),
        reason: "copied".into(),
    });
    let mut calls: tokio::task::JoinSet<_> = calls.into_iter().collect();
    tokio::time::sleep(Duration::from_millis(12)).await;
    fleet.revoke(request).await.expect("revoked");
    let again = secured.join_with(&member.key, "a1", &token).await.expect("joins again");
    let again = Member {
        key: key_again(&member.key),
        certificate: again,
    };
    let mut again = Open::by(&secured, &again).await;
    let mut held = 0;
    while let Some(call) = calls.join_next().await {
        let Some((mut stream, _pieces)) = call.expect("ran") else {
            continue;
        };
        held += usize::from(tokio::time::timeout(AT_ONCE, stream.message()).await.is_err());
    }
    assert_eq!(held, 0, "streams of revoked certificates are open");
    call(&mut again.client)
        .await
        .expect("what joined after the revoke is good");
    let silent = tokio::time::timeout(Duration::from_millis(50), again.pushed.message()).await;
    silent.expect_err("and its connection stays");
}

#[tokio::test]
async fn an_agent_that_is_gone_is_forgotten_and_a_banned_one_is_not() {
    let secured = Secured::start().await;
    let (first, second) = (
        secured.join_token("first", 5).await,
        secured.join_token("second", 5).await,
    );
    let member = secured.join("a1", &first).await.expect("joined");
    let mut fleet = secured.fleet().await;
    let mut forget = async || {
        let request = v1::ForgetRequest { agent_id: "a1".into() };
        fleet.forget(secured.admin(request)).await.map(drop)
    };
    let refused = forget().await.expect_err("it is here");
    assert!(refused.message().contains("has a good certificate"), "{refused:?}");
    let reason = String::new();
    let request = v1::BanRequest {
        agent_id: "a1".into(),
        reason: reason.clone(),
    };
    secured.fleet().await.ban(secured.admin(request)).await.expect("banned");
    let refused = forget().await.expect_err("banned");
    assert!(refused.message().contains("a ban is remembered"), "{refused:?}");
    let request = v1::UnbanRequest { agent_id: "a1".into() };
    secured
        .fleet()
        .await
        .unban(secured.admin(request))
        .await
        .expect("unbanned");
    let refused = secured.join("a1", &second).await.expect_err("the id of another");
    assert!(refused.message().contains("belongs to token:first"), "{refused:?}");
    forget().await.expect("forgotten");
    let refused = call(&mut secured.agent(&member).await).await.expect_err("nobody");
    assert!(refused.message().contains("knows no agent a1"), "{refused:?}");
    secured.join("a1", &second).await.expect("the id is free");
    let refused = forget().await.expect_err("it is here again");
    assert!(refused.message().contains("has a good certificate"), "{refused:?}");
}

#[tokio::test]
async fn a_manager_whose_first_start_ended_too_early_starts_and_one_that_lost_its_certificate_does_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let certificate = folder.path().join("ca.pem");
    let mut settings = deputy_manager::server::Settings::on_loopback(folder.path().to_owned());
    // In the clear nobody is granted anything.
    let first = deputy_manager::server::Manager::start(settings.clone()).await;
    first.expect("up").shutdown().await;
    std::fs::remove_file(&certificate).expect("removed");
    let own = deputy_manager::trust::server_tls::CertificateSource::Own(Vec::new());
    settings.security.transport = deputy_manager::server::Transport::Tls(own);
    let start = || deputy_manager::server::Manager::start(settings.clone());
    start().await.expect("it starts").shutdown().await;
    // Now there is an administrator, and agents may know this authority.
    std::fs::remove_file(&certificate).expect("removed");
    let refused = start().await.err().expect("refused").to_string();
    assert!(
        refused.contains("ca.pem is missing while its other half is there"),
        "{refused}"
    );
}

#[tokio::test]
async fn certificates_of_nobody_are_refused_in_words() {
    let secured = Secured::start().await;
    let (own, other) = (key(), tempfile::tempdir().expect("a folder"));
    let request = SigningRequest::read(&csr(&own)).expect("a request");
    let signed_by = |signer: &Signer, path: &str| {
        let issued = signer
            .client(&request, (path, ""), Duration::from_secs(60))
            .expect("signed");
        ClientIdentity::new(&[issued.leaf], &own.serialize_der()).expect("an identity")
    };
    let stranger = Signer::open(other.path(), Some("test")).expect("made");
    let params = rcgen::CertificateParams::new(vec!["a1".into()]).expect("a name");
    let self_signed = params.self_signed(&own).expect("signed").der().to_vec();
    let self_signed = ClientIdentity::new(&[self_signed], &own.serialize_der()).expect("an identity");
    for (identity, what) in [
        (signed_by(&stranger, "pool/eu/agent/a1"), "of another authority"),
        (self_signed, "self-signed"),
    ] {
        let refused = match secured.try_channel(Some(&identity)).await {
            Err(refused) => refused,
            Ok(channel) => {
                let status = call_raw(channel).await;
                deputy_dial::dialer::explain_chain(&status, "manager").unwrap_or_else(|| format!("{status:?}"))
            }
        };
        assert!(
            refused.contains("another authority") || refused.contains("does not take our certificate"),
            "{what}: {refused}"
        );
    }
    // The same authority, and a name that is not of this trust domain or not of an agent that joined.
    let elsewhere = Signer::open(secured.folder.path(), Some("elsewhere")).expect("loaded");
    let here = Signer::open(secured.folder.path(), Some("test")).expect("loaded");
    for (identity, words) in [
        (
            signed_by(&elsewhere, "pool/eu/agent/a1"),
            "names nobody of this trust domain",
        ),
        (signed_by(&here, "host/a1"), "names nobody of this trust domain"),
        (signed_by(&here, "pool/eu/agent/a1"), "knows no agent a1"),
        (signed_by(&here, "user/0123456789abcdef"), "stands for no token"),
    ] {
        let mut client = AgentClient::new(secured.channel(Some(&identity)).await);
        let refused = call(&mut client).await.expect_err(words);
        assert!(refused.message().contains(words), "{refused:?}");
    }
}

/// A call that cannot succeed; its error.
async fn call_raw(channel: Channel) -> Status {
    let answered = AgentClient::new(channel)
        .fetch_blob(v1::FetchBlobRequest::default())
        .await;
    answered.expect_err("refused")
}

#[tokio::test]
async fn an_expired_certificate_is_exchanged_by_its_key_and_by_nothing_else() {
    let life = Duration::from_millis(2500);
    let secured = Secured::with(|settings| settings.security.certificate_life = life).await;
    let token = secured.join_token("rule", 5).await;
    let member = secured.join("a1", &token).await.expect("joined");
    let (_frames, mut answers) = hello(secured.agent(&member).await, "a1", "i1").await.expect("answered");
    assert!(matches!(next(&mut answers).await, Some(Frame::Welcome(_))));
    // Certificates tell whole seconds.
    tokio::time::sleep(life + Duration::from_millis(1100)).await;
    // A session does not outlive the last certificate of its agent.
    let told = loop {
        match next(&mut answers).await {
            Some(Frame::Disconnect(told)) => break told,
            Some(_) => {}
            None => panic!("it was not told"),
        }
    };
    assert_eq!(told.code, "certificate_expired");
    let refused = match secured.try_channel(Some(&member.identity())).await {
        Err(refused) => refused,
        Ok(channel) => {
            let status = call_raw(channel).await;
            deputy_dial::dialer::explain_chain(&status, "manager").unwrap_or_else(|| format!("{status:?}"))
        }
    };
    assert!(refused.contains("our certificate has expired"), "{refused}");
    let stranger = key();
    let refused = renew_expired(&secured, &member, &stranger)
        .await
        .expect_err("another key");
    assert!(refused.message().contains("not by the key"), "{refused:?}");
    // An answer that was lost, or never came to the agent's disk, ends nothing.
    renew_expired(&secured, &member, &member.key)
        .await
        .expect("renewed, and not used");
    let renewed = renew_expired(&secured, &member, &member.key).await.expect("renewed");
    call(&mut secured.agent(&renewed).await).await.expect("good");
    let refused = renew_expired(&secured, &member, &member.key)
        .await
        .expect_err("a newer one was used");
    assert!(refused.message().contains("a newer one was used"), "{refused:?}");
    secured.revoke("a1", "gone").await;
    let refused = renew_expired(&secured, &renewed, &renewed.key)
        .await
        .expect_err("revoked");
    assert!(refused.message().contains("was revoked: gone"), "{refused:?}");
}

/// Exchanges an expired certificate, signed with this key.
pub(crate) async fn renew_expired(
    secured: &Secured,
    member: &Member,
    signer: &rcgen::KeyPair,
) -> Result<Member, Status> {
    let (mut enrollment, challenge) = secured.challenge().await?;
    let key = key();
    let csr = csr(&key);
    let mut signed = b"deputy renew-expired v1\0test\0".to_vec();
    signed.extend(&challenge.nonce);
    signed.extend(Sha256::digest(&csr));
    let request = v1::RenewExpiredRequest {
        csr: csr.into(),
        nonce: challenge.nonce,
        expired_leaf: member.certificate.chain[0].clone(),
        signature: rcgen::SigningKey::sign(signer, &signed).expect("signed").into(),
    };
    let answer = enrollment.renew_expired(request).await?.into_inner();
    Ok(Member {
        key,
        certificate: answer.certificate.expect("a certificate"),
    })
}

#[tokio::test]
async fn a_manager_of_another_authority_is_refused_in_words() {
    let (one, other) = (Secured::start().await, Secured::start().await);
    let dial = |pem: Vec<u8>| {
        let tls = Authority::from_pem(&pem)
            .expect("an authority")
            .client_config(None)
            .expect("good");
        let port = one.manager.as_ref().expect("up").address().port();
        let url = format!("https://localhost:{port}").parse().expect("an address");
        Dialer::new(url, std::sync::Arc::default(), Some(std::sync::Arc::new(tls)), SOON)
    };
    let pem = |secured: &Secured| std::fs::read(secured.folder.path().join("ca.pem")).expect("read");
    dial(pem(&one)).dial().await.expect("the right authority");
    let refused = dial(pem(&other)).dial().await.expect_err("another").to_string();
    assert!(
        refused.contains("not from the authority that was configured"),
        "{refused}"
    );
}

#[tokio::test]
async fn the_hash_of_the_authority_is_enough_to_know_it() {
    let (one, other) = (Secured::start().await, Secured::start().await);
    let fingerprint = |secured: &Secured| secured.manager.as_ref().expect("up").authority().fingerprint();
    let dial = |pin: &str| {
        let tls = Authority::from_pin(pin)
            .expect("a pin")
            .client_config(None)
            .expect("good");
        let address = one.manager.as_ref().expect("up").address();
        let url = format!("https://{address}").parse().expect("an address");
        Dialer::new(url, std::sync::Arc::default(), Some(std::sync::Arc::new(tls)), SOON)
    };
    dial(&fingerprint(&one)).dial().await.expect("the right authority");
    let refused = dial(&fingerprint(&other))
        .dial()
        .await
        .expect_err("another")
        .to_string();
    assert!(
        refused.contains("not from the authority that was configured"),
        "{refused}"
    );
}
