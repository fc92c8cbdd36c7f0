//! From a listener to connections: TCP, a place for it, the TLS handshake (many at the same time, each bounded), and who
//! is there.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use super::doors::{Doors, Place};
use super::peer::{self, Peer};

/// A handshake takes at most so long, with the wait for others of the same source.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// Refusals are told at most so often.
const TOLD_EVERY: Duration = Duration::from_secs(10);
/// Connections that may wait to be served.
const WAITING: usize = 64;
/// After an error of the listener, such as no more open files.
const BREATH: Duration = Duration::from_millis(100);

/// What connections are accepted with.
#[derive(Clone)]
pub enum Security {
    /// TLS, with this trust domain in client certificates.
    Tls(Arc<ServerConfig>, String),
    /// Nothing.
    Clear,
}

/// A connection that is ready.
pub struct Accepted {
    stream: Stream,
    peer: Peer,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    _place: Place,
}

/// TLS, or in the clear.
type Stream = Either<Box<TlsStream<TcpStream>>, TcpStream>;

/// Accepts until `ending`; the connections come out of the channel. Runs as a task of the manager's.
pub async fn accept(
    listener: TcpListener,
    (security, doors): (Security, Doors),
    ready: mpsc::Sender<io::Result<Accepted>>,
    ending: CancellationToken,
) {
    let mut handshakes = JoinSet::new();
    let mut told = None;
    loop {
        tokio::select! {
            () = ending.cancelled() => return,
            Some(done) = handshakes.join_next() => {
                // One that panicked has no connection to give.
                if let Ok(Some(accepted)) = done && ready.send(Ok(accepted)).await.is_err() {
                    return;
                }
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => match doors.enter(from.ip()) {
                    Ok(place) => drop(handshakes.spawn(handshake(stream, place, security.clone()))),
                    // Closed at once: whoever it is may come again.
                    Err(why) if told.is_none_or(|told: Instant| told.elapsed() >= TOLD_EVERY) => {
                        told = Some(Instant::now());
                        tracing::warn!(%from, %why, "connections are closed at once");
                    }
                    Err(_) => {}
                },
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(BREATH).await;
                }
            },
        }
    }
}

/// The receiving half for [`accept`].
#[must_use]
pub fn channel() -> (
    mpsc::Sender<io::Result<Accepted>>,
    tokio_stream::wrappers::ReceiverStream<io::Result<Accepted>>,
) {
    let (ready, connections) = mpsc::channel(WAITING);
    (ready, connections.into())
}

async fn handshake(stream: TcpStream, place: Place, security: Security) -> Option<Accepted> {
    let from = stream.peer_addr().ok()?;
    // Without nodelay a small frame behind another waits for the peer's delayed acknowledgement: 40 ms in the middle
    // of every hand-out.
    stream.set_nodelay(true).ok()?;
    rustix::net::sockopt::set_socket_keepalive(&stream, true).ok()?;
    rustix::net::sockopt::set_tcp_keepidle(&stream, Duration::from_secs(30)).ok()?;
    let (config, trust_domain) = match security {
        Security::Tls(config, trust_domain) => (config, trust_domain),
        Security::Clear => return Some(Accepted::new(Either::Right(stream), None, place)),
    };
    let turns = place.handshakes();
    let shaken = async {
        // Never closed: an error cannot be.
        let _turn = turns.acquire().await.map_err(io::Error::other)?;
        TlsAcceptor::from(config).accept(stream).await
    };
    match tokio::time::timeout(HANDSHAKE_WITHIN, shaken).await {
        Ok(Ok(stream)) => {
            let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let certificate = match leaf.map(|leaf| peer::read(leaf, &trust_domain)) {
                None => None,
                Some(Some(certificate)) => Some(Arc::new(certificate)),
                Some(None) => {
                    tracing::warn!(%from, "a client certificate cannot be read");
                    return None;
                }
            };
            Some(Accepted::new(Either::Left(Box::new(stream)), certificate, place))
        }
        Ok(Err(error)) => {
            tracing::info!(%from, %error, "a TLS handshake failed");
            None
        }
        Err(_) => {
            tracing::info!(%from, "a TLS handshake took longer than {HANDSHAKE_WITHIN:?}");
            None
        }
    }
}

impl Accepted {
    fn new(stream: Stream, certificate: Option<Arc<peer::PeerCertificate>>, place: Place) -> Self {
        let peer = Peer::new(certificate);
        Self {
            cut: Box::pin(peer.cut_token().cancelled_owned()),
            peer,
            stream,
            _place: place,
        }
    }
}

impl Drop for Accepted {
    fn drop(&mut self) {
        self.peer.ended();
    }
}

impl Connected for Accepted {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut this.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
