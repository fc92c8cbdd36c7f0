//! The `Fleet` service.

use deputy_proto::v1;
use deputy_proto::v1::fleet_server::Fleet;
use deputy_task::id::AgentId;
use tonic::{Request, Response, Status};

use super::context::{Context, ending, refused};
use crate::dispatcher::inbound::{FleetLine, Inbound};

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
        self.context
            .dispatcher
            .ask(|reply| Inbound::Fleet { reply })
            .await
            .map_err(ending)
    }

    async fn line(&self, agent: &str) -> Result<FleetLine, Status> {
        let found = self.lines().await?.into_iter().find(|line| line.info.agent_id == agent);
        found.ok_or_else(|| Status::not_found(format!("there is no agent {agent}")))
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

    async fn revoke(&self, _: Request<v1::RevokeRequest>) -> Result<Response<v1::RevokeResponse>, Status> {
        Err(Status::unimplemented("Revoke is reserved"))
    }

    async fn ban(&self, _: Request<v1::BanRequest>) -> Result<Response<v1::BanResponse>, Status> {
        Err(Status::unimplemented("Ban is reserved"))
    }

    async fn unban(&self, _: Request<v1::UnbanRequest>) -> Result<Response<v1::UnbanResponse>, Status> {
        Err(Status::unimplemented("Unban is reserved"))
    }

    async fn create_join_rule(
        &self,
        _: Request<v1::CreateJoinRuleRequest>,
    ) -> Result<Response<v1::CreateJoinRuleResponse>, Status> {
        Err(Status::unimplemented("CreateJoinRule is reserved"))
    }

    async fn list_join_rules(
        &self,
        _: Request<v1::ListJoinRulesRequest>,
    ) -> Result<Response<v1::ListJoinRulesResponse>, Status> {
        Err(Status::unimplemented("ListJoinRules is reserved"))
    }

    async fn remove_join_rule(
        &self,
        _: Request<v1::RemoveJoinRuleRequest>,
    ) -> Result<Response<v1::RemoveJoinRuleResponse>, Status> {
        Err(Status::unimplemented("RemoveJoinRule is reserved"))
    }

    async fn create_join_token(
        &self,
        _: Request<v1::CreateJoinTokenRequest>,
    ) -> Result<Response<v1::CreateJoinTokenResponse>, Status> {
        Err(Status::unimplemented("CreateJoinToken is reserved"))
    }

    async fn list_join_tokens(
        &self,
        _: Request<v1::ListJoinTokensRequest>,
    ) -> Result<Response<v1::ListJoinTokensResponse>, Status> {
        Err(Status::unimplemented("ListJoinTokens is reserved"))
    }

    async fn revoke_join_token(
        &self,
        _: Request<v1::RevokeJoinTokenRequest>,
    ) -> Result<Response<v1::RevokeJoinTokenResponse>, Status> {
        Err(Status::unimplemented("RevokeJoinToken is reserved"))
    }

    async fn create_token(
        &self,
        _: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        Err(Status::unimplemented("CreateToken is reserved"))
    }

    async fn list_tokens(&self, _: Request<v1::ListTokensRequest>) -> Result<Response<v1::ListTokensResponse>, Status> {
        Err(Status::unimplemented("ListTokens is reserved"))
    }

    async fn revoke_token(
        &self,
        _: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        Err(Status::unimplemented("RevokeToken is reserved"))
    }
}
