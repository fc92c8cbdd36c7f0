//! The registry: every question is answered from memory, every change is one commit of the store that is seen only
//! when it is on disk.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use deputy_task::id::AgentId;

use super::agents::{AgentRecord, CertificateRecord, Standing, Use};
use super::grants::{Grant, Scope};
use super::join_tokens::JoinToken;
use super::secret;
use super::table::{Pending, Remembered, Table};
use crate::dispatcher::DispatcherHandle;
use crate::dispatcher::inbound::{Inbound, Refused};
use crate::join::{JoinRule, RuleProof};
use crate::store::contract::{Reads, StoreError};
use crate::store::op::{Op, TrustChange};
use crate::trust::authority::{Issued, millis, unix_now};
use crate::trust::peer::Peer;

/// What bearer tokens begin with.
const GRANT_PREFIX: &str = "dpt";
/// What join tokens begin with.
const JOIN_PREFIX: &str = "dpj";
/// Rules, join tokens and bearer tokens that are remembered, each.
const MAX_ROWS: usize = 10_000;
/// Agents that are remembered.
const MAX_AGENTS: usize = 100_000;
/// An expired certificate is exchanged for a new one for so long.
const EXPIRED_FOR_MS: i64 = 30 * 24 * 3600 * 1000;
/// An expired bearer token is listed for so long.
const SHOWN_FOR_MS: i64 = 30 * 24 * 3600 * 1000;
/// Joins by one token.
const MAX_USES: u32 = 10_000;

impl Remembered for JoinRule {
    const KIND: &'static str = "join-rule";
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

struct Shared {
    dispatcher: DispatcherHandle,
    known: RwLock<Known>,
    /// One change at a time: each is made of what the one before left.
    changing: tokio::sync::Mutex<()>,
    connections: Mutex<HashMap<String, Vec<Peer>>>,
}

struct Known {
    grants: Table<Grant>,
    rules: Table<JoinRule>,
    join_tokens: Table<JoinToken>,
    agents: Table<AgentRecord>,
}

/// A change was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BookError {
    /// There is no such thing.
    #[error("{0}")]
    Missing(String),
    /// There is one already.
    #[error("{0}")]
    Exists(String),
    /// It may not be; the text says why and what to do.
    #[error("{0}")]
    Denied(String),
    /// What was asked for makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Too many of them.
    #[error("{0}")]
    Full(String),
    /// The store did not take it.
    #[error("nothing was stored")]
    Store(Refused),
}

/// An agent that proved who it is.
#[derive(Debug, Clone)]
pub struct Joining {
    /// Who it wants to be.
    pub agent_id: AgentId,
    /// Who it is.
    pub subject: String,
    /// The rule that lets it in.
    pub rule: JoinRule,
    /// The join token that it used.
    pub token: Option<String>,
}

/// Changes to several things that are made together.
#[derive(Default)]
struct Edit {
    grants: Vec<Pending<Grant>>,
    rules: Vec<Pending<JoinRule>>,
    join_tokens: Vec<Pending<JoinToken>>,
    agents: Vec<Pending<AgentRecord>>,
}

impl Edit {
    fn changes(&self) -> Vec<TrustChange> {
        let mut changes: Vec<TrustChange> = Vec::new();
        changes.extend(self.grants.iter().map(|pending| pending.change.clone()));
        changes.extend(self.rules.iter().map(|pending| pending.change.clone()));
        changes.extend(self.join_tokens.iter().map(|pending| pending.change.clone()));
        changes.extend(self.agents.iter().map(|pending| pending.change.clone()));
        changes
    }
}

