//! Bytes where a stream of frames should be: lengths that are announced and never come.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use http_body_util::StreamBody;
use hyper::body::Frame;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

const SESSION: &str = "/deputy.v1.Agent/Session";

/// What the next sessions are answered with instead of frames.
pub(super) type Answers = Arc<Mutex<Vec<Bytes>>>;

/// A service whose sessions can be answered with any bytes.
#[derive(Clone)]
pub(super) struct Raw<S> {
    inner: S,
    answers: Answers,
}

impl<S> Raw<S> {
    pub(super) fn around(inner: S, answers: Answers) -> Self {
        Self { inner, answers }
    }
}

impl<S: NamedService> NamedService for Raw<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Raw<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answer = if request.uri().path() == SESSION {
            self.answers.lock().unwrap_or_else(PoisonError::into_inner).pop()
        } else {
            None
        };
        match answer {
            None => Box::pin(self.inner.call(request)),
            Some(bytes) => Box::pin(async move { Ok(answered(bytes)) }),
        }
    }
}

/// The bytes, and then nothing, on a stream that stays open.
fn answered(bytes: Bytes) -> http::Response<Body> {
    let pieces = futures::stream::iter([Ok::<_, Infallible>(Frame::data(bytes))]).chain(futures::stream::pending());
    let mut response = http::Response::new(Body::new(StreamBody::new(pieces)));
    let grpc = http::HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
    response
}
