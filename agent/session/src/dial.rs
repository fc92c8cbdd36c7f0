//! From nothing to a welcomed session: TCP, HTTP/2, the Session call, Hello, Welcome.

use std::pin::Pin;
use std::time::Duration;

use deputy_dial::dialer::{explain_chain, is_about_our_certificate};
use deputy_proto::v1;
use deputy_proto::v1::agent_client::AgentClient;
use deputy_proto::version::{PROTOCOL_MAX, PROTOCOL_MIN};
use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use crate::config::SessionConfig;
use crate::enrollment::JoinError;
use crate::frame_codec::FrameCodec;
use crate::from_wire::{self, Welcome, WireError};
use crate::status::status_text;

/// HTTP/2 pings on an otherwise silent connection. Proxies may swallow them, so the heartbeat's own
/// watchdog is what counts; pings find a dead peer sooner.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Frames handed to the transport and not yet written. Small: what waits here has its send time
/// already, and a lease is counted from it.
const FRAMES_BUFFERED: usize = 16;

/// Largest frame taken from the manager: an assignment carries its document and its whole journal (3 MiB).
const MAX_INBOUND_BYTES: usize = 16 * 1024 * 1024;

/// The call as the contract names it. It is made here and not by the generated client, which reads frames in its own way.
const SESSION: &str = "/deputy.v1.Agent/Session";

/// A welcomed session.
pub(crate) struct Link {
    pub(crate) frames: mpsc::Sender<v1::SessionRequest>,
    pub(crate) inbound: Streaming<v1::SessionResponse>,
    pub(crate) welcome: Welcome,
    /// Renews the certificate over this connection; its end is the connection's.
    pub(crate) renewal: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error("cannot connect: {0}")]
    Unreachable(String),
    #[error("the session was not accepted: {0}")]
    Call(String),
    #[error("no welcome within {0:?}")]
    Silent(Duration),
    #[error("the welcome makes no sense: {0}")]
    BadWelcome(#[from] WireError),
    #[error("the manager answered something else than a welcome")]
    NotAWelcome,
    #[error("the manager chose protocol {0}, this agent speaks {PROTOCOL_MIN} to {PROTOCOL_MAX}")]
    Protocol(u32),
    #[error("the manager refused the session ({}): {}", .0.code, .0.reason)]
    Refused(v1::Disconnect),
}

/// A connection of its own.
pub(crate) async fn connect(config: &SessionConfig) -> Result<Channel, DialError> {
    let dialer = config.membership.dialer()?;
    let endpoint = Endpoint::from_shared(config.manager.to_string()).map_err(|error| unreachable(&error))?;
    let endpoint = endpoint
        .connect_timeout(config.connect_timeout)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true)
        .buffer_size(64);
    let connector = tower::service_fn(move |_: http::Uri| dialer.clone().dial_for_hyper());
    let connected = endpoint.connect_with_connector(connector).await;
    connected.map_err(|error| refused_certificate(config, &error).unwrap_or_else(|| unreachable(&error)))
}

/// A certificate that the manager does not take is refused in the first read after the handshake.
fn refused_certificate(config: &SessionConfig, error: &(dyn std::error::Error + 'static)) -> Option<DialError> {
    let why = explain_chain(error, config.manager.host())?;
    if is_about_our_certificate(error) {
        config.membership.doubt();
    }
    Some(DialError::Unreachable(why))
}

/// Tonic's own text is "transport error"; the reason is in the chain, which repeats itself.
fn unreachable(error: &(dyn std::error::Error + 'static)) -> DialError {
    let mut texts = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if texts.last() != Some(&text) {
            texts.push(text);
        }
        cause = error.source();
    }
    DialError::Unreachable(texts.join(": "))
}

/// Opens a session. Bounded: two times the connect timeout.
pub(crate) async fn dial(config: &SessionConfig, hello: v1::Hello) -> Result<Link, DialError> {
    config.membership.ensure().await?;
    let channel = connect(config).await?;
    let welcomed = tokio::time::timeout(config.connect_timeout, greet(config, channel, hello)).await;
    welcomed.map_err(|_| DialError::Silent(config.connect_timeout))?
}

async fn greet(config: &SessionConfig, channel: Channel, hello: v1::Hello) -> Result<Link, DialError> {
    let (frames, outbound) = mpsc::channel(FRAMES_BUFFERED);
    let hello = v1::SessionRequest {
        frame: Some(v1::session_request::Frame::Hello(hello)),
    };
    // The channel is new and empty; it takes one frame.
    frames
        .try_send(hello)
        .map_err(|error| DialError::Call(error.to_string()))?;
    let client = AgentClient::new(channel.clone());
    let mut call = tonic::client::Grpc::new(channel).max_decoding_message_size(MAX_INBOUND_BYTES);
    let failed = |status: tonic::Status| {
        config.membership.heard(&status);
        refused_certificate(config, &status).unwrap_or_else(|| DialError::Call(status_text(&status)))
    };
    call.ready().await.map_err(|error| unreachable(&error))?;
    let frames_out = tonic::Request::new(ReceiverStream::new(outbound));
    let answered = call.streaming(frames_out, PathAndQuery::from_static(SESSION), FrameCodec);
    let mut inbound = answered.await.map_err(failed)?.into_inner();
    let first = inbound.message().await.map_err(failed)?;
    let welcome = match first.and_then(|response| response.frame) {
        Some(v1::session_response::Frame::Welcome(welcome)) => from_wire::welcome(welcome)?,
        Some(v1::session_response::Frame::Disconnect(disconnect)) => {
            return Err(DialError::Refused(from_wire::disconnect(disconnect)));
        }
        _ => return Err(DialError::NotAWelcome),
    };
    if !(PROTOCOL_MIN..=PROTOCOL_MAX).contains(&welcome.protocol) {
        return Err(DialError::Protocol(welcome.protocol));
    }
    Ok(Link {
        frames,
        inbound,
        welcome,
        renewal: Box::pin(config.membership.clone().keep_renewed(client)),
    })
}
