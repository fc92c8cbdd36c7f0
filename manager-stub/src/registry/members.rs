//! Agents that have joined: their certificates from the first to the last.

use deputy_task::id::AgentId;

use super::agents::{Admission, AgentRecord, CertificateRecord, Standing, Use};
use super::book::{BookError, Edit, Registry, missing, recorded};
use crate::trust::authority::{Issued, millis, unix_now};
use crate::trust::peer::PeerCertificate;

/// An expired certificate is exchanged for a new one for so long.
const EXPIRED_FOR_MS: i64 = 30 * 24 * 3600 * 1000;

/// Agents that are forgotten with one commit.
const FORGOTTEN_AT_ONCE: usize = 1000;

impl Registry {
    /// Gives an agent its next certificate, in the place of the one with this serial number.
    ///
    /// # Errors
    /// If it may have none, or the store does not take it.
    pub async fn renew(&self, agent_id: &str, serial: &str, issued: &Issued) -> Result<(), BookError> {
        self.renew_if(|agent| agent.unended(serial).map(drop), (agent_id, serial), issued)
            .await
    }

    /// The same, in the place of one that has expired.
    ///
    /// # Errors
    /// As for [`Registry::expired`], or the store does not take it.
    pub async fn renew_expired(&self, agent_id: &str, serial: &str, issued: &Issued) -> Result<(), BookError> {
        let may = |agent: &AgentRecord| exchanged(agent, serial, millis(unix_now())).map(drop);
        self.renew_if(may, (agent_id, serial), issued).await
    }

    /// Whoever asks was let in before: what has changed while he waited for his turn counts.
    async fn renew_if(
        &self,
        may: impl Fn(&AgentRecord) -> Result<(), String> + Send,
        (agent_id, serial): (&str, &str),
        issued: &Issued,
    ) -> Result<(), BookError> {
        self.change(move |known| {
            let mut agent = known
                .agents
                .get(agent_id)
                .ok_or_else(|| missing("agent", agent_id))?
                .clone();
            may(&agent).map_err(BookError::Denied)?;
            let admission = agent.admission_of(serial);
            let admission = admission.ok_or_else(|| missing("certificate", serial))?;
            agent.add(recorded(issued), admission);
            let mut edit = Edit::default();
            edit.agents.push(known.agents.pending(agent_id, Some(agent)));
            Ok((edit, ()))
        })
        .await
    }

    /// May an agent exchange this expired certificate? Answers its line and what its join gave.
    ///
    /// # Errors
    /// Why not.
    pub fn expired(&self, agent_id: &str, serial: &str) -> Result<(String, Admission), String> {
        let now_ms = millis(unix_now());
        self.look(|known| {
            let agent = known
                .agents
                .get(agent_id)
                .ok_or_else(|| format!("there is no agent {agent_id}"))?;
            exchanged(agent, serial, now_ms)
        })
    }

    /// May a certificate be used on this connection?
    #[must_use]
    pub fn may_use(&self, agent_id: &str, serial: &str, connected_at_ms: i64) -> Use {
        self.look(|known| match known.agents.get(agent_id) {
            Some(agent) => agent.may_use(serial, connected_at_ms, millis(unix_now())),
            None => Use::Refused(format!("this manager knows no agent {agent_id}")),
        })
    }

    /// Remembers a certificate again whose record was lost with the store that is gone; answers whether it was one. Whoever
    /// calls has seen that our authority signed it.
    ///
    /// # Errors
    /// If the store does not take it.
    pub async fn regain(&self, agent_id: &str, certificate: &PeerCertificate) -> Result<bool, BookError> {
        let now_ms = millis(unix_now());
        let is_lost = |agent: &AgentRecord| agent.has_lost(certificate, now_ms);
        if !self.look(|known| known.agents.get(agent_id).is_some_and(is_lost)) {
            return Ok(false);
        }
        let regained = self.change(|known| {
            let mut edit = Edit::default();
            let before = known.agents.get(agent_id).filter(|agent| is_lost(agent));
            if let Some(mut agent) = before.cloned() {
                let newest = agent.newest().and_then(|newest| agent.admission_of(&newest.serial));
                let admission = newest.unwrap_or_else(|| agent.admission());
                agent.add(CertificateRecord::regained(certificate), admission);
                edit.agents.push(known.agents.pending(agent_id, Some(agent)));
            }
            Ok((edit, before.is_some()))
        });
        regained.await
    }

