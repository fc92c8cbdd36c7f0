//! The connections of agents, so that they can be ended from here.

use std::sync::PoisonError;

use deputy_task::id::AgentId;

use super::book::Registry;
use crate::dispatcher::inbound::Inbound;
use crate::trust::authority::{millis, unix_now};
use crate::trust::peer::Peer;

impl Registry {
    /// Remembers a connection of an agent, so that it can be cut.
    pub fn attach(&self, agent_id: &str, peer: &Peer) {
        if peer.is_attached() {
            return;
        }
        let mut connections = self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let of_agent = connections.entry(agent_id.into()).or_default();
        of_agent.retain(|peer| !peer.is_gone());
        of_agent.push(peer.clone());
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
        let connections = {
            let mut all = self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner);
            all.remove(agent.as_str()).unwrap_or_default()
        };
        let is_spared = |peer: &Peer| {
            let serial = peer.certificate.as_ref().map(|certificate| &certificate.serial);
            serial.is_some_and(|serial| spared == Some(&self.line_of(agent.as_str(), serial)))
        };
        let (stay, connections): (Vec<Peer>, Vec<Peer>) = connections.into_iter().partition(is_spared);
        if !stay.is_empty() {
            let mut all = self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry(agent.to_string()).or_default().extend(stay);
        }
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
}
