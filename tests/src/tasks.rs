//! The manager's API as tests use it: submit, wait, look.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use deputy_proto::v1;
use deputy_proto::v1::fleet_client::FleetClient;
use deputy_proto::v1::tasks_client::TasksClient;

use crate::access::{Access, CALL_DEADLINE, Client};

/// Between two looks of a wait.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// A client of one manager. Reconnects by itself when the manager is started again.
#[derive(Debug, Clone)]
pub struct Tasks {
    client: Client,
}

impl Tasks {
    /// A client of the manager there.
    pub fn of(access: &Access) -> Result<Self> {
        Ok(Self {
            client: access.client()?,
        })
    }

    /// The generated client, for what is not here.
    #[must_use]
    pub fn client(&self) -> TasksClient<Client> {
        TasksClient::new(self.client.clone())
    }

    /// The generated client of the fleet.
    #[must_use]
    pub fn fleet(&self) -> FleetClient<Client> {
        FleetClient::new(self.client.clone())
    }

    /// Queues a document without inputs; the task's id.
    pub async fn submit(&self, document: &str) -> Result<String> {
        self.submit_with(document, &serde_json::json!({})).await
    }

    /// Queues a document with inputs; the task's id.
    pub async fn submit_with(&self, document: &str, inputs: &serde_json::Value) -> Result<String> {
        let request = v1::SubmitRequest {
            client_request_id: format!("test-{:032x}", rand::random::<u128>()),
            document: document.as_bytes().to_vec().into(),
            inputs: inputs.to_string().into(),
            submitter: "test".into(),
            ..Default::default()
        };
        let response = self
            .client()
            .submit(request)
            .await
            .map_err(readable)
            .context("Submit")?;
        Ok(response.into_inner().task_id)
    }

    /// How the task stands.
    pub async fn get(&self, task: &str) -> Result<v1::Task> {
        let request = v1::GetRequest {
            task_id: task.into(),
            ..Default::default()
        };
        let response = self.client().get(request).await.map_err(readable).context("Get")?;
        response.into_inner().task.context("a task in the response")
    }

    /// The journal of the current run, in commit order.
    pub async fn journal(&self, task: &str) -> Result<Vec<v1::Record>> {
        let request = v1::GetRequest {
            task_id: task.into(),
            with_journal: true,
            ..Default::default()
        };
        Ok(self
            .client()
            .get(request)
            .await
            .map_err(readable)
            .context("Get")?
            .into_inner()
            .journal)
    }

    /// All log bytes that are there now, every stream and attempt, in order.
    pub async fn logs(&self, task: &str) -> Result<String> {
        let chunks = self.log_chunks(task).await?;
        let bytes: Vec<u8> = chunks.iter().flat_map(|chunk| chunk.data.iter().copied()).collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// All log chunks that are there now.
    pub async fn log_chunks(&self, task: &str) -> Result<Vec<v1::TailLogsResponse>> {
        let request = v1::TailLogsRequest {
            task_id: task.into(),
            ..Default::default()
        };
        let mut stream = self
            .client()
            .tail_logs(request)
            .await
            .map_err(readable)
            .context("TailLogs")?
            .into_inner();
        let mut chunks = Vec::new();
        while let Some(chunk) = stream.message().await.map_err(readable).context("TailLogs")? {
            chunks.push(chunk);
        }
        Ok(chunks)
    }

    /// Wishes the task to be cancelled.
    pub async fn cancel(&self, task: &str, reason: &str) -> Result<()> {
        let request = v1::CancelRequest {
            task_id: task.into(),
            reason: reason.into(),
            ..Default::default()
        };
        self.client()
            .cancel(request)
            .await
            .map_err(readable)
            .context("Cancel")?;
        Ok(())
    }

    /// Starts the next run of a task that has ended.
    pub async fn retry(&self, task: &str) -> Result<v1::Task> {
        let seen_run = self.get(task).await?.run;
        let request = v1::RetryRequest {
            task_id: task.into(),
            seen_run,
            ..Default::default()
        };
        let response = self.client().retry(request).await.map_err(readable).context("Retry")?;
        response.into_inner().task.context("a task in the response")
    }

    /// Decides about a lost or held task.
    pub async fn resolve(&self, task: &str, resolution: v1::Resolution) -> Result<()> {
        let request = v1::ResolveRequest {
            task_id: task.into(),
            resolution: resolution.into(),
            reason: "a test".into(),
            ..Default::default()
        };
        self.client()
            .resolve(request)
            .await
            .map_err(readable)
            .context("Resolve")?;
        Ok(())
    }

    /// Why the task waits.
    pub async fn explain(&self, task: &str) -> Result<v1::ExplainResponse> {
        let request = v1::ExplainRequest {
            task_id: task.into(),
            ..Default::default()
        };
        Ok(self
            .client()
            .explain(request)
            .await
            .map_err(readable)
            .context("Explain")?
            .into_inner())
    }

    /// Waits until the task is in one of these states; fails at once when it ends in another.
    pub async fn wait_for(&self, task: &str, wanted: &[v1::TaskState], within: Duration) -> Result<v1::Task> {
        let terminal = |state: v1::TaskState| TERMINAL.contains(&state) && !wanted.contains(&state);
        self.wait_until(task, within, &format!("in {wanted:?}"), |task| {
            if terminal(task.state()) {
                Err(anyhow!("it ended"))
            } else {
                Ok(wanted.contains(&task.state()))
            }
        })
        .await
    }

    /// Waits until the task has ended, however.
    pub async fn wait_ended(&self, task: &str, within: Duration) -> Result<v1::Task> {
        self.wait_for(task, &TERMINAL, within).await
    }

    /// Waits until something is true of the task. Managers that are away are waited for as well.
    pub async fn wait_until(
        &self,
        task: &str,
        within: Duration,
        what: &str,
        mut is_true: impl FnMut(&v1::Task) -> Result<bool>,
    ) -> Result<v1::Task> {
        let deadline = tokio::time::Instant::now() + within;
        let mut last = None;
        let mut seen = BTreeSet::new();
        loop {
            match tokio::time::timeout(CALL_DEADLINE, self.get(task)).await {
                Ok(Ok(found)) => {
                    let verdict = is_true(&found);
                    seen.insert(found.state().as_str_name());
                    match verdict {
                        Ok(true) => return Ok(found),
                        Ok(false) => last = Some(format!("{found:#?}")),
                        Err(error) => bail!("the task should be {what}, but {error}: {found:#?}"),
                    }
                }
                Ok(Err(error)) => last = last.or_else(|| Some(format!("{error:#}"))),
                Err(_) => {}
            }
            if tokio::time::Instant::now() > deadline {
                let last = last.unwrap_or_else(|| "the manager did not answer".into());
                bail!("the task was not {what} within {within:?}; it was in {seen:?}; last: {last}");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// The states that a run ends in.
pub const TERMINAL: [v1::TaskState; 6] = [
    v1::TaskState::Succeeded,
    v1::TaskState::Failed,
    v1::TaskState::Cancelled,
    v1::TaskState::TimedOut,
    v1::TaskState::Expired,
    v1::TaskState::Rejected,
];

fn readable(status: tonic::Status) -> anyhow::Error {
    anyhow!("{:?}: {}", status.code(), status.message())
}
