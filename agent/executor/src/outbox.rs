//! What attempts say to the outside, and who waits for the answer. Attempts send; the executor's
//! loop hands the answers back through [`Outbox::answer`].

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use deputy_steps::failure::Halt;
use deputy_task::attempt::AttemptRef;
use deputy_task::message::{BlobRef, Event, MintedToken, RequestId, WriteOp, WriteVerdict};
use deputy_task::progress::StepProgress;
use tokio::sync::{mpsc, oneshot};

use crate::switch::Switch;

/// The way out, shared by every attempt of an executor.
pub(crate) struct Outbox {
    events: mpsc::Sender<Event>,
    next: AtomicU64,
    waiting: Mutex<HashMap<RequestId, Waiter>>,
}

enum Waiter {
    /// Somebody awaits the verdict.
    Verdict(oneshot::Sender<WriteVerdict>),
    /// Nobody awaits it; a refusal turns the attempt's switch.
    Switch(Arc<Switch>, Granted),
    /// Somebody awaits the blob.
    Blob(oneshot::Sender<Result<(), String>>),
    /// Somebody awaits the token.
    Token(oneshot::Sender<Result<MintedToken, String>>),
}

/// What a good answer means for the switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Granted {
    /// The attempt has started.
    Start,
    /// Nothing more.
    Record,
}

/// The other side of the events is gone: the agent ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the agent ends")]
pub(crate) struct Closed;

impl Outbox {
    pub(crate) fn new(events: mpsc::Sender<Event>) -> Self {
        Self {
            events,
            next: AtomicU64::new(1),
            waiting: Mutex::new(HashMap::new()),
        }
    }

    /// Writes and awaits the answer.
    pub(crate) async fn write(&self, attempt: &AttemptRef, op: WriteOp) -> Result<WriteVerdict, Closed> {
        let answer = self.room().await?.write(attempt, op);
        answer.await.map_err(|_| Closed)
    }

    /// Writes without waiting; a refusal turns `switch`.
    pub(crate) async fn post(
        &self,
        attempt: &AttemptRef,
        op: WriteOp,
        switch: &Arc<Switch>,
        granted: Granted,
    ) -> Result<(), Closed> {
        self.room().await?.post(attempt, op, switch, granted);
        Ok(())
    }

