//! `deputy fleet`: agents.

use deputy_proto::v1::{DrainRequest, FleetExplainRequest, FleetListRequest};
use serde_json::json;

use super::context::Context;
use crate::args::Fleet;
use crate::client::Manager;
use crate::error::{CliError, Exit};
use crate::render::json as as_json;
use crate::render::{agent_detail, agents};

pub(crate) async fn fleet(context: &mut Context, args: Fleet) -> Result<Exit, CliError> {
    let manager = context.manager().await?;
    let colour = context.screen.colour;
    match args {
        Fleet::List { all } => {
            let request = Manager::call(FleetListRequest { include_gone: all });
            let answer = manager
                .fleet()
                .list(request)
                .await
                .map_err(manager.failed("list agents"))?
                .into_inner();
            let none = || vec![colour.faint("no agents; start one with: deputy-agent run")];
            let lines = if answer.agents.is_empty() {
                none()
            } else {
                agents(&answer.agents, colour)
            };
            context.tell(
                &lines,
                || json!({ "agents": answer.agents.iter().map(as_json::agent).collect::<Vec<_>>() }),
            )
        }
        Fleet::Explain { agent } => {
            let request = Manager::call(FleetExplainRequest { agent_id: agent });
            let answer = manager
                .fleet()
                .explain(request)
                .await
                .map_err(manager.failed("explain the agent"))?
                .into_inner();
            let info = answer.agent.unwrap_or_default();
            let lines = agent_detail(&info, &answer.notes, colour);
            context.tell(
                &lines,
                || json!({ "agent": as_json::agent(&info), "notes": answer.notes }),
            )
        }
        Fleet::Drain { agent, reason } => {
            let request = Manager::call(DrainRequest {
                agent_id: agent,
                reason,
            });
            let answer = manager
                .fleet()
                .drain(request)
                .await
                .map_err(manager.failed("drain the agent"))?
                .into_inner();
            let info = answer.agent.unwrap_or_default();
            let lines = agent_detail(&info, &[], colour);
            context.tell(&lines, || as_json::agent(&info))
        }
    }
}
