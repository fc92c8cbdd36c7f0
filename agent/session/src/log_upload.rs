//! Drains the log spool to the manager: whole records in frames with offsets, over a connection
//! that carries nothing else, until their commit is acknowledged. The result of a task never waits
//! for this. After a break it goes on at the last acknowledged offset; what the manager has already
//! is skipped on its word.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use deputy_logs::{LogPiece, ReadError, Spool};
use deputy_proto::v1;
use deputy_proto::v1::agent_client::AgentClient;
use deputy_proto::version::MAX_LOG_FRAME_BYTES;
use deputy_task::attempt::AttemptRef;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tracing::{debug, warn};

use crate::backoff::Retry;
use crate::channel::ManagerChannel;
use crate::config::SessionConfig;
use crate::dial;
use crate::from_wire;
use crate::status::status_text;
use crate::to_wire;
use crate::way::Carrier;

/// Bytes sent and not acknowledged. Enough for 100 MB/s over a link of 80 ms.
const WINDOW_BYTES: u64 = 8 * 1024 * 1024;

/// Frames handed to the transport; with the window this bounds the memory of the upload.
const FRAMES_BUFFERED: usize = 16;

/// Without an answer for so long, while bytes are in flight, the connection is given up.
const STALL: Duration = Duration::from_secs(20);

/// A connection that lasted this long was healthy.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);

/// One call without HTTP/2 takes no further frame from here on.
const BATCH_BYTES: usize = 1024 * 1024;

/// And waits so long for more, so that single lines are not calls of their own.
const GATHER: Duration = Duration::from_millis(50);

/// Whether HTTP/2 passes again is looked at this often.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// What the supervisor wishes of the uploader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// Go on for ever.
    Never,
    /// End when every log is complete at the manager.
    WhenEmpty,
}

/// Uploads until [`Finish::WhenEmpty`] and nothing is left.
pub(crate) async fn upload(config: SessionConfig, spool: Spool, mut finish: watch::Receiver<Finish>) {
    let mut retry = Retry::new(config.backoff);
    let mut rng = SmallRng::from_os_rng();
    loop {
        if spool.open_logs().is_empty() {
            if *finish.borrow_and_update() == Finish::WhenEmpty {
                return;
            }
            // An idle agent has no second connection.
            tokio::select! {
                _ = spool.changed() => {}
                changed = finish.changed() => if changed.is_err() { return },
            }
            continue;
        }
        let since = Instant::now();
        let Err(reason) = upload_on(&config, &spool, &mut finish).await else {
            return;
        };
        if since.elapsed() >= HEALTHY_AFTER {
            retry.reset();
        }
        let delay = retry.next(&mut rng);
        warn!(
            reason,
            ?delay,
            pending_bytes = spool.pending_bytes(),
            "log upload interrupted; the spool keeps the logs"
        );
        tokio::time::sleep(delay).await;
    }
}

/// One connection. Ok if it ended because everything is uploaded and the agent leaves.
async fn upload_on(config: &SessionConfig, spool: &Spool, finish: &mut watch::Receiver<Finish>) -> Result<(), String> {
    let mut client = dial::connect(config).await.map_err(|error| error.to_string())?;
    if config.membership.way().settled() == Carrier::Exchange {
        return upload_in_batches(config, client, spool, finish).await;
    }
    let (frames, outbound) = mpsc::channel(FRAMES_BUFFERED);
    let call = tokio::time::timeout(config.connect_timeout, client.push_logs(ReceiverStream::new(outbound))).await;
    let call = call.map_err(|_| format!("no answer within {:?}", config.connect_timeout))?;
    let mut inbound = call.map_err(|status| status_text(&status))?.into_inner();
    let mut upload = Upload::new(spool, frames);
    loop {
        upload.fill();
        if *finish.borrow_and_update() == Finish::WhenEmpty && spool.open_logs().is_empty() {
            drop(upload);
            drain(&mut inbound).await;
            return Ok(());
        }
        let stalled = upload.last_answer + STALL;
        // Every arm is cancel-safe: a stream that keeps its partial message, a notification, timers.
        tokio::select! {
            answer = inbound.message() => match answer {
                Ok(Some(answer)) => upload.on_answer(answer),
                Ok(None) => return Err("the manager closed the stream".into()),
                Err(status) => return Err(status_text(&status)),
            },
            changed = spool.changed() => upload.more(changed),
            () = has_room(&upload.frames), if upload.blocked => upload.blocked = false,
            () = sleep_until(stalled), if upload.awaits_answer() => {
                return Err(format!("no acknowledgement for {STALL:?}"));
            }
            Ok(()) = finish.changed() => {}
        }
    }
}

