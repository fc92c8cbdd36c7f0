//! What every service has at hand, and how it reads, asks and refuses.

use std::sync::Arc;
use std::time::Duration;

use deputy_task::id::{Project, TaskId};
use futures::Stream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;

use super::uploads::Uploads;
use crate::auth::caller;
use crate::blob_store::BlobStore;
use crate::dispatcher::DispatcherHandle;
use crate::dispatcher::inbound::Refused;
use crate::join::aws_identity::AwsVerifier;
use crate::join::kubernetes::KubernetesVerifier;
use crate::log_store::{LogStoreHandle, SegmentReader};
use crate::oidc::issuer::Issuer;
use crate::registry::Registry;
use crate::store::contract::{Reads, StoreError, TaskRow};
use crate::store::op::Missed;
use crate::store::task::TaskKey;
use crate::trust::authority::Authority;
use crate::trust::nonces::Nonces;

/// A stream of answers.
pub(super) type Answers<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What certificates are made with. Cheap to clone.
#[derive(Clone)]
pub struct Trust {
    /// Who signs.
    pub authority: Arc<Authority>,
    /// Challenges.
    pub nonces: Arc<Nonces>,
    /// How long a client certificate lives.
    pub certificate_life: Duration,
}

/// Who an agent is, by the word of others.
#[derive(Debug, Default)]
pub struct Proofs {
    /// Signed AWS identities.
    pub aws: AwsVerifier,
    /// Service-account tokens.
    pub kubernetes: KubernetesVerifier,
}

/// What every service has at hand. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// The way to the dispatcher.
    pub dispatcher: DispatcherHandle,
    /// The reading side of the store.
    pub reads: Arc<dyn Reads>,
    /// The way to the log writer.
    pub logs: LogStoreHandle,
    /// Committed log bytes.
    pub segments: SegmentReader,
    /// Blobs.
    pub blobs: BlobStore,
    /// How many of them may come in at the same time, and for how long.
    pub uploads: Uploads,
    /// Whom the manager knows.
    pub registry: Registry,
    /// What certificates are made with.
    pub trust: Trust,
    /// Who an agent is, by the word of AWS and of clusters.
    pub proofs: Arc<Proofs>,
    /// Mints tokens about attempts; none if the manager is no issuer.
    pub issuer: Option<Arc<Issuer>>,
    /// Owns what the services spawn.
    pub tracker: TaskTracker,
    /// Cancelled when the manager ends.
    pub ending: CancellationToken,
}

impl Context {
    /// Reads from the store on a thread that may block.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Reads) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Status> {
        let reads = self.reads.clone();
        let answer = tokio::task::spawn_blocking(move || read(reads.as_ref())).await;
        answer
            .map_err(|_| Status::internal("a read of the store panicked"))?
            .map_err(|error| store_failed(&error))
    }

    /// The task with this id, or the only one whose id begins so.
    pub(super) async fn find(&self, project: &str, task: &str) -> Result<TaskKey, Status> {
        let project = project_of(project)?;
        let prefix = task.to_owned();
        if prefix.is_empty() {
            return Err(Status::invalid_argument("a task id is needed"));
        }
        let of = project.clone();
        let mut found: Vec<TaskId> = self.read(move |reads| reads.find(&of, &prefix)).await?;
        match (found.len(), found.pop()) {
            (1, Some(task)) => Ok(TaskKey { project, task }),
            (_, Some(_)) => Err(Status::invalid_argument(format!(
                "more than one task id begins with {task}"
            ))),
            (_, None) => Err(Status::not_found(format!("project {project} has no task {task}"))),
        }
    }

    /// One task.
    pub(super) async fn task(&self, key: &TaskKey) -> Result<TaskRow, Status> {
        let wanted = key.clone();
        let row = self.read(move |reads| reads.task(&wanted)).await?;
        row.ok_or_else(|| Status::not_found(format!("project {} has no task {}", key.project, key.task)))
    }
}

/// The project of a request, if the caller may work in it; empty means `default`.
pub(super) fn project_of(project: &str) -> Result<Project, Status> {
    if project.is_empty() {
        return allowed(Project::default_project());
    }
    let project = project.parse();
    allowed(project.map_err(|error: deputy_task::id::BadId| Status::invalid_argument(error.to_string()))?)
}

fn allowed(project: Project) -> Result<Project, Status> {
    caller::current().may_in(&project)?;
    Ok(project)
}

pub(super) fn store_failed(error: &StoreError) -> Status {
    tracing::error!(error = %error, "the store cannot be read");
    match error {
        StoreError::Gone { .. } | StoreError::Corrupt { .. } => Status::data_loss(error.to_string()),
        StoreError::Full
        | StoreError::InUse(_)
        | StoreError::TooNew { .. }
        | StoreError::OldSqlite(_)
        | StoreError::File { .. }
        | StoreError::Sqlite(_) => Status::unavailable(error.to_string()),
    }
}

/// The manager is ending.
pub(super) fn ending(_: impl std::error::Error) -> Status {
    Status::unavailable("the manager is shutting down")
}

/// What was not done, for a caller.
pub(super) fn refused(refused: Refused) -> Status {
    match refused {
        Refused::OtherContent(key) => Status::already_exists(format!(
            "this client_request_id was used for task {} with other content; use a new one for a new task",
            key.task
        )),
        Refused::Missed(Missed::NoSuchTask) => Status::not_found("there is no such task"),
        Refused::Missed(Missed::NotNow(why)) => Status::failed_precondition(why),
        Refused::Missed(Missed::KeyHeld(task)) => {
            Status::failed_precondition(format!("task {task} holds the exclusive key"))
        }
        Refused::Missed(Missed::NotBefore(_)) => {
            Status::failed_precondition("something may still be in flight; try again in a moment")
        }
        Refused::Missed(Missed::Held) => {
            Status::failed_precondition("the task is held until its agent is back or somebody decides")
        }
        Refused::NoSuchAgent(agent) => Status::not_found(format!("there is no agent {agent}")),
        Refused::DiskFull => Status::resource_exhausted(
            "the manager's disk is full: nothing was stored; free space under its data folder and try again",
        ),
        Refused::StoreFailed(why) => Status::unavailable(format!("nothing was stored: {why}")),
    }
}