    /// A certificate is used for the first time: the ones before it end for new connections, and what it was given counts.
    /// Answers whether the agent's id went to another line of keys by it.
    ///
    /// # Errors
    /// If it was ended while it waited for its turn, or the store does not take it.
    pub(super) async fn used(&self, agent_id: &str, serial: &str, connected_at_ms: i64) -> Result<bool, BookError> {
        self.change(|known| {
            let mut agent = known
                .agents
                .get(agent_id)
                .ok_or_else(|| missing("agent", agent_id))?
                .clone();
            let now_ms = millis(unix_now());
            match agent.may_use(serial, connected_at_ms, now_ms) {
                Use::First => {}
                // Another call on it was first.
                Use::Good => return Ok((Edit::default(), false)),
                Use::Refused(why) => return Err(BookError::Denied(why)),
            }
            let before = agent.line_in_use().map(str::to_owned);
            agent.used(serial, now_ms);
            let takes_over = before.is_some_and(|before| agent.line_in_use() != Some(&before));
            let mut edit = Edit::default();
            edit.agents.push(known.agents.pending(agent_id, Some(agent)));
            Ok((edit, takes_over))
        })
        .await
    }

    /// Agents that have joined and were never heard of since.
    #[must_use]
    pub fn unseen(&self) -> Vec<AgentRecord> {
        let now_ms = millis(unix_now());
        self.look(|known| {
            let unseen = known.agents.all().filter(|agent| agent.is_unseen(now_ms));
            unseen.cloned().collect()
        })
    }

    /// One agent.
    #[must_use]
    pub fn agent(&self, agent_id: &str) -> Option<AgentRecord> {
        self.look(|known| known.agents.get(agent_id).cloned())
    }

    /// The line of one of an agent's certificates; empty if it is not known any more.
    #[must_use]
    pub fn line_of(&self, agent_id: &str, serial: &str) -> String {
        let line = |agent: &AgentRecord| agent.line_of(serial).map(str::to_owned);
        self.look(|known| known.agents.get(agent_id).and_then(line))
            .unwrap_or_default()
    }

    /// The line of one of an agent's certificates and what its join gave; none if it is not known any more.
    #[must_use]
    pub fn shown(&self, agent_id: &str, serial: &str) -> Option<(String, Admission)> {
        self.look(|known| {
            let agent = known.agents.get(agent_id)?;
            Some((agent.line_of(serial)?.to_owned(), agent.admission_of(serial)?))
        })
    }

    /// Ends an agent's certificates, its session and its connections; how many certificates were good.
    ///
    /// # Errors
    /// If there is none, or the store does not take it.
    pub async fn end(&self, agent_id: &AgentId, standing: Standing) -> Result<u32, BookError> {
        let (code, reason) = match &standing {
            Standing::Banned { reason } => ("banned", reason.clone()),
            Standing::Revoked { reason } => ("revoked", reason.clone()),
            Standing::Active => return Err(BookError::Invalid("an agent is ended by revoking or banning it".into())),
        };
        let (registry, agent_id) = (self.clone(), agent_id.clone());
        self.whole(async move {
            let id = agent_id.as_str();
            let ended = registry.change(|known| {
                let mut agent = known.agents.get(id).ok_or_else(|| missing("agent", id))?.clone();
                let ended = agent.end(standing, millis(unix_now()));
                let mut edit = Edit::default();
                edit.agents.push(known.agents.pending(id, Some(agent)));
                Ok((edit, ended))
            });
            let ended = ended.await?;
            registry.expel(&agent_id, code, reason, None).await;
            Ok(ended)
        })
        .await
    }

    /// Forgets an agent; anybody whom a rule lets in may have its id then.
    ///
    /// # Errors
    /// If there is none, it may be here or is banned, or the store does not take it.
    pub async fn forget(&self, agent_id: &str) -> Result<(), BookError> {
        self.change(|known| {
            let agent = known.agents.get(agent_id).ok_or_else(|| missing("agent", agent_id))?;
            if let Standing::Banned { reason } = &agent.standing {
                return Err(BookError::Invalid(format!(
                    "the agent {agent_id} is banned ({reason}), and a ban is remembered; lift it first: deputy fleet unban \
                     {agent_id}"
                )));
            }
            if agent.has_good(millis(unix_now())) {
                return Err(BookError::Invalid(format!(
                    "the agent {agent_id} has a good certificate; end it first: deputy fleet revoke {agent_id}"
                )));
            }
            let mut edit = Edit::default();
            edit.agents.push(known.agents.pending(agent_id, None));
            Ok((edit, ()))
        })
        .await
    }

