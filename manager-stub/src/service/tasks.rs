//! The `Tasks` service.

use deputy_proto::v1;
use deputy_proto::v1::tasks_server::Tasks;
use deputy_task::id::TaskId;
use prost::Message;
use tonic::{Request, Response, Status, Streaming};

use super::context::{Answers, Context, ending, project_of, refused};
use super::submission::CheckedDocuments;
use super::{blob, explanation, tail, view, watch};
use crate::dispatcher::inbound::Inbound;
use crate::store::contract::{ListQuery, StoreError, TaskRow};
use crate::store::op::Change;
use crate::store::task::{Resolve, TaskKey};

const DEFAULT_PAGE: usize = 50;
const MAX_PAGE: usize = 1000;
/// Pages read from the store for one answer when labels leave little of each.
const MAX_PAGES_READ: usize = 20;

/// The `Tasks` service.
#[derive(Clone)]
pub struct TasksService {
    context: Context,
    documents: CheckedDocuments,
}

impl TasksService {
    /// A service over this context.
    #[must_use]
    pub fn new(context: Context) -> Self {
        Self {
            context,
            documents: CheckedDocuments::default(),
        }
    }

    async fn view(&self, key: &TaskKey) -> Result<v1::Task, Status> {
        let row = self.context.task(key).await?;
        let of = key.clone();
        let streams = self.context.read(move |reads| reads.log_streams(&of)).await?;
        Ok(view::task(
            &row,
            &streams,
            self.context.dispatcher.board.steps(key),
            self.context.dispatcher.clock.now(),
        ))
    }

    async fn manage(&self, (project, task): (&str, &str), change: Change) -> Result<v1::Task, Status> {
        let key = self.context.find(project, task).await?;
        let of = key.clone();
        let answer = self
            .context
            .dispatcher
            .ask(|reply| Inbound::Manage { key: of, change, reply })
            .await;
        answer.map_err(ending)?.map_err(refused)?;
        self.view(&key).await
    }
}

#[tonic::async_trait]
impl Tasks for TasksService {
    type WatchStream = Answers<v1::WatchResponse>;
    type TailLogsStream = Answers<v1::TailLogsResponse>;

    async fn submit(&self, request: Request<v1::SubmitRequest>) -> Result<Response<v1::SubmitResponse>, Status> {
        let prepared = self.documents.prepare(&self.context, request.into_inner()).await?;
        let submission = Box::new(prepared.submission);
        let answer = self
            .context
            .dispatcher
            .ask(|reply| Inbound::Submit { submission, reply })
            .await;
        let submitted = answer.map_err(ending)?.map_err(refused)?;
        Ok(Response::new(v1::SubmitResponse {
            task_id: submitted.key.task.to_string(),
            existed: submitted.existed,
            warnings: prepared.warnings,
        }))
    }

