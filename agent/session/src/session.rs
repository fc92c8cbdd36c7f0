//! The session over all its connections: dial, converse, wait, dial again. Spawned by the agent's
//! supervisor on a thread of its own with a current-thread runtime: heartbeats and journal frames
//! then compete with nothing, whatever the work on the other threads does. It never touches a
//! running task because a connection broke.

use std::future::Future;
use std::time::Duration;

use deputy_logs::Spool;
use deputy_proto::v1;
use deputy_proto::version::{PROTOCOL_MAX, PROTOCOL_MIN};
use deputy_task::capability::Capabilities;
use deputy_task::message::{Command, Event};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::backoff::Retry;
use crate::blob_fetch::BlobRequest;
use crate::config::SessionConfig;
use crate::conversation::{End, Ports, converse};
use crate::core::Core;
use crate::dial::{DialError, Link, dial};
use crate::enrollment::JoinError;
use crate::inventory::Grant;
use crate::to_wire;
use crate::token_request::TokenRequest;
use crate::way::Finding;

pub use crate::conversation::Stage;

/// A connection that lasted this long was healthy: the next failure counts as the first.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);

/// The other way is tried this soon after the stream has failed: leases run meanwhile.
const OTHER_WAY_WITHIN: Duration = Duration::from_secs(1);

/// How long the executor may take to hear that everything it holds is revoked.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The manager's code for "another instance with your agent id has taken over".
const SUPERSEDED: &str = "superseded";

/// The manager's code for "another instance with your agent id is alive".
const IDENTITY_CONFLICT: &str = "identity_conflict";

/// Refusals in a row because of it after which this process ends. The manager asks to come again
/// after one heartbeat and takes a process for gone after two, or three if it has another key: whoever
/// replaces one that crashed is welcome before.
const IDENTITY_REFUSALS: u32 = 4;

/// The manager's codes for "your certificate is not good any more".
const CERTIFICATE_ENDED: [&str; 3] = ["revoked", "banned", "certificate_expired"];

/// The manager's code for "we have no protocol revision in common".
const VERSION: &str = "version";

/// How the session stands; for readiness and for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    /// Not connected yet.
    Connecting,
    /// Welcomed.
    Up,
    /// Not connected; why, for people.
    Down(String),
}

/// Why a session ended without being told to. Everything else is tried again for ever.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// Another process runs with the same agent id: give this one another id.
    #[error("another process with the same agent id has taken over: {0}")]
    Superseded(String),
    /// Another process with the same agent id is alive and stays: give this one another id.
    #[error("the manager refused this process {IDENTITY_REFUSALS} times: {0}")]
    IdInUse(String),
}

/// What the supervisor gives to a session.
pub struct SessionPorts {
    /// From the executor.
    pub events: mpsc::Receiver<Event>,
    /// To the executor.
    pub commands: mpsc::Sender<Command>,
    /// To [`crate::bulk::fetch_blobs`].
    pub blobs: mpsc::Sender<BlobRequest>,
    /// To [`crate::bulk::mint_tokens`].
    pub tokens: mpsc::Sender<TokenRequest>,
    /// What the agent offers; changes are sent on.
    pub capabilities: watch::Receiver<Capabilities>,
    /// Its bytes not yet acknowledged are reported with every heartbeat.
    pub spool: Spool,
    /// What the supervisor wishes.
    pub stage: watch::Receiver<Stage>,
    /// How the session stands.
    pub state: watch::Sender<LinkState>,
}

/// See the module.
pub struct Session {
    config: SessionConfig,
    core: Core,
    ports: Ports,
    state: watch::Sender<LinkState>,
}

impl Session {
    /// A session that has not dialled yet.
    #[must_use]
    pub fn new(config: SessionConfig, ports: SessionPorts) -> Self {
        let SessionPorts {
            events,
            commands,
            blobs,
            tokens,
            capabilities,
            spool,
            stage,
            state,
        } = ports;
        let ports = Ports {
            events,
            events_open: true,
            commands,
            stage,
            capabilities,
            spool,
        };
        Self {
            config,
            core: Core::new(blobs, tokens),
            ports,
            state,
        }
    }

