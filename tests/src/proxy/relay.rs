//! The proxy itself: HTTP/1.1 on both sides, one connection upstream per request.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::classify::{self, Asked, Dialect};
use super::lag::{Change, Lag};
use super::recording::{Call, Recording};
use super::rule::{Action, Canned, Fate, Handle, Matcher, Rule};
use crate::background::{self, Background};
use crate::leaks::canary::Canaries;

type Body = BoxBody<Bytes, hyper::Error>;

/// A recording proxy on a port of 127.0.0.1. It ends when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    _server: Background,
}

struct Shared {
    dialect: Dialect,
    upstream: SocketAddr,
    tls: Option<Tls>,
    started: Instant,
    recording: Mutex<Recording>,
    rules: Mutex<Vec<Arc<Rule>>>,
    lag: Mutex<Lag>,
    /// Texts replaced in replies: where an answer names a server that has a proxy of its own.
    replacements: Mutex<Vec<(String, String)>>,
    /// Told every secret that goes through.
    canaries: Canaries,
}

struct Tls {
    acceptor: TlsAcceptor,
    connector: TlsConnector,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("dialect", &self.dialect)
            .field("upstream", &self.upstream)
            .finish_non_exhaustive()
    }
}

impl Proxy {
    /// In front of the emulated AWS.
    pub async fn before_aws(upstream: SocketAddr) -> Result<Self> {
        Self::start(Dialect::Aws, upstream, None).await
    }

    /// In front of an API server, with the certificate that the server itself shows: `folder` is the cluster's.
    pub async fn before_kubernetes(upstream: SocketAddr, folder: &Path) -> Result<Self> {
        Self::start(Dialect::Kubernetes, upstream, Some(Tls::of_cluster(folder)?)).await
    }