    /// Waits until there is room for one write, so that what is written can be made up in the order of writing.
    pub(crate) async fn room(&self) -> Result<Room<'_>, Closed> {
        let permit = self.events.reserve().await.map_err(|_| Closed)?;
        Ok(Room { outbox: self, permit })
    }

    /// Brings a blob to a file that does not exist yet; the error is for people.
    pub(crate) async fn fetch(
        &self,
        attempt: &AttemptRef,
        blob: &BlobRef,
        path: PathBuf,
    ) -> Result<Result<(), String>, Closed> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.lock().insert(id, Waiter::Blob(sender));
        self.send(Event::FetchBlob {
            id,
            attempt: attempt.clone(),
            blob: blob.clone(),
            path,
        })
        .await?;
        receiver.await.map_err(|_| Closed)
    }

    /// Has the manager vouch for the attempt; the error is for people.
    pub(crate) async fn mint(
        &self,
        attempt: &AttemptRef,
        audience: &str,
    ) -> Result<Result<MintedToken, String>, Closed> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.lock().insert(id, Waiter::Token(sender));
        self.send(Event::MintToken {
            id,
            attempt: attempt.clone(),
            audience: audience.to_owned(),
        })
        .await?;
        receiver.await.map_err(|_| Closed)
    }

    /// Tells what steps do; lost if the way out is full, for the next one will say more.
    pub(crate) fn progress(&self, attempt: &AttemptRef, steps: Vec<StepProgress>) -> Result<(), Vec<StepProgress>> {
        let event = Event::Progress {
            attempt: attempt.clone(),
            steps,
        };
        self.events.try_send(event).map_err(|error| match error.into_inner() {
            Event::Progress { steps, .. } => steps,
            Event::Write { .. }
            | Event::FetchBlob { .. }
            | Event::MintToken { .. }
            | Event::GivenUp { .. }
            | Event::FreeSlots(_) => Vec::new(),
        })
    }

    /// Tells that the attempt has ended and that nobody took its last message.
    pub(crate) async fn give_up(&self, attempt: &AttemptRef) -> Result<(), Closed> {
        self.send(Event::GivenUp {
            attempt: attempt.clone(),
        })
        .await
    }

    /// Tells the number of free slots, if there is room right now.
    pub(crate) fn free_slots(&self, free: u32) -> Result<(), Closed> {
        self.events.try_send(Event::FreeSlots(free)).map_err(|_| Closed)
    }

    /// A verdict has come.
    pub(crate) fn answer(&self, id: RequestId, verdict: WriteVerdict) {
        let waiter = self.lock().remove(&id);
        match waiter {
            // A receiver that is gone belongs to an attempt that is gone.
            Some(Waiter::Verdict(sender)) => drop(sender.send(verdict)),
            Some(Waiter::Switch(switch, granted)) => match halt_of(verdict) {
                None if granted == Granted::Start => switch.start(),
                None => {}
                Some(halt) => turn(&switch, halt),
            },
            Some(Waiter::Blob(_) | Waiter::Token(_)) | None => tracing::debug!(id, "a verdict that nobody awaits"),
        }
    }

    /// A blob has come, or not.
    pub(crate) fn answer_blob(&self, id: RequestId, result: Result<(), String>) {
        if let Some(Waiter::Blob(sender)) = self.lock().remove(&id) {
            drop(sender.send(result));
        }
    }

    /// A token has come, or not.
    pub(crate) fn answer_token(&self, id: RequestId, result: Result<MintedToken, String>) {
        if let Some(Waiter::Token(sender)) = self.lock().remove(&id) {
            drop(sender.send(result));
        }
    }

    async fn send(&self, event: Event) -> Result<(), Closed> {
        self.events.send(event).await.map_err(|_| Closed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<RequestId, Waiter>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room for one write.
pub(crate) struct Room<'a> {
    outbox: &'a Outbox,
    permit: mpsc::Permit<'a, Event>,
}

impl Room<'_> {
    /// Writes; the answer comes.
    pub(crate) fn write(self, attempt: &AttemptRef, op: WriteOp) -> oneshot::Receiver<WriteVerdict> {
        let (sender, receiver) = oneshot::channel();
        self.send(attempt, op, Waiter::Verdict(sender));
        receiver
    }

    /// Writes; a refusal turns `switch`.
    pub(crate) fn post(self, attempt: &AttemptRef, op: WriteOp, switch: &Arc<Switch>, granted: Granted) {
        self.send(attempt, op, Waiter::Switch(Arc::clone(switch), granted));
    }

    fn send(self, attempt: &AttemptRef, op: WriteOp, waiter: Waiter) {
        let id = self.outbox.next.fetch_add(1, Ordering::Relaxed);
        self.outbox.lock().insert(id, waiter);
        self.permit.send(Event::Write {
            id,
            attempt: attempt.clone(),
            op,
        });
    }
}

/// What a verdict means for a program; nothing for a good one.
pub(crate) fn halt_of(verdict: WriteVerdict) -> Option<Verdict> {
    match verdict {
        WriteVerdict::Ok { .. } => None,
        WriteVerdict::StaleEpoch => Some(Verdict::Stale),
        WriteVerdict::UndoDecided => Some(Verdict::UndoDecided),
        WriteVerdict::Nondeterministic(what) => Some(Verdict::Fault(Halt::Nondeterministic(what))),
        WriteVerdict::Invalid(why) => Some(Verdict::Fault(Halt::Refused(why))),
    }
}

/// A verdict that is not good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Not ours any more.
    Stale,
    /// The manager decided that the run is undone.
    UndoDecided,
    /// The journal and the program do not agree.
    Fault(Halt),
}

/// Turns the switch accordingly.
pub(crate) fn turn(switch: &Switch, verdict: Verdict) {
    match verdict {
        Verdict::Stale => switch.revoke(),
        Verdict::UndoDecided => switch.decide_undo(),
        Verdict::Fault(halt) => switch.fault(halt),
    }
}
