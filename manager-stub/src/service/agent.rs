//! The `Agent` service: sessions by stream and by long poll, logs, blobs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use deputy_proto::v1;
use deputy_proto::v1::agent_server::Agent;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::context::{Answers, Context};
use super::exchange::{Exchange, Exchanges, Opening};
use super::session::Speaker;
use super::trust::not_done;
use super::{blob, mint, push_logs, session};
use crate::auth::caller::{self, Caller};
use crate::dispatcher::Outbound;
use crate::dispatcher::inbound::Carrier;
use crate::registry::Admission;
use crate::trust::authority::SigningRequest;

/// The `Agent` service.
#[derive(Clone)]
pub struct AgentService {
    context: Context,
    sessions: Arc<AtomicU64>,
    exchanges: Exchanges,
}

impl AgentService {
    /// A service over this context.
    #[must_use]
    pub fn new(context: Context) -> Self {
        Self {
            context,
            sessions: Arc::new(AtomicU64::new(1)),
            exchanges: Exchanges::default(),
        }
    }

    fn new_session(&self, carrier: Carrier) -> Speaker {
        Speaker {
            caller: caller::current(),
            session: self.sessions.fetch_add(1, Ordering::Relaxed),
            carrier,
        }
    }

    /// A session that is carried by long polls: the same session, between two queues instead of on a stream.
    fn open_exchange(&self, request: &v1::ExchangeRequest) -> Result<Arc<Exchange>, Status> {
        let (outbound, answers) = Outbound::channel();
        let speaker = self.new_session(Carrier::Exchange);
        let (held, frames) = match self.exchanges.open(&speaker.caller, request, answers)? {
            Opening::Open(held) => return Ok(held),
            Opening::New(held, frames) => (held, frames),
        };
        let (context, exchanges, opened) = (self.context.clone(), self.exchanges.clone(), Arc::clone(&held));
        self.context.tracker.spawn(async move {
            let talk = async {
                session::talk(context.clone(), speaker, ReceiverStream::new(frames), outbound).await;
                opened.ended();
            };
            // Its last word is kept until nobody asks for it any more.
            tokio::join!(talk, opened.until_forgotten(&context.ending));
            exchanges.remove(&opened);
        });
        Ok(held)
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
        let (outbound, answers) = Outbound::channel();
        // The answer's headers go out before the first frame comes in: an agent may wait for them.
        self.context.tracker.spawn(session::talk(
            self.context.clone(),
            self.new_session(Carrier::Stream),
            request.into_inner(),
            outbound,
        ));
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

    async fn exchange(&self, request: Request<v1::ExchangeRequest>) -> Result<Response<v1::ExchangeResponse>, Status> {
        let request = request.into_inner();
        let held = match self.exchanges.find(&caller::current(), &request.session)? {
            Some(held) => held,
            None => self.open_exchange(&request)?,
        };
        held.serve(request, &self.context.ending).await.map(Response::new)
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
        let Caller::Agent {
            agent_id,
            serial,
            line,
            admission: Admission { rule, pool, .. },
        } = caller::current()
        else {
            return Err(Status::failed_precondition(
                "there is no certificate to renew: this manager serves in the clear",
            ));
        };
        let csr = request.into_inner().csr;
        let signing = SigningRequest::read(&csr).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let issued = self.context.sign(&signing, (&pool, &agent_id), &line)?;
        let renewed = self.context.registry.renew(agent_id.as_str(), &serial, &issued).await;
        renewed.map_err(not_done)?;
        tracing::info!(agent.id = %agent_id, before = serial, serial = issued.serial, "a certificate was renewed");
        Ok(Response::new(v1::RenewCertificateResponse {
            certificate: Some(self.context.wire(issued, &agent_id, &pool, &rule)),
        }))
    }
}
