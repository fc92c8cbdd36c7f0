//! The frames of a session by long polls: what is sent is numbered and kept until the manager says that it has it, what
//! comes is counted, so that a request or an answer that is lost or doubled on the way changes nothing. One request
//! posts, another waits; a conversation sees a queue on either side, as with a stream.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use deputy_proto::v1;
use http::uri::PathAndQuery;
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tonic::client::Grpc;
use tonic::{Code, Status};
use tracing::debug;

use crate::channel::ManagerChannel;
use crate::frame_codec::AnswerCodec;

/// How long a poll waits; the manager allows no more.
const LONGEST_WAIT: Duration = Duration::from_secs(25);
/// Where idle connections are cut, polls become shorter, down to this.
const SHORTEST_WAIT: Duration = Duration::from_secs(2);
/// A poll that failed after this much waiting was cut, not refused.
const WAITED: Duration = Duration::from_millis(900);
/// An answer may take so much longer than its poll waits.
const GRACE: Duration = Duration::from_secs(10);
/// After a failure the same request is sent again after so long, doubling.
const AGAIN: Duration = Duration::from_millis(100);
const AGAIN_AT_MOST: Duration = Duration::from_secs(2);
/// Frames sent whose arrival is not known.
const MAX_UNACKNOWLEDGED: usize = 64;
/// A post takes no further frame from here on.
const POST_BYTES: usize = 1024 * 1024;

/// The call as the contract names it. It is made here and not by the generated client, which reads frames in its own way.
const EXCHANGE: &str = "/deputy.v1.Agent/Exchange";

type Calling = Pin<Box<dyn Future<Output = Result<v1::ExchangeResponse, Status>> + Send>>;

/// See the module.
pub(crate) struct Exchange {
    client: Grpc<ManagerChannel>,
    session: [u8; 16],
    outbound: mpsc::Receiver<v1::SessionRequest>,
    outbound_open: bool,
    unacknowledged: VecDeque<v1::SessionRequest>,
    /// The number of the first of them.
    first: u64,
    received: u64,
    ready: VecDeque<v1::SessionResponse>,
    post: Line,
    poll: Line,
    wait: Duration,
    /// The post on its way says that no frame comes any more; the manager knows it.
    saying_last: bool,
    said_last: bool,
    ended: bool,
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// To bring frames.
    Post,
    /// To wait for some.
    Poll,
}

/// One request at a time.
struct Line {
    calling: Option<Calling>,
    since: Instant,
    not_before: Instant,
    failures: u32,
}

impl Line {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            calling: None,
            since: now,
            not_before: now,
            failures: 0,
        }
    }

    fn is_free(&self) -> bool {
        self.calling.is_none() && Instant::now() >= self.not_before
    }

    fn begin(&mut self, calling: Calling) {
        self.since = Instant::now();
        self.calling = Some(calling);
    }

    /// The answer to what is called. Cancel-safe.
    async fn answer(&mut self) -> Result<v1::ExchangeResponse, Status> {
        match &mut self.calling {
            Some(calling) => {
                let answer = calling.await;
                self.calling = None;
                answer
            }
            None => std::future::pending().await,
        }
    }

    fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
        let factor = 2u32.checked_pow(self.failures - 1).unwrap_or(u32::MAX);
        let jitter = rand::random_range(0.5..1.0);
        self.not_before = Instant::now() + AGAIN.saturating_mul(factor).min(AGAIN_AT_MOST).mul_f64(jitter);
    }
}

impl Exchange {
    /// A session that sends what comes out of `outbound`; the first frame is Hello.
    pub(crate) fn new(client: Grpc<ManagerChannel>, outbound: mpsc::Receiver<v1::SessionRequest>) -> Self {
        Self {
            client,
            session: rand::random(),
            outbound,
            outbound_open: true,
            unacknowledged: VecDeque::new(),
            first: 0,
            received: 0,
            ready: VecDeque::new(),
            post: Line::new(),
            poll: Line::new(),
            wait: LONGEST_WAIT,
            saying_last: false,
            said_last: false,
            ended: false,
        }
    }

