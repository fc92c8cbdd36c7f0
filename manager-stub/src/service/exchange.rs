//! Long polls as the carrier of a session, where HTTP/2 is broken on the way. The session itself is the one of
//! [`super::session`]; here are the queues before it: frames of the agent are taken once and in order whatever is sent
//! again, frames for the agent are kept until it says that they have arrived.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use deputy_proto::v1;
use deputy_proto::v1::session_request::Frame;
use deputy_task::id::AgentId;
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::auth::caller::Caller;

/// The longest poll: proxies cut what is silent for 30 s.
const LONGEST_WAIT: Duration = Duration::from_secs(25);
/// An agent that asks nothing for so long is gone, as if its stream had broken.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30);
/// The manager ends: its last word may take so long to come.
const LAST_WORD: Duration = Duration::from_secs(1);
/// Sessions carried so at the same time.
const MAX_EXCHANGES: usize = 4096;
/// And of one agent: the newest is used, the others are on their way out.
const MAX_PER_AGENT: usize = 4;
/// Requests of one session at the same time: a poll, a post, and each once more whose connection is dead.
const MAX_REQUESTS: usize = 4;
/// Frames of one request.
const MAX_FRAMES: usize = 256;
/// Frames taken that the session has not read yet.
const FRAMES_WAITING: usize = 64;
/// An answer takes no further frame from here on.
const ANSWER_BYTES: usize = 4 * 1024 * 1024;
const ANSWER_FRAMES: usize = 256;
/// Bytes of a session's name.
const NAME: std::ops::RangeInclusive<usize> = 16..=64;

type Answer = Result<v1::SessionResponse, Status>;
type Taken = Result<v1::SessionRequest, Status>;

/// An agent, and the line of keys that it shows: another key finds none of its sessions.
type Owner = (AgentId, String);

/// All of them.
#[derive(Clone, Default)]
pub(super) struct Exchanges {
    held: Arc<Mutex<HashMap<Bytes, Arc<Exchange>>>>,
}

/// One session that is carried by long polls.
pub(super) struct Exchange {
    name: Bytes,
    /// Whose; none where nobody is asked who he is.
    owner: Option<Owner>,
    up: tokio::sync::Mutex<Up>,
    down: tokio::sync::Mutex<Down>,
    /// Counts the polls; the newest is the one that waits.
    polls: watch::Sender<u64>,
    asking: watch::Sender<Asking>,
}

/// Agent to manager.
struct Up {
    /// The session; none when it takes nothing more.
    to: Option<mpsc::Sender<Taken>>,
    taken: u64,
}

/// Manager to agent.
struct Down {
    from: mpsc::Receiver<Answer>,
    kept: VecDeque<(v1::SessionResponse, usize)>,
    kept_bytes: usize,
    /// The number of the first one kept.
    first: u64,
    ended: bool,
}

#[derive(Debug, Clone, Copy)]
struct Asking {
    requests: usize,
    since: Instant,
    /// The session itself has ended; its last word may be waiting.
    over: bool,
    pushed_out: bool,
}

/// Counts a request for as long as it is served.
struct Served<'a>(&'a Exchange);

/// What [`Exchanges::open`] found.
pub(super) enum Opening {
    /// The request had come before.
    Open(Arc<Exchange>),
    /// The session to begin, and what it reads.
    New(Arc<Exchange>, mpsc::Receiver<Taken>),
}

fn unknown() -> Status {
    Status::not_found(
        "there is no such session: it was silent for too long, or the manager was started again; say hello in a new one",
    )
}

fn owner(caller: &Caller) -> Option<Owner> {
    match caller {
        Caller::Agent { agent_id, line, .. } => Some((agent_id.clone(), line.clone())),
        Caller::Unasked | Caller::Nobody | Caller::User(_) => None,
    }
}

impl Exchanges {
    /// The session of a request, if it is there and this caller's.
    pub(super) fn find(&self, caller: &Caller, name: &Bytes) -> Result<Option<Arc<Exchange>>, Status> {
        if !NAME.contains(&name.len()) {
            return Err(Status::invalid_argument("a session is named by 16 to 64 random bytes"));
        }
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match held.get(name) {
            // Whose it is, is told to nobody else.
            Some(exchange) if exchange.owner != owner(caller) => Err(unknown()),
            found => Ok(found.map(Arc::clone)),
        }
    }

