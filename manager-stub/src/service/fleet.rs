//! The `Fleet` service.

use std::collections::HashSet;
use std::time::Duration;

use deputy_proto::v1;
use deputy_proto::v1::fleet_server::Fleet;
use deputy_task::id::{AgentId, Project};
use tonic::{Request, Response, Status};

use super::context::{Context, ending, refused};
use super::trust::not_done;
use crate::auth::caller::{self, Caller};
use crate::dispatcher::inbound::{FleetLine, Inbound};
use crate::join::JoinRule;
use crate::registry::{AgentRecord, Grant, JoinToken, NewGrant, Scope, Standing};
use crate::trust::authority::{SigningRequest, millis, unix_now};

/// A join token is good for so long if nobody says otherwise.
const JOIN_TOKEN_LIFE_MS: i64 = 3_600_000;
/// A user's certificate is good for so long if nobody says otherwise.
const CERTIFICATE_LIFE_MS: i64 = 90 * 24 * 3_600_000;
/// Nothing that is given out lives longer.
const MAX_LIFE_MS: i64 = 10 * 365 * 24 * 3_600_000;
/// Longest name that a token stands for.
const MAX_NAME_BYTES: usize = 128;
/// Longest reason that is kept.
const MAX_REASON_BYTES: usize = 512;

/// The `Fleet` service.
#[derive(Clone)]
pub struct FleetService {
    context: Context,
}

impl FleetService {
    /// A service over this context.
    #[must_use]
    pub fn new(context: Context) -> Self {
        Self { context }
    }

    async fn lines(&self) -> Result<Vec<FleetLine>, Status> {
        let asked = self.context.dispatcher.ask(|reply| Inbound::Fleet { reply }).await;
        let mut lines = asked.map_err(ending)?;
        let unseen = self.context.registry.unseen().into_iter().map(unseen);
        let known: HashSet<String> = lines.iter().map(|line| line.info.agent_id.clone()).collect();
        lines.extend(unseen.filter(|line| !known.contains(&line.info.agent_id)));
        lines.sort_by(|a, b| a.info.agent_id.cmp(&b.info.agent_id));
        for line in &mut lines {
            if let Some(agent) = self.context.registry.agent(&line.info.agent_id) {
                line.info.pool = agent.pool.clone();
                line.info.join_rule = agent.rule.clone();
                line.info.certificate_ends_ms = agent.newest().map_or(0, |newest| newest.not_after_ms);
                match &agent.standing {
                    Standing::Active => {}
                    Standing::Revoked { reason } => line.notes.push(format!("it was revoked: {reason}")),
                    Standing::Banned { reason } => line.notes.push(format!("it is banned: {reason}")),
                }
            }
        }
        Ok(lines)
    }

    /// A certificate that stands for a grant and ends with it.
    fn certificate(&self, signing: &SigningRequest, grant: &Grant) -> Result<v1::IssuedCertificate, Status> {
        let left = grant.expires_at_ms.saturating_sub(millis(unix_now()));
        let left = Duration::from_millis(u64::try_from(left).unwrap_or(0));
        let authority = &self.context.trust.authority;
        let issued = authority.client(signing, (&format!("user/{}", grant.id), ""), left);
        let issued = issued.map_err(|error| Status::internal(format!("the certificate could not be made: {error}")))?;
        Ok(v1::IssuedCertificate {
            chain: vec![issued.leaf.into(), authority.certificate().to_vec().into()],
            not_before_ms: issued.not_before_ms,
            not_after_ms: issued.not_after_ms,
            ..v1::IssuedCertificate::default()
        })
    }

    async fn end(&self, agent_id: &str, standing: Standing) -> Result<u32, Status> {
        let agent: AgentId = agent_id
            .parse()
            .map_err(|error: deputy_task::id::BadId| Status::invalid_argument(error.to_string()))?;
        let ended = self.context.registry.end(&agent, standing.clone()).await;
        let ended = ended.map_err(not_done)?;
        tracing::warn!(agent.id = %agent, ?standing, by = by(), "an agent was put out");
        Ok(ended)
    }

    async fn line(&self, agent: &str) -> Result<FleetLine, Status> {
        let found = self.lines().await?.into_iter().find(|line| line.info.agent_id == agent);
        found.ok_or_else(|| Status::not_found(format!("there is no agent {agent}")))
    }
}

/// An agent that has joined and not said hello yet: it has the id already.
fn unseen(agent: AgentRecord) -> FleetLine {
    let why = "it has joined, and was never heard of since";
    let capabilities = v1::Capabilities {
        warnings: vec![why.into()],
        ..v1::Capabilities::default()
    };
    FleetLine {
        info: v1::AgentInfo {
            agent_id: agent.agent_id,
            status: v1::AgentStatus::Disconnected.into(),
            capabilities: Some(capabilities),
            ..v1::AgentInfo::default()
        },
        notes: vec![why.into()],
    }
}

