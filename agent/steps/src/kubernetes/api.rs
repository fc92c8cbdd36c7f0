//! The verbs this folder uses against an API server, over kube's client: read, list, change.
//! Reads are repeated once with a fresh token; changes need a permit and are never repeated here.
//! It explains nothing: [`ApiError`] says what happened, `explain` says it to people.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use deputy_logs::Redactor;
use deputy_task::json::{Bound, Unread};
use futures::future::poll_fn;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, StatusCode};
use hyper::body::Body as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta, Status};
use kube::client::Body;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::permit::Permit;

use super::bearer::{Bearer, BearerError};
use super::echo::{Echo, said};
use super::guard::{Pass, Refused};
use super::path;
use super::refusal::Refusal;

/// From sending a change to the end of its answer. Server-side apply through a slow admission
/// webhook may take up to the API server's own 30 s limit for webhooks; most take milliseconds.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(40);

/// From asking to the end of the answer; it is asked again then.
const READ_TIMEOUT: Duration = Duration::from_secs(15);

/// Largest answer: a list of everything in a large namespace.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// Characters that are told of what no API server wrote.
const MAX_FOREIGN_CHARS: usize = 300;

/// Most values in one: thousands of pods with everything that a cluster notes about them.
const ANSWER_BOUND: Bound = Bound {
    values: 1_000_000,
    depth: 127,
};

/// Objects of a list that are asked for at once: what kubectl asks for.
const PAGE: usize = 500;

/// Most objects of a list: the pods of a workload on twice as many nodes as Kubernetes is made for.
const MAX_LISTED: usize = 10_000;

/// Pages of a list, also of those without objects.
const MAX_PAGES: usize = 200;

/// An object of a list.
pub(crate) trait Listed: DeserializeOwned + k8s_openapi::Metadata<Ty = ObjectMeta> {}

impl<T: DeserializeOwned + k8s_openapi::Metadata<Ty = ObjectMeta>> Listed for T {}

/// A part of a list.
#[derive(serde::Deserialize)]
struct Page<T> {
    items: Option<Vec<T>>,
    #[serde(default)]
    metadata: ListMeta,
}

/// An API server, as one identity.
#[derive(Clone)]
pub(crate) struct Api {
    client: kube::Client,
    bearer: Bearer,
    place: Arc<Place>,
    secrets: Redactor,
}

/// Where an API server is, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The cluster's name.
    pub(crate) cluster: String,
    /// The URL that was called.
    pub(crate) server: String,
}

/// A request that changes the cluster.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) path: String,
    pub(crate) content_type: &'static str,
    pub(crate) body: Vec<u8>,
    /// What a refusal may quote of it, and what of what it meets there it may not.
    pub(crate) echo: Echo,
}

/// Why a request has no good answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// The permit was over; nothing was sent.
    #[error("the permit was over before the request was sent")]
    NotSent,
    /// There is no token to show.
    #[error(transparent)]
    Bearer(#[from] BearerError),
    /// The API server answered with an error.
    #[error("{code}: {}", .status.message.as_deref().unwrap_or("no message"))]
    Status {
        /// The HTTP status.
        code: StatusCode,
        /// What kind of refusal it is, by all that it says.
        refusal: Refusal,
        /// What the body says, without the values that it quotes.
        status: Box<Status>,
    },
    /// No answer.
    #[error("{detail}")]
    NoAnswer {
        /// Did the server perhaps get the request?
        reached: Reached,
        /// The chain of causes.
        detail: String,
    },
    /// An answer that cannot be read.
    #[error("the answer cannot be read: {0}")]
    Unreadable(String),
}

/// Did the server perhaps get a request that was never answered?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reached {
    /// Certainly not.
    No,
    /// Perhaps.
    Perhaps,
}

impl ApiError {
    /// The HTTP status, if there was an answer.
    pub(crate) fn code(&self) -> Option<u16> {
        match self {
            Self::Status { code, .. } => Some(code.as_u16()),
            Self::NotSent | Self::Bearer(_) | Self::NoAnswer { .. } | Self::Unreadable(_) => None,
        }
    }

    /// May the same *read* well succeed in a moment?
    pub(crate) fn passes(&self) -> bool {
        match self {
            Self::NoAnswer { .. } => true,
            // Gone is what a list goes on from: it can be read from its beginning.
            Self::Status { code, .. } => {
                code.is_server_error() || matches!(*code, StatusCode::TOO_MANY_REQUESTS | StatusCode::GONE)
            }
            Self::NotSent | Self::Bearer(_) | Self::Unreadable(_) => false,
        }
    }
}

impl Api {
    /// From a client without authentication of its own, and a source of tokens.
    pub(crate) fn new(client: kube::Client, bearer: Bearer, place: Place, secrets: Redactor) -> Self {
        Self {
            client,
            bearer,
            place: Arc::new(place),
            secrets,
        }
    }

