//! The server. Sessions are handed to the test; logs and blobs are answered as it said before.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use deputy_proto::v1;
use deputy_proto::v1::agent_server::{Agent, AgentServer};
use futures::{Stream, StreamExt};
use std::pin::Pin;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use super::raw::{Answers, Raw};
use super::session::Session;
use crate::background::{self, Background};

/// An agent comes, or comes back, within this time.
const COMES_WITHIN: Duration = Duration::from_secs(30);

/// Sessions that wait for the test.
const SESSIONS: usize = 64;

/// How log bytes are answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogManners {
    /// Committed.
    #[default]
    Good,
    /// Never acknowledged.
    Silent,
    /// Acknowledged as far as there are numbers.
    Beyond,
    /// Acknowledged again and again, for others too.
    Endless,
}

/// What is sent for a blob.
#[derive(Debug, Clone)]
pub enum Blob {
    /// These bytes.
    Bytes(Bytes),
    /// Pieces without end.
    Endless,
}

/// A manager that lies. It ends when it is dropped.
pub struct HostileManager {
    address: SocketAddr,
    sessions: mpsc::Receiver<Session>,
    manners: Arc<Mutex<Manners>>,
    raw: Answers,
    _server: Background,
}

#[derive(Default)]
struct Manners {
    logs: LogManners,
    blobs: BTreeMap<String, Blob>,
}

struct Service {
    sessions: mpsc::Sender<Session>,
    manners: Arc<Mutex<Manners>>,
}

impl HostileManager {
    /// Listens on a port of 127.0.0.1, in the clear: what it may say does not depend on TLS.
    pub async fn start() -> Result<Self> {
        let listener = background::run(TcpListener::bind(("127.0.0.1", 0))).await?;
        let listener = listener.context("listening as a hostile manager")?;
        let address = listener.local_addr()?;
        let (sessions, sessions_in) = mpsc::channel(SESSIONS);
        let (manners, raw) = (Arc::default(), Answers::default());
        let service = Service {
            sessions,
            manners: Arc::clone(&manners),
        };
        let service = Raw::around(AgentServer::new(service), Arc::clone(&raw));
        let server = background::spawn(async move {
            let served = tonic::transport::Server::builder().add_service(service);
            let _ended = served.serve_with_incoming(TcpListenerStream::new(listener)).await;
        });
        Ok(Self {
            address,
            sessions: sessions_in,
            manners,
            raw,
            _server: server,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next session, not welcomed yet.
    pub async fn session(&mut self) -> Result<Session> {
        let session = tokio::time::timeout(COMES_WITHIN, self.sessions.recv()).await;
        session.context("no agent came")?.context("the server has ended")
    }

    /// The next session, welcomed.
    pub async fn welcomed(&mut self) -> Result<Session> {
        let mut session = self.session().await?;
        session.welcome().await?;
        Ok(session)
    }

    /// The next session is answered with these bytes instead of frames.
    pub fn answer_with(&self, bytes: impl Into<Bytes>) {
        self.raw
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(bytes.into());
    }

    /// How log bytes are answered from now on.
    pub fn answer_logs(&self, logs: LogManners) {
        self.manners.lock().unwrap_or_else(PoisonError::into_inner).logs = logs;
    }

    /// What is sent for the blob of this name.
    pub fn keep_blob(&self, sha256: &str, blob: Blob) {
        let mut manners = self.manners.lock().unwrap_or_else(PoisonError::into_inner);
        manners.blobs.insert(sha256.to_owned(), blob);
    }
}

type Answered<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Agent for Service {
    type SessionStream = ReceiverStream<Result<v1::SessionResponse, Status>>;
    type PushLogsStream = Answered<v1::PushLogsResponse>;
    type FetchBlobStream = Answered<v1::FetchBlobResponse>;

    async fn session(
        &self,
        request: Request<Streaming<v1::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (outbound, answers) = mpsc::channel(16);
        let session = Session::new(request.into_inner(), outbound);
        // A test that looks after one session has no use for another.
        drop(self.sessions.try_send(session));
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn push_logs(
        &self,
        request: Request<Streaming<v1::PushLogsRequest>>,
    ) -> Result<Response<Self::PushLogsStream>, Status> {
        let manners = Arc::clone(&self.manners);
        let answers = request.into_inner().flat_map(move |frame| {
            let logs = manners.lock().unwrap_or_else(PoisonError::into_inner).logs;
            let frame = match frame {
                Ok(frame) => frame,
                Err(status) => return futures::stream::iter(vec![Err(status)]).left_stream(),
            };
            let end = frame.offset + u64::try_from(frame.data.len()).unwrap_or(0);
            let answer = v1::PushLogsResponse {
                attempt: frame.attempt,
                committed_offset: end,
                complete: frame.complete,
                refused: String::new(),
            };
            match logs {
                LogManners::Good => futures::stream::iter(vec![Ok(answer)]).left_stream(),
                LogManners::Silent => futures::stream::iter(Vec::new()).left_stream(),
                LogManners::Beyond => {
                    let beyond = v1::PushLogsResponse {
                        committed_offset: u64::MAX,
                        complete: false,
                        ..answer
                    };
                    futures::stream::iter(vec![Ok(beyond)]).left_stream()
                }
                LogManners::Endless => futures::stream::iter(endless(answer)).right_stream(),
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn put_blob(
        &self,
        _: Request<Streaming<v1::PutBlobRequest>>,
    ) -> Result<Response<v1::PutBlobResponse>, Status> {
        Err(Status::unimplemented("nobody puts blobs here"))
    }

    async fn fetch_blob(
        &self,
        request: Request<v1::FetchBlobRequest>,
    ) -> Result<Response<Self::FetchBlobStream>, Status> {
        let v1::FetchBlobRequest { sha256, offset, .. } = request.into_inner();
        let manners = self.manners.lock().unwrap_or_else(PoisonError::into_inner);
        let piece = |data: Bytes| Ok(v1::FetchBlobResponse { data });
        match manners.blobs.get(&sha256) {
            None => Err(Status::not_found("no such blob")),
            Some(Blob::Bytes(bytes)) => {
                let rest = bytes.slice(usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len())..);
                let pieces: Vec<Bytes> = rest.chunks(64 * 1024).map(Bytes::copy_from_slice).collect();
                Ok(Response::new(Box::pin(futures::stream::iter(pieces).map(piece))))
            }
            Some(Blob::Endless) => {
                let zeros = Bytes::from(vec![0; 64 * 1024]);
                Ok(Response::new(Box::pin(futures::stream::repeat(zeros).map(piece))))
            }
        }
    }

    async fn exchange(&self, _: Request<v1::ExchangeRequest>) -> Result<Response<v1::ExchangeResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn mint_token(&self, _: Request<v1::MintTokenRequest>) -> Result<Response<v1::MintTokenResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn renew_certificate(
        &self,
        _: Request<v1::RenewCertificateRequest>,
    ) -> Result<Response<v1::RenewCertificateResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

/// The same answer two thousand times for each frame, every other one about somebody else's log.
fn endless(answer: v1::PushLogsResponse) -> impl Iterator<Item = Result<v1::PushLogsResponse, Status>> {
    (0..2_000_u64).map(move |turn| {
        let mut answer = answer.clone();
        if let (1, Some(attempt)) = (turn % 2, &mut answer.attempt) {
            attempt.epoch += turn;
            answer.refused = "no".repeat(100);
        }
        Ok(answer)
    })
}
