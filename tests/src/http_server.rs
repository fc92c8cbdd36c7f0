//! A small HTTP/1.1 server on loopback, for what the harness plays. It ends when its handle is dropped.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::background::{self, Background};

/// What is answered.
pub(crate) type Answer = Response<Full<Bytes>>;

/// Answers every request with `answer`, on a port of its own.
pub(crate) async fn start<F>(
    answer: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static,
) -> Result<(SocketAddr, Background)>
where
    F: Future<Output = Answer> + Send + 'static,
{
    let listener = background::run(TcpListener::bind(("127.0.0.1", 0))).await??;
    let address = listener.local_addr()?;
    Ok((address, background::spawn(accept(listener, Arc::new(answer)))))
}

async fn accept<F>(listener: TcpListener, answer: Arc<impl Fn(Request<Incoming>) -> F + Send + Sync + 'static>)
where
    F: Future<Output = Answer> + Send + 'static,
{
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                let answer = Arc::clone(&answer);
                let service = service_fn(move |request| {
                    let answered = answer(request);
                    async move { Ok::<_, std::convert::Infallible>(answered.await) }
                });
                connections.spawn(async move {
                    let builder = hyper::server::conn::http1::Builder::new();
                    // An error here is the caller's: it has gone away.
                    let _ended = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// JSON, with this status.
pub(crate) fn reply(status: StatusCode, body: String) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("application/json"));
    response
}