    /// Where this is, for people.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// Reads one thing.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        self.ask(Method::GET, path, Vec::new()).await
    }

    /// Reads a whole list, page by page. `path` has a query.
    pub(crate) async fn list<T: Listed>(&self, path: &str) -> Result<Vec<T>, ApiError> {
        whole(self.list_first(path, MAX_LISTED + 1).await?)
    }

    /// Reads what a list says of its objects' metadata, without the objects.
    pub(crate) async fn list_metadata(&self, path: &str) -> Result<Vec<Value>, ApiError> {
        let only = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        let without_fields = |object: &mut Value| {
            let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
            metadata
                .into_iter()
                .for_each(|metadata| drop(metadata.remove("managedFields")));
        };
        whole(self.first(path, MAX_LISTED + 1, only, without_fields).await?)
    }

    /// Reads the first objects of a list, `most` or somewhat more.
    pub(crate) async fn list_first<T: Listed>(&self, path: &str, most: usize) -> Result<Vec<T>, ApiError> {
        let without_fields = |object: &mut T| object.metadata_mut().managed_fields = None;
        self.first(path, most, "application/json", without_fields).await
    }

    async fn first<T: DeserializeOwned>(
        &self,
        path: &str,
        most: usize,
        accept: &'static str,
        without_fields: impl Fn(&mut T),
    ) -> Result<Vec<T>, ApiError> {
        let limit = format!("{path}{}limit={PAGE}", if path.contains('?') { '&' } else { '?' });
        let mut listed = Vec::new();
        let mut next = limit.clone();
        for _ in 0..MAX_PAGES {
            let mut request = request(Method::GET, &next, "application/json", Vec::new())?;
            request.headers_mut().insert(ACCEPT, HeaderValue::from_static(accept));
            let page: Page<T> = self.read(request).await?;
            // Who manages which field is the most of an object, and is asked of the followed one only.
            let items = page.items.into_iter().flatten();
            listed.extend(items.map(|mut item| {
                without_fields(&mut item);
                item
            }));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) if listed.len() < most => next = format!("{limit}&continue={}", path::encoded(&token)),
                _ => return Ok(listed),
            }
        }
        Err(ApiError::Unreadable(format!(
            "the list has more than {MAX_PAGES} pages"
        )))
    }

    /// Reads one object; none if it is not there.
    pub(crate) async fn get_object(&self, path: &str) -> Result<Option<Value>, ApiError> {
        match self.get(path).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.code() == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends a request that changes nothing: GET, or a review of one's own rights.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<T, ApiError> {
        self.read(request(method, path, "application/json", body)?).await
    }

    /// Sends it, once more with a fresh token, and reads the answer.
    async fn read<T: DeserializeOwned>(&self, request: Request<Vec<u8>>) -> Result<T, ApiError> {
        let answer = match self.send(request.clone()).await {
            Err(error) if error.code() == Some(401) => {
                self.bearer.forget().await;
                self.send(request).await?
            }
            other => other?,
        };
        ANSWER_BOUND.read(&answer).map_err(|error| unreadable(&error))
    }

    /// The user name that the cluster gives this identity.
    pub(crate) async fn who_am_i(&self) -> Result<String, ApiError> {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string();
        let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
        let answer: Value = self.ask(Method::POST, path, review.into_bytes()).await?;
        let name = answer.pointer("/status/userInfo/username").and_then(Value::as_str);
        // EKS names a role session by its ARN in an extra field, and by the access entry's user name here.
        let arn = answer.pointer("/status/userInfo/extra/arn/0").and_then(Value::as_str);
        match (name, arn) {
            (Some(name), Some(arn)) if name != arn => Ok(format!("{name} ({arn})")),
            (Some(name), _) => Ok(name.to_owned()),
            (None, _) => Err(ApiError::Unreadable("it names nobody".into())),
        }
    }

    /// Sends a change, once. `answered` is called the moment the answer's head is here.
    pub(crate) async fn change(&self, change: &Change, permit: Permit, answered: impl Fn()) -> Result<Value, ApiError> {
        let pass = Pass::new(permit);
        let Change {
            method,
            path,
            content_type,
            body,
            echo,
        } = change;
        let mut request = request(method.clone(), path, content_type, body.clone())?;
        request.extensions_mut().insert(pass.clone());
        let result = self.transmit(request, echo, CHANGE_TIMEOUT, answered).await;
        if matches!(&result, Err(error) if error.code() == Some(401)) {
            self.bearer.forget().await;
        }
        match result {
            Ok(answer) => ANSWER_BOUND.read(&answer).map_err(|error| unreadable(&error)),
            Err(ApiError::NoAnswer { detail, .. }) if !pass.transmitted() => {
                let expired = permit.check().is_err();
                Err(if expired {
                    ApiError::NotSent
                } else {
                    ApiError::NoAnswer {
                        reached: Reached::No,
                        detail,
                    }
                })
            }
            Err(error) => Err(error),
        }
    }

    async fn send(&self, request: Request<Vec<u8>>) -> Result<Bytes, ApiError> {
        self.transmit(request, &Echo::default(), READ_TIMEOUT, || {}).await
    }

    async fn transmit(
        &self,
        mut request: Request<Vec<u8>>,
        echo: &Echo,
        limit: Duration,
        answered: impl Fn(),
    ) -> Result<Bytes, ApiError> {
        let token = self.bearer.token().await?;
        request.headers_mut().insert(AUTHORIZATION, token);
        let exchange = async {
            let answer = self
                .client
                .send(request.map(Body::from))
                .await
                .map_err(|error| no_answer(&error))?;
            answered();
            let code = answer.status();
            let body = collect(answer.into_body()).await?;
            if code.is_success() {
                Ok(body)
            } else {
                Err(status(code, &body, echo, &self.secrets))
            }
        };
        tokio::time::timeout(limit, exchange).await.unwrap_or_else(|_| {
            let detail = format!("no answer within {} s", limit.as_secs());
            Err(ApiError::NoAnswer {
                reached: Reached::Perhaps,
                detail,
            })
        })
    }
}

