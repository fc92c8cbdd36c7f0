//! One welcomed session from its first heartbeat to its end: what is sent when, and what is done
//! with what arrives. Knows one connection; what outlives it is in [`crate::core`].

use std::collections::VecDeque;
use std::time::Duration;

use deputy_logs::Spool;
use deputy_proto::v1;
use deputy_proto::v1::session_request::Frame as Outbound;
use deputy_proto::v1::session_response::Frame as Inbound;
use deputy_task::boot_time::BootTime;
use deputy_task::capability::Capabilities;
use deputy_task::message::{Command, Event};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{debug, warn};

use crate::clock::boot_now;
use crate::core::Core;
use crate::dial::{Beside, Inbound as Reading, Link};
use crate::from_wire;
use crate::status::status_text;
use crate::to_wire;
use crate::write_queue::Urgency;

/// Heartbeats without any frame from the manager after which the connection is given up.
const SILENT_HEARTBEATS: u32 = 3;

/// Heartbeats whose answer is waited for. An answer to an older one prolongs nothing that the newer ones do not.
const AWAITED_HEARTBEATS: usize = 64;

/// How long a result or fact may wait for something to ride with. Only when nothing else is sent.
const PATIENCE: Duration = Duration::from_millis(1);

/// Progress is sent at most this often.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// How long the manager may take to close the stream after Goodbye.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);

/// Events taken in one go.
const EVENTS_AT_ONCE: usize = 256;

/// What the supervisor wishes of the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// Take work.
    Serving,
    /// Tell the manager to assign nothing more; go on writing.
    Draining(String),
    /// Write what is queued, say goodbye, end.
    Leaving(String),
}

/// The session's ends of the channels.
pub(crate) struct Ports {
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) events_open: bool,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) stage: watch::Receiver<Stage>,
    pub(crate) capabilities: watch::Receiver<Capabilities>,
    pub(crate) spool: Spool,
}

impl Ports {
    /// What the agent offers, with a note for people.
    pub(crate) fn offers(&mut self, note: Option<String>) -> v1::Capabilities {
        let mut offers = to_wire::capabilities(&self.capabilities.borrow_and_update());
        offers.warnings.extend(note);
        offers
    }
}

/// How a conversation ended.
#[derive(Debug)]
pub(crate) enum End {
    /// Everything was written and goodbye said.
    Left,
    /// The manager's own word.
    Disconnected(v1::Disconnect),
    /// The connection broke, or the manager broke the protocol; the reason is for people.
    Broken(String),
    /// Nothing was heard for so long, on a connection that stayed.
    Silent(Duration),
    /// The stream passes again, and is the better way.
    StreamPasses,
}

impl End {
    /// Did the manager say this code?
    pub(crate) fn is_told(&self, code: &str) -> bool {
        matches!(self, Self::Disconnected(told) if told.code == code)
    }
}

/// See the module.
struct Conversation<'a> {
    core: &'a mut Core,
    ports: &'a mut Ports,
    frames: mpsc::Sender<v1::SessionRequest>,
    lease: Duration,
    heartbeat_seq: u64,
    heartbeats: VecDeque<(u64, BootTime)>,
    due: Due,
    patience: Option<Instant>,
    progress_at: Option<Instant>,
    /// The transport has taken as much as it holds.
    blocked: bool,
    /// Why it is not the stream that carries it.
    note: Option<String>,
}

/// Control frames to send with the next flush.
#[derive(Debug, Default)]
struct Due {
    heartbeat: bool,
    capabilities: bool,
    drain: Option<String>,
    progress: bool,
}

impl Due {
    const fn anything(&self) -> bool {
        self.heartbeat || self.capabilities || self.drain.is_some() || self.progress
    }
}