    /// Forgets agents whose last certificate ended long ago; answers how many.
    ///
    /// # Errors
    /// If the store does not take it.
    pub async fn forget_over(&self, now_ms: i64) -> Result<usize, BookError> {
        self.change(|known| {
            let over = known.agents.all().filter(|agent| agent.is_over(now_ms));
            let mut edit = Edit::default();
            edit.agents.extend(
                over.take(FORGOTTEN_AT_ONCE)
                    .map(|agent| known.agents.pending(&agent.agent_id, None)),
            );
            let count = edit.agents.len();
            Ok((edit, count))
        })
        .await
    }

    /// Lets a banned agent join again.
    ///
    /// # Errors
    /// If it is not banned, or the store does not take it.
    pub async fn unban(&self, agent_id: &str) -> Result<(), BookError> {
        self.change(|known| {
            let agent = known.agents.get(agent_id).ok_or_else(|| missing("agent", agent_id))?;
            if !matches!(agent.standing, Standing::Banned { .. }) {
                return Err(BookError::Invalid(format!("the agent {agent_id} is not banned")));
            }
            let free = AgentRecord {
                standing: Standing::Revoked {
                    reason: "it was banned before; it has to join again".into(),
                },
                ..agent.clone()
            };
            let mut edit = Edit::default();
            edit.agents.push(known.agents.pending(agent_id, Some(free)));
            Ok((edit, ()))
        })
        .await
    }
}

/// The line of an expired certificate that may be exchanged now, and what its join gave; or why not.
fn exchanged(agent: &AgentRecord, serial: &str, now_ms: i64) -> Result<(String, Admission), String> {
    let agent_id = &agent.agent_id;
    if let Some(why) = agent.refusal() {
        return Err(why);
    }
    if !agent.subject.starts_with("token:") {
        return Err(format!(
            "the agent {agent_id} joined as {}: it joins again by the same proof",
            agent.subject
        ));
    }
    let found = agent.certificates.iter().find(|one| one.serial == serial);
    let Some(found) = found.filter(|one| !one.revoked && one.superseded_at_ms.is_none()) else {
        return Err(format!(
            "the certificate {serial} of the agent {agent_id} was revoked, or a newer one was used"
        ));
    };
    if now_ms.saturating_sub(found.not_after_ms) > EXPIRED_FOR_MS {
        return Err(format!(
            "the certificate {serial} of the agent {agent_id} expired more than 30 days ago: join again with a new join \
             token"
        ));
    }
    let admission = found.admission.clone().unwrap_or_else(|| agent.admission());
    Ok((found.line.clone(), admission))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: i64 = 24 * 3600 * 1000;

    fn agent(subject: &str) -> AgentRecord {
        let expired = CertificateRecord {
            serial: "1".into(),
            key: "k".into(),
            line: "l".into(),
            not_before_ms: 0,
            not_after_ms: DAY_MS,
            used: true,
            superseded_at_ms: None,
            revoked: false,
            token: None,
            repeats: 0,
            admission: None,
        };
        AgentRecord {
            agent_id: "a1".into(),
            subject: subject.into(),
            rule: "r".into(),
            pool: "p".into(),
            projects: Vec::new(),
            standing: Standing::Active,
            joined_at_ms: 0,
            certificates: vec![expired],
        }
    }

    /// Guards that the old key of an agent that joined by a role or an account does not bring it back without its proof.
    #[test]
    fn an_expired_certificate_is_exchanged_for_who_joined_by_a_token_and_for_thirty_days() {
        let agent_of =
            |subject: &str, days| exchanged(&agent(subject), "1", DAY_MS + days * DAY_MS).map(|(line, _)| line);
        for days in [1, 30] {
            assert_eq!(agent_of("token:r", days).as_deref(), Ok("l"), "{days}");
        }
        let late = exchanged(&agent("token:r"), "1", 31 * DAY_MS + 1).expect_err("too late");
        assert!(late.contains("expired more than 30 days ago"), "{late}");
        for subject in [
            "aws:arn:aws:iam::123456789012:role/agent",
            "kubernetes:r:https://issuer:n/account",
        ] {
            let refused = agent_of(subject, 1).expect_err("another proof");
            let said = format!("the agent a1 joined as {subject}: it joins again by the same proof");
            assert_eq!(refused, said);
        }
    }
}
