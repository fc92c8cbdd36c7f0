//! Shows every request to somebody who watches, after TLS and before anything of it is decoded. For tests that look
//! for secrets in what agents send; the program has no witness, and then nothing is wrapped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use http::Request;
use http::request::Parts;
use http_body_util::BodyExt;
use tonic::body::Body;
use tower::{Layer, Service};

/// Is shown what comes in.
pub trait Witness: Send + Sync + 'static {
    /// A request has begun; the number names it from now on.
    fn begins(&self, number: u64, head: &Parts);
    /// The next bytes of its body.
    fn continues(&self, number: u64, bytes: &[u8]);
}

/// Puts a witness before a service.
#[derive(Clone)]
pub(crate) struct WitnessLayer {
    witness: Option<Arc<dyn Witness>>,
    numbers: Arc<AtomicU64>,
}

/// See the module.
#[derive(Clone)]
pub(crate) struct Witnessed<S> {
    inner: S,
    layer: WitnessLayer,
}

impl WitnessLayer {
    pub(crate) fn new(witness: Option<Arc<dyn Witness>>) -> Self {
        Self {
            witness,
            numbers: Arc::default(),
        }
    }

    fn show(&self, request: Request<Body>) -> Request<Body> {
        let Some(witness) = self.witness.clone() else {
            return request;
        };
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let (head, body) = request.into_parts();
        witness.begins(number, &head);
        let body = body.map_frame(move |frame| {
            if let Some(bytes) = frame.data_ref() {
                witness.continues(number, bytes);
            }
            frame
        });
        Request::from_parts(head, Body::new(body))
    }
}

impl<S> Layer<S> for WitnessLayer {
    type Service = Witnessed<S>;

    fn layer(&self, inner: S) -> Witnessed<S> {
        Witnessed {
            inner,
            layer: self.clone(),
        }
    }
}

impl<S> Service<Request<Body>> for Witnessed<S>
where
    S: Service<Request<Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> S::Future {
        self.inner.call(self.layer.show(request))
    }
}