#[tonic::async_trait]
impl Fleet for FleetService {
    async fn list(&self, request: Request<v1::FleetListRequest>) -> Result<Response<v1::FleetListResponse>, Status> {
        let include_gone = request.into_inner().include_gone;
        let lines = self.lines().await?.into_iter();
        let agents = lines
            .map(|line| line.info)
            .filter(|info| include_gone || info.status() != v1::AgentStatus::Gone)
            .collect();
        Ok(Response::new(v1::FleetListResponse { agents }))
    }

    async fn explain(
        &self,
        request: Request<v1::FleetExplainRequest>,
    ) -> Result<Response<v1::FleetExplainResponse>, Status> {
        let FleetLine { info, notes } = self.line(&request.into_inner().agent_id).await?;
        Ok(Response::new(v1::FleetExplainResponse {
            agent: Some(info),
            notes,
        }))
    }

    async fn drain(&self, request: Request<v1::DrainRequest>) -> Result<Response<v1::DrainResponse>, Status> {
        let v1::DrainRequest { agent_id, reason } = request.into_inner();
        let agent: AgentId = agent_id
            .parse()
            .map_err(|error: deputy_task::id::BadId| Status::invalid_argument(error.to_string()))?;
        self.context
            .dispatcher
            .ask(|reply| Inbound::Drain { agent, reason, reply })
            .await
            .map_err(ending)?
            .map_err(refused)?;
        Ok(Response::new(v1::DrainResponse {
            agent: Some(self.line(&agent_id).await?.info),
        }))
    }

    async fn revoke(&self, request: Request<v1::RevokeRequest>) -> Result<Response<v1::RevokeResponse>, Status> {
        let v1::RevokeRequest { agent_id, reason } = request.into_inner();
        let reason = told(reason)?;
        let certificates = self.end(&agent_id, Standing::Revoked { reason }).await?;
        Ok(Response::new(v1::RevokeResponse { certificates }))
    }

    async fn ban(&self, request: Request<v1::BanRequest>) -> Result<Response<v1::BanResponse>, Status> {
        let v1::BanRequest { agent_id, reason } = request.into_inner();
        let reason = told(reason)?;
        let certificates = self.end(&agent_id, Standing::Banned { reason }).await?;
        Ok(Response::new(v1::BanResponse { certificates }))
    }

    async fn unban(&self, request: Request<v1::UnbanRequest>) -> Result<Response<v1::UnbanResponse>, Status> {
        let agent_id = request.into_inner().agent_id;
        self.context.registry.unban(&agent_id).await.map_err(not_done)?;
        tracing::info!(agent.id = agent_id, by = by(), "an agent may join again");
        Ok(Response::new(v1::UnbanResponse {}))
    }

    async fn forget(&self, request: Request<v1::ForgetRequest>) -> Result<Response<v1::ForgetResponse>, Status> {
        let agent_id = request.into_inner().agent_id;
        self.context.registry.forget(&agent_id).await.map_err(not_done)?;
        tracing::info!(agent.id = agent_id, by = by(), "an agent was forgotten");
        Ok(Response::new(v1::ForgetResponse {}))
    }

    async fn create_join_rule(
        &self,
        request: Request<v1::CreateJoinRuleRequest>,
    ) -> Result<Response<v1::CreateJoinRuleResponse>, Status> {
        let rule = request.into_inner().rule.unwrap_or_default();
        let rule = JoinRule {
            created_at_ms: millis(unix_now()),
            created_by: by(),
            ..JoinRule::from_wire(rule).map_err(|error| Status::invalid_argument(error.to_string()))?
        };
        let wire = rule.to_wire();
        self.context.registry.create_rule(rule).await.map_err(not_done)?;
        tracing::info!(rule = wire.name, by = by(), "a join rule was made");
        Ok(Response::new(v1::CreateJoinRuleResponse { rule: Some(wire) }))
    }

    async fn list_join_rules(
        &self,
        _: Request<v1::ListJoinRulesRequest>,
    ) -> Result<Response<v1::ListJoinRulesResponse>, Status> {
        let rules = self.context.registry.rules().iter().map(JoinRule::to_wire).collect();
        Ok(Response::new(v1::ListJoinRulesResponse { rules }))
    }

    async fn remove_join_rule(
        &self,
        request: Request<v1::RemoveJoinRuleRequest>,
    ) -> Result<Response<v1::RemoveJoinRuleResponse>, Status> {
        let name = request.into_inner().name;
        self.context.registry.remove_rule(&name).await.map_err(not_done)?;
        tracing::info!(rule = name, by = by(), "a join rule was removed");
        Ok(Response::new(v1::RemoveJoinRuleResponse {}))
    }

