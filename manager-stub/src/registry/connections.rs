//! The connections of agents, so that they can be ended from here.

use std::sync::PoisonError;

use deputy_task::id::AgentId;

use super::agents::Use;
use super::book::Registry;
use crate::dispatcher::inbound::Inbound;
use crate::trust::authority::{millis, unix_now};
use crate::trust::peer::Peer;

impl Registry {
    /// Remembers a connection of an agent, so that it can be cut. Only then it is asked for the last time whether its
    /// certificate is good: whoever ends that afterwards finds the connection here.
    ///
    /// # Errors
    /// Why it is not.
    pub fn attach(&self, agent_id: &str, peer: &Peer) -> Result<(), String> {
        {
            let mut connections = self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner);
            if !peer.is_attached() {
                let of_agent = connections.entry(agent_id.into()).or_default();
                of_agent.retain(|peer| !peer.is_gone());
                of_agent.push(peer.clone());
            }
        }
        let serial = peer.certificate.as_ref().map_or("", |certificate| &certificate.serial);
        match self.may_use(agent_id, serial, peer.since_ms) {
            Use::Good | Use::First => Ok(()),
            Use::Refused(why) => Err(why),
        }
    }

    /// Ends the session with its last word, then cuts every connection; those of a line that is spared stay.
    pub async fn expel(&self, agent: &AgentId, code: &'static str, reason: String, spared: Option<&str>) {
        let expel = Inbound::Expel {
            agent: agent.clone(),
            code,
            reason,
            spared: spared.map(str::to_owned),
        };
        if self.shared.dispatcher.send(expel).await.is_err() {
            tracing::debug!(%agent, "the dispatcher ended first");
        }
        let is_spared = |peer: &Peer| {
            let serial = peer.certificate.as_ref().map(|certificate| &certificate.serial);
            serial.is_some_and(|serial| spared == Some(&self.line_of(agent.as_str(), serial)))
        };
        let connections: Vec<Peer> = {
            // Locked all the while: no other end misses those that stay.
            let mut all = self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner);
            let of_agent = all.remove(agent.as_str()).unwrap_or_default();
            let (stay, end): (Vec<Peer>, Vec<Peer>) = of_agent.into_iter().partition(is_spared);
            if !stay.is_empty() {
                all.insert(agent.to_string(), stay);
            }
            end
        };
        // The last word needs a moment to be written.
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        for peer in connections {
            peer.cut();
        }
    }

    /// Agents with connections and without a certificate that is good.
    #[must_use]
    pub fn lapsed(&self) -> Vec<AgentId> {
        let connected: Vec<String> = {
            let mut all = self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|_, peers| {
                peers.retain(|peer| !peer.is_gone());
                !peers.is_empty()
            });
            all.keys().cloned().collect()
        };
        let now_ms = millis(unix_now());
        self.look(|known| {
            let is_over = |id: &String| {
                known.agents.get(id).is_none_or(|agent| {
                    agent
                        .certificates
                        .iter()
                        .all(|one| one.revoked || one.not_after_ms <= now_ms)
                })
            };
            let over = connected.iter().filter(|id| is_over(id));
            over.filter_map(|id| id.parse().ok()).collect()
        })
    }

    /// Cuts what the gate takes no call on any more, of agents that have another certificate that is good: they connect
    /// anew with that, and whoever has only what was revoked does not.
    pub fn cut_refused(&self) {
        let now_ms = millis(unix_now());
        let connections = self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner);
        self.look(|known| {
            for (id, peers) in connections.iter() {
                let Some(agent) = known.agents.get(id).filter(|agent| agent.has_good(now_ms)) else {
                    continue;
                };
                for peer in peers.iter().filter(|peer| !peer.is_gone()) {
                    let serial = peer.certificate.as_ref().map_or("", |certificate| &certificate.serial);
                    if let Use::Refused(why) = agent.may_use(serial, peer.since_ms, now_ms) {
                        tracing::info!(agent.id = id, why, "a connection was cut");
                        peer.cut();
                    }
                }
            }
        });
    }
}
