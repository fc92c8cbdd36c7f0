//! `deputy cancel`, `retry`, `resolve`: wishes and decisions about a task.

use deputy_proto::v1::{CancelRequest, GetRequest, Resolution, ResolveRequest, RetryRequest, Task, TaskState};

use super::context::{Context, FollowsLog, answered, read_task};
use crate::args::{Cancel, Decision, Resolve, Retry};
use crate::client::Manager;
use crate::error::{CliError, Exit};
use crate::render::{ended, json, short_id, task as task_tree};

pub(crate) async fn cancel(context: &mut Context, args: Cancel) -> Result<Exit, CliError> {
    let manager = context.manager().await?;
    let request = CancelRequest {
        project: manager.project.clone(),
        task_id: args.task,
        reason: args.reason,
    };
    let answer = manager
        .tasks()
        .cancel(Manager::call(request))
        .await
        .map_err(manager.failed("cancel the task"))?
        .into_inner();
    let task = answered(answer.task)?;
    let colour = context.screen.colour;
    let mut lines = task_tree(&task, task.server_time_ms, colour);
    if !ended(&task) {
        lines.push(colour.faint(&format!("  {}", what_stops(&task))));
    }
    context.tell(&lines, || json::task(&task))
}

/// What comes of the wish that a task be cancelled that has not ended yet.
fn what_stops(task: &Task) -> String {
    let id = short_id(&task.task_id);
    if task.state() == TaskState::Lost {
        format!(
            "it is lost: nothing stops it before its process is back; decide about it with: deputy resolve {id} rollback|fail"
        )
    } else {
        format!("its agent stops it at the next safe point: deputy watch {id}")
    }
}

pub(crate) async fn retry(context: &mut Context, args: Retry) -> Result<Exit, CliError> {
    let manager = context.manager().await?;
    let (seen, _) = read_task(
        &manager,
        GetRequest {
            task_id: args.task,
            ..GetRequest::default()
        },
    )
    .await?;
    let request = RetryRequest {
        project: manager.project.clone(),
        task_id: seen.task_id,
        seen_run: seen.run,
    };
    let answer = manager
        .tasks()
        .retry(Manager::call(request))
        .await
        .map_err(manager.failed("retry the task"))?
        .into_inner();
    let task = answered(answer.task)?;
    let follows = if args.follow {
        Some(FollowsLog::Yes)
    } else {
        args.wait.then_some(FollowsLog::No)
    };
    let Some(follows) = follows else {
        let lines = task_tree(&task, task.server_time_ms, context.screen.colour);
        return context.tell(&lines, || json::task(&task));
    };
    let show = context.show(follows);
    context.follow(&manager, task, show).await
}

pub(crate) async fn resolve(context: &mut Context, args: Resolve) -> Result<Exit, CliError> {
    let manager = context.manager().await?;
    let resolution = match args.decision {
        Decision::Resume => Resolution::Resume,
        Decision::Rollback => Resolution::Rollback,
        Decision::Fail => Resolution::Fail,
    };
    let request = ResolveRequest {
        project: manager.project.clone(),
        task_id: args.task,
        resolution: resolution.into(),
        reason: args.reason,
    };
    let answer = manager
        .tasks()
        .resolve(Manager::call(request))
        .await
        .map_err(manager.failed("resolve the task"))?
        .into_inner();
    let task = answered(answer.task)?;
    let lines = task_tree(&task, task.server_time_ms, context.screen.colour);
    context.tell(&lines, || json::task(&task))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancel_of_a_lost_task_promises_nothing_and_points_to_resolve() {
        let task = |state: TaskState| Task {
            task_id: "01a20a2ddb81714fb5bf289d02e061a2".into(),
            state: state.into(),
            ..Task::default()
        };
        assert_eq!(
            what_stops(&task(TaskState::Lost)),
            "it is lost: nothing stops it before its process is back; decide about it with: deputy resolve 01a20a2ddb81 rollback|fail"
        );
        assert_eq!(
            what_stops(&task(TaskState::Running)),
            "its agent stops it at the next safe point: deputy watch 01a20a2ddb81"
        );
    }
}
