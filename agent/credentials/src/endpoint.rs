//! The per-task credential endpoint: children of a task ask it for credentials, so that every AWS SDK
//! and CLI in them renews by itself and no key is ever in a file or an environment.
//!
//! Loopback only, a fresh port and a fresh 256-bit token per task, one path, the token in the
//! `Authorization` header only. It dies with its [`EndpointHandle`].

use std::convert::Infallible;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rand::TryRngCore;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use crate::identity::TaskIdentity;
use crate::timestamp::rfc3339;

const PATH: &str = "/v1/credentials";
const TOKEN_BYTES: usize = 32;
/// Connections at a time. A child's SDK uses one; a hundred parallel CLIs still get their turn.
const MAX_CONNECTIONS: usize = 64;
/// A client that does not finish its request headers by then is dropped.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// One connection lives no longer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// Waiting for the accept loop to end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Told as the end of credentials that have none, so that clients ask again.
const UNENDING: Duration = Duration::from_secs(3_600);

/// The endpoint could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// No loopback port.
    #[error("no loopback port for the task's credential endpoint")]
    Bind(#[source] std::io::Error),
    /// No randomness for the token.
    #[error("no randomness for the token of the task's credential endpoint: {0}")]
    Random(String),
}

/// A running endpoint. Dropping it ends it; [`close`](Self::close) also waits until it has ended.
pub struct EndpointHandle {
    address: SocketAddr,
    token: Arc<Zeroizing<String>>,
    /// One task, which ends when the set is dropped.
    serving: JoinSet<()>,
}

impl EndpointHandle {
    /// Opens an endpoint that serves `identity`. What is secret of each answer is given to `hide`, with its end, before
    /// it is sent: a child may print it. What cannot be hidden is not sent.
    ///
    /// # Errors
    /// If there is no loopback port or no randomness.
    pub async fn open(
        identity: TaskIdentity,
        hide: impl Fn(&[u8], Option<SystemTime>) -> Result<(), String> + Send + Sync + 'static,
    ) -> Result<Self, EndpointError> {
        let mut bytes = Zeroizing::new([0_u8; TOKEN_BYTES]);
        rand::rngs::OsRng
            .try_fill_bytes(bytes.as_mut_slice())
            .map_err(|error| EndpointError::Random(error.to_string()))?;
        let token = Arc::new(Zeroizing::new(hex::encode(bytes.as_slice())));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .map_err(EndpointError::Bind)?;
        let address = listener.local_addr().map_err(EndpointError::Bind)?;
        let guard = Guard {
            identity,
            token: Arc::clone(&token),
            host: address.to_string(),
            hide: Box::new(hide),
        };
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, Arc::new(guard)));
        Ok(Self {
            address,
            token,
            serving,
        })
    }

    /// The variables by which a child's SDK finds the endpoint. Loopback must also be in the child's
    /// `NO_PROXY`, which is given too.
    #[must_use]
    pub fn env(&self) -> Vec<(String, String)> {
        vec![
            (
                "AWS_CONTAINER_CREDENTIALS_FULL_URI".into(),
                format!("http://{}{PATH}", self.address),
            ),
            (
                "AWS_CONTAINER_AUTHORIZATION_TOKEN".into(),
                self.token.as_str().to_owned(),
            ),
        ]
    }

    /// What the redactor must know before a child is started.
    #[must_use]
    pub fn secrets(&self) -> Vec<String> {
        vec![self.token.as_str().to_owned()]
    }

    /// Ends the endpoint and waits, bounded, until it has ended.
    pub async fn close(mut self) {
        if tokio::time::timeout(CLOSE_TIMEOUT, self.serving.shutdown())
            .await
            .is_err()
        {
            tracing::warn!("the task's credential endpoint did not end in time");
        }
    }
}

impl fmt::Debug for EndpointHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EndpointHandle({})", self.address)
    }
}

/// Makes a value known to the redactor until some time after its end, or says why that cannot be.
type Hide = dyn Fn(&[u8], Option<SystemTime>) -> Result<(), String> + Send + Sync;

struct Guard {
    identity: TaskIdentity,
    token: Arc<Zeroizing<String>>,
    host: String,
    hide: Box<Hide>,
}

/// Ends when aborted; its connections end with it.
async fn serve(listener: TcpListener, guard: Arc<Guard>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // Both are cancel-safe: a connection is either accepted or still in the backlog.
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(answer(stream, Arc::clone(&guard)));
                }
                // Out of file descriptors, or the peer went away: give it a moment.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