fn request(
    method: Method,
    path: &str,
    content_type: &'static str,
    body: Vec<u8>,
) -> Result<Request<Vec<u8>>, ApiError> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(ACCEPT, HeaderValue::from_static("application/json"))
        .header(CONTENT_TYPE, HeaderValue::from_static(content_type));
    request
        .body(body)
        .map_err(|error| ApiError::Unreadable(format!("{path} is no path: {error}")))
}

async fn collect(mut body: Body) -> Result<Bytes, ApiError> {
    let mut all = BytesMut::new();
    while let Some(frame) = poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|error| no_answer(&error))?;
        if let Ok(data) = frame.into_data() {
            if all.len() + data.len() > MAX_ANSWER_BYTES {
                return Err(ApiError::Unreadable(format!(
                    "it is longer than {MAX_ANSWER_BYTES} bytes"
                )));
            }
            all.extend_from_slice(&data);
        }
    }
    Ok(all.freeze())
}

/// The body of an error is a `Status`, unless a proxy or load balancer wrote it.
pub(super) fn status(code: StatusCode, body: &[u8], echo: &Echo, secrets: &Redactor) -> ApiError {
    let read = ANSWER_BOUND.read::<Status>(body);
    let is_foreign = read.is_err();
    let status = read.unwrap_or_else(|_| Status {
        message: Some(String::from_utf8_lossy(body).trim().to_owned()),
        ..Status::default()
    });
    let refusal = Refusal::of(status.message.as_deref().unwrap_or_default());
    let mut status = echo.status(status, secrets);
    if is_foreign {
        let cut = |message: String| message.chars().take(MAX_FOREIGN_CHARS).collect();
        status.message = status.message.map(cut);
    }
    ApiError::Status {
        code,
        refusal,
        status: Box::new(status),
    }
}

fn whole<T>(listed: Vec<T>) -> Result<Vec<T>, ApiError> {
    if listed.len() > MAX_LISTED {
        return Err(ApiError::Unreadable(format!(
            "the list has more than {MAX_LISTED} objects"
        )));
    }
    Ok(listed)
}

/// Where an answer is not as it should be, without what stands there.
fn unreadable(error: &Unread) -> ApiError {
    ApiError::Unreadable(said(&error.to_string()))
}

fn no_answer(error: &(dyn std::error::Error + 'static)) -> ApiError {
    let mut detail = String::new();
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<Refused>() == Some(&Refused::Expired) {
            return ApiError::NotSent;
        }
        let words = error.to_string();
        if !detail.ends_with(&words) {
            if !detail.is_empty() {
                detail.push_str(": ");
            }
            detail.push_str(&words);
        }
        cause = error.source();
    }
    ApiError::NoAnswer {
        reached: Reached::Perhaps,
        detail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A proxy may repeat what it was sent.
    #[test]
    fn what_a_proxy_says_is_cut_after_secrets_are_out_of_it() {
        const SECRET: &str = "hunter2-of-the-task";
        let live = json!({"data": {"password": "hunter3-of-the-cluster"}});
        let echo = Echo {
            own: Value::Null,
            live: vec![live],
        };
        for before in MAX_FOREIGN_CHARS - 30..MAX_FOREIGN_CHARS + 30 {
            for secret in [SECRET, "hunter3-of-the-cluster"] {
                let body = format!("{} {secret} and more", "x".repeat(before));
                let secrets = Redactor::new();
                secrets.add_secret(SECRET.as_bytes()).expect("a secret");
                let error = status(StatusCode::BAD_GATEWAY, body.as_bytes(), &echo, &secrets);
                let ApiError::Status { status, .. } = error else {
                    panic!("a status");
                };
                let told = status.message.expect("words");
                assert!(told.len() <= MAX_FOREIGN_CHARS && !told.contains("hunter"), "{told}");
            }
        }
    }
}
