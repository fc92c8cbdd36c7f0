//! The fence of this folder: a request that changes the cluster leaves only with a valid permit.
//! Used by `connection` as the last layer above the HTTP client. The permit is asked for at the
//! moment the body is handed to an open connection, so that time spent connecting counts, and
//! again when the HTTP client repeats the request on another connection.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Request};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use kube::client::Body;

use crate::permit::Permit;

/// Questions that the API server takes as POST and that change nothing.
const REVIEWS: [&str; 2] = [
    "/apis/authentication.k8s.io/v1/selfsubjectreviews",
    "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
];

/// Rides as an extension of a mutating request.
#[derive(Debug, Clone)]
pub(crate) struct Pass {
    permit: Permit,
    transmitted: Arc<AtomicBool>,
}

impl Pass {
    /// A pass for one request.
    pub(crate) fn new(permit: Permit) -> Self {
        Self {
            permit,
            transmitted: Arc::new(AtomicBool::new(false)),
        }
    }

    /// Was any of the request's body handed to a connection? If not, it did not happen.
    pub(crate) fn transmitted(&self) -> bool {
        self.transmitted.load(Ordering::Acquire)
    }
}

/// The request's body was not handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// The permit's time is over.
    #[error("the permit for this change was over before it could be sent")]
    Expired,
    /// A mutating request without a permit: a mistake of ours.
    #[error("a change without a permit is never sent")]
    NoPermit,
}

/// Puts the guard around the body of a request.
pub(crate) fn guard(request: Request<Body>) -> Request<GuardedBody> {
    let pass = request.extensions().get::<Pass>().cloned();
    let harmless = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS)
        || (*request.method() == Method::POST && REVIEWS.contains(&request.uri().path()));
    let rule = match (harmless, pass) {
        (true, _) => Rule::Harmless,
        (false, Some(pass)) => Rule::With(pass),
        (false, None) => Rule::Never,
    };
    request.map(|body| GuardedBody { body, rule })
}

#[derive(Debug)]
enum Rule {
    Harmless,
    With(Pass),
    Never,
}

/// A request body that asks for the permit before it gives anything out.
#[derive(Debug)]
pub(crate) struct GuardedBody {
    body: Body,
    rule: Rule,
}

impl HttpBody for GuardedBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        match &this.rule {
            Rule::Harmless => {}
            Rule::With(pass) => {
                if pass.permit.check().is_err() {
                    return Poll::Ready(Some(Err(Refused::Expired.into())));
                }
                pass.transmitted.store(true, Ordering::Release);
            }
            Rule::Never => return Poll::Ready(Some(Err(Refused::NoPermit.into()))),
        }
        Pin::new(&mut this.body).poll_frame(cx).map_err(Into::into)
    }

    /// Never "empty" for a mutation, else the HTTP client would not ask for it.
    fn is_end_stream(&self) -> bool {
        matches!(self.rule, Rule::Harmless) && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use deputy_task::boot_time::BootTime;

    use super::*;
    use crate::permit::now;

    async fn first_frame(method: Method, path: &str, pass: Option<Pass>) -> Result<Bytes, String> {
        let mut request = Request::new(Body::from(b"{}".to_vec()));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().expect("path");
        if let Some(pass) = pass {
            request.extensions_mut().insert(pass);
        }
        let mut body = guard(request).into_body();
        match poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            Some(Ok(frame)) => Ok(frame.into_data().expect("data")),
            Some(Err(error)) => Err(error.to_string()),
            None => Err("nothing".into()),
        }
    }

    fn pass_for(time: Duration) -> Pass {
        Pass::new(Permit::until(BootTime::from_nanos(
            now().as_nanos() + u64::try_from(time.as_nanos()).expect("short"),
        )))
    }

    #[tokio::test]
    async fn a_change_is_given_out_only_while_its_permit_lasts() {
        let path = "/api/v1/namespaces/shop/configmaps/a";
        let pass = pass_for(Duration::from_secs(20));
        assert!(first_frame(Method::PATCH, path, Some(pass.clone())).await.is_ok());
        assert!(pass.transmitted());
        let late = pass_for(Duration::ZERO);
        assert_eq!(
            first_frame(Method::PATCH, path, Some(late.clone()))
                .await
                .expect_err("late"),
            "the permit for this change was over before it could be sent"
        );
        assert!(!late.transmitted());
    }

    #[tokio::test]
    async fn a_change_without_a_permit_is_never_given_out() {
        let path = "/api/v1/namespaces/shop/configmaps/a";
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let refused = first_frame(method, path, None).await.expect_err("no permit");
            assert_eq!(refused, "a change without a permit is never sent");
        }
        assert!(first_frame(Method::GET, path, None).await.is_ok());
        assert!(
            first_frame(Method::POST, REVIEWS[0], None).await.is_ok(),
            "asking who I am changes nothing"
        );
    }
}