async fn answer(stream: TcpStream, guard: Arc<Guard>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let guard = Arc::clone(&guard);
        async move { Ok::<_, Infallible>(respond(&guard, &request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // Clients ask once in a while: a connection that waits for more only takes the place of others.
        .keep_alive(false)
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    let _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await;
}

async fn respond(guard: &Guard, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let refused = |status, why: &str| reply(status, &json!({"code": "Refused", "message": why}));
    if let Err((status, why)) = admit(guard, request.method(), request.uri(), request.headers()) {
        return refused(status, why);
    }
    match guard.identity.credentials().await {
        Ok(credentials) => {
            let token = credentials.session_token();
            let mut secrets = [Some(credentials.secret_access_key()), token].into_iter().flatten();
            let hidden = secrets.try_for_each(|secret| (guard.hide)(secret.as_bytes(), credentials.expiry()));
            if let Err(why) = hidden {
                let message = format!("the credentials could not be hidden in the task's log and are not given: {why}");
                let body = json!({"code": "NotHidden", "message": message});
                return reply(StatusCode::FORBIDDEN, &body);
            }
            reply(StatusCode::OK, &document(&credentials, SystemTime::now()))
        }
        Err(error) => reply(
            StatusCode::INTERNAL_SERVER_ERROR,
            &json!({"code": error.class(), "message": error.to_string()}),
        ),
    }
}

/// The token is asked first, so that nobody without it learns anything.
fn admit(guard: &Guard, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), (StatusCode, &'static str)> {
    let given = only(headers, &AUTHORIZATION).unwrap_or_default();
    if !same(given, guard.token.as_bytes()) {
        return Err((
            StatusCode::UNAUTHORIZED,
            "the Authorization header does not carry this task's token",
        ));
    }
    // A name that resolves to loopback is how a web page would get here.
    let elsewhere = uri.authority().is_some_and(|named| named.as_str() != guard.host);
    if elsewhere || only(headers, &HOST) != Some(guard.host.as_bytes()) {
        return Err((StatusCode::FORBIDDEN, "the Host header does not name this endpoint"));
    }
    if method != Method::GET {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "only GET"));
    }
    if uri.path() != PATH || uri.query().is_some() {
        return Err((StatusCode::NOT_FOUND, "no such path"));
    }
    Ok(())
}

/// The value of a header that is there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Some(value.as_bytes()),
        (None | Some(_), _) => None,
    }
}

/// Takes the same time wherever the first difference is.
fn same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len()
        && left
            .iter()
            .zip(right)
            .fold(0_u8, |difference, (l, r)| difference | (l ^ r))
            == 0
}

/// The document of the ECS container credential endpoint.
fn document(credentials: &Credentials, now: SystemTime) -> Value {
    let ends = credentials.expiry().unwrap_or(now + UNENDING);
    let mut document = json!({
        "AccessKeyId": credentials.access_key_id(),
        "SecretAccessKey": credentials.secret_access_key(),
        "Token": credentials.session_token().unwrap_or_default(),
        "Expiration": rfc3339(ends),
    });
    if let Some(account) = credentials.account_id() {
        document["AccountId"] = json!(account.as_str());
    }
    document
}