    /// The next frame of the manager; none when it has ended the session. An error is the manager's word, or says
    /// that there is no session (any more); whatever a proxy can say of an open one is tried again. Cancel-safe.
    pub(crate) async fn message(&mut self) -> Result<Option<v1::SessionResponse>, Status> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Ok(Some(frame));
            }
            if self.ended {
                return Ok(None);
            }
            self.begin();
            let room = self.outbound_open && self.unacknowledged.len() < MAX_UNACKNOWLEDGED;
            let again = self.post.not_before.max(self.poll.not_before);
            let idle = self.post.calling.is_none() || self.poll.calling.is_none();
            tokio::select! {
                biased;
                answer = self.post.answer() => self.on_answer(answer, Purpose::Post)?,
                answer = self.poll.answer() => self.on_answer(answer, Purpose::Poll)?,
                frame = self.outbound.recv(), if room => match frame {
                    Some(frame) => self.unacknowledged.push_back(frame),
                    None => self.outbound_open = false,
                },
                () = sleep_until(again), if idle && again > Instant::now() => {}
            }
        }
    }

    /// Begins what there is to begin.
    fn begin(&mut self) {
        while self.unacknowledged.len() < MAX_UNACKNOWLEDGED
            && let Ok(frame) = self.outbound.try_recv()
        {
            self.unacknowledged.push_back(frame);
        }
        let something = !self.unacknowledged.is_empty() || (!self.outbound_open && !self.said_last);
        if something && self.post.is_free() {
            // Nobody polls before the session is open: its first post waits for the welcome itself.
            let wait = if self.first == 0 { self.wait } else { Duration::ZERO };
            let request = self.request(wait, Purpose::Post);
            self.saying_last = request.last;
            self.post.begin(call(self.client.clone(), request, wait));
        }
        if self.first > 0 && self.poll.is_free() {
            let request = self.request(self.wait, Purpose::Poll);
            self.poll.begin(call(self.client.clone(), request, self.wait));
        }
    }

    fn request(&self, wait: Duration, purpose: Purpose) -> v1::ExchangeRequest {
        let posts = purpose == Purpose::Post;
        let mut bytes = 0;
        let frames: Vec<_> = self
            .unacknowledged
            .iter()
            .take_while(|frame| {
                let fits = posts && bytes < POST_BYTES;
                bytes += frame.encoded_len();
                fits
            })
            .cloned()
            .collect();
        let all = frames.len() == self.unacknowledged.len();
        v1::ExchangeRequest {
            last: posts && all && !self.outbound_open,
            frames,
            session: self.session.to_vec().into(),
            first: self.first,
            received: self.received,
            wait_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
        }
    }

    fn on_answer(&mut self, answer: Result<v1::ExchangeResponse, Status>, purpose: Purpose) -> Result<(), Status> {
        let polled = purpose == Purpose::Poll;
        let line = if polled { &mut self.poll } else { &mut self.post };
        let answer = match answer {
            Ok(answer) => answer,
            // Who was not let in yet dials again, by whatever way.
            Err(status) if is_final(&status) || self.first == 0 => return Err(status),
            Err(status) => {
                debug!(code = ?status.code(), why = status.message(), polled, "an exchange is tried again");
                if polled && line.since.elapsed() > WAITED {
                    self.wait = (self.wait / 2).max(SHORTEST_WAIT);
                }
                line.failed();
                return Ok(());
            }
        };
        line.failures = 0;
        self.said_last |= !polled && self.saying_last;
        if answer.received > self.first + self.waiting() {
            return Err(Status::internal("the manager has more frames than were sent"));
        }
        while self.first < answer.received && self.unacknowledged.pop_front().is_some() {
            self.first += 1;
        }
        if answer.first > self.received {
            return Err(Status::internal("a frame of the manager is missing"));
        }
        let known = usize::try_from(self.received - answer.first).unwrap_or(usize::MAX);
        for frame in answer.frames.into_iter().skip(known) {
            self.received += 1;
            self.ready.push_back(frame);
        }
        self.ended |= answer.last;
        Ok(())
    }

    fn waiting(&self) -> u64 {
        u64::try_from(self.unacknowledged.len()).unwrap_or(u64::MAX)
    }
}

/// Sends it; nothing waits for ever.
fn call(mut client: Grpc<ManagerChannel>, request: v1::ExchangeRequest, wait: Duration) -> Calling {
    Box::pin(async move {
        let call = async {
            let unready = |error: Box<dyn std::error::Error + Send + Sync>| Status::unavailable(error.to_string());
            client.ready().await.map_err(unready)?;
            let path = PathAndQuery::from_static(EXCHANGE);
            client.unary(tonic::Request::new(request), path, AnswerCodec).await
        };
        match tokio::time::timeout(wait + GRACE, call).await {
            Ok(answer) => answer.map(tonic::Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded(format!(
                "no answer within {:?}",
                wait + GRACE
            ))),
        }
    })
}

/// What only the manager says. Answers that are not of its form have become UNKNOWN before.
fn is_final(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::NotFound
            | Code::Unauthenticated
            | Code::PermissionDenied
            | Code::Unimplemented
            | Code::InvalidArgument
            | Code::OutOfRange
    )
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
