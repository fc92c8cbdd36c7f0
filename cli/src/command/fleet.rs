//! `deputy fleet`: agents.

use deputy_proto::v1::{
    BanRequest, DrainRequest, FleetExplainRequest, FleetListRequest, ForgetRequest, RevokeRequest, UnbanRequest,
};
use serde_json::json;

use super::access::{join_rule, join_token, token};
use super::context::Context;
use crate::args::Fleet;
use crate::client::Manager;
use crate::error::{CliError, Exit};
use crate::render::json as as_json;
use crate::render::{agent_detail, agents, safe};

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
        Fleet::Revoke { agent, reason } => {
            let request = Manager::call(RevokeRequest {
                agent_id: agent.clone(),
                reason,
            });
            let answer = manager.fleet().revoke(request).await;
            let ended = answer
                .map_err(manager.failed("revoke the agent"))?
                .into_inner()
                .certificates;
            put_out(context, &agent, "revoked", ended)
        }
        Fleet::Ban { agent, reason } => {
            let request = Manager::call(BanRequest {
                agent_id: agent.clone(),
                reason,
            });
            let answer = manager.fleet().ban(request).await;
            let ended = answer
                .map_err(manager.failed("ban the agent"))?
                .into_inner()
                .certificates;
            put_out(context, &agent, "banned", ended)
        }
        Fleet::Unban { agent } => {
            let request = Manager::call(UnbanRequest {
                agent_id: agent.clone(),
            });
            let answer = manager.fleet().unban(request).await;
            answer.map_err(manager.failed("unban the agent"))?;
            let line = format!("{} may join again", safe(&agent));
            context.tell(&[line], || json!({ "agentId": agent, "standing": "mayJoin" }))
        }
        Fleet::Forget { agent } => {
            let request = Manager::call(ForgetRequest {
                agent_id: agent.clone(),
            });
            let answer = manager.fleet().forget(request).await;
            answer.map_err(manager.failed("forget the agent"))?;
            let line = format!("{} is forgotten", safe(&agent));
            context.tell(&[line], || json!({ "agentId": agent, "standing": "forgotten" }))
        }
        Fleet::JoinRule(args) => join_rule(context, &manager, args).await,
        Fleet::JoinToken(args) => join_token(context, &manager, args).await,
        Fleet::Token(args) => token(context, &manager, args).await,
    }
}

fn put_out(context: &mut Context, agent: &str, how: &str, certificates: u32) -> Result<Exit, CliError> {
    let plural = if certificates == 1 { "" } else { "s" };
    let line = format!("{} is {how}; {certificates} certificate{plural} ended", safe(agent));
    context.tell(
        &[line],
        || json!({ "agentId": agent, "standing": how, "certificates": certificates }),
    )
}