    /// Runs until [`Stage::Leaving`] and everything is written, or until another instance has the agent's id.
    ///
    /// # Errors
    /// [`SessionError`]; every attempt has been revoked by then.
    pub async fn run(mut self) -> Result<(), SessionError> {
        let mut retry = Retry::new(self.config.backoff);
        let mut rng = SmallRng::from_os_rng();
        let mut refusals = 0;
        loop {
            let dialling = dial_owned(self.config.clone(), self.hello());
            let Some(dialled) = self.offline(dialling).await else {
                return Ok(());
            };
            let (finding, lived, end) = match dialled {
                Ok(link) => {
                    let (end, lived) = self.converse(link).await;
                    if lived >= HEALTHY_AFTER {
                        retry.reset();
                    }
                    (about_end(&end, lived), lived, end)
                }
                Err(error) => (error.finding(), Duration::ZERO, failed_dial(error)),
            };
            // What the manager says itself is no failure of the way.
            let other_way =
                matches!(end, End::Broken(_) | End::Silent(_)) && self.config.membership.way().failed(finding, lived);
            self.core.queue.connection_lost();
            refusals = if end.is_told(IDENTITY_CONFLICT) {
                refusals + 1
            } else {
                0
            };
            let delay = match end {
                End::Left => return Ok(()),
                End::Disconnected(told) if told.code == SUPERSEDED => {
                    return Err(self.replaced(SessionError::Superseded(told.reason)).await);
                }
                End::Disconnected(told) if refusals == IDENTITY_REFUSALS => {
                    return Err(self.replaced(SessionError::IdInUse(told.reason)).await);
                }
                End::Disconnected(told) if refusals > 0 => {
                    self.waits_for_its_id(&told, refusals).max(retry.next(&mut rng))
                }
                End::Disconnected(told) => {
                    if CERTIFICATE_ENDED.contains(&told.code.as_str()) {
                        self.config.membership.doubt();
                    }
                    self.told_to_go(&told).max(retry.next(&mut rng))
                }
                End::StreamPasses => Duration::ZERO,
                End::Silent(_) | End::Broken(_) => {
                    let reason = match end {
                        End::Silent(silence) => format!("nothing heard from the manager for {silence:?}"),
                        End::Broken(reason) => reason,
                        _ => String::new(),
                    };
                    let delay = retry
                        .next(&mut rng)
                        .min(if other_way { OTHER_WAY_WITHIN } else { Duration::MAX });
                    warn!(reason, ?delay, "session down; running tasks are not touched");
                    self.state.send_replace(LinkState::Down(reason));
                    delay
                }
            };
            if self.offline(tokio::time::sleep(delay)).await.is_none() {
                return Ok(());
            }
        }
    }

    /// Talks over a new connection to its end; how long that was.
    async fn converse(&mut self, link: Link) -> (End, Duration) {
        let (way, carrier) = (self.config.membership.way(), link.carrier);
        way.welcomed();
        info!(manager = %self.config.manager, manager_version = link.welcome.version, by = ?carrier, "session up");
        self.state.send_replace(LinkState::Up);
        let note = way.note();
        let since = Instant::now();
        let end = converse(&mut self.core, &mut self.ports, link, note).await;
        (end, since.elapsed())
    }

    /// Everything that this instance is and holds.
    fn hello(&mut self) -> v1::Hello {
        let note = self.config.membership.way().note();
        let inventory = self.core.inventory.lines().map(|(attempt, grant)| v1::HeldAttempt {
            attempt: Some(to_wire::attempt(attempt)),
            started: grant == Grant::Started,
        });
        v1::Hello {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            agent_id: self.config.agent_id.as_str().to_owned(),
            instance_id: self.config.instance_id.as_str().to_owned(),
            version: self.config.version.clone(),
            inventory: inventory.collect(),
            capabilities: Some(self.ports.offers(note)),
            generation: self.core.generation,
        }
    }