/// Where HTTP/2 does not pass: a call is a batch of frames, sent whole, and its answer is their acknowledgements. A
/// batch whose answer is lost is sent again, and the manager skips what it has.
async fn upload_in_batches(
    config: &SessionConfig,
    mut client: AgentClient<ManagerChannel>,
    spool: &Spool,
    finish: &mut watch::Receiver<Finish>,
) -> Result<(), String> {
    let mut upload = Upload::new(spool, mpsc::channel(1).0);
    loop {
        let batch = upload.batch();
        if batch.is_empty() {
            if *finish.borrow_and_update() == Finish::WhenEmpty && spool.open_logs().is_empty() {
                return Ok(());
            }
            if config.membership.way().settled() == Carrier::Stream {
                return Err("HTTP/2 passes again".into());
            }
            tokio::select! {
                changed = spool.changed() => upload.more(changed),
                () = tokio::time::sleep(BETWEEN_LOOKS) => {}
                Ok(()) = finish.changed() => {}
            }
            // Small pieces share a call.
            tokio::time::sleep(GATHER).await;
            continue;
        }
        let call = async {
            let answers = client.push_logs(tokio_stream::iter(batch)).await;
            let mut answers = answers.map_err(|status| status_text(&status))?.into_inner();
            while let Some(answer) = answers.message().await.map_err(|status| status_text(&status))? {
                upload.on_answer(answer);
            }
            Ok::<_, String>(())
        };
        let called = tokio::time::timeout(STALL, call).await;
        called.map_err(|_| format!("no acknowledgement for {STALL:?}"))??;
        if upload.awaits_answer() {
            return Err("the manager did not acknowledge all of it".into());
        }
    }
}

async fn has_room<T>(channel: &mpsc::Sender<T>) {
    let _ = channel.reserve().await;
}

/// The manager sees our end of the stream and closes its own.
async fn drain(inbound: &mut Streaming<v1::PushLogsResponse>) {
    let drained = async { while let Ok(Some(_)) = inbound.message().await {} };
    let _ = tokio::time::timeout(Duration::from_secs(1), drained).await;
}

/// How far one attempt's log is on this connection.
#[derive(Debug, Clone, Copy)]
struct Position {
    /// Everything before it is acknowledged.
    acked: u64,
    /// Everything before it is sent.
    sent: u64,
    /// The last frame is sent.
    ended: bool,
}

/// What is in flight on one connection.
struct Upload<'a> {
    spool: &'a Spool,
    frames: mpsc::Sender<v1::PushLogsRequest>,
    positions: HashMap<AttemptRef, Position>,
    /// Attempts that may have something to send; taken in turns.
    ready: VecDeque<AttemptRef>,
    queued: HashSet<AttemptRef>,
    in_flight_bytes: u64,
    last_answer: Instant,
    /// The transport has taken as much as it holds.
    blocked: bool,
}

impl<'a> Upload<'a> {
    fn new(spool: &'a Spool, frames: mpsc::Sender<v1::PushLogsRequest>) -> Self {
        let mut upload = Self {
            spool,
            frames,
            positions: HashMap::new(),
            ready: VecDeque::new(),
            queued: HashSet::new(),
            in_flight_bytes: 0,
            last_answer: Instant::now(),
            blocked: false,
        };
        upload.more(spool.open_logs());
        upload
    }

    fn more(&mut self, attempts: Vec<AttemptRef>) {
        for attempt in attempts {
            if self.queued.insert(attempt.clone()) {
                self.ready.push_back(attempt);
            }
        }
    }

    fn awaits_answer(&self) -> bool {
        self.in_flight_bytes > 0 || self.positions.values().any(|position| position.ended)
    }

