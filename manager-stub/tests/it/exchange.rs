//! Sessions by long poll: gRPC-Web over HTTP/1.1, with answers that are lost and requests that come twice.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use deputy_dial::authority::{Authority, ClientIdentity};
use deputy_dial::dialer::{Connection, DialError, Dialer};
use deputy_proto::v1;
use deputy_proto::v1::agent_client::AgentClient;
use deputy_proto::v1::enrollment_client::EnrollmentClient;
use deputy_proto::v1::session_request::Frame as Request;
use deputy_proto::v1::session_response::Frame;
use deputy_proto::v1::write_op::Op;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection as Link};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::Code;
use tonic_web::{GrpcWebCall, GrpcWebClientService};

use crate::agent::{Agent, SOON, World, complete, hello, intent, quick, start};
use crate::secured::{Member, Secured};

/// For hyper, which asks whether a connection is HTTP/2: it is not.
struct Http1(Connection);

impl Link for Http1 {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Http1 {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Http1 {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

type Sent = http::Request<GrpcWebCall<tonic::body::Body>>;
type Answered = http::Response<GrpcWebCall<hyper::body::Incoming>>;
type Web =
    tower::util::BoxCloneSyncService<http::Request<tonic::body::Body>, Answered, hyper_util::client::legacy::Error>;

fn web(dialer: Dialer) -> Web {
    let connector = tower::service_fn(move |_: http::Uri| {
        let dialer = dialer.clone();
        Box::pin(async move { Ok::<_, DialError>(TokioIo::new(Http1(dialer.dial().await?))) })
    });
    let client = Client::builder(TokioExecutor::new()).build(connector);
    let called = tower::service_fn(move |request: Sent| client.request(request));
    tower::util::BoxCloneSyncService::new(GrpcWebClientService::new(called))
}

fn web_to(world: &World) -> Web {
    let address = world.manager.as_ref().expect("up").address();
    let url = format!("http://{address}").parse().expect("an address");
    web(Dialer::new(url, Arc::default(), None, SOON))
}

fn web_over_tls(secured: &Secured, identity: Option<&ClientIdentity>) -> Web {
    let pem = std::fs::read(secured.folder.path().join("ca.pem")).expect("written");
    let authority = Authority::from_pem(&pem).expect("an authority");
    let mut tls = authority.client_config(identity).expect("a configuration");
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let address = secured.manager.as_ref().expect("up").address();
    let url = format!("https://{address}").parse().expect("an address");
    web(Dialer::new(url, Arc::default(), Some(Arc::new(tls)), SOON))
}

fn agent_by(web: Web) -> AgentClient<Web> {
    AgentClient::with_origin(web, http::Uri::from_static("http://manager"))
}

/// An agent that says exactly what a test wants.
struct Poller {
    client: AgentClient<Web>,
    session: Vec<u8>,
    sent: u64,
    received: u64,
    unread: VecDeque<Frame>,
}

impl Poller {
    fn new(client: AgentClient<Web>, session: u8) -> Self {
        Self {
            client,
            session: vec![session; 16],
            sent: 0,
            received: 0,
            unread: VecDeque::new(),
        }
    }

    fn request(&self, frames: Vec<Request>, wait_ms: u32) -> v1::ExchangeRequest {
        let frames = frames
            .into_iter()
            .map(|frame| v1::SessionRequest { frame: Some(frame) });
        v1::ExchangeRequest {
            frames: frames.collect(),
            session: self.session.clone().into(),
            first: self.sent,
            received: self.received,
            wait_ms,
            last: false,
        }
    }

    async fn raw(&self, request: v1::ExchangeRequest) -> Result<v1::ExchangeResponse, tonic::Status> {
        let mut client = self.client.clone();
        let answer = tokio::time::timeout(SOON, client.exchange(request)).await;
        answer.expect("answered in time").map(tonic::Response::into_inner)
    }