    /// The manager said why it ends the session. Returns the shortest time to stay away.
    fn told_to_go(&self, told: &v1::Disconnect) -> Duration {
        let reason = if told.reason.is_empty() {
            told.code.clone()
        } else {
            format!("{}: {}", told.code, told.reason)
        };
        if told.code == VERSION {
            error!(reason, agent_speaks = ?(PROTOCOL_MIN..=PROTOCOL_MAX), "manager and agent speak different versions; upgrade one of them");
        } else {
            warn!(reason, "the manager ended the session; running tasks are not touched");
        }
        self.state.send_replace(LinkState::Down(reason));
        let asked = Duration::from_millis(told.retry_after_ms.into());
        if told.code == VERSION {
            asked.max(self.config.backoff.max())
        } else {
            asked
        }
    }

    /// Another process has the agent's id. Returns the shortest time to stay away.
    fn waits_for_its_id(&self, told: &v1::Disconnect, refusals: u32) -> Duration {
        let delay = Duration::from_millis(told.retry_after_ms.into());
        warn!(
            reason = told.reason,
            attempt = refusals,
            of = IDENTITY_REFUSALS,
            ?delay,
            "waiting for the other process with this agent id to be gone"
        );
        self.state
            .send_replace(LinkState::Down(format!("{}: {}", told.code, told.reason)));
        delay
    }

    /// Another process has the agent's id for good: everything held is revoked.
    async fn replaced(&mut self, error: SessionError) -> SessionError {
        error!(%error, "another process has this agent id; this one ends");
        self.state.send_replace(LinkState::Down(error.to_string()));
        self.core.revoke_all("another process has this agent id");
        let last_words = async {
            while self.core.has_commands() {
                let Ok(permit) = self.ports.commands.reserve().await else {
                    return;
                };
                if let Some(command) = self.core.next_command() {
                    permit.send(command);
                }
            }
        };
        if tokio::time::timeout(LAST_WORDS, last_words).await.is_err() {
            warn!("the executor did not take the revocation of its attempts in time");
        }
        error
    }

    /// Waits for `done` without a connection: events are queued as far as there is room, answers
    /// that are still owed are delivered. None if there is nothing left to stay for.
    async fn offline<T>(&mut self, done: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(done);
        loop {
            let Self { core, ports, .. } = self;
            let nothing_owed = core.queue.is_empty() && ports.events.is_empty();
            if matches!(*ports.stage.borrow_and_update(), Stage::Leaving(_)) && nothing_owed {
                return None;
            }
            let room = core.queue.room() > 0 && ports.events_open;
            tokio::select! {
                biased;
                out = &mut done => return Some(out),
                event = ports.events.recv(), if room => match event {
                    Some(event) => core.on_event(event),
                    None => ports.events_open = false,
                },
                permit = ports.commands.reserve(), if core.has_commands() => match permit {
                    Ok(permit) => if let Some(command) = core.next_command() { permit.send(command) },
                    // The executor is gone: nobody is owed anything.
                    Err(_) => while core.next_command().is_some() {},
                },
                Ok(()) = ports.stage.changed() => {}
            }
        }
    }
}

/// The dial borrows nothing of the session, which goes on taking events meanwhile.
async fn dial_owned(config: SessionConfig, hello: v1::Hello) -> Result<crate::dial::Link, DialError> {
    dial(&config, hello).await
}

/// What the end of a session says about HTTP/2, if it was a stream.
fn about_end(end: &End, lived: Duration) -> Finding {
    match end {
        End::Silent(silence) => Finding::Suspect(format!("a stream stayed open and brought nothing for {silence:?}")),
        End::Broken(reason) if lived < HEALTHY_AFTER => Finding::Suspect(format!(
            "a stream broke {:.1} s after its welcome: {reason}",
            lived.as_secs_f64()
        )),
        End::Broken(_) | End::Left | End::Disconnected(_) | End::StreamPasses => Finding::Clear,
    }
}

/// What a proxy can fake is only a broken connection.
fn failed_dial(error: DialError) -> End {
    match error {
        DialError::Refused(told) => End::Disconnected(told),
        DialError::Protocol(_) => End::Disconnected(v1::Disconnect {
            code: VERSION.into(),
            reason: error.to_string(),
            retry_after_ms: 0,
        }),
        DialError::Join(JoinError::InUse { why, again }) => End::Disconnected(v1::Disconnect {
            code: IDENTITY_CONFLICT.into(),
            reason: why,
            retry_after_ms: u32::try_from(again.as_millis()).unwrap_or(u32::MAX),
        }),
        other => End::Broken(other.to_string()),
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
