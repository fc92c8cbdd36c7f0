//! Serves the discovery document and the key set, and nothing else, on a listener of its own. Both are public: AWS reads
//! them. Without TLS, something in front of it has the issuer's certificate.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::issuer::{DISCOVERY_PATH, Issuer, KEYS_PATH};
use crate::trust::certificate_files::{BadFiles, CertificateFiles};
use crate::trust::doors::{ConnectionLimits, Doors};

/// Connections at the same time. What stands in front of it may be one address; half are left for others.
const CONNECTIONS: ConnectionLimits = ConnectionLimits {
    total: 256,
    per_source: 128,
};
/// From the first packet of a connection to its last.
const WITHIN: Duration = Duration::from_secs(20);

/// Where the listener's certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, PEM, leaf first.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

/// The listener cannot work.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address cannot be had.
    #[error("the OIDC issuer cannot listen on {address}: {source}")]
    Bind {
        /// As configured.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Its certificate cannot be used.
    #[error("the OIDC issuer's {} cannot be used: {}", .0.file.display(), .0.why)]
    Certificate(BadFiles),
    /// A fault of the build.
    #[error("the OIDC issuer's TLS cannot be set up: {0}")]
    Setup(rustls::Error),
}

/// A listener that has its address and is not serving yet.
pub struct OidcListener {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
}

impl OidcListener {
    /// Binds `address`; with `tls`, its certificate must be good now.
    ///
    /// # Errors
    /// Why not.
    pub async fn bind(address: SocketAddr, tls: Option<TlsFiles>) -> Result<Self, ListenError> {
        let tls = tls.map(acceptor).transpose()?;
        let bad = |source| ListenError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(bad)?;
        let address = listener.local_addr().map_err(bad)?;
        Ok(Self { listener, address, tls })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `ending`; connections are cut then, for they have nothing to lose.
    pub async fn serve(self, issuer: Arc<Issuer>, ending: CancellationToken) {
        let doors = Doors::new(CONNECTIONS);
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = ending.cancelled() => return,
            };
            while connections.try_join_next().is_some() {}
            let (stream, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "the OIDC issuer could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let place = match doors.enter(from.ip()) {
                Ok(place) => place,
                Err(why) => {
                    tracing::debug!(%from, %why, "a connection to the OIDC issuer was closed at once");
                    continue;
                }
            };
            let (issuer, tls) = (Arc::clone(&issuer), self.tls.clone());
            connections.spawn(async move {
                let _place = place;
                let served = async {
                    match tls {
                        None => answer(stream, issuer).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => answer(stream, issuer).await,
                            Err(error) => tracing::debug!(%error, "a caller of the OIDC issuer gave up its handshake"),
                        },
                    }
                };
                if tokio::time::timeout(WITHIN, served).await.is_err() {
                    tracing::debug!("a connection to the OIDC issuer was cut after {WITHIN:?}");
                }
            });
        }
    }
}

async fn answer<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, issuer: Arc<Issuer>) {
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let issuer = Arc::clone(&issuer);
        async move { Ok::<_, std::convert::Infallible>(respond(&issuer, request.method(), request.uri().path()).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(WITHIN / 2)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        tracing::debug!(%error, "a connection to the OIDC issuer broke");
    }
}

async fn respond(issuer: &Issuer, method: &Method, path: &str) -> Response<Full<Bytes>> {
    let below = path.strip_prefix(issuer.config().path());
    let (status, body) = match (below, *method == Method::GET || *method == Method::HEAD) {
        (Some(DISCOVERY_PATH), true) => (StatusCode::OK, issuer.discovery()),
        (Some(KEYS_PATH), true) => (StatusCode::OK, issuer.key_set(SystemTime::now()).await),
        (Some(DISCOVERY_PATH | KEYS_PATH), false) => (StatusCode::METHOD_NOT_ALLOWED, Bytes::new()),
        _ => (StatusCode::NOT_FOUND, Bytes::new()),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    // A key is shown long before it signs.
    headers.insert("cache-control", HeaderValue::from_static("public, max-age=300"));
    response
}

fn acceptor(files: TlsFiles) -> Result<TlsAcceptor, ListenError> {
    let provider = Arc::new(default_provider());
    let shown = CertificateFiles::open(files.certificate, files.key, Arc::clone(&provider));
    let shown = shown.map_err(ListenError::Certificate)?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(ListenError::Setup)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(shown));
    Ok(TlsAcceptor::from(Arc::new(config)))
}