    async fn put_bundle(
        &self,
        request: Request<Streaming<v1::PutBundleRequest>>,
    ) -> Result<Response<v1::PutBundleResponse>, Status> {
        let size_bytes = blob::receive(&self.context, request.into_inner()).await?;
        Ok(Response::new(v1::PutBundleResponse { size_bytes }))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        let request = request.into_inner();
        let key = self.context.find(&request.project, &request.task_id).await?;
        let task = self.view(&key).await?;
        let run = task.run;
        let of = key.clone();
        let journal = if request.with_journal {
            let encoded = self.context.read(move |reads| reads.journal(&of, run)).await?;
            let decoded: Result<Vec<_>, _> = encoded.into_iter().map(v1::Record::decode).collect();
            decoded.map_err(|error| Status::data_loss(format!("the journal cannot be read: {error}")))?
        } else {
            Vec::new()
        };
        let document = if request.with_document {
            self.context
                .read(move |reads| reads.document(&key))
                .await?
                .unwrap_or_default()
        } else {
            bytes::Bytes::new()
        };
        Ok(Response::new(v1::GetResponse {
            task: Some(task),
            journal,
            document,
        }))
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<v1::ListResponse>, Status> {
        let request = request.into_inner();
        let project = project_of(&request.project)?;
        let asked = usize::try_from(request.page_size).unwrap_or(MAX_PAGE);
        let size = if asked == 0 { DEFAULT_PAGE } else { asked.min(MAX_PAGE) };
        let states: Option<Vec<_>> = request.states.iter().map(|state| view::known_state(*state)).collect();
        let states = states.ok_or_else(|| Status::invalid_argument("an unknown task state"))?;
        let before = match request.page_token.as_str() {
            "" => None,
            token => Some(
                token
                    .parse::<TaskId>()
                    .map_err(|_| Status::invalid_argument("the page_token is none of ours"))?,
            ),
        };
        let labels = request.labels;
        let query = ListQuery {
            project,
            states,
            before,
            limit: size,
        };
        let wanted = move |row: &TaskRow| {
            labels
                .iter()
                .all(|(name, value)| row.spec.labels.get(name) == Some(value))
        };
        let (rows, next_page_token) = self.context.read(move |reads| list(reads, query, &wanted)).await?;
        let now = self.context.dispatcher.clock.now();
        let mut tasks = Vec::with_capacity(rows.len());
        for (row, streams) in rows {
            let steps = self.context.dispatcher.board.steps(&row.spec.key);
            tasks.push(view::task(&row, &streams, steps, now));
        }
        Ok(Response::new(v1::ListResponse { tasks, next_page_token }))
    }

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        watch::serve(&self.context, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn tail_logs(&self, request: Request<v1::TailLogsRequest>) -> Result<Response<Self::TailLogsStream>, Status> {
        tail::serve(&self.context, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn cancel(&self, request: Request<v1::CancelRequest>) -> Result<Response<v1::CancelResponse>, Status> {
        let v1::CancelRequest {
            project,
            task_id,
            reason,
        } = request.into_inner();
        let task = self.manage((&project, &task_id), Change::Cancel { reason }).await?;
        Ok(Response::new(v1::CancelResponse { task: Some(task) }))
    }

    async fn retry(&self, request: Request<v1::RetryRequest>) -> Result<Response<v1::RetryResponse>, Status> {
        let v1::RetryRequest {
            project,
            task_id,
            seen_run,
        } = request.into_inner();
        let task = self.manage((&project, &task_id), Change::Retry { seen_run }).await?;
        Ok(Response::new(v1::RetryResponse { task: Some(task) }))
    }

    async fn resolve(&self, request: Request<v1::ResolveRequest>) -> Result<Response<v1::ResolveResponse>, Status> {
        let request = request.into_inner();
        // Who may not work there is told that, and not what is missing.
        project_of(&request.project)?;
        let resolution = request.resolution();
        let reason = if request.reason.is_empty() {
            "no reason given".into()
        } else {
            request.reason
        };
        let change = match resolution {
            v1::Resolution::Resume => Change::Resolve {
                resolve: Resolve::Resume,
                reason,
            },
            v1::Resolution::Rollback => Change::Resolve {
                resolve: Resolve::Rollback,
                reason,
            },
            v1::Resolution::Fail => Change::GiveUp { reason },
            v1::Resolution::Unspecified => {
                return Err(Status::invalid_argument(
                    "a resolution is needed: resume, rollback or fail",
                ));
            }
        };
        let task = self.manage((&request.project, &request.task_id), change).await?;
        Ok(Response::new(v1::ResolveResponse { task: Some(task) }))
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Result<Response<v1::ExplainResponse>, Status> {
        let request = request.into_inner();
        let key = self.context.find(&request.project, &request.task_id).await?;
        let task = self.view(&key).await?;
        let explained = self
            .context
            .dispatcher
            .ask(|reply| Inbound::Explain { key, reply })
            .await
            .map_err(ending)?;
        Ok(Response::new(explanation::explain(task, explained)))
    }
}

type Listed = (Vec<(TaskRow, Vec<crate::store::contract::LogStreamRow>)>, String);

/// A page of tasks that are wanted; the token is empty on the last page.
fn list(
    reads: &dyn crate::store::contract::Reads,
    mut query: ListQuery,
    wanted: &dyn Fn(&TaskRow) -> bool,
) -> Result<Listed, StoreError> {
    let size = query.limit;
    let mut found = Vec::new();
    for _ in 0..MAX_PAGES_READ {
        let page = reads.list(&query)?;
        let full = page.len() == query.limit;
        for row in page {
            query.before = Some(row.spec.key.task.clone());
            if wanted(&row) {
                let streams = reads.log_streams(&row.spec.key)?;
                found.push((row, streams));
                if found.len() == size {
                    return Ok((found, query.before.map_or_else(String::new, |task| task.to_string())));
                }
            }
        }
        if !full {
            return Ok((found, String::new()));
        }
    }
    let token = query.before.map_or_else(String::new, |task| task.to_string());
    Ok((found, token))
}
