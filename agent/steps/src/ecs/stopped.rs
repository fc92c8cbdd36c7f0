//! Tasks that stopped, and why: what a person asks first when a deployment does not come up.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use aws_sdk_ecs::types::{Deployment, DesiredStatus, Task, TaskStopCode};
use deputy_task::outcome::Failure;

use crate::ecs::client::Ecs;
use crate::ecs::document::short;
use crate::kubernetes::said;

/// Most tasks that one `DescribeTasks` takes.
const PER_CALL: usize = 100;
/// Most pages of a list that are asked for, of 100 tasks each.
const MAX_PAGES: usize = 20;
/// A task that ran that long is taken for one that works.
const ALIVE_AFTER: Duration = Duration::from_secs(60);

/// A task of the deployment that ended by itself or could not start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stopped {
    /// One line for people.
    pub(crate) line: String,
    pub(crate) kind: StopKind,
    pub(crate) at: Option<SystemTime>,
}

/// What a stop says about the deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopKind {
    /// The task could not start, or an essential container ended, or it was not healthy.
    Failed,
    /// ECS or a person stopped it, for scaling, a newer deployment, or the host.
    Stopped,
}

impl Stopped {
    /// The same without what its container was to run, which runtimes quote.
    pub(crate) fn without_values(mut self) -> Self {
        self.line = said(&self.line);
        self
    }
}

impl Ecs {
    /// Tasks of `task_definition` in `service` that stopped and are not in `known`, which learns them.
    /// With a `deployment`, only its own. ECS remembers stopped tasks for an hour.
    pub(crate) async fn newly_stopped(
        &self,
        (service, task_definition): (&str, &str),
        deployment: Option<&Deployment>,
        known: &mut BTreeSet<String>,
    ) -> Result<Vec<Stopped>, Failure> {
        let arns = self.task_arns(service, DesiredStatus::Stopped).await?;
        let fresh: Vec<String> = arns.into_iter().filter(|arn| !known.contains(arn)).collect();
        let mut tasks = self.tasks(&fresh).await?;
        tasks.retain(|task| task.last_status() == Some("STOPPED"));
        known.extend(tasks.iter().filter_map(|task| task.task_arn().map(str::to_owned)));
        let ours = |task: &&Task| {
            task.task_definition_arn() == Some(task_definition) && deployment.is_none_or(|one| began(one, task))
        };
        Ok(tasks.iter().filter(ours).map(stopped).collect())
    }

    /// Is there a running task of `task_definition` that had run for a minute when `failed_at` came?
    pub(crate) async fn has_proven_task(
        &self,
        service: &str,
        task_definition: &str,
        failed_at: SystemTime,
    ) -> Result<bool, Failure> {
        let arns = self.task_arns(service, DesiredStatus::Running).await?;
        let tasks = self.tasks(&arns).await?;
        let lived = |task: &Task| {
            let started = task.started_at().and_then(|at| SystemTime::try_from(*at).ok());
            started.is_some_and(|started| failed_at.duration_since(started).is_ok_and(|life| life >= ALIVE_AFTER))
        };
        Ok(tasks
            .iter()
            .any(|task| task.task_definition_arn() == Some(task_definition) && lived(task)))
    }

    /// The deployment whose tasks of `task_definition` were stopped, if there were any.
    pub(crate) async fn deployment_in_stopped_tasks(
        &self,
        service: &str,
        task_definition: &str,
    ) -> Result<Option<String>, Failure> {
        let arns = self.task_arns(service, DesiredStatus::Stopped).await?;
        let tasks = self.tasks(&arns).await?;
        let ours = tasks
            .iter()
            .find(|task| task.task_definition_arn() == Some(task_definition));
        Ok(ours.map(|task| task.started_by().unwrap_or_default().to_owned()))
    }

    async fn task_arns(&self, service: &str, status: DesiredStatus) -> Result<Vec<String>, Failure> {
        let list = self
            .client
            .list_tasks()
            .cluster(&self.cluster)
            .service_name(service)
            .desired_status(status);
        let on = format!("the service {service}");
        all_pages(|next| {
            let page = list.clone().set_next_token(next).send();
            async {
                let page = page.await;
                let page = page.map_err(|error| self.failure("ecs:ListTasks", &on, &error))?;
                Ok((page.task_arns.unwrap_or_default(), page.next_token))
            }
        })
        .await
    }

    async fn tasks(&self, arns: &[String]) -> Result<Vec<Task>, Failure> {
        let mut tasks = Vec::new();
        for some in arns.chunks(PER_CALL) {
            let answer = self
                .client
                .describe_tasks()
                .cluster(&self.cluster)
                .set_tasks(Some(some.to_vec()))
                .send()
                .await;
            let on = format!("tasks of cluster {}", self.cluster);
            let answer = answer.map_err(|error| self.failure("ecs:DescribeTasks", &on, &error))?;
            tasks.extend(answer.tasks.unwrap_or_default());
        }
        Ok(tasks)
    }
}

/// What `ask` answers for each page, from the token of the page before.
async fn all_pages<F>(ask: impl Fn(Option<String>) -> F) -> Result<Vec<String>, Failure>
where
    F: Future<Output = Result<(Vec<String>, Option<String>), Failure>>,
{
    let mut all = Vec::new();
    let mut next = None;
    for _ in 0..MAX_PAGES {
        let (page, token) = ask(next).await?;
        all.extend(page);
        next = token.filter(|token| !token.is_empty());
        if next.is_none() {
            break;
        }
    }
    Ok(all)
}