impl Registry {
    /// Everything that the store remembers.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn load(reads: &dyn Reads, dispatcher: DispatcherHandle) -> Result<Self, StoreError> {
        let rows = reads.trust()?;
        let known = Known {
            grants: Table::load(&rows)?,
            rules: Table::load(&rows)?,
            join_tokens: Table::load(&rows)?,
            agents: Table::load(&rows)?,
        };
        Ok(Self {
            shared: Arc::new(Shared {
                dispatcher,
                known: RwLock::new(known),
                changing: tokio::sync::Mutex::default(),
                connections: Mutex::default(),
            }),
        })
    }

    fn look<T>(&self, look: impl FnOnce(&Known) -> T) -> T {
        look(&self.shared.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes one change: decided on what is known, stored, then seen.
    async fn change<T>(
        &self,
        decide: impl FnOnce(&Known) -> Result<(Edit, T), BookError> + Send,
    ) -> Result<T, BookError> {
        let _one = self.shared.changing.lock().await;
        let (edit, answer) = self.look(decide)?;
        let changes = edit.changes();
        if !changes.is_empty() {
            let stored = self.shared.dispatcher.commit(vec![Op::Trust(changes)]).await;
            stored.map_err(BookError::Store)?;
        }
        let mut known = self.shared.known.write().unwrap_or_else(PoisonError::into_inner);
        edit.grants.into_iter().for_each(|pending| known.grants.see(pending));
        edit.rules.into_iter().for_each(|pending| known.rules.see(pending));
        edit.join_tokens
            .into_iter()
            .for_each(|pending| known.join_tokens.see(pending));
        edit.agents.into_iter().for_each(|pending| known.agents.see(pending));
        Ok(answer)
    }

    /// The grant that a bearer token stands for.
    ///
    /// # Errors
    /// Why it is none; says more only to who has the secret.
    pub fn grant_of(&self, text: &str) -> Result<Grant, String> {
        let unknown = || "the bearer token is not known to this manager".to_owned();
        let (id, secret) = secret::parse(GRANT_PREFIX, text).ok_or_else(unknown)?;
        let grant = self.look(|known| known.grants.get(id).cloned()).ok_or_else(unknown)?;
        if !grant.hashed.is_of(secret) {
            return Err(unknown());
        }
        match grant.refusal(millis(unix_now())) {
            None => Ok(grant),
            Some(why) => Err(why),
        }
    }

    /// The grant with this id.
    #[must_use]
    pub fn grant(&self, id: &str) -> Option<Grant> {
        self.look(|known| known.grants.get(id).cloned())
    }

    /// Every grant, oldest first.
    #[must_use]
    pub fn grants(&self) -> Vec<Grant> {
        let mut all: Vec<Grant> = self.look(|known| known.grants.all().cloned().collect());
        all.sort_by_key(|grant| grant.created_at_ms);
        all
    }

    /// Makes a grant; answers it with its secret. `grant` has everything but id, hash and time.
    ///
    /// # Errors
    /// If there are too many, or the store does not take it.
    pub async fn create_grant(
        &self,
        name: String,
        scopes: Vec<Scope>,
        projects: Vec<String>,
        life_ms: i64,
        created_by: String,
    ) -> Result<(Grant, String), BookError> {
        let made = secret::make(GRANT_PREFIX);
        let now_ms = millis(unix_now());
        let grant = Grant {
            id: made.id.clone(),
            name,
            hashed: made.hashed,
            scopes,
            projects,
            created_at_ms: now_ms,
            expires_at_ms: if life_ms == 0 {
                0
            } else {
                now_ms.saturating_add(life_ms)
            },
            revoked: false,
            created_by,
        };
        let stored = grant.clone();
        self.change(move |known| {
            let mut edit = Edit::default();
            // What ended long ago makes room; until then the list shows why a pipeline does not work any more.
            let over = known
                .grants
                .all()
                .filter(|grant| grant.expires_at_ms != 0 && now_ms.saturating_sub(grant.expires_at_ms) > SHOWN_FOR_MS);
            edit.grants
                .extend(over.map(|grant| known.grants.pending(&grant.id, None)));
            room(known.grants.len() - edit.grants.len(), MAX_ROWS, "bearer tokens")?;
            edit.grants.push(known.grants.pending(&stored.id, Some(stored.clone())));
            Ok((edit, ()))
        })
        .await?;
        Ok((grant, made.text))
    }

    /// Forgets a grant whose secret nobody has seen.
    ///
    /// # Errors
    /// If the store does not take it.
    pub async fn forget_grant(&self, id: &str) -> Result<(), BookError> {
        self.change(|known| {
            let mut edit = Edit::default();
            edit.grants.push(known.grants.pending(id, None));
            Ok((edit, ()))
        })
        .await
    }

    /// Ends a grant.
    ///
    /// # Errors
    /// If there is none, or the store does not take it.
    pub async fn revoke_grant(&self, id: &str) -> Result<(), BookError> {
        self.change(|known| {
            let grant = known.grants.get(id).ok_or_else(|| missing("token", id))?;
            let revoked = Grant {
                revoked: true,
                ..grant.clone()
            };
            let mut edit = Edit::default();
            edit.grants.push(known.grants.pending(id, Some(revoked)));
            Ok((edit, ()))
        })
        .await
    }

    /// Every join rule, by name.
    #[must_use]
    pub fn rules(&self) -> Vec<JoinRule> {
        self.look(|known| known.rules.all().cloned().collect())
    }

    /// Makes a join rule.
    ///
    /// # Errors
    /// If there is one of this name, or the store does not take it.
    pub async fn create_rule(&self, rule: JoinRule) -> Result<(), BookError> {
        self.change(move |known| {
            room(known.rules.len(), MAX_ROWS, "join rules")?;
            if known.rules.get(&rule.name).is_some() {
                return Err(BookError::Exists(format!(
                    "there is a join rule {} already; remove it first: deputy fleet join-rule remove {}",
                    rule.name, rule.name
                )));
            }
            let mut edit = Edit::default();
            edit.rules.push(known.rules.pending(&rule.name, Some(rule.clone())));
            Ok((edit, ()))
        })
        .await
    }

    /// Removes a join rule and its join tokens.
    ///
    /// # Errors
    /// If there is none, or the store does not take it.
    pub async fn remove_rule(&self, name: &str) -> Result<(), BookError> {
        self.change(|known| {
            known.rules.get(name).ok_or_else(|| missing("join rule", name))?;
            let mut edit = Edit::default();
            edit.rules.push(known.rules.pending(name, None));
            let tokens = known.join_tokens.all().filter(|token| token.rule == name);
            edit.join_tokens
                .extend(tokens.map(|token| known.join_tokens.pending(&token.id, None)));
            Ok((edit, ()))
        })
        .await
    }

    /// Every join token, oldest first.
    #[must_use]
    pub fn join_tokens(&self) -> Vec<JoinToken> {
        let mut all: Vec<JoinToken> = self.look(|known| known.join_tokens.all().cloned().collect());
        all.sort_by_key(|token| token.created_at_ms);
        all
    }

    /// Makes a join token; answers it with its secret.
    ///
    /// # Errors
    /// If the rule is none for tokens, or the store does not take it.
    pub async fn create_join_token(
        &self,
        rule: &str,
        uses: u32,
        life_ms: i64,
        created_by: String,
    ) -> Result<(JoinToken, String), BookError> {
        if !(1..=MAX_USES).contains(&uses) {
            return Err(BookError::Invalid(format!(
                "a join token is good for 1 to {MAX_USES} joins"
            )));
        }
        let made = secret::make(JOIN_PREFIX);
        let now_ms = millis(unix_now());
        let token = JoinToken {
            id: made.id.clone(),
            rule: rule.into(),
            hashed: made.hashed,
            max_uses: uses,
            uses: 0,
            created_at_ms: now_ms,
            expires_at_ms: now_ms.saturating_add(life_ms),
            revoked: false,
            created_by,
        };
        let stored = token.clone();
        self.change(move |known| {
            let of = known
                .rules
                .get(&stored.rule)
                .ok_or_else(|| missing("join rule", &stored.rule))?;
            if of.proof != RuleProof::Token {
                return Err(BookError::Invalid(format!(
                    "the join rule {} is not for tokens; make one that is: deputy fleet join-rule create NAME --token",
                    of.name
                )));
            }
            let mut edit = Edit::default();
            // What nobody can use any more makes room.
            let over = known.join_tokens.all().filter(|token| token.expires_at_ms < now_ms);
            edit.join_tokens
                .extend(over.map(|token| known.join_tokens.pending(&token.id, None)));
            room(
                known.join_tokens.len() - edit.join_tokens.len(),
                MAX_ROWS,
                "join tokens",
            )?;
            edit.join_tokens
                .push(known.join_tokens.pending(&stored.id, Some(stored.clone())));
            Ok((edit, ()))
        })
        .await?;
        Ok((token, made.text))
    }

    /// Ends a join token.
    ///
    /// # Errors
    /// If there is none, or the store does not take it.
    pub async fn revoke_join_token(&self, id: &str) -> Result<(), BookError> {
        self.change(|known| {
            let token = known.join_tokens.get(id).ok_or_else(|| missing("join token", id))?;
            let revoked = JoinToken {
                revoked: true,
                ..token.clone()
            };
            let mut edit = Edit::default();
            edit.join_tokens.push(known.join_tokens.pending(id, Some(revoked)));
            Ok((edit, ()))
        })
        .await
    }

    /// The rule that a join token is for, and its id. Whether it has uses left is decided when the agent joins.
    ///
    /// # Errors
    /// Why it is not good.
    pub fn join_token(&self, text: &str) -> Result<(JoinRule, String), String> {
        let unknown = || "the join token is not known to this manager: it may be another's, removed, or cut".to_owned();
        let (id, secret) = secret::parse(JOIN_PREFIX, text).ok_or_else(unknown)?;
        self.look(|known| {
            let token = known.join_tokens.get(id).ok_or_else(unknown)?;
            if !token.hashed.is_of(secret) {
                return Err(unknown());
            }
            let rule = known.rules.get(&token.rule).ok_or_else(unknown)?;
            Ok((rule.clone(), token.id.clone()))
        })
    }

    /// Takes an agent in with its first certificate.
    ///
    /// # Errors
    /// If it is banned, its id is somebody else's, its token is used up, or the store does not take it.
    pub async fn join(&self, joining: Joining, issued: &Issued) -> Result<(), BookError> {
        let certificate = recorded(issued);
        self.change(move |known| {
            let now_ms = millis(unix_now());
            let id = joining.agent_id.as_str();
            let before = known.agents.get(id);
            let is_repeated =
                before.is_some_and(|agent| agent.certificates.iter().any(|one| one.key == certificate.key));
            let mut edit = Edit::default();
            if let Some(token) = &joining.token {
                let token = known
                    .join_tokens
                    .get(token)
                    .ok_or_else(|| missing("join token", token))?;
                if let Some(why) = token.refusal(now_ms, is_repeated) {
                    return Err(BookError::Denied(why));
                }
                let used = JoinToken {
                    uses: token.uses + u32::from(!is_repeated),
                    ..token.clone()
                };
                edit.join_tokens.push(known.join_tokens.pending(&token.id, Some(used)));
            }
            let agent = taken_in(before, &joining, now_ms)?;
            if before.is_none() {
                room(known.agents.len(), MAX_AGENTS, "agents")?;
            }
            let mut agent = agent;
            agent.add(certificate.clone());
            edit.agents.push(known.agents.pending(id, Some(agent)));
            Ok((edit, ()))
        })
        .await
    }

    /// Gives an agent its next certificate.
    ///
    /// # Errors
    /// If it may have none, or the store does not take it.
    pub async fn renew(&self, agent_id: &str, issued: &Issued) -> Result<(), BookError> {
        let certificate = recorded(issued);
        self.change(move |known| {
            let mut agent = known
                .agents
                .get(agent_id)
                .ok_or_else(|| missing("agent", agent_id))?
                .clone();
            if let Some(why) = standing_refusal(&agent) {
                return Err(BookError::Denied(why));
            }
            agent.add(certificate.clone());
            let mut edit = Edit::default();
            edit.agents.push(known.agents.pending(agent_id, Some(agent)));
            Ok((edit, ()))
        })
        .await
    }

    /// May an agent exchange this expired certificate? Answers the agent.
    ///
    /// # Errors
    /// Why not.
    pub fn expired(&self, agent_id: &str, serial: &str) -> Result<AgentRecord, String> {
        let now_ms = millis(unix_now());
        self.look(|known| {
            let agent = known
                .agents
                .get(agent_id)
                .ok_or_else(|| format!("there is no agent {agent_id}"))?;
            if let Some(why) = standing_refusal(agent) {
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
                    "the certificate {serial} of the agent {agent_id} expired more than 30 days ago: join again with a \
                     new join token"
                ));
            }
            Ok(agent.clone())
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

    /// A certificate was used for the first time: the ones before it end for new connections.
    ///
    /// # Errors
    /// If the store does not take it.
    pub async fn used(&self, agent_id: &str, serial: &str) -> Result<(), BookError> {
        self.change(|known| {
            let mut agent = known
                .agents
                .get(agent_id)
                .ok_or_else(|| missing("agent", agent_id))?
                .clone();
            agent.used(serial, millis(unix_now()));
            let mut edit = Edit::default();
            edit.agents.push(known.agents.pending(agent_id, Some(agent)));
            Ok((edit, ()))
        })
        .await
    }

    /// One agent.
    #[must_use]
    pub fn agent(&self, agent_id: &str) -> Option<AgentRecord> {
        self.look(|known| known.agents.get(agent_id).cloned())
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
        let id = agent_id.as_str();
        let ended = self
            .change(move |known| {
                let mut agent = known.agents.get(id).ok_or_else(|| missing("agent", id))?.clone();
                let ended = agent.end(standing.clone(), millis(unix_now()));
                let mut edit = Edit::default();
                edit.agents.push(known.agents.pending(id, Some(agent)));
                Ok((edit, ended))
            })
            .await?;
        self.expel(agent_id, code, reason).await;
        Ok(ended)
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

    /// Ends the session with its last word, then cuts every connection.
    pub async fn expel(&self, agent: &AgentId, code: &'static str, reason: String) {
        let expel = Inbound::Expel {
            agent: agent.clone(),
            code,
            reason,
        };
        if self.shared.dispatcher.send(expel).await.is_err() {
            tracing::debug!(%agent, "the dispatcher ended first");
        }
        let connections = {
            let mut all = self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner);
            all.remove(agent.as_str()).unwrap_or_default()
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
}

fn missing(what: &str, name: &str) -> BookError {
    BookError::Missing(format!("there is no {what} {name}"))
}

fn room(have: usize, most: usize, what: &str) -> Result<(), BookError> {
    if have < most {
        return Ok(());
    }
    Err(BookError::Full(format!("this manager remembers at most {most} {what}")))
}

fn recorded(issued: &Issued) -> CertificateRecord {
    CertificateRecord {
        serial: issued.serial.clone(),
        key: issued.key.clone(),
        not_after_ms: issued.not_after_ms,
        used: false,
        superseded_at_ms: None,
        revoked: false,
    }
}

fn standing_refusal(agent: &AgentRecord) -> Option<String> {
    let id = &agent.agent_id;
    match &agent.standing {
        Standing::Active => None,
        Standing::Revoked { reason } => Some(format!("the agent {id} was revoked: {reason}")),
        Standing::Banned { reason } => Some(format!("the agent {id} is banned: {reason}")),
    }
}

/// The agent as it is when it has joined.
fn taken_in(before: Option<&AgentRecord>, joining: &Joining, now_ms: i64) -> Result<AgentRecord, BookError> {
    let id = joining.agent_id.as_str();
    let certificates = match before {
        None => Vec::new(),
        Some(before) => {
            if let Standing::Banned { reason } = &before.standing {
                return Err(BookError::Denied(format!(
                    "the agent {id} is banned: {reason}; an administrator lifts it with: deputy fleet unban {id}"
                )));
            }
            if before.subject != joining.subject {
                return Err(BookError::Denied(format!(
                    "the agent id {id} belongs to {}, and this is {}; give this agent another id",
                    before.subject, joining.subject
                )));
            }
            before.certificates.clone()
        }
    };
    Ok(AgentRecord {
        agent_id: id.into(),
        subject: joining.subject.clone(),
        rule: joining.rule.name.clone(),
        pool: joining.rule.pool.clone(),
        standing: Standing::Active,
        joined_at_ms: now_ms,
        certificates,
    })
}
