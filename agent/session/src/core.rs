//! What outlives a connection: operations on their way, the inventory, the lease, commands the
//! executor has not taken yet. Both the connected and the unconnected loop feed it; it does no IO.

use std::collections::VecDeque;
use std::time::Duration;

use deputy_proto::v1;
use deputy_task::attempt::AttemptRef;
use deputy_task::boot_time::BootTime;
use deputy_task::message::{Command, Event, WriteOp, WriteVerdict};
use deputy_task::outcome::Failure;
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use crate::blob_fetch::BlobRequest;
use crate::from_wire::{self, Blame, WireError};
use crate::inventory::Inventory;
use crate::progress_digest::ProgressDigest;
use crate::token_request::TokenRequest;
use crate::write_queue::{BadAck, OpKind, WriteQueue};

/// Commands waiting for the executor. Beyond it nothing is read from the manager: an executor that
/// takes no commands is not alive, and its lease must run out.
const MAX_COMMANDS: usize = 16 * 1024;

/// The executor is told about a lease that is this much longer than the one it knows. Under load
/// every acknowledged intent renews the lease; it need not hear of each.
const LEASE_STEP: Duration = Duration::from_millis(250);

/// See the module.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) queue: WriteQueue,
    pub(crate) inventory: Inventory,
    pub(crate) progress: ProgressDigest,
    /// The store generation last seen; 0 for none.
    pub(crate) generation: u64,
    free_slots: Option<u32>,
    commands: VecDeque<Command>,
    lease_known: BootTime,
    lease_news: Option<BootTime>,
    drain_wished: bool,
    blobs: mpsc::Sender<BlobRequest>,
    tokens: mpsc::Sender<TokenRequest>,
}

impl Core {
    pub(crate) fn new(blobs: mpsc::Sender<BlobRequest>, tokens: mpsc::Sender<TokenRequest>) -> Self {
        Self {
            queue: WriteQueue::default(),
            inventory: Inventory::default(),
            progress: ProgressDigest::default(),
            generation: 0,
            free_slots: None,
            commands: VecDeque::new(),
            lease_known: BootTime::from_nanos(0),
            lease_news: None,
            drain_wished: false,
            blobs,
            tokens,
        }
    }

    /// Free slots as the executor last said; `slots` until it says anything.
    pub(crate) fn free_slots(&self, slots: u32) -> u32 {
        self.free_slots.unwrap_or(slots)
    }

    pub(crate) fn on_event(&mut self, event: Event) {
        match event {
            Event::Write { id, attempt, op } => {
                if matches!(
                    op,
                    WriteOp::Complete(_) | WriteOp::Release { .. } | WriteOp::Refuse { .. }
                ) {
                    self.progress.forget(&attempt);
                }
                self.queue.push(Some(id), attempt, op);
            }
            Event::Progress { attempt, steps } => {
                if self.inventory.holds(&attempt) {
                    self.progress.merge(attempt, steps);
                }
            }
            Event::FetchBlob {
                id,
                attempt,
                blob,
                path,
            } => {
                let request = BlobRequest {
                    id,
                    attempt,
                    blob,
                    path,
                    deadline: BlobRequest::deadline(),
                };
                if let Err(refused) = self.blobs.try_send(request) {
                    let why = match &refused {
                        mpsc::error::TrySendError::Full(_) => {
                            "too many bundles wait to be fetched at the same time; run the task again when there are fewer"
                        }
                        // The agent is about to leave for it.
                        mpsc::error::TrySendError::Closed(_) => "the part of this agent that fetches bundles has ended",
                    };
                    warn!(reason = why, "a bundle is not fetched");
                    self.commands.push_back(Command::BlobFetched {
                        id: refused.into_inner().id,
                        result: Err(why.into()),
                    });
                }
            }
            Event::MintToken { id, attempt, audience } => {
                let request = TokenRequest { id, attempt, audience };
                if let Err(refused) = self.tokens.try_send(request) {
                    let why = match &refused {
                        mpsc::error::TrySendError::Full(_) => {
                            "too many tokens are asked for at the same time; it is tried again"
                        }
                        // The agent is about to leave for it.
                        mpsc::error::TrySendError::Closed(_) => "the part of this agent that asks for tokens has ended",
                    };
                    warn!(reason = why, "a token is not asked for");
                    self.commands.push_back(Command::TokenMinted {
                        id: refused.into_inner().id,
                        result: Err(why.into()),
                    });
                }
            }
            Event::GivenUp { attempt } => {
                warn!(%attempt, "the end of an attempt was refused; it is not held any more, and the next Hello says so");
                self.inventory.given_up(&attempt);
                self.progress.forget(&attempt);
            }
            Event::FreeSlots(slots) => self.free_slots = Some(slots),
        }
    }

