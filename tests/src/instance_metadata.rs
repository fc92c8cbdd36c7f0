//! The metadata service of an EC2 instance, version 2, played by the harness: a token first, then the role's session.
//!
//! The emulator serves one too, but with keys that it does not know itself.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::background::{self, Background};
use crate::container_credentials::{ContainerCredentials, Shared, reply, session};

const TOKEN: &str = "token-of-the-instance-metadata-service";
const PROFILE: &str = "/latest/meta-data/iam/security-credentials/";

/// The service. It ends when it is dropped.
#[derive(Debug)]
pub struct InstanceMetadata {
    address: SocketAddr,
    _server: Background,
}

impl InstanceMetadata {
    /// Serves the same sessions as `credentials`.
    pub async fn start(credentials: &ContainerCredentials) -> Result<Self> {
        let listener = background::run(TcpListener::bind(("127.0.0.1", 0))).await??;
        let address = listener.local_addr()?;
        let server = background::spawn(accept(listener, credentials.shared()));
        Ok(Self {
            address,
            _server: server,
        })
    }

    /// What makes the SDK ask here and not at the address of every instance, and hides what the harness gives else.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        [
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT", format!("http://{}", self.address)),
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", String::new()),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN", String::new()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                let shared = Arc::clone(&shared);
                let service = service_fn(move |request| {
                    let shared = Arc::clone(&shared);
                    async move { Ok::<_, std::convert::Infallible>(answer(&request, &shared).await) }
                });
                connections.spawn(async move {
                    let builder = hyper::server::conn::http1::Builder::new();
                    let _ended = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(request: &Request<Incoming>, shared: &Shared) -> Response<Full<Bytes>> {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let path = request.uri().path();
    if request.method() == Method::PUT && path == "/latest/api/token" {
        let Some(seconds) = header("x-aws-ec2-metadata-token-ttl-seconds") else {
            return reply(StatusCode::BAD_REQUEST, String::new());
        };
        let seconds = http::HeaderValue::from_str(seconds);
        let mut response = reply(StatusCode::OK, TOKEN.into());
        if let Ok(seconds) = seconds {
            response
                .headers_mut()
                .insert("x-aws-ec2-metadata-token-ttl-seconds", seconds);
        }
        return response;
    }
    if header("x-aws-ec2-metadata-token") != Some(TOKEN) {
        return reply(StatusCode::UNAUTHORIZED, String::new());
    }
    match path.strip_prefix(PROFILE) {
        Some("") => reply(StatusCode::OK, "deputy-agent".into()),
        Some("deputy-agent") => match session(shared, &|_, _| {}).await {
            Ok(mut body) => {
                body["Code"] = "Success".into();
                body["Type"] = "AWS-HMAC".into();
                body["LastUpdated"] = "2026-01-01T00:00:00Z".into();
                reply(StatusCode::OK, body.to_string())
            }
            Err(error) => reply(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")),
        },
        _ => reply(StatusCode::NOT_FOUND, String::new()),
    }
}
