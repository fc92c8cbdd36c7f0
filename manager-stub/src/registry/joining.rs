//! Who may join: rules, join tokens, and taking an agent in.

use deputy_task::id::AgentId;

use super::agents::{Admission, AgentRecord, CertificateRecord, Standing};
use super::book::{BookError, Edit, Known, MAX_ROWS, Registry, missing, recorded, room};
use super::join_tokens::{JOIN_PREFIX, JoinAttempt, JoinToken};
use super::secret;
use crate::join::{JoinRule, RuleProof};
use crate::trust::authority::{Issued, millis, unix_now};

/// Joins by one token.
const MAX_USES: u32 = 10_000;
/// Agents that are remembered.
const MAX_AGENTS: usize = 100_000;

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
    /// The line of keys that the last certificate of its key says.
    pub line: Option<String>,
}

impl Joining {
    /// What its rule gives.
    #[must_use]
    pub fn admission(&self) -> Admission {
        Admission {
            rule: self.rule.name.clone(),
            pool: self.rule.pool.clone(),
            projects: self.rule.projects.clone(),
        }
    }

    /// The line of keys that it goes on with. What our authority has signed counts before what is remembered.
    pub(super) fn line_after<'a>(&'a self, before: Option<&'a AgentRecord>, key: &'a str) -> &'a str {
        let remembered = || before.map_or(key, |agent| agent.line_of_key(key));
        self.line.as_deref().unwrap_or_else(remembered)
    }
}

impl Registry {
    /// Every join rule, by name.
    #[must_use]
    pub fn rules(&self) -> Vec<JoinRule> {
        self.rules_by(|_| true)
    }

    /// The join rules with a proof that is wanted, by name.
    #[must_use]
    pub fn rules_by(&self, wanted: impl Fn(&RuleProof) -> bool) -> Vec<JoinRule> {
        self.look(|known| {
            let wanted = known.rules.all().filter(|rule| wanted(&rule.proof));
            wanted.cloned().collect()
        })
    }

    /// The same, the one that let this agent in before the others: it stays with its rule if another one that is made
    /// later would let it in too.
    #[must_use]
    pub fn rules_for(&self, agent_id: &AgentId, wanted: impl Fn(&RuleProof) -> bool) -> Vec<JoinRule> {
        let mut rules = self.rules_by(wanted);
        let before = self.look(|known| known.agents.get(agent_id.as_str()).map(|agent| agent.rule.clone()));
        rules.sort_by_key(|rule| before.as_ref() != Some(&rule.name));
        rules
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
        let id = JoinToken::id_in(text).ok_or_else(unknown)?;
        self.look(|known| {
            let token = known.join_tokens.get(id).ok_or_else(unknown)?;
            if !token.is_shown_by(text) {
                return Err(unknown());
            }
            let rule = known.rules.get(&token.rule).ok_or_else(unknown)?;
            Ok((rule.clone(), token.id.clone()))
        })
    }

    /// The line of keys that an agent goes on with if it joins with this key.
    #[must_use]
    pub fn line_to_join(&self, joining: &Joining, key: &str) -> String {
        self.look(|known| {
            let before = known.agents.get(joining.agent_id.as_str());
            joining.line_after(before, key).to_owned()
        })
    }

    /// Takes an agent in with its first certificate.
    ///
    /// # Errors
    /// If it is banned, its id is somebody else's or another key's that is heard of, its token is used up, or the store
    /// does not take it.
    pub async fn join(&self, joining: Joining, issued: &Issued) -> Result<(), BookError> {
        self.free_to_join(&joining, &issued.key).await?;
        self.change(move |known| {
            let (mut edit, mut agent, attempt) = admitted(known, &joining, &issued.key)?;
            let before = match attempt {
                JoinAttempt::First => None,
                JoinAttempt::Repeated => agent.newest(),
            };
            let certificate = CertificateRecord {
                token: joining.token.clone(),
                repeats: before.map_or(0, |before| before.repeats + 1),
                ..recorded(issued)
            };
            let id = joining.agent_id.as_str();
            agent.add(certificate, joining.admission());
            edit.agents.push(known.agents.pending(id, Some(agent)));
            Ok((edit, ()))
        })
        .await
    }

    /// Would an agent be taken in with a certificate for this key? Nothing is changed.
    ///
    /// # Errors
    /// As for [`Registry::join`].
    pub async fn may_join(&self, joining: &Joining, key: &str) -> Result<(), BookError> {
        self.free_to_join(joining, key).await?;
        self.look(|known| admitted(known, joining, key).map(drop))
    }
}

/// The agent as it is when it has joined with this key, and what becomes of its token.
fn admitted(known: &Known, joining: &Joining, key: &str) -> Result<(Edit, AgentRecord, JoinAttempt), BookError> {
    let now_ms = millis(unix_now());
    let before = known.agents.get(joining.agent_id.as_str());
    let asked_again = before.and_then(|agent| agent.asked_again(key, joining.token.as_deref()));
    let attempt = asked_again.map_or(JoinAttempt::First, |_| JoinAttempt::Repeated);
    // Who is banned is told so, whatever his token is worth.
    let mut agent = taken_in(before, joining, now_ms)?;
    if let (JoinAttempt::Repeated, Some(before)) = (attempt, before) {
        agent.joined_at_ms = before.joined_at_ms;
    }
    let mut edit = Edit::default();
    if let Some(token) = &joining.token {
        let token = known
            .join_tokens
            .get(token)
            .ok_or_else(|| missing("join token", token))?;
        if let Some(why) = token.refusal(now_ms, attempt) {
            return Err(BookError::Denied(why));
        }
        let used = known.join_tokens.pending(&token.id, Some(token.used(attempt)));
        edit.join_tokens.push(used);
    }
    // AWS or a cluster was asked meanwhile, which takes seconds.
    let rule = &joining.rule;
    if known.rules.get(&rule.name) != Some(rule) {
        return Err(BookError::Denied(format!(
            "the join rule {} was changed or removed while it was looked at; join again",
            rule.name
        )));
    }
    if before.is_none() {
        room(known.agents.len(), MAX_AGENTS, "agents")?;
    }
    Ok((edit, agent, attempt))
}

/// The agent as it is when it has joined. What a living one was given before counts until the new certificate is used.
fn taken_in(before: Option<&AgentRecord>, joining: &Joining, now_ms: i64) -> Result<AgentRecord, BookError> {
    let id = joining.agent_id.as_str();
    let admission = joining.admission();
    let Some(before) = before else {
        return Ok(AgentRecord {
            agent_id: id.into(),
            subject: joining.subject.clone(),
            rule: admission.rule,
            pool: admission.pool,
            projects: admission.projects,
            standing: Standing::Active,
            joined_at_ms: now_ms,
            certificates: Vec::new(),
        });
    };
    if let Standing::Banned { reason } = &before.standing {
        return Err(BookError::Denied(format!(
            "the agent {id} is banned: {reason}; an administrator lifts it with: deputy fleet unban {id}"
        )));
    }
    if before.subject != joining.subject {
        return Err(BookError::Denied(format!(
            "the agent id {id} belongs to {}, and this is {}; give this agent another id, or, if it is the same agent \
             after a change of its join rule, let an administrator free the id: deputy fleet revoke {id}, deputy \
             fleet forget {id}",
            before.subject, joining.subject
        )));
    }
    let mut agent = AgentRecord {
        standing: Standing::Active,
        joined_at_ms: now_ms,
        ..before.clone()
    };
    if agent.line_in_use().is_none() {
        agent.admit(admission);
    }
    Ok(agent)
}