    pub(crate) fn on_write_ack(&mut self, ack: v1::WriteAck, lease: Duration) -> Result<(), BadAck> {
        for answer in self.queue.acknowledge(ack)? {
            self.inventory.answered(&answer.attempt, answer.kind, &answer.verdict);
            if let (OpKind::Intent, WriteVerdict::Ok { sent_at }) = (answer.kind, &answer.verdict) {
                self.renewed(*sent_at, lease);
            }
            match answer.id {
                Some(id) => self.commands.push_back(Command::Written {
                    id,
                    verdict: answer.verdict,
                }),
                None => debug!(attempt = %answer.attempt, verdict = ?answer.verdict, "refusal answered"),
            }
        }
        Ok(())
    }

    /// The lease counts from the moment the acknowledged frame was sent.
    pub(crate) fn renewed(&mut self, sent_at: BootTime, lease: Duration) {
        let until = sent_at.after(lease);
        if until > self.lease_news.unwrap_or(self.lease_known) {
            self.lease_news = Some(until);
        }
    }

    pub(crate) fn on_assignment(&mut self, wire: v1::Assignment, now: BootTime) {
        match from_wire::assignment(wire, now) {
            Ok(assignment) => {
                if self.inventory.is_full() {
                    warn!(attempt = %assignment.attempt, "an assignment was dropped: so many are held that none can be meant");
                } else if self.inventory.offered(&assignment.attempt) {
                    self.commands.push_back(Command::Assign(Box::new(assignment)));
                }
            }
            Err(bad) => self.refuse(bad.attempt, bad.blame, &bad.error),
        }
    }

    fn refuse(&mut self, attempt: Option<AttemptRef>, blame: Blame, error: &WireError) {
        let Some(attempt) = attempt else {
            warn!(%error, "an assignment without a usable attempt was dropped");
            return;
        };
        // Not held, so nothing is owed: the manager's own deadline gives the task to another agent.
        if self.queue.room() == 0 {
            warn!(%attempt, %error, "an assignment cannot be read, and there is no room to refuse it");
            return;
        }
        warn!(%attempt, %error, "an assignment cannot be read and is refused");
        let reason = format!("this agent cannot read the assignment: {error}");
        let permanent = match blame {
            Blame::Document => Some(
                Failure::new(
                    "agent.unreadableDocument",
                    format!("the agent cannot read the task: {error}"),
                )
                .hint("correct the document, submit with a deputy of the agent's version, or upgrade the agent"),
            ),
            Blame::Journal => None,
        };
        self.queue.push(None, attempt, WriteOp::Refuse { reason, permanent });
    }

    pub(crate) fn on_cancel(&mut self, wire: v1::CancelWish) {
        match from_wire::attempt(wire.attempt) {
            // The wish is repeated with every heartbeat; an ended attempt needs it no more.
            Ok(attempt) if self.inventory.holds(&attempt) => {
                self.commands.push_back(Command::Cancel {
                    attempt,
                    reason: from_wire::text(wire.reason),
                });
            }
            Ok(_) => {}
            Err(error) => warn!(%error, "a cancel without a usable attempt was dropped"),
        }
    }

    pub(crate) fn on_revoked(&mut self, attempt: AttemptRef, reason: String) {
        if !self.inventory.revoked(&attempt) {
            debug!(%attempt, "an attempt was revoked that is not held");
            return;
        }
        info!(%attempt, reason, "revoked");
        self.progress.forget(&attempt);
        self.commands.push_back(Command::Revoke { attempt, reason });
    }

    /// This instance was replaced: nothing it holds is its own any more.
    pub(crate) fn revoke_all(&mut self, reason: &str) {
        let held: Vec<_> = self.inventory.lines().map(|(attempt, _)| attempt.clone()).collect();
        for attempt in held {
            self.on_revoked(attempt, reason.to_owned());
        }
    }

    /// The manager wishes a drain; it repeats it. True the first time.
    pub(crate) fn on_drain_wish(&mut self, reason: String) -> bool {
        if self.drain_wished {
            return false;
        }
        info!(reason, "the manager wishes a drain");
        self.drain_wished = true;
        // The platform does not kill us for this one, so held work may take its own time.
        self.commands.push_back(Command::Drain {
            deadline: BootTime::NEVER,
            reason,
        });
        true
    }

    pub(crate) fn may_read_manager(&self) -> bool {
        self.commands.len() < MAX_COMMANDS
    }

    pub(crate) fn has_commands(&self) -> bool {
        !self.commands.is_empty() || self.lease_is_news()
    }

    fn lease_is_news(&self) -> bool {
        self.lease_news
            .is_some_and(|until| until >= self.lease_known.after(LEASE_STEP))
    }

    pub(crate) fn next_command(&mut self) -> Option<Command> {
        if self.lease_is_news()
            && let Some(until) = self.lease_news.take()
        {
            self.lease_known = until;
            return Some(Command::Lease { until });
        }
        self.commands.pop_front()
    }

