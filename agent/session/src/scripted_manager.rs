//! For tests: a real gRPC server on loopback whose sessions and uploads the test answers itself,
//! frame by frame.
#![expect(clippy::disallowed_methods, reason = "each test joins or drops what it spawns")]

use std::net::SocketAddr;
use std::time::Duration;

use deputy_dial::proxy::ProxyRule;
use deputy_dial::url::ManagerUrl;
use deputy_proto::v1;
use deputy_proto::v1::agent_server::{Agent, AgentServer};
use deputy_proto::v1::session_request::Frame as Sent;
use deputy_proto::v1::session_response::Frame as Answer;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::backoff::Backoff;
use crate::config::SessionConfig;
use crate::membership::Membership;
use crate::way::Transport;

/// Nothing in these tests takes longer unless it is broken.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct ScriptedManager {
    pub(crate) address: SocketAddr,
    sessions: mpsc::Receiver<ServedSession>,
    uploads: mpsc::Receiver<ServedUpload>,
    exchanges: mpsc::Receiver<ServedExchange>,
    server: JoinHandle<()>,
}

/// One session, seen from the manager. Dropping it breaks the stream off.
pub(crate) struct ServedSession {
    inbound: Streaming<v1::SessionRequest>,
    outbound: mpsc::Sender<Result<v1::SessionResponse, Status>>,
}

/// One upload, seen from the manager.
pub(crate) struct ServedUpload {
    pub(crate) inbound: Streaming<v1::PushLogsRequest>,
    pub(crate) outbound: mpsc::Sender<Result<v1::PushLogsResponse, Status>>,
}

/// One long poll, seen from the manager. Dropping it is an answer that a proxy makes.
pub(crate) struct ServedExchange {
    pub(crate) request: v1::ExchangeRequest,
    pub(crate) answer: oneshot::Sender<v1::ExchangeResponse>,
}

struct Service {
    sessions: mpsc::Sender<ServedSession>,
    uploads: mpsc::Sender<ServedUpload>,
    exchanges: mpsc::Sender<ServedExchange>,
}

impl ScriptedManager {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("address");
        let (sessions, sessions_in) = mpsc::channel(4);
        let (uploads, uploads_in) = mpsc::channel(4);
        let (exchanges, exchanges_in) = mpsc::channel(16);
        let service = AgentServer::new(Service {
            sessions,
            uploads,
            exchanges,
        });
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let server = tokio::spawn(async move {
            tonic::transport::Server::builder()
                .accept_http1(true)
                .layer(tonic_web::GrpcWebLayer::new())
                .add_service(service)
                .serve_with_incoming(incoming)
                .await
                .expect("served");
        });
        Self {
            address,
            sessions: sessions_in,
            uploads: uploads_in,
            exchanges: exchanges_in,
            server,
        }
    }

    pub(crate) fn config(&self) -> SessionConfig {
        Self::config_by(self.address, Transport::Stream)
    }

    /// For an agent that reaches it there, and so.
    pub(crate) fn config_by(address: SocketAddr, transport: Transport) -> SessionConfig {
        let (manager, membership) = in_the_clear_by(address, transport);
        SessionConfig {
            manager,
            membership,
            agent_id: "agent".parse().expect("id"),
            instance_id: "instance".parse().expect("id"),
            version: "0".into(),
            backoff: Backoff::new(Duration::from_millis(5), Duration::from_millis(20)).expect("good"),
            connect_timeout: Duration::from_secs(5),
        }
    }

    /// The next session and its hello.
    pub(crate) async fn session(&mut self) -> (ServedSession, v1::Hello) {
        let mut session = patiently(self.sessions.recv()).await.expect("a session");
        match session.next().await {
            Some(Sent::Hello(hello)) => (session, hello),
            other => panic!("{other:?} instead of hello"),
        }
    }

    /// The next session, welcomed, with these attempts stale.
    pub(crate) async fn welcomed(&mut self, stale: Vec<v1::AttemptRef>) -> (ServedSession, v1::Hello) {
        self.welcomed_with(v1::Welcome { stale, ..welcome() }).await
    }

    /// The next session, welcomed so.
    pub(crate) async fn welcomed_with(&mut self, welcome: v1::Welcome) -> (ServedSession, v1::Hello) {
        let (session, hello) = self.session().await;
        session.answer(Answer::Welcome(welcome)).await;
        (session, hello)
    }

    pub(crate) async fn exchange(&mut self) -> ServedExchange {
        patiently(self.exchanges.recv()).await.expect("an exchange")
    }

    pub(crate) async fn upload(&mut self) -> ServedUpload {
        patiently(self.uploads.recv()).await.expect("an upload")
    }
}

/// A manager there that asks nobody who he is.
pub(crate) fn in_the_clear(address: SocketAddr) -> (ManagerUrl, Membership) {
    in_the_clear_by(address, Transport::Stream)
}

