//! A channel to the manager, whichever way it goes: HTTP/2, or gRPC-Web over HTTP/1.1. Looks at the first bytes of
//! every HTTP/2 connection and at the form of every answer: what is not the manager's is never taken for its word.

use std::error::Error as StdError;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use deputy_dial::dialer::{Connection, DialError, Dialer};
use deputy_dial::url::{ManagerUrl, Transport};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection as Link};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tonic_web::{GrpcWebCall, GrpcWebClientService};
use tower::Service;

use crate::way::Carrier;

/// HTTP/2 pings on an otherwise silent connection. Proxies may swallow them, so the heartbeat's own
/// watchdog is what counts; pings find a dead peer sooner.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Calls of a channel that may wait.
const CALLS_WAITING: usize = 64;

/// A connection of HTTP/1.1 is not used again after it was idle for so long: proxies cut them.
const IDLE: Duration = Duration::from_secs(15);

/// Bytes of an answer that are looked at.
const LOOKED_AT: usize = 64;

/// The head of a frame of HTTP/2, of which the fourth byte is the kind.
const FRAME_HEAD: usize = 9;

/// The first frame of a server of HTTP/2.
const SETTINGS: u8 = 4;

type BoxError = Box<dyn StdError + Send + Sync>;

/// Makes dialers: asked before every connection, so that the newest certificate is shown.
pub(crate) type Dialers = Arc<dyn Fn() -> Result<Dialer, BoxError> + Send + Sync>;

/// Where to, how, and by which way.
#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) manager: ManagerUrl,
    pub(crate) carrier: Carrier,
    pub(crate) dialers: Dialers,
}

/// A channel for the generated clients. Cheap to clone.
#[derive(Clone)]
pub(crate) enum ManagerChannel {
    Stream(Channel),
    Web(Box<WebChannel>),
}

/// gRPC-Web over HTTP/1.1: requests are sent whole, answers may come bit by bit.
#[derive(Clone)]
pub(crate) struct WebChannel {
    origin: Uri,
    inner: GrpcWebClientService<Client<Connector, GrpcWebCall<Full<Bytes>>>>,
}

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// There is no connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// There is one, and no HTTP/2 over it.
    #[error("{0}")]
    Http(BoxError),
    /// There is nobody to be yet, or nobody to believe.
    #[error("{0}")]
    Nobody(BoxError),
}

/// Something else than the manager answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("something on the way answered instead of the manager: HTTP {status}, {what}")]
pub(crate) struct NotTheManager {
    status: u16,
    what: String,
}

/// A call that failed, with all of its reasons in one line: whoever shows an error shows only the first.
#[derive(Debug, thiserror::Error)]
#[error("{said}")]
struct CallFailed {
    said: String,
    source: BoxError,
}

/// What the other end of an HTTP/2 connection said first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sight {
    first: Arc<Mutex<Vec<u8>>>,
}

impl Route {
    /// Opens a channel. A connection of HTTP/2 is made now, once, and looked at; those of HTTP/1.1 when they are
    /// needed.
    pub(crate) async fn open(&self, connect_timeout: Duration) -> Result<(ManagerChannel, Sight), OpenError> {
        let sight = Sight::default();
        let channel = match self.carrier {
            Carrier::Exchange => ManagerChannel::Web(Box::new(WebChannel::new(self))),
            Carrier::Stream => ManagerChannel::Stream(self.http2(connect_timeout, &sight).await?),
        };
        Ok((channel, sight))
    }

    async fn http2(&self, connect_timeout: Duration, sight: &Sight) -> Result<Channel, OpenError> {
        let connection = (self.dialers)().map_err(OpenError::Nobody)?.dial().await?;
        let connection = TokioIo::new(Seen {
            inner: connection,
            sight: Some(sight.clone()),
        });
        // It is made here, so that its errors keep their words; who wants another one opens another channel.
        let connection = Mutex::new(Some(connection));
        let connect = tower::service_fn(move |_: Uri| {
            let taken = connection.lock().ok().and_then(|mut connection| connection.take());
            std::future::ready(taken.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected)))
        });
        let endpoint =
            Endpoint::from_shared(self.manager.to_string()).map_err(|error| OpenError::Http(error.into()))?;
        let endpoint = endpoint
            .connect_timeout(connect_timeout)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true)
            .buffer_size(CALLS_WAITING);
        let connected = endpoint.connect_with_connector(connect).await;
        connected.map_err(|error| OpenError::Http(error.into()))
    }

    /// For the generated clients: where requests go to.
    pub(crate) fn origin(&self) -> Uri {
        // The address was checked when it was read.
        self.manager.to_string().parse().unwrap_or_default()
    }
}

impl Sight {
    /// What it was, if it was no HTTP/2.
    pub(crate) fn other_protocol(&self) -> Option<String> {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        if first.starts_with(b"HTTP/") {
            let line = first.split(|byte| *byte == b'\r' || *byte == b'\n').next();
            let line: String = String::from_utf8_lossy(line.unwrap_or_default())
                .chars()
                .take(48)
                .collect();
            return Some(format!("HTTP/2 was answered with {line:?}"));
        }
        match first.get(..FRAME_HEAD) {
            Some(head) if head[3] != SETTINGS => Some("HTTP/2 was answered with something else".into()),
            _ => None,
        }
    }