    /// Sends as much as window and transport take.
    fn fill(&mut self) {
        while self.in_flight_bytes < WINDOW_BYTES
            && let Some(attempt) = self.ready.front()
        {
            let Ok(permit) = self.frames.clone().try_reserve_owned() else {
                self.blocked = true;
                return;
            };
            let attempt = attempt.clone();
            self.ready.pop_front();
            self.queued.remove(&attempt);
            if let Some(frame) = self.next_frame(&attempt) {
                permit.send(frame);
            }
        }
    }

    /// As much as one call takes.
    fn batch(&mut self) -> Vec<v1::PushLogsRequest> {
        let mut batch: Vec<v1::PushLogsRequest> = Vec::new();
        while batch.iter().map(|frame| frame.data.len()).sum::<usize>() < BATCH_BYTES
            && let Some(attempt) = self.ready.pop_front()
        {
            self.queued.remove(&attempt);
            batch.extend(self.next_frame(&attempt));
        }
        batch
    }

    fn next_frame(&mut self, attempt: &AttemptRef) -> Option<v1::PushLogsRequest> {
        let position = match self.positions.get(attempt) {
            Some(position) => *position,
            None => {
                let acked = self.spool.status(attempt)?.acked;
                Position {
                    acked,
                    sent: acked,
                    ended: false,
                }
            }
        };
        if position.ended {
            return None;
        }
        let LogPiece { offset, data, total } = match self.spool.read_from(attempt, position.sent, MAX_LOG_FRAME_BYTES) {
            Ok(piece) => piece,
            Err(ReadError::NoLog { .. }) => {
                self.positions.remove(attempt);
                return None;
            }
            Err(error) => {
                warn!(%attempt, %error, "the rest of this log cannot be uploaded");
                self.give_up(attempt);
                return None;
            }
        };
        if data.is_empty() && total.is_none() {
            self.positions.insert(attempt.clone(), position);
            return None;
        }
        let bytes = u64::try_from(data.len()).unwrap_or(u64::MAX);
        if !self.awaits_answer() {
            self.last_answer = Instant::now();
        }
        self.in_flight_bytes += bytes;
        let sent = Position {
            sent: offset + bytes,
            ended: total.is_some(),
            ..position
        };
        self.positions.insert(attempt.clone(), sent);
        if total.is_none() {
            self.more(vec![attempt.clone()]);
        }
        Some(v1::PushLogsRequest {
            attempt: Some(to_wire::attempt(attempt)),
            offset,
            crc32: crc32fast::hash(&data),
            data,
            complete: total.is_some(),
            total_crc32: total.map_or(0, |total| total.crc32),
        })
    }

    fn on_answer(&mut self, answer: v1::PushLogsResponse) {
        self.last_answer = Instant::now();
        let attempt = match from_wire::attempt(answer.attempt) {
            Ok(attempt) => attempt,
            Err(error) => {
                warn!(%error, "a log acknowledgement without a usable attempt was dropped");
                return;
            }
        };
        if !answer.refused.is_empty() {
            warn!(%attempt, reason = answer.refused, "the manager refuses this log");
            self.give_up(&attempt);
            return;
        }
        if answer.complete {
            debug!(%attempt, bytes = answer.committed_offset, "log complete");
            self.give_up(&attempt);
            return;
        }
        let Some(position) = self.positions.get_mut(&attempt) else {
            return;
        };
        let committed = answer.committed_offset;
        if committed < position.acked {
            // The manager lost what it had acknowledged (a restored store), and it is gone here.
            warn!(%attempt, committed, acked = position.acked, "the manager has lost log bytes that it had acknowledged");
            self.give_up(&attempt);
            return;
        }
        let freed = committed.min(position.sent) - position.acked;
        position.acked = committed;
        position.sent = position.sent.max(committed);
        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(freed);
        self.spool.acked(&attempt, committed);
        self.more(vec![attempt]);
    }

    /// Nothing more of this log is sent: it is complete, refused or lost.
    fn give_up(&mut self, attempt: &AttemptRef) {
        if let Some(position) = self.positions.remove(attempt) {
            self.in_flight_bytes = self.in_flight_bytes.saturating_sub(position.sent - position.acked);
        }
        self.spool.forget(attempt);
    }
}

#[cfg(test)]
#[path = "log_upload_tests.rs"]
mod tests;