    async fn create_join_token(
        &self,
        request: Request<v1::CreateJoinTokenRequest>,
    ) -> Result<Response<v1::CreateJoinTokenResponse>, Status> {
        let v1::CreateJoinTokenRequest { rule, uses, life_ms } = request.into_inner();
        let life_ms = if life_ms == 0 {
            JOIN_TOKEN_LIFE_MS
        } else {
            life(life_ms)?
        };
        let made = self
            .context
            .registry
            .create_join_token(&rule, uses.max(1), life_ms, by());
        let (token, secret) = made.await.map_err(not_done)?;
        tracing::info!(rule, token = token.id, by = by(), "a join token was made");
        Ok(Response::new(v1::CreateJoinTokenResponse {
            info: Some(token.to_wire()),
            token: secret,
        }))
    }

    async fn list_join_tokens(
        &self,
        _: Request<v1::ListJoinTokensRequest>,
    ) -> Result<Response<v1::ListJoinTokensResponse>, Status> {
        let tokens = self.context.registry.join_tokens();
        let tokens = tokens.iter().map(JoinToken::to_wire).collect();
        Ok(Response::new(v1::ListJoinTokensResponse { tokens }))
    }

    async fn revoke_join_token(
        &self,
        request: Request<v1::RevokeJoinTokenRequest>,
    ) -> Result<Response<v1::RevokeJoinTokenResponse>, Status> {
        let id = request.into_inner().id;
        self.context.registry.revoke_join_token(&id).await.map_err(not_done)?;
        tracing::info!(token = id, by = by(), "a join token was revoked");
        Ok(Response::new(v1::RevokeJoinTokenResponse {}))
    }

    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        let v1::CreateTokenRequest {
            name,
            scopes,
            projects,
            life_ms,
            csr,
        } = request.into_inner();
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
            return Err(Status::invalid_argument(format!(
                "a token stands for somebody: a name of 1 to {MAX_NAME_BYTES} bytes without control characters"
            )));
        }
        let scopes = scopes_of(&scopes)?;
        for project in &projects {
            project
                .parse::<Project>()
                .map_err(|error| Status::invalid_argument(error.to_string()))?;
        }
        let signing = if csr.is_empty() {
            None
        } else {
            Some(SigningRequest::read(&csr).map_err(|error| Status::invalid_argument(error.to_string()))?)
        };
        let maker = match caller::current() {
            Caller::User(grant) => Some(grant),
            Caller::Nobody | Caller::Agent { .. } | Caller::Unasked => None,
        };
        let new = NewGrant {
            name,
            scopes,
            projects,
            life_ms: if life_ms == 0 { 0 } else { life(life_ms)? },
            created_by: by(),
        };
        let mut new = new.made_by(maker.as_ref(), millis(unix_now())).map_err(not_done)?;
        if signing.is_some() && life_ms == 0 {
            new.life_ms = match new.life_ms {
                0 => CERTIFICATE_LIFE_MS,
                of_maker => of_maker.min(CERTIFICATE_LIFE_MS),
            };
        }
        let (grant, secret) = self.context.registry.create_grant(new).await.map_err(not_done)?;
        tracing::info!(token = grant.id, name = grant.name, by = by(), "a token was made");
        Ok(Response::new(v1::CreateTokenResponse {
            certificate: signing.map(|signing| self.certificate(&signing, &grant)).transpose()?,
            token: if csr.is_empty() { secret } else { String::new() },
            info: Some(grant.to_wire()),
        }))
    }

    async fn list_tokens(&self, _: Request<v1::ListTokensRequest>) -> Result<Response<v1::ListTokensResponse>, Status> {
        let tokens = self.context.registry.grants().iter().map(Grant::to_wire).collect();
        Ok(Response::new(v1::ListTokensResponse { tokens }))
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        let id = request.into_inner().id;
        self.context.registry.revoke_grant(&id).await.map_err(not_done)?;
        tracing::info!(token = id, by = by(), "a token was revoked");
        Ok(Response::new(v1::RevokeTokenResponse {}))
    }
}

/// Who calls, to be written down.
fn by() -> String {
    caller::current().name("somebody on the manager's machine")
}

/// A reason that an agent is told.
fn told(reason: String) -> Result<String, Status> {
    if reason.len() > MAX_REASON_BYTES {
        return Err(Status::invalid_argument(format!(
            "a reason has at most {MAX_REASON_BYTES} bytes"
        )));
    }
    Ok(if reason.is_empty() {
        "no reason given".into()
    } else {
        reason
    })
}

fn life(life_ms: i64) -> Result<i64, Status> {
    if (1..=MAX_LIFE_MS).contains(&life_ms) {
        return Ok(life_ms);
    }
    Err(Status::invalid_argument(
        "a life is longer than nothing and at most ten years",
    ))
}

fn scopes_of(wire: &[i32]) -> Result<Vec<Scope>, Status> {
    let known = |scope: &i32| v1::Scope::try_from(*scope).ok().and_then(Scope::from_wire);
    let scopes: Option<Vec<Scope>> = wire.iter().map(known).collect();
    match scopes {
        Some(scopes) if !scopes.is_empty() && scopes.len() <= 3 => Ok(scopes),
        Some(_) => Err(Status::invalid_argument("a token has one to three scopes")),
        None => Err(Status::invalid_argument(
            "there are the scopes read, submit and administer",
        )),
    }
}
