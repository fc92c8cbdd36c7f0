//! Whose attempts and files are an agent's: what its process was given that shows this key, and nothing else. Where
//! nobody is asked who he is, all are everybody's.

use std::collections::HashSet;

use deputy_task::attempt::AttemptRef;
use deputy_task::id::{AgentId, InstanceId, Project};
use tonic::Status;

use super::context::Context;
use crate::auth::caller::{self, Caller};
use crate::dispatcher::inbound::{Holding, Inbound};
use crate::store::contract::TaskRow;
use crate::store::task::TaskKey;

/// Attempts of one stream that are known to be its agent's; beyond that they are looked up again.
const KNOWN_ATTEMPTS: usize = 1024;

/// The attempts whose logs a caller may bring. Ended ones stay its own: their last bytes may come late.
pub(super) struct Attempts {
    agent: Option<(AgentId, String)>,
    known: HashSet<AttemptRef>,
}

impl Attempts {
    /// Those of this caller.
    pub(super) fn of(caller: &Caller) -> Self {
        let agent = match caller {
            Caller::Agent { agent_id, line, .. } => Some((agent_id.clone(), line.clone())),
            Caller::Unasked | Caller::Nobody | Caller::User(_) => None,
        };
        Self {
            agent,
            known: HashSet::new(),
        }
    }

    /// Why this attempt is none of them; `None` if it is.
    pub(super) async fn refusal(&mut self, context: &Context, attempt: &AttemptRef) -> Result<Option<String>, Status> {
        let Some((agent, line)) = &self.agent else {
            return Ok(None);
        };
        if self.known.contains(attempt) {
            return Ok(None);
        }
        let (key, epoch) = (TaskKey::of(attempt), attempt.epoch);
        let assignee = context.read(move |reads| reads.assignee(&key, epoch)).await?;
        let is_theirs = assignee.is_some_and(|(run, whose)| run == attempt.run && whose == *agent);
        if !is_theirs || is_spoken_for(context, attempt, line).await? {
            return Ok(Some(format!(
                "attempt {} of task {} was not given to the agent {agent}",
                attempt.epoch, attempt.task
            )));
        }
        if self.known.len() >= KNOWN_ATTEMPTS {
            self.known.clear();
        }
        self.known.insert(attempt.clone());
        Ok(None)
    }
}

/// Has the caller a task of this project now of which that is true? Anybody but an agent has.
///
/// # Errors
/// PERMISSION_DENIED; the text says what for.
pub(super) async fn has_task(
    context: &Context,
    project: &Project,
    what: &str,
    wanted: impl Fn(&TaskRow) -> bool,
) -> Result<(), Status> {
    let Caller::Agent { agent_id, line, .. } = caller::current() else {
        return Ok(());
    };
    let (of, agent) = (project.clone(), agent_id.clone());
    let held = context.read(move |reads| reads.held_by(&of, &agent)).await?;
    for row in held.iter().filter(|row| wanted(row)) {
        if let Some(instance) = &row.head.instance
            && is_of_line(context, instance, &line).await?
        {
            return Ok(());
        }
    }
    Err(Status::permission_denied(format!(
        "the agent {agent_id} has no task of the project {project}{what}"
    )))
}

/// Is this instance bound to this line of keys?
///
/// # Errors
/// UNAVAILABLE, if the manager is ending.
pub(super) async fn is_of_line(context: &Context, instance: &InstanceId, line: &str) -> Result<bool, Status> {
    Ok(holding(context, instance).await?.is_some_and(|held| held.line == line))
}

/// Has a process with another key this attempt, and is it heard of? The last bytes of one that is gone may come from the
/// next one, whatever key that has.
async fn is_spoken_for(context: &Context, attempt: &AttemptRef, line: &str) -> Result<bool, Status> {
    let row = context.task(&TaskKey::of(attempt)).await?;
    let is_current = row.head.run == attempt.run && row.head.epoch == attempt.epoch;
    let Some(instance) = row.head.instance.as_ref().filter(|_| is_current) else {
        return Ok(false);
    };
    let held = holding(context, instance).await?;
    Ok(held.is_some_and(|held| !held.gone_in.is_zero() && held.line != line))
}

async fn holding(context: &Context, instance: &InstanceId) -> Result<Option<Holding>, Status> {
    let instance = instance.clone();
    let asked = context
        .dispatcher
        .ask(|reply| Inbound::Holding { instance, reply })
        .await;
    asked.map_err(|ending| Status::unavailable(ending.to_string()))
}
