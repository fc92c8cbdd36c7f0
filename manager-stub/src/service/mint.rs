//! `MintToken`: an OIDC token about a live attempt, for the agent instance that has it. Every claim is the store's word,
//! not the caller's.

use std::time::SystemTime;

use deputy_proto::v1;
use deputy_task::attempt::AttemptRef;
use deputy_task::id::BadId;
use deputy_task::state::TaskState;
use tonic::Status;

use super::context::Context;
use super::whose::is_of_line;
use crate::auth::caller::{self, Caller};
use crate::oidc::claims::Facts;
use crate::oidc::issuer::MintError;
use crate::store::contract::TaskRow;
use crate::store::task::TaskKey;

/// Mints a token, if the attempt is live and this agent instance's.
pub(super) async fn mint(context: &Context, request: v1::MintTokenRequest) -> Result<v1::MintTokenResponse, Status> {
    let Some(issuer) = &context.issuer else {
        return Err(Status::failed_precondition(
            "this manager is no OIDC issuer; start it with --oidc-issuer and --oidc-listen",
        ));
    };
    let attempt = attempt(request.attempt.as_ref())?;
    caller::current().may_in(&attempt.project)?;
    // Whose certificate it is, says who asks; where nobody is asked, the request's own word is as good as any.
    let (agent, pool, line) = match caller::current() {
        Caller::Agent {
            agent_id,
            line,
            admission,
            ..
        } => (agent_id.to_string(), Some(admission.pool), line),
        Caller::Unasked => (request.agent_id.clone(), None, String::new()),
        Caller::User(_) | Caller::Nobody => return Err(Status::permission_denied("only agents are given tokens")),
    };
    let row = context.task(&TaskKey::of(&attempt)).await?;
    check_live(&row, &attempt, (&agent, &request.instance_id))?;
    // The instance is the request's word; whose it is, is the manager's.
    let is_ours = match &row.head.instance {
        Some(instance) => is_of_line(context, instance, &line).await?,
        None => false,
    };
    if !is_ours {
        return Err(not_running(&attempt));
    }
    let facts = facts(&row, &attempt, pool);
    let minted = issuer.mint(&facts, &request.audience, SystemTime::now()).await;
    let minted = minted.map_err(|error| match error {
        MintError::NotFor(_) => Status::invalid_argument(error.to_string()),
        MintError::NoKey(_) => Status::unavailable(error.to_string()),
    })?;
    Ok(v1::MintTokenResponse {
        token: minted.token,
        expires_at_ms: minted.expires_at_ms,
    })
}

fn attempt(wire: Option<&v1::AttemptRef>) -> Result<AttemptRef, Status> {
    let wire = wire.ok_or_else(|| Status::invalid_argument("a token is about an attempt"))?;
    let bad = |error: BadId| Status::invalid_argument(error.to_string());
    Ok(AttemptRef {
        project: wire.project.parse().map_err(bad)?,
        task: wire.task_id.parse().map_err(bad)?,
        run: wire.run,
        epoch: wire.epoch,
    })
}

fn check_live(row: &TaskRow, attempt: &AttemptRef, (agent, instance): (&str, &str)) -> Result<(), Status> {
    let head = &row.head;
    let is_theirs = head.agent.as_ref().is_some_and(|id| id.as_str() == agent)
        && head.instance.as_ref().is_some_and(|id| id.as_str() == instance);
    if head.state == TaskState::Running && head.run == attempt.run && head.epoch == attempt.epoch && is_theirs {
        return Ok(());
    }
    Err(not_running(attempt))
}

/// Told to nobody: which of the reasons it was.
fn not_running(attempt: &AttemptRef) -> Status {
    Status::failed_precondition(format!(
        "attempt {} of task {} is not running on this agent: no token is made about it",
        attempt.epoch, attempt.task
    ))
}

/// What somebody vouches for. Where agents have no certificates users have no credentials either: then pool and
/// submitter are nobody's word, and are left empty.
fn facts(row: &TaskRow, attempt: &AttemptRef, pool: Option<String>) -> Facts {
    Facts {
        project: row.spec.key.project.to_string(),
        submitter: pool.as_ref().map(|_| row.spec.submitter.clone()).unwrap_or_default(),
        pool: pool.unwrap_or_default(),
        task: row.spec.key.task.to_string(),
        name: row.spec.name.clone(),
        run: attempt.run,
        epoch: attempt.epoch,
        agent: row.head.agent.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}