    /// Opens the session of a first request.
    pub(super) fn open(
        &self,
        caller: &Caller,
        request: &v1::ExchangeRequest,
        answers: mpsc::Receiver<Answer>,
    ) -> Result<Opening, Status> {
        let first = request.frames.first().and_then(|frame| frame.frame.as_ref());
        if request.first != 0 || !matches!(first, Some(Frame::Hello(_))) {
            return Err(unknown());
        }
        let owner = owner(caller);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = held.get(&request.session) {
            return if before.owner == owner {
                Ok(Opening::Open(Arc::clone(before)))
            } else {
                Err(unknown())
            };
        }
        if held.len() >= MAX_EXCHANGES {
            return Err(Status::resource_exhausted(format!(
                "{MAX_EXCHANGES} agents have sessions by long poll, and this manager takes no more of them"
            )));
        }
        if owner.is_some() {
            let stays = |one: &&Arc<Exchange>| one.owner == owner && !one.asking.borrow().pushed_out;
            let of_agent: Vec<_> = held.values().filter(stays).collect();
            // One that was refused goes first: whoever copied an identity pushes out nobody who works.
            let least = of_agent.iter().min_by_key(|one| {
                let asking = *one.asking.borrow();
                (!asking.over, asking.requests > 0, asking.since)
            });
            if let Some(oldest) = least.filter(|_| of_agent.len() >= MAX_PER_AGENT) {
                oldest.asking.send_modify(|asking| asking.pushed_out = true);
            }
        }
        let (to, taken) = mpsc::channel(FRAMES_WAITING);
        let exchange = Arc::new(Exchange::new(request.session.clone(), owner, to, answers));
        held.insert(request.session.clone(), Arc::clone(&exchange));
        Ok(Opening::New(exchange, taken))
    }

    /// Nobody asks for it any more.
    pub(super) fn remove(&self, exchange: &Exchange) {
        self.held
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&exchange.name);
    }
}

impl Exchange {
    fn new(name: Bytes, owner: Option<Owner>, to: mpsc::Sender<Taken>, from: mpsc::Receiver<Answer>) -> Self {
        Self {
            name,
            owner,
            up: tokio::sync::Mutex::new(Up { to: Some(to), taken: 0 }),
            down: tokio::sync::Mutex::new(Down {
                from,
                kept: VecDeque::new(),
                kept_bytes: 0,
                first: 0,
                ended: false,
            }),
            polls: watch::Sender::new(0),
            asking: watch::Sender::new(Asking {
                requests: 0,
                since: Instant::now(),
                over: false,
                pushed_out: false,
            }),
        }
    }

    /// Serves one request: takes its frames, then answers with what there is to say.
    pub(super) async fn serve(
        &self,
        request: v1::ExchangeRequest,
        ending: &CancellationToken,
    ) -> Result<v1::ExchangeResponse, Status> {
        let _served = self.served()?;
        if request.frames.len() > MAX_FRAMES {
            return Err(Status::invalid_argument(format!(
                "a request brings at most {MAX_FRAMES} frames"
            )));
        }
        let received = request.received;
        let wait = Duration::from_millis(request.wait_ms.into()).min(LONGEST_WAIT);
        self.take(request).await;
        let answer = if wait.is_zero() {
            // Whoever waits has the frames.
            match self.down.try_lock() {
                Ok(mut down) => down.answer(received),
                Err(_) => Ok((Vec::new(), received, false)),
            }
        } else {
            self.poll(received, wait, ending).await
        };
        let (frames, first, last) = answer?;
        Ok(v1::ExchangeResponse {
            frames,
            first,
            received: self.up.lock().await.taken,
            last,
        })
    }

