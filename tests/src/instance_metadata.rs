//! The metadata service of an EC2 instance, version 2, played by the harness: a token first, then the role's session.
//!
//! The emulator serves one too, but with keys that it does not know itself.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;

use crate::background::Background;
use crate::container_credentials::{ContainerCredentials, Shared, session};
use crate::http_server::{self, Answer, reply};

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
        Self::serve(Some(credentials.shared())).await
    }

    /// Tells the role's name and has no session of it: for who asks only whether it answers.
    pub async fn without_sessions() -> Result<Self> {
        Self::serve(None).await
    }

    async fn serve(shared: Option<Arc<Shared>>) -> Result<Self> {
        let (address, server) = http_server::start(move |request| {
            let shared = shared.clone();
            async move { answer(&request, shared.as_deref()).await }
        })
        .await?;
        Ok(Self {
            address,
            _server: server,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What makes the SDK ask here and not at the address of every instance, and hides what the harness gives else.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        [
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT", self.url()),
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", String::new()),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN", String::new()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}

async fn answer(request: &Request<Incoming>, shared: Option<&Shared>) -> Answer {
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
    match (path.strip_prefix(PROFILE), shared) {
        (Some(""), _) => reply(StatusCode::OK, "deputy-agent".into()),
        (Some("deputy-agent"), Some(shared)) => match session(shared, &|_, _| {}).await {
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
