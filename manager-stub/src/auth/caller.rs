//! Who makes the call that is served now. The gate sets it; a service that looks without a gate before it sees nobody.

use deputy_task::id::{AgentId, Project};
use tonic::Status;

use crate::registry::{Admission, Grant, Registry};

/// Who makes a call.
#[derive(Debug, Clone)]
pub enum Caller {
    /// Nobody who is known.
    Nobody,
    /// A person or a pipeline.
    User(Grant),
    /// An agent, by its certificate.
    Agent {
        /// Which.
        agent_id: AgentId,
        /// The certificate's serial number.
        serial: String,
        /// The line of keys that the certificate is of.
        line: String,
        /// What the certificate was given by its join.
        admission: Admission,
    },
    /// Somebody on this machine, where the manager was told to ask nobody who he is.
    Unasked,
}

tokio::task_local! {
    static CALLER: Caller;
}

/// Serves with this caller.
pub(super) async fn serving<T>(caller: Caller, call: impl Future<Output = T>) -> T {
    CALLER.scope(caller, call).await
}

/// Who makes the call that is served now.
#[must_use]
pub fn current() -> Caller {
    CALLER.try_with(Clone::clone).unwrap_or(Caller::Nobody)
}

/// Ends when what the present caller was granted does, with UNAUTHENTICATED and the reason: for calls that last. The
/// connections of agents are cut by the registry.
pub fn over(registry: Registry) -> impl Future<Output = Status> + Send + 'static {
    let caller = current();
    async move {
        match caller {
            Caller::User(grant) => Status::unauthenticated(registry.ended(&grant.id).await),
            Caller::Nobody | Caller::Agent { .. } | Caller::Unasked => std::future::pending().await,
        }
    }
}

impl Caller {
    /// The name to write down beside what was done; `said` is what the call itself says, where nobody was asked.
    #[must_use]
    pub fn name(&self, said: &str) -> String {
        match self {
            Self::Nobody => String::new(),
            Self::User(grant) => grant.name.clone(),
            Self::Agent { agent_id, .. } => agent_id.to_string(),
            Self::Unasked => said.to_owned(),
        }
    }

    /// May he work in this project?
    ///
    /// # Errors
    /// PERMISSION_DENIED.
    pub fn may_in(&self, project: &Project) -> Result<(), Status> {
        match self {
            Self::Unasked => Ok(()),
            Self::Agent {
                agent_id, admission, ..
            } => {
                let projects = &admission.projects;
                if projects.is_empty() || projects.contains(project) {
                    return Ok(());
                }
                let named: Vec<&str> = projects.iter().map(Project::as_str).collect();
                Err(Status::permission_denied(format!(
                    "the join rule of the agent {agent_id} is not for the project {project}, but for {}",
                    named.join(", ")
                )))
            }
            Self::User(grant) => {
                if grant.projects.is_empty() || grant.projects.iter().any(|one| one == project.as_str()) {
                    return Ok(());
                }
                Err(Status::permission_denied(format!(
                    "the token {} of {} is not for the project {project}, but for {}",
                    grant.id,
                    grant.name,
                    grant.projects.join(", ")
                )))
            }
            Self::Nobody => Err(Status::permission_denied("nobody may work in a project")),
        }
    }
}