    fn served(&self) -> Result<Served<'_>, Status> {
        let mut taken = false;
        self.asking.send_modify(|asking| {
            taken = asking.requests < MAX_REQUESTS;
            asking.requests += usize::from(taken);
        });
        taken.then(|| Served(self)).ok_or_else(|| {
            Status::resource_exhausted(format!(
                "{MAX_REQUESTS} requests of this session are being served already"
            ))
        })
    }

    /// Hands frames to the session: each once, in order, none after one that is missing. Cancel-safe: what is counted
    /// is handed over.
    async fn take(&self, request: v1::ExchangeRequest) {
        let mut up = self.up.lock().await;
        let mut number = request.first;
        for frame in request.frames {
            if number > up.taken {
                return;
            }
            if number == up.taken {
                let Some(to) = up.to.clone() else { return };
                let Ok(permit) = to.reserve().await else {
                    up.to = None;
                    return;
                };
                permit.send(Ok(frame));
                up.taken += 1;
            }
            number += 1;
        }
        if request.last && number == up.taken {
            up.to = None;
        }
    }

    /// Waits for something to say. A newer poll of the same session takes the place of this one.
    async fn poll(
        &self,
        received: u64,
        wait: Duration,
        ending: &CancellationToken,
    ) -> Result<(Vec<v1::SessionResponse>, u64, bool), Status> {
        let deadline = Instant::now() + wait;
        let mut polls = self.polls.subscribe();
        let mut turn = 0;
        self.polls.send_modify(|polls| {
            *polls += 1;
            turn = *polls;
        });
        let Ok(mut down) = tokio::time::timeout_at(deadline, self.down.lock()).await else {
            return Ok((Vec::new(), received, false));
        };
        down.arrived(received)?;
        down.fill();
        if down.is_silent() {
            let displaced = async { polls.wait_for(|newest| *newest != turn).await.is_ok() };
            let until = async {
                ending.cancelled().await;
                tokio::time::sleep(LAST_WORD).await;
            };
            tokio::select! {
                answer = down.from.recv() => down.keep(answer),
                _ = displaced => {}
                () = tokio::time::sleep_until(deadline) => {}
                () = until => {}
            }
        }
        down.answer(received)
    }

    /// The session has ended.
    pub(super) fn ended(&self) {
        self.asking.send_modify(|asking| asking.over = true);
    }

    /// Ends when nobody has asked for so long that the agent is gone, or the manager ends. The session reads its end
    /// then.
    pub(super) async fn until_forgotten(&self, ending: &CancellationToken) {
        let mut asking = self.asking.subscribe();
        loop {
            let now = *asking.borrow_and_update();
            if now.pushed_out {
                break;
            }
            let forgotten = now.since + FORGOTTEN_AFTER;
            tokio::select! {
                changed = asking.changed() => if changed.is_err() { break },
                () = tokio::time::sleep_until(forgotten), if now.requests == 0 => break,
                () = ending.cancelled() => break,
            }
        }
        self.up.lock().await.to = None;
    }
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        self.0.asking.send_modify(|asking| {
            asking.requests -= 1;
            asking.since = Instant::now();
        });
    }
}

impl Down {
    fn is_silent(&self) -> bool {
        self.kept.is_empty() && !self.ended
    }

    /// What the agent has is kept no longer.
    fn arrived(&mut self, received: u64) -> Result<(), Status> {
        let sent = self.first + u64::try_from(self.kept.len()).unwrap_or(u64::MAX);
        if received > sent {
            return Err(Status::invalid_argument(format!(
                "the agent says that it has {received} frames, and {sent} were sent"
            )));
        }
        while self.first < received
            && let Some((_, bytes)) = self.kept.pop_front()
        {
            self.kept_bytes -= bytes;
            self.first += 1;
        }
        Ok(())
    }

    /// Takes what waits, as far as there is room in an answer.
    fn fill(&mut self) {
        while !self.ended && self.kept.len() < ANSWER_FRAMES && self.kept_bytes < ANSWER_BYTES {
            match self.from.try_recv() {
                Ok(answer) => self.keep(Some(answer)),
                Err(mpsc::error::TryRecvError::Empty) => return,
                Err(mpsc::error::TryRecvError::Disconnected) => self.keep(None),
            }
        }
    }

    fn keep(&mut self, answer: Option<Answer>) {
        match answer {
            Some(Ok(frame)) => {
                let bytes = frame.encoded_len();
                self.kept_bytes += bytes;
                self.kept.push_back((frame, bytes));
            }
            Some(Err(_)) | None => self.ended = true,
        }
    }