/// Did `deployment` begin `task`? ECS says so in `startedBy`; where it does not, the times tell.
fn began(deployment: &Deployment, task: &Task) -> bool {
    match task.started_by() {
        Some(by) if by.starts_with("ecs-svc/") => deployment.id() == Some(by),
        _ => match (deployment.created_at(), task.created_at()) {
            (Some(deployment), Some(task)) => task >= deployment,
            _ => true,
        },
    }
}

fn stopped(task: &Task) -> Stopped {
    let reason = task.stopped_reason().unwrap_or("no reason given");
    let code = task.stop_code();
    let unhealthy = reason.to_ascii_lowercase().contains("health check");
    let failed = matches!(
        code,
        Some(TaskStopCode::EssentialContainerExited | TaskStopCode::TaskFailedToStart)
    ) || unhealthy;
    let containers: Vec<String> = task.containers().iter().filter_map(container).collect();
    let containers = if containers.is_empty() {
        String::new()
    } else {
        format!(" ({})", containers.join("; "))
    };
    Stopped {
        line: format!(
            "task {} stopped: {reason}{containers}",
            short(task.task_arn().unwrap_or_default())
        ),
        kind: if failed { StopKind::Failed } else { StopKind::Stopped },
        at: task.stopped_at().and_then(|at| SystemTime::try_from(*at).ok()),
    }
}

fn container(container: &aws_sdk_ecs::types::Container) -> Option<String> {
    let name = container.name().unwrap_or("container");
    match (container.exit_code(), container.reason()) {
        (Some(137), None) => Some(format!("{name} was killed, exit code 137")),
        (Some(code), None) => Some(format!("{name} exited with {code}")),
        (Some(code), Some(reason)) => Some(format!("{name} exited with {code}: {reason}")),
        (None, Some(reason)) => Some(format!("{name}: {reason}")),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_ecs::types::Container;

    fn told(task: aws_sdk_ecs::types::builders::TaskBuilder) -> (String, StopKind) {
        let stopped = stopped(&task.task_arn("arn:aws:ecs:eu-west-1:2:task/prod/ab12").build());
        (stopped.line, stopped.kind)
    }

    #[tokio::test]
    async fn a_list_of_tasks_is_read_to_its_end_and_an_endless_one_is_not() {
        let pages = |end: usize| {
            all_pages(move |next| {
                let page: usize = next.map_or(0, |token| token.parse().expect("ours"));
                let token = (page < end).then(|| (page + 1).to_string());
                std::future::ready(Ok((vec![format!("task {page}")], token)))
            })
        };
        assert_eq!(pages(0).await.expect("one page"), ["task 0"]);
        assert_eq!(pages(2).await.expect("three pages"), ["task 0", "task 1", "task 2"]);
        assert_eq!(pages(usize::MAX).await.expect("bounded").len(), MAX_PAGES);
    }

    #[test]
    fn a_task_of_what_was_there_before_is_told_without_what_it_was_to_run() {
        let reason = "CannotStartContainerError: exec: \"canary --password\": executable file not found in $PATH";
        let task = Task::builder()
            .stop_code(TaskStopCode::TaskFailedToStart)
            .stopped_reason(reason);
        let told = stopped(&task.task_arn("arn:aws:ecs:eu-west-1:2:task/prod/ab12").build()).without_values();
        assert_eq!(
            told.line,
            "task ab12 stopped: CannotStartContainerError: exec: \"***\": executable file not found in $PATH"
        );
    }

    #[test]
    fn a_stopped_task_says_why_and_whether_that_counts() {
        let exited = Task::builder()
            .stop_code(TaskStopCode::EssentialContainerExited)
            .stopped_reason("Essential container in task exited")
            .containers(Container::builder().name("app").exit_code(3).build());
        assert_eq!(
            told(exited),
            (
                "task ab12 stopped: Essential container in task exited (app exited with 3)".into(),
                StopKind::Failed
            )
        );
        let pull = Task::builder()
            .stop_code(TaskStopCode::TaskFailedToStart)
            .stopped_reason("CannotPullContainerError: pull image manifest has been retried 1 time(s)");
        assert_eq!(told(pull).1, StopKind::Failed);
        let oom = Task::builder()
            .stop_code(TaskStopCode::EssentialContainerExited)
            .containers(
                Container::builder()
                    .name("app")
                    .exit_code(137)
                    .reason("OutOfMemoryError: Container killed due to memory usage")
                    .build(),
            );
        assert_eq!(
            told(oom).0,
            "task ab12 stopped: no reason given (app exited with 137: OutOfMemoryError: Container killed due to memory usage)"
        );
        let scaled = Task::builder()
            .stop_code(TaskStopCode::ServiceSchedulerInitiated)
            .stopped_reason("Scaling activity initiated by (deployment ecs-svc/1)");
        assert_eq!(told(scaled).1, StopKind::Stopped);
        let unhealthy = Task::builder()
            .stop_code(TaskStopCode::ServiceSchedulerInitiated)
            .stopped_reason("Task failed ELB health checks in (target-group arn:x)");
        assert_eq!(told(unhealthy).1, StopKind::Failed);
    }
}
