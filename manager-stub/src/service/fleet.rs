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
}