/// Talks until the session ends.
pub(crate) async fn converse(core: &mut Core, ports: &mut Ports, link: Link, note: Option<String>) -> End {
    let Link {
        frames,
        mut inbound,
        welcome,
        mut beside,
        ..
    } = link;
    core.generation = welcome.generation;
    for stale in welcome.stale {
        core.on_revoked(stale, "the manager has given it to another agent".into());
    }
    let mut heartbeat = interval(welcome.heartbeat);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let silence = welcome.heartbeat * SILENT_HEARTBEATS;
    let mut heard = Instant::now();
    let mut this = Conversation {
        core,
        ports,
        frames,
        lease: welcome.lease,
        heartbeat_seq: 0,
        heartbeats: VecDeque::new(),
        due: Due::default(),
        patience: None,
        progress_at: None,
        blocked: false,
        note,
    };
    this.stage_changed();
    let mut events = Vec::with_capacity(EVENTS_AT_ONCE);
    loop {
        this.flush();
        this.core.deliver(&this.ports.commands);
        if let Some(reason) = this.leaving() {
            return this.leave(reason, inbound).await;
        }
        let room = this.core.queue.room().min(EVENTS_AT_ONCE);
        let patience = this.patience.unwrap_or(heard);
        let progress_at = this.progress_at.unwrap_or(heard);
        let reading = this.core.may_read_manager();
        // Every arm is cancel-safe: channels, timers, and a stream that keeps its partial frame.
        tokio::select! {
            biased;
            _ = heartbeat.tick() => this.due.heartbeat = true,
            ended = &mut beside => return match ended {
                Beside::Certificate => End::Broken("the certificate of this connection is not taken any more".into()),
                Beside::StreamPasses => End::StreamPasses,
            },
            frame = inbound.message(), if reading => {
                heard = Instant::now();
                match frame {
                    Ok(Some(response)) => if let Some(end) = this.on_frame(response.frame) { return end },
                    Ok(None) => return End::Broken("the manager closed the session".into()),
                    Err(status) => return End::Broken(status_text(&status)),
                }
            }
            taken = this.ports.events.recv_many(&mut events, room), if room > 0 && this.ports.events_open => {
                this.ports.events_open = taken > 0;
                this.take(&mut events).await;
            }
            () = has_room(&this.ports.commands), if this.core.has_commands() => {}
            () = has_room(&this.frames), if this.blocked => this.blocked = false,
            () = sleep_until(patience), if this.patience.is_some() => this.write_all(),
            () = sleep_until(progress_at), if this.progress_at.is_some() => {
                this.progress_at = None;
                this.due.progress = true;
            }
            Ok(()) = this.ports.capabilities.changed() => this.due.capabilities = true,
            Ok(()) = this.ports.stage.changed() => this.stage_changed(),
            () = sleep_until(heard + silence), if reading => return End::Silent(silence),
        }
    }
}

/// Ends when the channel takes something, or nobody reads it any more.
async fn has_room<T>(channel: &mpsc::Sender<T>) {
    let _ = channel.reserve().await;
}

