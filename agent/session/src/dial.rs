//! From nothing to a welcomed session: TCP, HTTP, the Session call or the first Exchange, Hello, Welcome.

use std::pin::Pin;
use std::time::Duration;

use deputy_dial::dialer::{self, explain_chain, is_about_our_certificate};
use deputy_proto::v1;
use deputy_proto::v1::agent_client::AgentClient;
use deputy_proto::version::{PROTOCOL_MAX, PROTOCOL_MIN};
use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::channel::{ManagerChannel, OpenError, Sight, in_full};
use crate::config::SessionConfig;
use crate::enrollment::JoinError;
use crate::exchange::Exchange;
use crate::frame_codec::FrameCodec;
use crate::from_wire::{self, Welcome, WireError};
use crate::probe;
use crate::status::status_text;
use crate::way::{Carrier, Finding};

/// Frames handed to the transport and not yet written. Small: what waits here has its send time
/// already, and a lease is counted from it.
const FRAMES_BUFFERED: usize = 16;

/// Largest frame taken from the manager: an assignment carries its document and its whole journal (3 MiB).
const MAX_INBOUND_BYTES: usize = 16 * 1024 * 1024;

/// Largest answer to a long poll: it takes no further frame from 4 MiB on.
const MAX_ANSWER_BYTES: usize = MAX_INBOUND_BYTES + 5 * 1024 * 1024;

/// The call as the contract names it. It is made here and not by the generated client, which reads frames in its own way.
const SESSION: &str = "/deputy.v1.Agent/Session";

/// A welcomed session.
pub(crate) struct Link {
    pub(crate) frames: mpsc::Sender<v1::SessionRequest>,
    pub(crate) inbound: Inbound,
    pub(crate) welcome: Welcome,
    pub(crate) carrier: Carrier,
    /// What goes on beside it: its certificate is renewed, and who polls asks for the stream. Its end is the
    /// session's.
    pub(crate) beside: Pin<Box<dyn Future<Output = Beside> + Send>>,
}

/// Why a session ends for what went on beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beside {
    /// The certificate of its connection is not taken any more.
    Certificate,
    /// The stream passes again.
    StreamPasses,
}

/// The manager's frames.
pub(crate) enum Inbound {
    Stream(Box<Streaming<v1::SessionResponse>>),
    Exchange(Box<Exchange>),
}

