//! What every command has at hand.

use deputy_proto::v1::{GetRequest, GetResponse, Task};

use crate::args::{Global, Output};
use crate::client::{Access, Manager};
use crate::error::{CliError, Exit};
use crate::follow::{Show, follow};
use crate::render::json;
use crate::screen::{JsonForm, Screen};
use crate::values::proxy_of_environment;

/// Global options, standard output.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) global: Global,
    pub(crate) screen: Screen,
}

impl Context {
    pub(crate) async fn manager(&self) -> Result<Manager, CliError> {
        let env = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let global = &self.global;
        let access = Access {
            url: global.manager.clone(),
            ca_file: global.ca_file.clone(),
            ca_sha256: global.ca_sha256.clone(),
            token_file: global.token_file.clone(),
            token: env("DEPUTY_TOKEN"),
            client_certificate: global.client_certificate.clone(),
            proxy: proxy_of_environment()?,
        };
        Manager::connect(&access, &global.project).await
    }

    pub(crate) fn is_json(&self) -> bool {
        self.global.output == Output::Json
    }

    /// Lines for people, or JSON for programs.
    pub(crate) fn tell(
        &mut self,
        lines: &[String],
        value: impl FnOnce() -> serde_json::Value,
    ) -> Result<Exit, CliError> {
        if self.is_json() {
            self.screen.json(&value(), JsonForm::Alone)?;
        } else {
            self.screen.say(lines)?;
        }
        Ok(Exit::Succeeded)
    }

    /// Follows a task to its end and answers its exit code; with `--wait --output json` the result
    /// is the only thing printed.
    pub(crate) async fn follow(&mut self, manager: &Manager, task: Task, show: Show) -> Result<Exit, CliError> {
        let task = follow(manager, &mut self.screen, task, show).await?;
        if show == Show::Nothing {
            self.screen.json(&json::task(&task), JsonForm::Alone)?;
        }
        Ok(task.result.as_ref().map_or(Exit::Failed, Exit::of))
    }

    /// How `--follow` and `--wait` show a task.
    pub(crate) fn show(&self, follows_log: FollowsLog) -> Show {
        match (self.global.output, follows_log) {
            (Output::Text, FollowsLog::Yes) => Show::StepsAndLog,
            (Output::Text, FollowsLog::No) => Show::Steps,
            (Output::Json, FollowsLog::Yes) => Show::JsonStream,
            (Output::Json, FollowsLog::No) => Show::Nothing,
        }
    }
}

/// Is the log followed too?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FollowsLog {
    Yes,
    No,
}

/// Reads one task.
pub(crate) async fn read_task(manager: &Manager, request: GetRequest) -> Result<(Task, GetResponse), CliError> {
    let request = GetRequest {
        project: manager.project.clone(),
        ..request
    };
    let mut answer = manager
        .tasks()
        .get(Manager::call(request))
        .await
        .map_err(manager.failed("read the task"))?
        .into_inner();
    let task = answer
        .task
        .take()
        .ok_or_else(|| CliError::new(Exit::Unreachable, "the manager answered without a task"))?;
    Ok((task, answer))
}

/// A task that must be in an answer.
pub(crate) fn answered(task: Option<Task>) -> Result<Task, CliError> {
    task.ok_or_else(|| CliError::new(Exit::Unreachable, "the manager answered without a task"))
}