    fn answer(&mut self, received: u64) -> Result<(Vec<v1::SessionResponse>, u64, bool), Status> {
        self.arrived(received)?;
        self.fill();
        let frames = self.kept.iter().map(|(frame, _)| frame.clone()).collect();
        Ok((frames, self.first, self.ended))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatcher::Outbound;

    fn admission() -> crate::registry::Admission {
        crate::registry::Admission {
            rule: "rule".into(),
            pool: "eu".into(),
            projects: Vec::new(),
        }
    }

    fn polls(wait_ms: u32) -> v1::ExchangeRequest {
        v1::ExchangeRequest {
            wait_ms,
            ..v1::ExchangeRequest::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_nothing_for_long_is_forgotten_and_who_waits_is_not() {
        let (to, mut taken) = mpsc::channel(1);
        let (_outbound, answers) = Outbound::channel();
        let exchange = Exchange::new(Bytes::from_static(&[1; 16]), None, to, answers);
        let (ending, begun) = (CancellationToken::new(), Instant::now());
        let poll = exchange.serve(polls(99_000), &ending);
        let ((), answer) = tokio::join!(exchange.until_forgotten(&ending), poll);
        assert_eq!(answer.expect("answered").frames, []);
        assert_eq!(begun.elapsed().as_secs(), (LONGEST_WAIT + FORGOTTEN_AFTER).as_secs());
        assert!(taken.recv().await.is_none(), "the session reads its end");
    }

    #[tokio::test(start_paused = true)]
    async fn a_fifth_session_of_an_agent_pushes_out_its_oldest_that_is_over_or_not_used_and_is_found_by_its_key_only() {
        let exchanges = Exchanges::default();
        let caller = Caller::Agent {
            agent_id: "a1".parse().expect("an id"),
            serial: "1".into(),
            line: "key".into(),
            admission: admission(),
        };
        let mut open: Vec<(Arc<Exchange>, mpsc::Receiver<Taken>)> = Vec::new();
        for name in 1..=6u8 {
            if name == 5 {
                open[2].0.ended();
            }
            let hello = v1::SessionRequest {
                frame: Some(Frame::Hello(v1::Hello::default())),
            };
            let request = v1::ExchangeRequest {
                session: vec![name; 16].into(),
                frames: vec![hello],
                ..polls(0)
            };
            let (_, answers) = Outbound::channel();
            match exchanges.open(&caller, &request, answers) {
                Ok(Opening::New(exchange, taken)) => open.push((exchange, taken)),
                _ => panic!("{name} was not opened"),
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let other_key = Caller::Agent {
            agent_id: "a1".parse().expect("an id"),
            serial: "2".into(),
            line: "another key".into(),
            admission: admission(),
        };
        let name = Bytes::from_static(&[6; 16]);
        assert!(exchanges.find(&caller, &name).is_ok_and(|found| found.is_some()));
        let told = exchanges.find(&other_key, &name).err().expect("not its own");
        assert_eq!(told.code(), tonic::Code::NotFound);
        let ending = CancellationToken::new();
        let begun = Instant::now();
        for pushed_out in [2, 0] {
            open[pushed_out].0.until_forgotten(&ending).await;
            assert!(open[pushed_out].1.recv().await.is_none());
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
        for stays in [1, 3, 4, 5] {
            let nothing = open[stays].1.try_recv();
            assert!(
                nothing.is_err_and(|error| error == mpsc::error::TryRecvError::Empty),
                "{stays}"
            );
        }
    }

    #[tokio::test]
    async fn frames_that_wait_fill_an_answer_up_to_its_bound_and_the_rest_comes_next() {
        let (to, _taken) = mpsc::channel(1);
        let (outbound, answers) = Outbound::channel();
        let exchange = Exchange::new(Bytes::from_static(&[1; 16]), None, to, answers);
        let ending = CancellationToken::new();
        let large = v1::Assignment {
            document: vec![b'x'; 1024 * 1024].into(),
            ..v1::Assignment::default()
        };
        for _ in 0..10 {
            assert!(outbound.send(v1::session_response::Frame::Assignment(large.clone())));
        }
        let mut received = 0;
        let mut answers = Vec::new();
        while received < 10 {
            let request = v1::ExchangeRequest {
                received,
                ..polls(1_000)
            };
            let answer = exchange.serve(request, &ending).await.expect("answered");
            assert_eq!(answer.first, received);
            received += u64::try_from(answer.frames.len()).expect("few");
            answers.push(answer.frames.len());
        }
        assert_eq!(answers, [4, 4, 2]);
    }
}
