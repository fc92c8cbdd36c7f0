//! The dispatcher's thread and the handle to it.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::board::Board;
use super::core::Core;
use super::hub::Hub;
use super::inbound::{Inbound, Refused};
use super::timing::Timing;
use crate::store::clock::{BootClock, StoreClock};
use crate::store::contract::{Store, StoreError};
use crate::vital::Pulse;

/// Messages that may wait. A full queue holds back the sessions and calls that fill it.
const INBOUND_MESSAGES: usize = 8192;

/// Messages taken into one batch: bounds how long one commit can take.
const BATCH_MESSAGES: usize = 2048;

/// How often timers are looked at.
const TICK: Duration = Duration::from_millis(50);

/// The way to the dispatcher. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DispatcherHandle {
    inbound: mpsc::Sender<Inbound>,
    /// Who watches.
    pub hub: Hub,
    /// What steps do right now.
    pub board: Board,
    /// The store's clock.
    pub clock: StoreClock,
}

/// The dispatcher's thread; joined by its owner.
#[derive(Debug)]
pub struct Dispatcher {
    thread: std::thread::JoinHandle<()>,
}

/// The manager is ending; nothing was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the manager is shutting down")]
pub struct Ending;

impl DispatcherHandle {
    /// Brings a message; waits while the queue is full.
    ///
    /// # Errors
    /// If the dispatcher has ended.
    pub async fn send(&self, message: Inbound) -> Result<(), Ending> {
        self.inbound.send(message).await.map_err(|_| Ending)
    }

    /// Brings a message from a thread.
    ///
    /// # Errors
    /// If the dispatcher has ended.
    pub fn send_blocking(&self, message: Inbound) -> Result<(), Ending> {
        self.inbound.blocking_send(message).map_err(|_| Ending)
    }

    /// Brings a question and waits for its answer.
    ///
    /// # Errors
    /// If the dispatcher has ended.
    pub async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Inbound) -> Result<T, Ending> {
        let (reply, answer) = oneshot::channel();
        self.send(question(reply)).await?;
        answer.await.map_err(|_| Ending)
    }

    /// Commits something of the log store or the blob store.
    ///
    /// # Errors
    /// What the store answers, or that the manager is ending.
    pub async fn commit(&self, ops: Vec<crate::store::op::Op>) -> Result<(), Refused> {
        let answer = self.ask(|reply| Inbound::Commit { ops, reply }).await;
        answer.unwrap_or_else(|ending| Err(Refused::StoreFailed(ending.to_string())))
    }
}

impl Dispatcher {
    /// Rebuilds the model from the store and starts the thread.
    ///
    /// # Errors
    /// If the store cannot be read, or the thread cannot be started.
    pub fn start(
        store: Box<dyn Store>,
        boot: std::sync::Arc<dyn BootClock>,
        timing: Timing,
        pulse: Pulse,
    ) -> Result<(Self, DispatcherHandle), StoreError> {
        let meta = store.reads().meta()?;
        let clock = StoreClock::resume(meta.high_water, boot);
        let (inbound, messages) = mpsc::channel(INBOUND_MESSAGES);
        let handle = DispatcherHandle {
            inbound,
            hub: Hub::default(),
            board: Board::default(),
            clock: clock.clone(),
        };
        let core = Core::new(store, clock, timing, (handle.hub.clone(), handle.board.clone()))?;
        let thread = std::thread::Builder::new()
            .name("dispatcher".into())
            .spawn(move || {
                let _pulse = pulse;
                run(core, messages);
            })
            .map_err(|source| StoreError::File {
                what: "start",
                path: "the dispatcher's thread".into(),
                source,
            })?;
        Ok((Self { thread }, handle))
    }

    /// Sends ticks until the dispatcher ends.
    pub async fn tick(handle: DispatcherHandle) {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            if handle.send(Inbound::Tick).await.is_err() {
                return;
            }
        }
    }

    /// Waits until the thread has ended; it does after [`Inbound::Shutdown`].
    pub fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("the dispatcher panicked");
        }
    }
}

fn run(mut core: Core, mut messages: mpsc::Receiver<Inbound>) {
    while let Some(first) = messages.blocking_recv() {
        let mut ending = core.take(first);
        for _ in 1..BATCH_MESSAGES {
            match messages.try_recv() {
                Ok(message) => ending |= core.take(message),
                Err(_) => break,
            }
        }
        core.commit();
        if ending {
            return;
        }
    }
}
