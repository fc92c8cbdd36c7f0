//! Whose an agent id is at this moment: the line of keys that speaks under it. While that is heard of, nobody who shows
//! another key gets the id, whatever else he proves: a token of the same rule, the same role, the same service account.

use std::time::Duration;

use deputy_task::id::AgentId;

use super::agents::{AgentRecord, Standing};
use super::book::{BookError, Registry};
use super::joining::Joining;
use crate::dispatcher::inbound::{Inbound, Presence, Refused};
use crate::trust::authority::{millis, unix_now};

/// Whoever asks again when the id is free asks a little later than that.
const ROUNDED: Duration = Duration::from_millis(100);

/// What a join would change.
struct Before {
    /// The line of the key that joins.
    line: String,
    /// The line that joined last, and how long ago.
    newest: Option<(String, Duration)>,
}

impl Registry {
    /// May this key have the agent's id?
    ///
    /// # Errors
    /// If another one has it and is heard of, or the manager is ending.
    pub(super) async fn free_to_join(&self, joining: &Joining, key: &str) -> Result<(), BookError> {
        let before = self.look(|known| {
            let agent = known.agents.get(joining.agent_id.as_str())?;
            // Others are refused in words of their own, and whoever was revoked has no id to keep.
            let has_it = agent.standing == Standing::Active && agent.subject == joining.subject;
            has_it.then(|| before(agent, joining.line_after(Some(agent), key)))
        });
        let Some(before) = before else { return Ok(()) };
        let presence = self.presence(&joining.agent_id).await?;
        presence.refusal(&joining.agent_id, &before.line)?;
        // Between its join and its first hello an agent is heard of too.
        if let Some((newest, ago)) = before.newest
            && newest != before.line
            && ago < presence.silence
            && presence.newest.as_ref().is_none_or(|held| held.line != newest)
        {
            return Err(presence.taken(&joining.agent_id, presence.silence - ago));
        }
        Ok(())
    }

    /// A certificate is used for the first time: the ones before it end for new connections, and those of another line
    /// on every connection.
    ///
    /// # Errors
    /// If the certificate was ended meanwhile, the agent's id is another key's that is heard of, or the store does not take it.
    pub async fn first_use(&self, agent_id: &AgentId, serial: &str, connected_at_ms: i64) -> Result<(), BookError> {
        let line = self.line_of(agent_id.as_str(), serial);
        let in_use = |agent: &AgentRecord| agent.line_in_use().is_some_and(|used| used != line);
        if self.look(|known| known.agents.get(agent_id.as_str()).is_some_and(in_use)) {
            self.presence(agent_id).await?.refusal(agent_id, &line)?;
        }
        let (registry, agent_id, serial) = (self.clone(), agent_id.clone(), serial.to_owned());
        self.whole(async move {
            if registry.used(agent_id.as_str(), &serial, connected_at_ms).await? {
                let reason = "another process has joined with this agent id, because this one was silent".to_owned();
                registry.expel(&agent_id, "superseded", reason, Some(&line)).await;
            }
            Ok(())
        })
        .await
    }

    async fn presence(&self, agent_id: &AgentId) -> Result<Presence, BookError> {
        let agent = agent_id.clone();
        let asked = self
            .shared
            .dispatcher
            .ask(|reply| Inbound::Presence { agent, reply })
            .await;
        asked.map_err(|ending| BookError::Store(Refused::StoreFailed(ending.to_string())))
    }
}

fn before(agent: &AgentRecord, line: &str) -> Before {
    let ago = millis(unix_now()).saturating_sub(agent.joined_at_ms);
    // A clock that was set back would keep the id for ever.
    let ago = u64::try_from(ago).map_or(Duration::MAX, Duration::from_millis);
    Before {
        line: line.to_owned(),
        newest: agent.newest().map(|newest| (newest.line.clone(), ago)),
    }
}

impl Presence {
    fn refusal(&self, agent_id: &AgentId, line: &str) -> Result<(), BookError> {
        match &self.newest {
            Some(held) if !held.gone_in.is_zero() && held.line != line => Err(self.taken(agent_id, held.gone_in)),
            _ => Ok(()),
        }
    }

    /// Nothing of the other one is told but that it is there, and when it is taken for gone if it stays silent: whoever
    /// replaces it asks again then, and not a moment before.
    fn taken(&self, agent_id: &AgentId, gone_in: Duration) -> BookError {
        let why = format!(
            "the agent id {agent_id} is in use by another process, which has another key and was heard of within the last \
             {:?}; give this agent an id of its own (--agent-id), or wait until the other one has been silent for so long; \
             an administrator ends it at once with: deputy fleet revoke {agent_id}",
            self.silence
        );
        BookError::InUse {
            why,
            again: gone_in + ROUNDED,
        }
    }
}