    async fn start(dialect: Dialect, upstream: SocketAddr, tls: Option<Tls>) -> Result<Self> {
        let listener = background::run(TcpListener::bind(("127.0.0.1", 0)))
            .await?
            .context("listening for the proxy")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            dialect,
            upstream,
            tls,
            started: Instant::now(),
            recording: Mutex::default(),
            rules: Mutex::default(),
            lag: Mutex::default(),
            replacements: Mutex::default(),
            canaries: Canaries::default(),
        });
        let server = background::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self {
            shared,
            address,
            _server: server,
        })
    }

    /// Every secret that has gone through: keys of sessions in replies, bearer tokens in requests.
    #[must_use]
    pub fn secrets(&self) -> Canaries {
        self.shared.canaries.clone()
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:…`
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Everything so far.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.shared.recording).calls().to_vec()
    }

    /// The calls of one operation, whatever became of them.
    #[must_use]
    pub fn calls_of(&self, service: &str, operation: &str) -> Vec<Call> {
        let recording = lock(&self.shared.recording);
        recording
            .calls()
            .iter()
            .filter(|call| call.service == service && call.operation == operation)
            .cloned()
            .collect()
    }

    /// How often an operation was asked for, retries and failures included.
    #[must_use]
    pub fn count(&self, service: &str, operation: &str) -> usize {
        self.calls_of(service, operation).len()
    }

    /// How often the server did it, whether or not the caller heard of it.
    #[must_use]
    pub fn successes(&self, service: &str, operation: &str) -> usize {
        self.calls_of(service, operation)
            .iter()
            .filter(|call| call.succeeded())
            .count()
    }

    /// Every call that changed the world.
    #[must_use]
    pub fn mutations(&self) -> Vec<Call> {
        self.calls()
            .into_iter()
            .filter(|call| call.is_mutation() && call.succeeded())
            .collect()
    }

    /// A line per call, for the message of a failed test.
    #[must_use]
    pub fn transcript(&self) -> String {
        self.calls().iter().map(|call| format!("{call}\n")).collect()
    }

    /// Calls with this key are from now on known as this caller's.
    pub fn learn(&self, access_key: &str, caller: &str) {
        lock(&self.shared.recording).learn(access_key.into(), caller.into());
    }

    /// Replaces a text in every reply from now on.
    pub fn replace_in_replies(&self, from: &str, to: &str) {
        lock(&self.shared.replacements).push((from.into(), to.into()));
    }

    /// From now on nothing is replaced any more.
    pub fn replace_no_more(&self) {
        lock(&self.shared.replacements).clear();
    }

    /// The request is not forwarded until the handle is released; if its caller is gone by then, never.
    pub fn hold(&self, matcher: Matcher) -> Handle {
        self.rule(matcher, Action::Hold)
    }

    /// The request is carried out, and the caller does not hear of it until the handle is released.
    pub fn withhold_reply(&self, matcher: Matcher) -> Handle {
        self.rule(matcher, Action::WithholdReply)
    }

    /// The test answers; the server never sees the request.
    pub fn answer(&self, matcher: Matcher, answer: Canned) -> Handle {
        self.rule(matcher, Action::Answer(answer))
    }

    /// The request is forwarded later.
    pub fn delay(&self, matcher: Matcher, by: Duration) -> Handle {
        self.rule(matcher, Action::Delay(by))
    }

    /// For `window` after each change, reads of `service` that were asked before answer as they did then.
    pub fn lag(&self, service: &str, window: Duration) {
        lock(&self.shared.lag).set(service, window);
    }

    fn rule(&self, matcher: Matcher, action: Action) -> Handle {
        let rule = Rule::new(matcher, action);
        lock(&self.shared.rules).push(Arc::clone(&rule));
        Handle(rule)
    }
}

impl Tls {
    fn of_cluster(folder: &Path) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let authority = CertificateDer::from_pem_file(folder.join("ca.crt")).context("the cluster's ca.crt")?;
        let certificate =
            CertificateDer::from_pem_file(folder.join("server.crt")).context("the cluster's server.crt")?;
        let key = PrivateKeyDer::from_pem_file(folder.join("server.key")).context("the cluster's server.key")?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority)?;
        let client = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)?;
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            acceptor: Arc::new(server).into(),
            connector: Arc::new(client).into(),
        })
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    let _ = stream.set_nodelay(true);
                    match &shared.tls {
                        None => serve(stream, Arc::clone(&shared)).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.acceptor.accept(stream).await {
                                serve(stream, Arc::clone(&shared)).await;
                            }
                        }
                    }
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, shared: Arc<Shared>) {
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, std::convert::Infallible>(answer(request, shared).await) }
    });
    // An error here is the caller's: it has gone away.
    let _ended = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// Dropped by hyper when the caller goes away: what is held then is never forwarded.
async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let Ok(body) = body.collect().await.map(http_body_util::Collected::to_bytes) else {
        return plain(StatusCode::BAD_REQUEST, "the body broke off");
    };
    if let Some(token) = bearer(&parts.headers) {
        shared.canaries.learn("a bearer token", token);
    }
    let asked = shared.dialect.classify(&parts, &body);
    if let Some(token) = classify::web_identity_token(&body) {
        shared.canaries.learn("a web identity token", &token);
    }
    let target = format!("{} {}", parts.method, parts.uri);
    let at = shared.started.elapsed();
    let index = lock(&shared.recording).begin(&asked, target.clone(), body.clone(), at);
    let rule = lock(&shared.rules)
        .iter()
        .find(|rule| rule.takes(&asked, &target, &body))
        .cloned();
    if let Some(rule) = &rule {
        match &rule.action {
            Action::Hold => {
                rule.mark_reached();
                if rule.decided().await == Fate::Abandoned {
                    return std::future::pending().await;
                }
            }
            Action::Answer(canned) => {
                rule.mark_reached();
                lock(&shared.recording).update(index, |call| call.injected = Some(canned.status));
                return canned_response(canned);
            }
            Action::Delay(by) => {
                rule.mark_reached();
                tokio::time::sleep(*by).await;
            }
            Action::WithholdReply => {}
        }
    }
    if let Some((parts, bytes)) = lock(&shared.lag).stale(&asked, &body) {
        lock(&shared.recording).update(index, |call| {
            call.status = Some(parts.status.as_u16());
            call.stale = true;
            call.delivered = true;
        });
        return Response::from_parts(parts, full(bytes));
    }
    let request = Request::from_parts(parts, Full::new(body.clone()));
    let forwarding = Arc::clone(&shared);
    // On a task of its own: a caller that is killed now does not undo what it has sent.
    let reply = background::run(async move {
        let reply = forward(request, &forwarding).await;
        if let Ok(reply) = &reply {
            let status = reply.status().as_u16();
            lock(&forwarding.recording).update(index, |call| call.status = Some(status));
        }
        finish(reply, (&asked, &body, index), &forwarding).await
    })
    .await;
    let reply = match reply.and_then(|reply| reply) {
        Ok(reply) => reply,
        Err(error) => {
            return plain(
                StatusCode::BAD_GATEWAY,
                &format!("the proxy could not forward: {error:#}"),
            );
        }
    };
    if let Some(rule) = rule.filter(|rule| matches!(rule.action, Action::WithholdReply)) {
        rule.mark_reached();
        if rule.decided().await == Fate::Abandoned {
            return std::future::pending().await;
        }
    }
    lock(&shared.recording).update(index, |call| call.delivered = true);
    reply
}

fn bearer(headers: &http::HeaderMap) -> Option<&str> {
    headers.get("authorization")?.to_str().ok()?.strip_prefix("Bearer ")
}

/// Watches stream on; everything else is read whole, learnt from, and changed where the test says so.
async fn finish(
    reply: Result<Response<Incoming>>,
    (asked, body, index): (&Asked, &Bytes, usize),
    shared: &Shared,
) -> Result<Response<Body>> {
    let (mut parts, answer) = reply?.into_parts();
    if asked.operation.starts_with("watch ") || asked.operation.ends_with("/log") {
        return Ok(Response::from_parts(parts, answer.boxed()));
    }
    let mut bytes = answer.collect().await?.to_bytes();
    let made = {
        let mut recording = lock(&shared.recording);
        recording.learn_from(&asked.operation, &bytes, &shared.canaries);
        recording
            .calls()
            .get(index)
            .is_some_and(|call| call.is_mutation() && call.succeeded())
    };
    for (from, to) in lock(&shared.replacements).iter() {
        bytes = String::from_utf8_lossy(&bytes).replace(from, to).into();
    }
    parts.headers.remove("transfer-encoding");
    if parts.headers.contains_key("content-length") || !bytes.is_empty() {
        parts.headers.insert("content-length", bytes.len().into());
    }
    let change = if made { Change::Made } else { Change::None };
    lock(&shared.lag).observe(asked, body, change, (&parts, &bytes));
    Ok(Response::from_parts(parts, full(bytes)))
}

async fn forward(request: Request<Full<Bytes>>, shared: &Shared) -> Result<Response<Incoming>> {
    let stream = TcpStream::connect(shared.upstream)
        .await
        .with_context(|| format!("connecting to {}", shared.upstream))?;
    stream.set_nodelay(true)?;
    match &shared.tls {
        None => exchange(stream, request).await,
        Some(tls) => {
            let name = ServerName::try_from("localhost").map_err(|error| anyhow!(error))?;
            exchange(tls.connector.connect(name, stream).await?, request).await
        }
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the exchange: the connection is not kept.
    background::detach(async move { drop(connection.await) });
    Ok(sender.send_request(request).await?)
}

fn canned_response(canned: &Canned) -> Response<Body> {
    let mut response = Response::new(full(canned.body.clone()));
    *response.status_mut() = StatusCode::from_u16(canned.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in &canned.headers {
        if let (Ok(name), Ok(value)) = (http::HeaderName::try_from(name), http::HeaderValue::try_from(value)) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn plain(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(full(Bytes::copy_from_slice(text.as_bytes())));
    *response.status_mut() = status;
    response
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