fn in_the_clear_by(address: SocketAddr, transport: Transport) -> (ManagerUrl, Membership) {
    let url: ManagerUrl = format!("http://{address}").parse().expect("loopback");
    let within = (ProxyRule::default(), Duration::from_secs(5), transport);
    let membership = Membership::new(url.clone(), "agent".parse().expect("id"), within, None);
    (url, membership)
}

impl Drop for ScriptedManager {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// A heartbeat at once and every 20 s, a lease of 60 s. What a test waits for patiently is not brought by the second
/// heartbeat, and no machine is so busy that the agent takes this manager for silent.
pub(crate) fn welcome() -> v1::Welcome {
    v1::Welcome {
        protocol: 1,
        generation: 1,
        heartbeat_interval_ms: 20_000,
        lease_ttl_ms: 60_000,
        guard_ms: 1_000,
        ..v1::Welcome::default()
    }
}

pub(crate) async fn patiently<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

impl ServedSession {
    /// The next frame; none when the agent has closed.
    pub(crate) async fn next(&mut self) -> Option<Sent> {
        patiently(self.inbound.message())
            .await
            .ok()
            .flatten()
            .and_then(|request| request.frame)
    }

    pub(crate) async fn answer(&self, frame: Answer) {
        let _ = self.outbound.send(Ok(v1::SessionResponse { frame: Some(frame) })).await;
    }

    pub(crate) async fn fail(&self, status: Status) {
        let _ = self.outbound.send(Err(status)).await;
    }

    /// The next frame that is no heartbeat; heartbeats are acknowledged on the way.
    pub(crate) async fn next_work(&mut self) -> Option<Sent> {
        loop {
            match self.next().await? {
                Sent::Heartbeat(heartbeat) => {
                    self.answer(Answer::HeartbeatAck(v1::HeartbeatAck { seq: heartbeat.seq }))
                        .await;
                }
                other => return Some(other),
            }
        }
    }

    pub(crate) async fn next_write(&mut self) -> v1::Write {
        loop {
            match self.next_work().await {
                Some(Sent::Write(write)) => return write,
                Some(_) => {}
                None => panic!("the agent closed instead of writing"),
            }
        }
    }

    pub(crate) async fn acknowledge(&self, write: &v1::Write) {
        let result = v1::WriteResult {
            code: v1::WriteCode::Ok.into(),
            message: String::new(),
        };
        let results = write.ops.iter().map(|_| result.clone()).collect();
        self.answer(Answer::WriteAck(v1::WriteAck {
            seq: write.seq,
            results,
        }))
        .await;
    }
}

#[tonic::async_trait]
impl Agent for Service {
    type SessionStream = ReceiverStream<Result<v1::SessionResponse, Status>>;
    type PushLogsStream = ReceiverStream<Result<v1::PushLogsResponse, Status>>;
    type FetchBlobStream = ReceiverStream<Result<v1::FetchBlobResponse, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (outbound, answers) = mpsc::channel(64);
        let served = ServedSession {
            inbound: request.into_inner(),
            outbound,
        };
        self.sessions
            .send(served)
            .await
            .map_err(|_| Status::unavailable("the test has ended"))?;
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn push_logs(
        &self,
        request: Request<Streaming<v1::PushLogsRequest>>,
    ) -> Result<Response<Self::PushLogsStream>, Status> {
        let (outbound, answers) = mpsc::channel(64);
        let served = ServedUpload {
            inbound: request.into_inner(),
            outbound,
        };
        self.uploads
            .send(served)
            .await
            .map_err(|_| Status::unavailable("the test has ended"))?;
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn put_blob(
        &self,
        _: Request<Streaming<v1::PutBlobRequest>>,
    ) -> Result<Response<v1::PutBlobResponse>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }

    async fn fetch_blob(&self, _: Request<v1::FetchBlobRequest>) -> Result<Response<Self::FetchBlobStream>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }

    async fn exchange(&self, request: Request<v1::ExchangeRequest>) -> Result<Response<v1::ExchangeResponse>, Status> {
        let (answer, answered) = oneshot::channel();
        let served = ServedExchange {
            request: request.into_inner(),
            answer,
        };
        let ended = |_| Status::unavailable("the test has ended");
        self.exchanges
            .send(served)
            .await
            .map_err(|_| Status::unavailable("the test has ended"))?;
        answered.await.map(Response::new).map_err(ended)
    }

    async fn mint_token(&self, _: Request<v1::MintTokenRequest>) -> Result<Response<v1::MintTokenResponse>, Status> {
        Err(Status::unimplemented("reserved"))
    }

    async fn renew_certificate(
        &self,
        _: Request<v1::RenewCertificateRequest>,
    ) -> Result<Response<v1::RenewCertificateResponse>, Status> {
        Err(Status::unimplemented("reserved"))
    }
}