fn reply(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
        .headers_mut()
        .insert(CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Env;
    use crate::identity::Identities;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn open() -> EndpointHandle {
        hiding(|_, _| Ok(())).await
    }

    async fn hiding(
        hide: impl Fn(&[u8], Option<SystemTime>) -> Result<(), String> + Send + Sync + 'static,
    ) -> EndpointHandle {
        let env: Env = [("AWS_ACCESS_KEY_ID", "AKID"), ("AWS_SECRET_ACCESS_KEY", "SECRET")]
            .into_iter()
            .collect();
        let identity = Identities::new(env)
            .for_task("eu-west-1", &[], "deputy-test")
            .expect("no hops");
        EndpointHandle::open(identity, hide).await.expect("loopback")
    }

    async fn ask(address: SocketAddr, request: String) -> String {
        try_to_ask(address, request).await.expect("an answer")
    }

    async fn try_to_ask(address: SocketAddr, request: String) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    fn get(path: &str, host: &str, token: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: {token}\r\nConnection: close\r\n\r\n")
    }

    #[tokio::test]
    async fn only_the_right_token_host_method_and_path_get_credentials() {
        let endpoint = open().await;
        let (address, token) = (endpoint.address, endpoint.token.to_string());
        let host = address.to_string();
        let good = ask(address, get(PATH, &host, &token)).await;
        assert!(
            good.starts_with("HTTP/1.1 200") && good.contains(r#""AccessKeyId":"AKID""#),
            "{good}"
        );
        let refused = [
            (get(PATH, &host, "wrong"), "401"),
            (get("/other", &host, "wrong"), "401"),
            (get(PATH, "rebound.example:80", &token), "403"),
            (get("/other", &host, &token), "404"),
            (get(PATH, &host, &token).replacen("GET", "POST", 1), "405"),
            (get(PATH, &host, &token).replacen("GET", "OPTIONS", 1), "405"),
            // In other places than the header; twice; for somebody else, in any of the ways to say so.
            (get(&format!("{PATH}?token={token}"), &host, ""), "401"),
            (get(&format!("{PATH}?x=1"), &host, &token), "404"),
            (get(PATH, &host, &format!("{token}\r\nAuthorization: {token}")), "401"),
            (get(PATH, &format!("{host}\r\nHost: rebound.example"), &token), "403"),
            (get(PATH, &format!("localhost:{}", address.port()), &token), "403"),
            (get(&format!("http://rebound.example{PATH}"), &host, &token), "403"),
        ];
        for (request, status) in refused {
            let answer = ask(address, request).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}")) && !answer.contains("SECRET"),
                "{status}: {answer}"
            );
            // No page of another origin is ever allowed to read an answer.
            assert!(!answer.to_ascii_lowercase().contains("access-control"), "{answer}");
        }
        endpoint.close().await;
        // Refused; or answered, reset or left waiting by somebody who got the port meanwhile, for example the test
        // beside this one: not by the endpoint.
        let again = try_to_ask(address, get(PATH, &host, &token));
        let asked = tokio::time::timeout(Duration::from_secs(1), again).await;
        assert!(
            !asked.is_ok_and(|asked| asked.is_ok_and(|answer| answer.contains("SECRET"))),
            "it dies with its handle"
        );
    }

    /// Guards the places of others: nobody stays connected to ask again, with a token or without.
    #[tokio::test]
    async fn a_connection_ends_with_its_answer() {
        let endpoint = open().await;
        for (token, status) in [(endpoint.token.to_string(), "200"), ("wrong".to_owned(), "401")] {
            let stays = get(PATH, &endpoint.address.to_string(), &token).replace("Connection: close\r\n", "");
            let answer = tokio::time::timeout(CONNECTION_TIMEOUT / 2, ask(endpoint.address, stays)).await;
            let answer = answer.expect("closed");
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        }
    }

    /// Guards that the log's redactor knows what is given out, or it is not given.
    #[tokio::test]
    async fn what_cannot_be_hidden_is_not_given() {
        let endpoint = hiding(|_, _| Err("no more room".into())).await;
        let request = get(PATH, &endpoint.address.to_string(), &endpoint.token);
        let answer = ask(endpoint.address, request).await;
        assert!(
            answer.starts_with("HTTP/1.1 403") && answer.contains("no more room"),
            "{answer}"
        );
        assert!(!answer.contains("AKID") && !answer.contains("\"SECRET\""), "{answer}");
    }

    #[tokio::test]
    async fn a_request_without_end_is_not_listened_to() {
        let endpoint = open().await;
        let (address, token) = (endpoint.address, endpoint.token.to_string());
        let long = get(PATH, &address.to_string(), &token)
            .replace("Connection", &format!("X: {}\r\nConnection", "x".repeat(64 * 1024)));
        // Closed while we still write, or answered with a refusal.
        let mut stream = TcpStream::connect(address).await.expect("connect");
        let mut answer = Vec::new();
        drop(stream.write_all(long.as_bytes()).await);
        drop(stream.read_to_end(&mut answer).await);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    }

    #[tokio::test]
    async fn two_tasks_have_two_tokens() {
        let (one, two) = (open().await, open().await);
        assert_ne!(one.secrets(), two.secrets());
        assert_eq!(one.secrets()[0].len(), 2 * TOKEN_BYTES);
        assert!(!format!("{one:?}").contains(one.token.as_str()));
    }
}