impl Inbound {
    /// The next frame; none at the end. Cancel-safe.
    pub(crate) async fn message(&mut self) -> Result<Option<v1::SessionResponse>, Status> {
        match self {
            Self::Stream(stream) => stream.message().await,
            Self::Exchange(exchange) => exchange.message().await,
        }
    }
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error("cannot connect: {0}")]
    Connect(dialer::DialError),
    #[error("cannot connect: {0}")]
    Certificate(String),
    #[error("cannot connect: {0}")]
    Unreachable(String),
    #[error("the session was not accepted: {0}")]
    Call(String),
    #[error(
        "the manager did not see this agent's certificate: something opens TLS on the way, and a client's certificate \
         does not pass that; exempt the manager's address from TLS inspection ({0})"
    )]
    Inspected(String),
    #[error("no welcome within {0:?}")]
    Silent(Duration),
    #[error("the welcome makes no sense: {0}")]
    BadWelcome(#[from] WireError),
    #[error("the manager answered something else than a welcome: {0}")]
    NotAWelcome(&'static str),
    #[error("the manager chose protocol {0}, this agent speaks {PROTOCOL_MIN} to {PROTOCOL_MAX}")]
    Protocol(u32),
    #[error("the manager refused the session ({}): {}", .0.code, .0.reason)]
    Refused(v1::Disconnect),
}

impl DialError {
    /// What it says about HTTP/2, when the stream was tried.
    pub(crate) fn finding(&self) -> Finding {
        let said = self.to_string();
        match self {
            Self::Connect(error) => about_connection(error),
            Self::Join(JoinError::Dial(error)) => about_connection(error),
            Self::Join(JoinError::OtherProtocol(_)) => Finding::Certain(said),
            Self::Join(JoinError::Call(_) | JoinError::Silent(_))
            | Self::Unreachable(_)
            | Self::Call(_)
            | Self::Silent(_) => Finding::Suspect(said),
            // It was the manager itself that spoke, or nobody.
            Self::Join(_)
            | Self::Certificate(_)
            | Self::Inspected(_)
            | Self::BadWelcome(_)
            | Self::NotAWelcome(_)
            | Self::Protocol(_)
            | Self::Refused(_) => Finding::Clear,
        }
    }
}

fn about_connection(error: &dialer::DialError) -> Finding {
    match error {
        dialer::DialError::Protocol { .. } => Finding::Certain(error.to_string()),
        dialer::DialError::Handshake { .. } | dialer::DialError::Slow { .. } => Finding::Suspect(error.to_string()),
        // Nobody listens, the proxy says no, the certificate is not believed: the same by any way.
        dialer::DialError::Tcp { .. }
        | dialer::DialError::Proxy { .. }
        | dialer::DialError::Tls { .. }
        | dialer::DialError::NoAuthority(_) => Finding::Clear,
    }
}

/// A channel that is open.
pub(crate) struct Opened {
    pub(crate) channel: ManagerChannel,
    pub(crate) origin: http::Uri,
    sight: Sight,
}

impl Opened {
    pub(crate) fn client(&self) -> AgentClient<ManagerChannel> {
        AgentClient::with_origin(self.channel.clone(), self.origin.clone())
    }
}

/// A channel of its own, by the way that works.
pub(crate) async fn connect(config: &SessionConfig) -> Result<AgentClient<ManagerChannel>, DialError> {
    let carrier = config.membership.way().settled();
    Ok(connect_by(config, carrier).await?.client())
}

/// A channel of its own, by this way.
pub(crate) async fn connect_by(config: &SessionConfig, carrier: Carrier) -> Result<Opened, DialError> {
    // Asked for now, so that who is nobody yet is told so in words.
    drop(config.membership.dialer(carrier)?);
    let route = config.membership.route(carrier);
    let opened = route.open(config.connect_timeout).await;
    let (channel, sight) = opened.map_err(|error| not_opened(config, error))?;
    Ok(Opened {
        channel,
        origin: route.origin(),
        sight,
    })
}

fn not_opened(config: &SessionConfig, error: OpenError) -> DialError {
    match error {
        OpenError::Dial(error) => DialError::Connect(error),
        OpenError::Nobody(error) => DialError::Unreachable(error.to_string()),
        OpenError::Http(error) => {
            let refused = refused_certificate(config, error.as_ref());
            refused.unwrap_or_else(|| DialError::Unreachable(in_full(error.as_ref())))
        }
    }
}

/// A certificate that the manager does not take is refused in the first read after the handshake.
fn refused_certificate(config: &SessionConfig, error: &(dyn std::error::Error + 'static)) -> Option<DialError> {
    let why = explain_chain(error, config.manager.host())?;
    if is_about_our_certificate(error) {
        config.membership.doubt();
    }
    Some(DialError::Certificate(why))
}

/// Opens a session by the way that is to be tried. Bounded: two times the connect timeout.
pub(crate) async fn dial(config: &SessionConfig, hello: v1::Hello) -> Result<Link, DialError> {
    let carrier = config.membership.way().next();
    config.membership.ensure().await?;
    let opened = connect_by(config, carrier).await?;
    let sight = opened.sight.clone();
    let welcomed = tokio::time::timeout(config.connect_timeout, greet(config, (opened, carrier), hello)).await;
    let welcomed = welcomed.map_err(|_| DialError::Silent(config.connect_timeout));
    match (welcomed.flatten(), sight.other_protocol()) {
        (Err(DialError::Call(_) | DialError::Silent(_)), Some(seen)) => Err(JoinError::OtherProtocol(seen).into()),
        (welcomed, _) => welcomed,
    }
}

async fn greet(
    config: &SessionConfig,
    (opened, carrier): (Opened, Carrier),
    hello: v1::Hello,
) -> Result<Link, DialError> {
    let (frames, outbound) = mpsc::channel(FRAMES_BUFFERED);
    let hello = v1::SessionRequest {
        frame: Some(v1::session_request::Frame::Hello(hello)),
    };
    // The channel is new and empty; it takes one frame.
    frames
        .try_send(hello)
        .map_err(|error| DialError::Call(error.to_string()))?;
    let failed = |status: Status| {
        if !config.membership.heard(&status) && status.code() == Code::Unauthenticated && config.membership.is_shown() {
            return DialError::Inspected(status.message().to_owned());
        }
        refused_certificate(config, &status).unwrap_or_else(|| DialError::Call(said(&status)))
    };
    let client = opened.client();
    let mut call = tonic::client::Grpc::with_origin(opened.channel, opened.origin);
    let mut inbound = match carrier {
        Carrier::Stream => {
            call = call.max_decoding_message_size(MAX_INBOUND_BYTES);
            let unready =
                |error: Box<dyn std::error::Error + Send + Sync>| DialError::Unreachable(in_full(error.as_ref()));
            call.ready().await.map_err(unready)?;
            let frames_out = tonic::Request::new(ReceiverStream::new(outbound));
            let answered = call.streaming(frames_out, PathAndQuery::from_static(SESSION), FrameCodec);
            Inbound::Stream(Box::new(answered.await.map_err(failed)?.into_inner()))
        }
        Carrier::Exchange => {
            call = call.max_decoding_message_size(MAX_ANSWER_BYTES);
            Inbound::Exchange(Box::new(Exchange::new(call, outbound)))
        }
    };
    let first = inbound.message().await.map_err(failed)?;
    let welcome = match first.map(|response| response.frame) {
        Some(Some(v1::session_response::Frame::Welcome(welcome))) => from_wire::welcome(welcome)?,
        Some(Some(v1::session_response::Frame::Disconnect(disconnect))) => {
            return Err(DialError::Refused(from_wire::disconnect(disconnect)));
        }
        Some(other) => return Err(DialError::NotAWelcome(other.as_ref().map_or("nothing", name_of))),
        None => return Err(DialError::Call("it ended before the welcome".into())),
    };
    if !(PROTOCOL_MIN..=PROTOCOL_MAX).contains(&welcome.protocol) {
        return Err(DialError::Protocol(welcome.protocol));
    }
    Ok(Link {
        frames,
        inbound,
        welcome,
        carrier,
        beside: beside(config.clone(), carrier, client),
    })
}

fn beside(
    config: SessionConfig,
    carrier: Carrier,
    client: AgentClient<ManagerChannel>,
) -> Pin<Box<dyn Future<Output = Beside> + Send>> {
    Box::pin(async move {
        tokio::select! {
            () = config.membership.clone().keep_renewed(client) => Beside::Certificate,
            () = probe::until_stream_passes(&config), if carrier == Carrier::Exchange => Beside::StreamPasses,
        }
    })
}

/// A frame as the contract names it.
fn name_of(frame: &v1::session_response::Frame) -> &'static str {
    use v1::session_response::Frame;
    match frame {
        Frame::Welcome(_) => "Welcome",
        Frame::HeartbeatAck(_) => "HeartbeatAck",
        Frame::WriteAck(_) => "WriteAck",
        Frame::Assignment(_) => "Assignment",
        Frame::Cancel(_) => "CancelWish",
        Frame::Drain(_) => "DrainWish",
        Frame::Revoked(_) => "Revoked",
        Frame::Disconnect(_) => "Disconnect",
        Frame::Probed(_) => "Probed",
    }
}

/// What a status says, with what caused it.
fn said(status: &Status) -> String {
    match std::error::Error::source(status) {
        Some(cause) => format!("{:?}: {}", status.code(), in_full(cause)),
        None => status_text(status),
    }
}