impl Conversation<'_> {
    /// Takes what arrived, and once more after letting others run: Start and the first intent, or
    /// a result and Complete, are written one right after the other and should share a frame.
    async fn take(&mut self, events: &mut Vec<Event>) {
        let mut writes = false;
        for event in events.drain(..) {
            writes |= matches!(event, Event::Write { .. });
            self.core.on_event(event);
        }
        if writes {
            tokio::task::yield_now().await;
            while self.core.queue.room() > 0
                && let Ok(event) = self.ports.events.try_recv()
            {
                self.core.on_event(event);
            }
        }
        if self.progress_at.is_none() && !self.core.progress.is_empty() {
            self.progress_at = Some(Instant::now() + PROGRESS_EVERY);
        }
    }

    fn stage_changed(&mut self) {
        match &*self.ports.stage.borrow_and_update() {
            Stage::Serving => {}
            Stage::Draining(reason) | Stage::Leaving(reason) => self.due.drain = Some(reason.clone()),
        }
    }

    fn flush(&mut self) {
        self.flush_control();
        match self.core.queue.urgency() {
            Urgency::Idle => self.patience = None,
            Urgency::Patient if self.patience.is_none() => self.patience = Some(Instant::now() + PATIENCE),
            Urgency::Patient => {}
            Urgency::Urgent => self.write_all(),
        }
    }

    /// Sends everything queued, as far as frames may be in flight.
    fn write_all(&mut self) {
        self.patience = None;
        while self.core.queue.may_send() {
            let Ok(permit) = self.frames.try_reserve() else {
                self.blocked = true;
                return;
            };
            if let Some(write) = self.core.queue.next_frame(boot_now()) {
                permit.send(v1::SessionRequest {
                    frame: Some(Outbound::Write(write)),
                });
            }
        }
    }

    fn flush_control(&mut self) {
        while self.due.anything() {
            let Ok(permit) = self.frames.clone().try_reserve_owned() else {
                self.blocked = true;
                return;
            };
            if let Some(frame) = self.next_control() {
                permit.send(v1::SessionRequest { frame: Some(frame) });
            }
        }
    }

    fn next_control(&mut self) -> Option<Outbound> {
        if std::mem::take(&mut self.due.heartbeat) {
            return Some(Outbound::Heartbeat(self.heartbeat()));
        }
        if std::mem::take(&mut self.due.capabilities) {
            return Some(Outbound::Capabilities(self.ports.offers(self.note.clone())));
        }
        if let Some(reason) = self.due.drain.take() {
            return Some(Outbound::DrainNotice(v1::DrainNotice { reason }));
        }
        if self.due.progress {
            let Some((attempt, steps)) = self.core.progress.take_one() else {
                self.due.progress = false;
                return None;
            };
            let steps = steps.into_iter().map(to_wire::step).collect();
            return Some(Outbound::Progress(v1::Progress {
                attempt: Some(to_wire::attempt(&attempt)),
                steps,
            }));
        }
        None
    }

    fn heartbeat(&mut self) -> v1::Heartbeat {
        self.heartbeat_seq += 1;
        if self.heartbeats.len() >= AWAITED_HEARTBEATS {
            self.heartbeats.pop_front();
        }
        self.heartbeats.push_back((self.heartbeat_seq, boot_now()));
        let slots = self.ports.capabilities.borrow().slots;
        v1::Heartbeat {
            seq: self.heartbeat_seq,
            free_slots: self.core.free_slots(slots),
            spool_bytes: self.ports.spool.pending_bytes(),
        }
    }

    /// None: go on.
    fn on_frame(&mut self, frame: Option<Inbound>) -> Option<End> {
        match frame {
            Some(Inbound::HeartbeatAck(ack)) => self.on_heartbeat_ack(ack.seq),
            Some(Inbound::WriteAck(ack)) => {
                if let Err(bad) = self.core.on_write_ack(ack, self.lease) {
                    return Some(End::Broken(bad.to_string()));
                }
            }
            Some(Inbound::Assignment(assignment)) => self.core.on_assignment(assignment, boot_now()),
            Some(Inbound::Cancel(wish)) => self.core.on_cancel(wish),
            Some(Inbound::Drain(wish)) => {
                let reason = from_wire::text(wish.reason);
                if self.core.on_drain_wish(reason.clone()) {
                    self.due.drain = Some(reason);
                }
            }
            Some(Inbound::Revoked(revoked)) => match from_wire::attempt(revoked.attempt) {
                Ok(attempt) => self.core.on_revoked(attempt, from_wire::text(revoked.reason)),
                Err(error) => warn!(%error, "a revocation without a usable attempt was dropped"),
            },
            Some(Inbound::Disconnect(told)) => return Some(End::Disconnected(from_wire::disconnect(told))),
            Some(Inbound::Probed(_)) => debug!("an answer to a question that was not asked was ignored"),
            Some(Inbound::Welcome(_)) => return Some(End::Broken("the manager welcomed twice".into())),
            None => debug!("a frame of a kind that this version does not know was ignored"),
        }
        None
    }

    /// The lease counts from when the heartbeat was sent, not from when its answer came.
    fn on_heartbeat_ack(&mut self, seq: u64) {
        while let Some((sent, at)) = self.heartbeats.front().copied()
            && sent <= seq
        {
            self.heartbeats.pop_front();
            if sent == seq {
                self.core.renewed(at, self.lease);
            }
        }
    }

    /// Is it time to go?
    fn leaving(&self) -> Option<String> {
        let Stage::Leaving(reason) = &*self.ports.stage.borrow() else {
            return None;
        };
        (self.core.queue.is_empty() && self.ports.events.is_empty()).then(|| reason.clone())
    }

    /// Goodbye is said only if nothing is held; else the connection just ends, and the manager waits
    /// for the lease.
    async fn leave(self, reason: String, mut inbound: Reading) -> End {
        let Self { core, frames, .. } = self;
        let said = async move {
            if core.inventory.is_empty() {
                let goodbye = Outbound::Goodbye(v1::Goodbye { reason });
                let _ = frames.send(v1::SessionRequest { frame: Some(goodbye) }).await;
            }
            drop(frames);
            while let Ok(Some(_)) = inbound.message().await {}
        };
        if tokio::time::timeout(GOODBYE_TIMEOUT, said).await.is_err() {
            debug!("the manager did not close the session after goodbye");
        }
        End::Left
    }
}
