//! `/livez` and `/readyz`, for platforms that ask. Off unless an address is configured.
//!
//! Live: the agent's loops turn. Ready: the manager has welcomed this instance and it takes work;
//! while it drains it is not.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use deputy_session::session::LinkState;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::exit::StartupError;

/// Connections at the same time; probes need one or two.
const MAX_CONNECTIONS: usize = 16;

/// How long a client may take to send its request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection may be open at all.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);

/// Does the agent take work?
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// If its session is up.
    Serving,
    /// It leaves; why, for people.
    Draining(String),
}

/// What the answers are made from.
#[derive(Clone)]
pub(crate) struct Health {
    pub(crate) link: watch::Receiver<LinkState>,
    pub(crate) readiness: watch::Receiver<Readiness>,
}

impl Health {
    fn ready(&self) -> Result<(), String> {
        if let Readiness::Draining(reason) = &*self.readiness.borrow() {
            return Err(format!("draining: {reason}"));
        }
        match &*self.link.borrow() {
            LinkState::Up => Ok(()),
            LinkState::Connecting => Err("not connected to the manager yet".into()),
            LinkState::Down(reason) => Err(format!("not connected to the manager: {reason}")),
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> (StatusCode, String) {
        match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/livez") => (StatusCode::OK, "ok\n".into()),
            (&Method::GET | &Method::HEAD, "/readyz") => match self.ready() {
                Ok(()) => (StatusCode::OK, "ok\n".into()),
                Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
            },
            _ => (StatusCode::NOT_FOUND, "there are /livez and /readyz\n".into()),
        }
    }
}

/// Opens the port.
pub(crate) async fn listen(address: SocketAddr) -> Result<TcpListener, StartupError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| StartupError::Listen { address, source })
}

/// Answers for ever; dropped with its connections by the supervisor.
pub(crate) async fn serve(listener: TcpListener, health: Health) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    let health = health.clone();
                    connections.spawn(tokio::time::timeout(CONNECTION_TIMEOUT, async move {
                        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                            let (status, text) = health.answer(&request);
                            let mut response = Response::new(Full::new(Bytes::from(text)));
                            *response.status_mut() = status;
                            async move { Ok::<_, Infallible>(response) }
                        });
                        let mut http = hyper::server::conn::http1::Builder::new();
                        http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
                        // A client that breaks off is its own business.
                        let _ = http.serve_connection(TokioIo::new(stream), service).await;
                    }));
                }
                // Out of descriptors, most likely: accepting at once would spin.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}