    /// Hands over what the executor takes without waiting. The rest waits for room.
    pub(crate) fn deliver(&mut self, to: &mpsc::Sender<Command>) {
        while self.has_commands() {
            match to.try_reserve() {
                Ok(permit) => {
                    if let Some(command) = self.next_command() {
                        permit.send(command);
                    }
                }
                Err(mpsc::error::TrySendError::Full(())) => return,
                Err(mpsc::error::TrySendError::Closed(())) => {
                    self.commands.clear();
                    self.lease_news = None;
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use deputy_task::id::Project;
    use deputy_task::message::BlobRef;

    use super::*;

    fn fetch(core: &mut Core, id: u64) -> Option<String> {
        core.on_event(Event::FetchBlob {
            id,
            attempt: AttemptRef {
                project: Project::default_project(),
                task: "t1".parse().expect("id"),
                run: 1,
                epoch: 1,
            },
            blob: BlobRef {
                sha256: "00".into(),
                size_bytes: 1,
            },
            path: "/nowhere".into(),
        });
        match core.next_command()? {
            Command::BlobFetched { id: answered, result } if answered == id => result.err(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_fetcher_that_is_busy_and_one_that_has_ended_are_told_apart() {
        let (blobs, fetcher) = mpsc::channel(1);
        let mut core = Core::new(blobs, mpsc::channel(1).0);
        assert_eq!(fetch(&mut core, 1), None, "it waits for the fetcher");
        let busy = fetch(&mut core, 2).expect("answered at once");
        assert!(busy.contains("too many bundles"), "{busy}");
        drop(fetcher);
        let ended = fetch(&mut core, 3).expect("answered at once");
        assert!(ended.contains("has ended"), "{ended}");
    }

    fn core() -> Core {
        Core::new(mpsc::channel(1).0, mpsc::channel(1).0)
    }

    fn wire_attempt(task: usize) -> v1::AttemptRef {
        v1::AttemptRef {
            project: "default".into(),
            task_id: format!("t{task}"),
            run: 1,
            epoch: 1,
        }
    }

    #[test]
    fn assignments_that_cannot_be_read_do_not_fill_the_memory() {
        let mut core = core();
        for task in 0..10_000 {
            let unreadable = v1::Assignment {
                attempt: Some(wire_attempt(task)),
                document: b"{}".as_slice().into(),
                ..v1::Assignment::default()
            };
            core.on_assignment(unreadable, BootTime::from_nanos(0));
        }
        let mut refused = 0;
        while let Some(frame) = core.queue.next_frame(BootTime::from_nanos(0)) {
            refused += frame.ops.len();
        }
        assert!(
            core.queue.room() == 0 && refused > 0,
            "{refused} refusals are on their way"
        );
        assert!(core.next_command().is_none());
    }

    /// A document as a manager sends it.
    fn assignment(task: usize) -> v1::Assignment {
        let text = "apiVersion: deputy.dev/v1\nkind: Task\nmetadata: { name: x }\nspec:\n  steps: [ { name: main, shell: { run: \"true\" } } ]\n";
        let inputs = deputy_task::document::Inputs::default();
        let read = deputy_task::document::read("task.yaml", text.as_bytes(), &inputs).expect("good");
        v1::Assignment {
            attempt: Some(wire_attempt(task)),
            document: deputy_task::document::to_canonical(&read.checked)
                .expect("canonical")
                .into(),
            ..v1::Assignment::default()
        }
    }

    #[test]
    fn endless_offers_are_not_followed() {
        let (mut core, mut taken) = (core(), 0);
        for task in 0..10_000 {
            core.on_assignment(assignment(task), BootTime::from_nanos(0));
            taken += usize::from(core.next_command().is_some());
        }
        assert_eq!(taken, core.inventory.lines().count());
        assert!(taken < 10_000, "{taken}");
    }

    #[test]
    fn what_is_not_held_is_neither_cancelled_nor_revoked_and_reasons_are_cut() {
        let mut core = core();
        core.on_assignment(assignment(1), BootTime::from_nanos(0));
        assert!(matches!(core.next_command(), Some(Command::Assign(_))));
        let wish = |task| v1::CancelWish {
            attempt: Some(wire_attempt(task)),
            reason: "ä".repeat(1 << 20),
        };
        core.on_cancel(wish(2));
        core.on_revoked(from_wire::attempt(Some(wire_attempt(2))).expect("good"), "gone".into());
        assert!(core.next_command().is_none(), "nothing about what is not held");
        core.on_cancel(wish(1));
        let Some(Command::Cancel { reason, .. }) = core.next_command() else {
            panic!("the wish is passed on");
        };
        assert!(reason.len() < 5_000 && reason.ends_with('…'), "{}", reason.len());
    }
}
