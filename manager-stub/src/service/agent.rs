//! The `Agent` service: sessions, logs, blobs. The reserved calls answer UNIMPLEMENTED.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use deputy_proto::v1;
use deputy_proto::v1::agent_server::Agent;
use deputy_proto::v1::session_request::Frame;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::context::{Answers, Context};
use super::trust::not_done;
use super::{blob, mint, push_logs};
use crate::auth::caller::{self, Caller};
use crate::dispatcher::Outbound;
use crate::dispatcher::inbound::{Inbound, SessionId};
use crate::scheduler::Vouched;
use crate::trust::authority::SigningRequest;

/// An agent says hello within this time or is cut off.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// Who says another name than its certificate does stays away for so long.
const STAY_AWAY_MS: u32 = 60_000;

/// The `Agent` service.
#[derive(Clone)]
pub struct AgentService {
    context: Context,
    sessions: Arc<AtomicU64>,
}

impl AgentService {
    /// A service over this context.
    #[must_use]
    pub fn new(context: Context) -> Self {
        Self {
            context,
            sessions: Arc::new(AtomicU64::new(1)),
        }
    }
}

/// Why this caller may not speak for that agent; `None` if he may.
fn another(caller: &Caller, agent: &str) -> Option<String> {
    match caller {
        Caller::Unasked => None,
        Caller::Agent { agent_id, .. } if agent_id.as_str() == agent => None,
        Caller::Agent { agent_id, .. } => Some(format!(
            "the certificate is the agent {agent_id}'s, and the hello says {agent}"
        )),
        Caller::Nobody | Caller::User(_) => Some("only an agent has a session".into()),
    }
}

/// What is known of an agent by its join.
fn vouched(context: &Context, caller: &Caller) -> Vouched {
    let Caller::Agent { agent_id, .. } = caller else {
        return Vouched::default();
    };
    // The gate has just looked: it is there.
    let record = context.registry.agent(agent_id.as_str());
    record.map_or_else(Vouched::default, |record| Vouched {
        pool: Some(record.pool),
        projects: record.projects,
    })
}

/// Carries the frames of one session to the dispatcher until the connection ends.
async fn carry(context: Context, session: SessionId, mut frames: Streaming<v1::SessionRequest>) {
    loop {
        let next = tokio::select! {
            next = frames.message() => next,
            () = context.ending.cancelled() => break,
        };
        match next {
            // A frame of a kind that this build does not know is ignored.
            Ok(Some(v1::SessionRequest { frame: None })) => {}
            Ok(Some(v1::SessionRequest { frame: Some(frame) })) => {
                if context
                    .dispatcher
                    .send(Inbound::Frame {
                        session,
                        frame: Box::new(frame),
                    })
                    .await
                    .is_err()
                {
                    break;
                }
            }
            Ok(None) => break,
            Err(status) => {
                tracing::debug!(session, code = ?status.code(), "a session broke");
                break;
            }
        }
    }
    if context.dispatcher.send(Inbound::Closed { session }).await.is_err() {
        tracing::debug!(session, "the dispatcher ended first");
    }
}

#[tonic::async_trait]
impl Agent for AgentService {
    type SessionStream = ReceiverStream<Result<v1::SessionResponse, Status>>;
    type PushLogsStream = Answers<v1::PushLogsResponse>;
    type FetchBlobStream = Answers<v1::FetchBlobResponse>;

    async fn session(
        &self,
        request: Request<Streaming<v1::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let caller = caller::current();
        let mut frames = request.into_inner();
        let session = self.sessions.fetch_add(1, Ordering::Relaxed);
        let (outbound, answers) = Outbound::channel();
        let context = self.context.clone();
        // The answer's headers go out before the first frame comes in: an agent may wait for them.
        self.context.tracker.spawn(async move {
            let first = tokio::time::timeout(HELLO_WITHIN, frames.message()).await;
            match first {
                Ok(Ok(Some(v1::SessionRequest {
                    frame: Some(Frame::Hello(hello)),
                }))) => {
                    if let Some(why) = another(&caller, &hello.agent_id) {
                        tracing::warn!(agent = hello.agent_id, why, "a session was refused");
                        outbound.disconnect("identity", &why, STAY_AWAY_MS);
                        return;
                    }
                    let hello = Inbound::Hello {
                        session,
                        vouched: vouched(&context, &caller),
                        hello: Box::new(hello),
                        outbound,
                    };
                    if context.dispatcher.send(hello).await.is_ok() {
                        carry(context, session, frames).await;
                    }
                }
                Ok(Ok(Some(_))) => outbound.disconnect("protocol", "the first frame of a session is Hello", 0),
                Ok(Ok(None) | Err(_)) => {}
                Err(_) => outbound.disconnect("protocol", "no Hello came within 10 s", 0),
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn push_logs(
        &self,
        request: Request<Streaming<v1::PushLogsRequest>>,
    ) -> Result<Response<Self::PushLogsStream>, Status> {
        Ok(Response::new(push_logs::serve(&self.context, request.into_inner())))
    }

    async fn put_blob(
        &self,
        request: Request<Streaming<v1::PutBlobRequest>>,
    ) -> Result<Response<v1::PutBlobResponse>, Status> {
        let size_bytes = blob::receive(&self.context, request.into_inner()).await?;
        Ok(Response::new(v1::PutBlobResponse { size_bytes }))
    }

    async fn fetch_blob(
        &self,
        request: Request<v1::FetchBlobRequest>,
    ) -> Result<Response<Self::FetchBlobStream>, Status> {
        let request = request.into_inner();
        blob::download(self.context.clone(), request).await.map(Response::new)
    }

    async fn exchange(&self, _: Request<v1::ExchangeRequest>) -> Result<Response<v1::ExchangeResponse>, Status> {
        Err(Status::unimplemented("Exchange is reserved; use Session"))
    }

    async fn mint_token(
        &self,
        request: Request<v1::MintTokenRequest>,
    ) -> Result<Response<v1::MintTokenResponse>, Status> {
        mint::mint(&self.context, request.into_inner()).await.map(Response::new)
    }

    async fn renew_certificate(
        &self,
        request: Request<v1::RenewCertificateRequest>,
    ) -> Result<Response<v1::RenewCertificateResponse>, Status> {
        let Caller::Agent { agent_id, serial, .. } = caller::current() else {
            return Err(Status::failed_precondition(
                "there is no certificate to renew: this manager serves in the clear",
            ));
        };
        let csr = request.into_inner().csr;
        let signing = SigningRequest::read(&csr).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let record = self.context.registry.agent(agent_id.as_str());
        let record = record.ok_or_else(|| Status::not_found(format!("there is no agent {agent_id}")))?;
        let issued = self.context.sign(&signing, &record.pool, &agent_id)?;
        let renewed = self.context.registry.renew(agent_id.as_str(), &issued).await;
        renewed.map_err(not_done)?;
        tracing::info!(agent.id = %agent_id, before = serial, serial = issued.serial, "a certificate was renewed");
        Ok(Response::new(v1::RenewCertificateResponse {
            certificate: Some(self.context.wire(issued, &agent_id, &record.pool, &record.rule)),
        }))
    }
}