    fn see(&self, bytes: &[u8]) -> bool {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        let room = LOOKED_AT - first.len();
        first.extend(bytes.iter().take(room));
        first.len() < LOOKED_AT
    }
}

impl WebChannel {
    fn new(route: &Route) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(Connector(route.dialers.clone()));
        // TLS is the dialer's; hyper only needs a scheme that it takes.
        let scheme = match route.manager.transport() {
            Transport::Tls => "https",
            Transport::Clear => "http",
        };
        debug_assert!(route.manager.to_string().starts_with(scheme));
        Self {
            origin: route.origin(),
            inner: GrpcWebClientService::new(client),
        }
    }

    async fn request(self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let Self { origin, mut inner } = self;
        let (mut head, body) = request.into_parts();
        let mut uri = origin.into_parts();
        uri.path_and_query = head.uri.into_parts().path_and_query;
        head.uri = Uri::from_parts(uri)?;
        head.version = http::Version::HTTP_11;
        // Sent whole: there are proxies that take no request without a length.
        let body = Full::new(body.collect().await?.to_bytes());
        let answer = inner.call(Request::from_parts(head, body)).await;
        let answer = answer.map_err(|error| CallFailed {
            said: in_full(&error),
            source: error.into(),
        })?;
        Ok(of_the_manager(answer)?.map(Body::new))
    }
}

/// The reason is often at the end of a chain, which repeats itself.
pub(crate) fn in_full(error: &(dyn StdError + 'static)) -> String {
    let mut texts = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !texts.iter().any(|said| said.contains(&text)) {
            texts.push(text);
        }
        cause = error.source();
    }
    texts.join(": ")
}

/// An answer, if it is one to a call: the rest is from a proxy, and its codes and texts mean nothing.
fn of_the_manager<B>(answer: Response<B>) -> Result<Response<B>, NotTheManager> {
    let content = answer.headers().get(http::header::CONTENT_TYPE);
    let content = content.and_then(|value| value.to_str().ok()).unwrap_or_default();
    if content.starts_with("application/grpc") {
        return Ok(answer);
    }
    Err(NotTheManager {
        status: answer.status().as_u16(),
        what: if content.is_empty() {
            "without a content type".into()
        } else {
            content.chars().take(60).collect()
        },
    })
}

impl Service<Request<Body>> for ManagerChannel {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self {
            Self::Stream(channel) => channel.poll_ready(cx).map_err(Into::into),
            Self::Web(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self {
            Self::Stream(channel) => {
                let answer = channel.call(request);
                Box::pin(async move { Ok(of_the_manager(answer.await?)?) })
            }
            Self::Web(web) => Box::pin(WebChannel::clone(web).request(request)),
        }
    }
}

/// Makes connections of HTTP/1.1.
#[derive(Clone)]
struct Connector(Dialers);

impl Service<Uri> for Connector {
    type Response = TokioIo<Seen>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<Seen>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let dialer = (self.0)();
        Box::pin(async move {
            let inner = dialer?.dial().await?;
            Ok(TokioIo::new(Seen { inner, sight: None }))
        })
    }
}

/// A connection whose first bytes are looked at.
struct Seen {
    inner: Connection,
    /// None: nobody looks any more.
    sight: Option<Sight>,
}

impl Link for Seen {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Seen {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        if let Some(sight) = &self.sight
            && !sight.see(&buf.filled()[before..])
        {
            self.sight = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Seen {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(pieces: &[&[u8]]) -> Option<String> {
        let sight = Sight::default();
        for piece in pieces {
            sight.see(piece);
        }
        sight.other_protocol()
    }

    #[test]
    fn only_what_is_certainly_no_http2_is_called_so() {
        assert_eq!(seen(&[]), None, "silence says nothing");
        assert_eq!(seen(&[b"\0\0"]), None, "half a head says nothing");
        let settings = b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x80";
        assert_eq!(seen(&[settings]), None);
        for cut in 0..settings.len() {
            assert_eq!(seen(&[&settings[..cut], &settings[cut..]]), None, "{cut}");
        }
        let html = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\n\r\n<html>";
        for cut in 0..html.len() {
            let said = seen(&[&html[..cut], &html[cut..]]).expect("no HTTP/2");
            assert!(said.contains("\"HTTP/1.1 400 Bad Request\""), "{said}");
        }
        let said = seen(&[b"<html><body>no</body>"]).expect("no HTTP/2");
        assert!(said.contains("something else"), "{said}");
        assert!(seen(&[b"SSH-2.0-OpenSSH_9.6\r\n"]).is_some());
    }

    #[test]
    fn an_answer_of_a_proxy_is_not_taken_for_the_managers() {
        let answer = |status: u16, content: &str| {
            let answer = Response::builder().status(status).header("content-type", content);
            of_the_manager(answer.body(()).expect("an answer")).map(|_| ())
        };
        assert_eq!(answer(200, "application/grpc-web+proto"), Ok(()));
        assert_eq!(answer(200, "application/grpc"), Ok(()));
        let said = answer(403, "text/html; charset=utf-8")
            .expect_err("a proxy")
            .to_string();
        assert!(said.contains("HTTP 403, text/html"), "{said}");
        assert!(answer(200, "").is_err());
    }
}