    /// What an answer brings that is new.
    fn take(&mut self, answer: v1::ExchangeResponse) -> Vec<Frame> {
        self.sent = self.sent.max(answer.received);
        let skip = usize::try_from(self.received - answer.first).expect("no gap");
        let new: Vec<_> = answer.frames.into_iter().skip(skip).collect();
        self.received += u64::try_from(new.len()).expect("few");
        new.into_iter().filter_map(|answer| answer.frame).collect()
    }

    async fn exchange(&mut self, frames: Vec<Request>, wait_ms: u32) -> Vec<Frame> {
        let answer = self.raw(self.request(frames, wait_ms)).await.expect("answered");
        self.take(answer)
    }

    async fn post(&mut self, frames: Vec<Request>) {
        let frames = self.exchange(frames, 0).await;
        self.unread.extend(frames);
    }

    async fn open(&mut self, hello: v1::Hello) -> v1::Welcome {
        let first = self.exchange(vec![Request::Hello(hello)], 5000).await;
        match first.into_iter().next() {
            Some(Frame::Welcome(welcome)) => welcome,
            other => panic!("not welcome: {other:?}"),
        }
    }

    /// Polls until there is such a frame.
    async fn until<T>(&mut self, mut wanted: impl FnMut(Frame) -> Option<T>) -> T {
        loop {
            while let Some(frame) = self.unread.pop_front() {
                if let Some(found) = wanted(frame) {
                    return found;
                }
            }
            let frames = self.exchange(Vec::new(), 5000).await;
            self.unread.extend(frames);
        }
    }

    async fn assignment(&mut self) -> v1::Assignment {
        self.until(|frame| match frame {
            Frame::Assignment(assignment) => Some(assignment),
            _ => None,
        })
        .await
    }

