//! Whose attempts and files are an agent's: what it was given, and nothing else. Where nobody is asked who he is, all
//! are everybody's.

use std::collections::HashSet;

use deputy_task::attempt::AttemptRef;
use deputy_task::id::{AgentId, Project};
use tonic::Status;

use super::context::Context;
use crate::auth::caller::{self, Caller};
use crate::store::contract::TaskRow;
use crate::store::task::TaskKey;

/// Attempts of one stream that are known to be its agent's; beyond that they are looked up again.
const KNOWN_ATTEMPTS: usize = 1024;

/// The attempts whose logs a caller may bring. Ended ones stay its own: their last bytes may come late.
pub(super) struct Attempts {
    agent: Option<AgentId>,
    known: HashSet<AttemptRef>,
}

impl Attempts {
    /// Those of this caller.
    pub(super) fn of(caller: &Caller) -> Self {
        let agent = match caller {
            Caller::Agent { agent_id, .. } => Some(agent_id.clone()),
            Caller::Unasked | Caller::Nobody | Caller::User(_) => None,
        };
        Self {
            agent,
            known: HashSet::new(),
        }
    }

    /// Why this attempt is none of them; `None` if it is.
    pub(super) async fn refusal(&mut self, context: &Context, attempt: &AttemptRef) -> Result<Option<String>, Status> {
        let Some(agent) = &self.agent else { return Ok(None) };
        if self.known.contains(attempt) {
            return Ok(None);
        }
        let (key, epoch) = (TaskKey::of(attempt), attempt.epoch);
        let assignee = context.read(move |reads| reads.assignee(&key, epoch)).await?;
        if assignee.is_none_or(|(run, whose)| run != attempt.run || whose != *agent) {
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
    let Caller::Agent { agent_id, .. } = caller::current() else {
        return Ok(());
    };
    let (of, agent) = (project.clone(), agent_id.clone());
    let held = context.read(move |reads| reads.held_by(&of, &agent)).await?;
    if held.iter().any(wanted) {
        return Ok(());
    }
    Err(Status::permission_denied(format!(
        "the agent {agent_id} has no task of the project {project}{what}"
    )))
}