    async fn ack(&mut self, seq: u64) -> Vec<v1::WriteCode> {
        self.until(|frame| match frame {
            Frame::WriteAck(ack) if ack.seq == seq => Some(ack.results.iter().map(v1::WriteResult::code).collect()),
            _ => None,
        })
        .await
    }
}

fn write(seq: u64, attempt: &v1::AttemptRef, op: Op) -> Request {
    Request::Write(v1::Write {
        seq,
        ops: vec![v1::WriteOp {
            attempt: Some(attempt.clone()),
            op: Some(op),
        }],
    })
}

async fn transport(world: &World) -> String {
    let listed = world
        .fleet()
        .await
        .list(v1::FleetListRequest { include_gone: true })
        .await;
    let agents = listed.expect("listed").into_inner().agents;
    agents
        .into_iter()
        .next()
        .map(|agent| agent.transport)
        .expect("an agent")
}

#[tokio::test]
async fn a_task_runs_by_long_poll_although_answers_are_lost_and_requests_come_twice() {
    let world = World::start(quick_but_patient()).await;
    let mut agent = Poller::new(agent_by(web_to(&world)), 1);
    agent.open(hello("a1", "i1", 1)).await;
    assert_eq!(transport(&world).await, "exchange");
    // The same opening again, as after a lost answer: the same session, and the same welcome.
    let again = v1::ExchangeRequest {
        first: 0,
        received: 0,
        ..agent.request(vec![Request::Hello(hello("a1", "i1", 1))], 1000)
    };
    let answer = agent.raw(again).await.expect("answered");
    assert_eq!((answer.first, answer.received), (0, 1));
    assert!(matches!(answer.frames[0].frame, Some(Frame::Welcome(_))), "{answer:?}");

    // A poll hangs until there is something to say.
    let task = world.submit("").await;
    let assignment = agent.assignment().await;
    let attempt = assignment.attempt.expect("an attempt");
    assert_eq!(attempt.task_id, task);

    // The answer to this one is lost twice; its frames are taken once.
    let starts = agent.request(
        vec![write(1, &attempt, start()), write(2, &attempt, Op::Append(intent("k")))],
        0,
    );
    for _ in 0..3 {
        let answer = agent.raw(starts.clone()).await.expect("answered");
        assert_eq!(answer.received, agent.sent + 2);
    }
    // The answer to a poll is lost: its frames come again, because the next one does not say that they have arrived.
    let lost = agent.raw(agent.request(Vec::new(), 5000)).await.expect("answered");
    let again = agent.raw(agent.request(Vec::new(), 5000)).await.expect("answered");
    assert_eq!((lost.first, &lost.frames[0]), (again.first, &again.frames[0]));
    assert_eq!(agent.ack(1).await, [v1::WriteCode::Ok]);
    assert_eq!(agent.ack(2).await, [v1::WriteCode::Ok]);
    assert_eq!(world.journal(&task).await.len(), 1);

    // A frame is missing before this one: it is not taken.
    let gap = v1::ExchangeRequest {
        first: agent.sent + 1,
        ..agent.request(vec![write(9, &attempt, complete(v1::TaskState::Succeeded))], 0)
    };
    assert_eq!(agent.raw(gap).await.expect("answered").received, agent.sent);
    agent
        .post(vec![write(3, &attempt, complete(v1::TaskState::Succeeded))])
        .await;
    world.until(&task, v1::TaskState::Succeeded).await;

    // The agent ends it.
    let last = v1::ExchangeRequest {
        last: true,
        ..agent.request(vec![Request::Goodbye(v1::Goodbye::default())], 5000)
    };
    let mut ended = agent.raw(last).await.expect("answered");
    while !ended.last {
        agent.take(ended);
        ended = agent.raw(agent.request(Vec::new(), 5000)).await.expect("answered");
    }
}

fn quick_but_patient() -> deputy_manager::dispatcher::timing::Timing {
    deputy_manager::dispatcher::timing::Timing {
        heartbeat: Duration::from_secs(2),
        lease_ttl: Duration::from_secs(20),
        start_deadline: Duration::from_secs(10),
        ..quick()
    }
}

/// A frame that is answered by none, and seen in the fleet: the poll that brought it waits.
fn drains() -> Request {
    Request::DrainNotice(v1::DrainNotice { reason: "busy".into() })
}

/// Waits until the agent is seen to drain.
async fn until_draining(listed: impl AsyncFn() -> v1::AgentInfo) {
    let seen = async {
        while listed().await.status() != v1::AgentStatus::Draining {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, seen).await.expect("it drains");
}

#[tokio::test]
async fn a_newer_poll_takes_the_place_of_the_one_before_and_silence_is_answered_in_time() {
    let world = World::start(quick_but_patient()).await;
    let mut agent = Poller::new(agent_by(web_to(&world)), 1);
    agent.open(hello("a1", "i1", 1)).await;
    let begun = std::time::Instant::now();
    let older = agent.raw(agent.request(vec![drains()], 9000));
    let newer = async {
        until_draining(async || {
            let listed = world.fleet().await.list(v1::FleetListRequest::default()).await;
            listed.expect("listed").into_inner().agents.remove(0)
        })
        .await;
        let asked = std::time::Instant::now();
        let newer = agent.raw(agent.request(Vec::new(), 300)).await;
        (newer, asked.elapsed())
    };
    let (older, (newer, waited)) = tokio::join!(older, newer);
    assert!(older.expect("answered").frames.is_empty());
    assert!(newer.expect("answered").frames.is_empty());
    assert!(waited >= Duration::from_millis(300), "{waited:?}");
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn a_stream_takes_over_from_long_polls_and_back_without_losing_what_runs() {
    let world = World::start(quick_but_patient()).await;
    let mut polls = Poller::new(agent_by(web_to(&world)), 1);
    polls.open(hello("a1", "i1", 1)).await;
    let task = world.submit("").await;
    let attempt = polls.assignment().await.attempt.expect("an attempt");
    polls.post(vec![write(1, &attempt, start())]).await;
    assert_eq!(polls.ack(1).await, [v1::WriteCode::Ok]);

    let holding = |instance: &str| v1::Hello {
        inventory: vec![v1::HeldAttempt {
            attempt: Some(attempt.clone()),
            started: true,
        }],
        ..hello("a1", instance, 1)
    };
    let mut stream = Agent::connect_with(&world, holding("i1")).await;
    assert_eq!(stream.welcome.as_ref().expect("welcome").stale, []);
    assert_eq!(transport(&world).await, "stream");
    // The session before has heard its last word.
    let told = polls
        .until(|frame| match frame {
            Frame::Disconnect(told) => Some(told.code),
            _ => None,
        })
        .await;
    assert_eq!(told, "superseded");
    // What it says now is nobody's.
    polls.post(vec![Request::Goodbye(v1::Goodbye::default())]).await;
    assert_eq!(
        stream.write(&attempt, vec![Op::Append(intent("k"))]).await,
        [v1::WriteCode::Ok]
    );

    let mut polls = Poller::new(agent_by(web_to(&world)), 2);
    let welcome = polls.open(holding("i1")).await;
    assert_eq!(welcome.stale, []);
    assert_eq!(transport(&world).await, "exchange");
    polls
        .post(vec![write(1, &attempt, complete(v1::TaskState::Succeeded))])
        .await;
    let task = world.until(&task, v1::TaskState::Succeeded).await;
    assert_eq!(task.epoch, 1, "one attempt");
}

#[tokio::test]
async fn a_twin_is_refused_a_wish_to_drain_arrives_and_a_restarted_manager_says_that_the_session_is_gone() {
    let mut world = World::start(quick_but_patient()).await;
    let mut agent = Poller::new(agent_by(web_to(&world)), 1);
    agent.open(hello("a1", "i1", 1)).await;
    let mut twin = Poller::new(agent_by(web_to(&world)), 2);
    match twin
        .exchange(vec![Request::Hello(hello("a1", "i2", 1))], 5000)
        .await
        .as_slice()
    {
        [Frame::Disconnect(told)] => assert_eq!(told.code, "identity_conflict"),
        other => panic!("not refused: {other:?}"),
    }
    let wish = v1::DrainRequest {
        agent_id: "a1".into(),
        reason: "maintenance".into(),
    };
    world.fleet().await.drain(wish).await.expect("wished");
    let reason = agent
        .until(|frame| match frame {
            Frame::Drain(wish) => Some(wish.reason),
            _ => None,
        })
        .await;
    assert_eq!(reason, "maintenance");
    world.restart().await;
    let mut agent = Poller {
        client: agent_by(web_to(&world)),
        ..agent
    };
    let gone = agent.raw(agent.request(Vec::new(), 1000)).await.expect_err("gone");
    assert_eq!(gone.code(), Code::NotFound, "{gone}");
    assert!(gone.message().contains("say hello in a new one"), "{gone}");
    (agent.sent, agent.received) = (0, 0);
    agent.open(hello("a1", "i1", 1)).await;
}

/// By HTTP/1.1 a browser could speak with a manager that asks nobody who he is.
#[tokio::test]
async fn a_web_page_is_not_served() {
    let world = World::start(quick_but_patient()).await;
    let mut client = agent_by(web_to(&world));
    let mut request = tonic::Request::new(v1::ExchangeRequest::default());
    let origin = "http://rebound.example:7443".parse().expect("a header");
    request.metadata_mut().insert("origin", origin);
    let status = client.exchange(request).await.expect_err("refused");
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    assert!(status.message().contains("web pages"), "{status}");
}

#[tokio::test]
async fn requests_are_bounded() {
    let world = World::start(quick_but_patient()).await;
    let mut agent = Poller::new(agent_by(web_to(&world)), 1);
    agent.open(hello("a1", "i1", 1)).await;
    let refused = |code: Code, words: &'static str, answer: Result<v1::ExchangeResponse, tonic::Status>| {
        let status = answer.expect_err("refused");
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(words), "{status}");
    };
    let many = vec![Request::Probe(v1::Probe { seq: 1 }); 257];
    refused(
        Code::InvalidArgument,
        "at most 256",
        agent.raw(agent.request(many, 0)).await,
    );
    let ahead = v1::ExchangeRequest {
        received: 99,
        ..agent.request(Vec::new(), 0)
    };
    refused(Code::InvalidArgument, "99 frames", agent.raw(ahead).await);
    let unnamed = v1::ExchangeRequest {
        session: bytes::Bytes::new(),
        ..agent.request(Vec::new(), 0)
    };
    refused(Code::InvalidArgument, "16 to 64", agent.raw(unnamed).await);
    let unknown = v1::ExchangeRequest {
        session: vec![9; 16].into(),
        ..agent.request(Vec::new(), 0)
    };
    refused(Code::NotFound, "no such session", agent.raw(unknown).await);
    let large = Request::Goodbye(v1::Goodbye {
        reason: "x".repeat(5 << 20),
    });
    let status = agent.raw(agent.request(vec![large], 0)).await.expect_err("too large");
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    // Posts that nobody answers do not pile up.
    let polls = (0..8).map(|_| agent.raw(agent.request(Vec::new(), 600)));
    let answers = futures::future::join_all(polls).await;
    let codes: Vec<_> = answers
        .into_iter()
        .filter_map(Result::err)
        .map(|status| status.code())
        .collect();
    assert!(
        codes.len() <= 4 && codes.iter().all(|code| *code == Code::ResourceExhausted),
        "{codes:?}"
    );
}

#[tokio::test]
async fn a_session_is_its_agents_alone_and_a_revoked_agent_is_told() {
    let secured = Secured::start().await;
    let token = secured.join_token("rule", 2).await;
    let join = async |id: &str| -> Member {
        let mut enrollment =
            EnrollmentClient::with_origin(web_over_tls(&secured, None), http::Uri::from_static("http://manager"));
        let challenge = enrollment
            .challenge(v1::ChallengeRequest {})
            .await
            .expect("challenged")
            .into_inner();
        let key = crate::secured::key();
        let request = v1::JoinRequest {
            csr: crate::secured::csr(&key).into(),
            agent_id: id.into(),
            nonce: challenge.nonce,
            proof: Some(v1::join_request::Proof::Token(v1::TokenProof { token: token.clone() })),
            before: bytes::Bytes::new(),
        };
        let joined = enrollment.join(request).await.expect("joined by gRPC-Web").into_inner();
        Member {
            key,
            certificate: joined.certificate.expect("a certificate"),
        }
    };
    let (first, second) = (join("a1").await, join("a2").await);
    let mut agent = Poller::new(agent_by(web_over_tls(&secured, Some(&first.identity()))), 1);
    agent.open(hello("a1", "i1", 1)).await;
    let thief = Poller::new(agent_by(web_over_tls(&secured, Some(&second.identity()))), 1);
    let status = thief.raw(thief.request(Vec::new(), 0)).await.expect_err("not his");
    assert_eq!(status.code(), Code::NotFound, "{status}");
    let nobody = Poller::new(agent_by(web_over_tls(&secured, None)), 1);
    let status = nobody.raw(nobody.request(Vec::new(), 0)).await.expect_err("nobody");
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    // A new certificate, by gRPC-Web too.
    let renew = v1::RenewCertificateRequest {
        csr: crate::secured::csr(&crate::secured::key()).into(),
    };
    agent.client.clone().renew_certificate(renew).await.expect("renewed");

    let poll = agent.raw(agent.request(vec![drains()], 9000));
    let revoke = async {
        until_draining(async || secured.listed("a1").await).await;
        secured.revoke("a1", "stolen").await;
    };
    let (told, ()) = tokio::join!(poll, revoke);
    let told = told.expect("the poll that waited has the last word");
    assert!(
        matches!(told.frames.last().and_then(|one| one.frame.as_ref()), Some(Frame::Disconnect(told)) if told.code == "revoked"),
        "{told:?}"
    );
    let status = agent.raw(agent.request(Vec::new(), 0)).await.expect_err("refused");
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
}
