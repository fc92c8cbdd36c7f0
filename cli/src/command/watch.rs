//! `deputy watch`: one task until it ends, or everything in the project.

use std::collections::BTreeMap;
use std::pin::pin;

use deputy_proto::v1::{GetRequest, Task, WatchResponse};
use futures::StreamExt;

use super::context::{Context, FollowsLog, read_task};
use crate::args::Watch;
use crate::client::Manager;
use crate::error::{CliError, Exit};
use crate::follow::{Events, Show, Update, resuming};
use crate::render::{changes, ended, json, outcome, safe, short_id, task as task_tree};
use crate::screen::{JsonForm, stderr_colour, to_stderr};

/// Tasks whose last sight is kept, to tell what has changed.
const REMEMBERED: usize = 10_000;

pub(crate) async fn watch(context: &mut Context, args: Watch) -> Result<Exit, CliError> {
    let manager = context.manager().await?;
    let Some(task) = args.task else {
        return watch_project(context, &manager).await;
    };
    let (task, _) = read_task(
        &manager,
        GetRequest {
            task_id: task,
            ..GetRequest::default()
        },
    )
    .await?;
    if ended(&task) && !context.is_json() {
        let colour = context.screen.colour;
        let mut lines = task_tree(&task, task.server_time_ms, colour);
        lines.push(String::new());
        lines.extend(outcome(&task, colour));
        context.screen.say(&lines)?;
        return Ok(task.result.as_ref().map_or(Exit::Failed, Exit::of));
    }
    let show = if context.is_json() {
        Show::JsonEvents
    } else {
        context.show(FollowsLog::No)
    };
    context.follow(&manager, task, show).await
}

async fn watch_project(context: &mut Context, manager: &Manager) -> Result<Exit, CliError> {
    let mut events = pin!(resuming(Events {
        manager: manager.clone(),
        task_id: String::new()
    }));
    let mut seen: BTreeMap<String, Task> = BTreeMap::new();
    loop {
        let update = tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(Exit::Interrupted),
            update = events.next() => update,
        };
        match update {
            Some(Update::Item(event)) if context.is_json() => {
                let value = json::event(&event, event.task.as_ref());
                context.screen.json(&value, JsonForm::Stream)?;
            }
            Some(Update::Item(event)) => tell(context, &mut seen, event)?,
            Some(Update::Lost) => note(context, "the connection to the manager broke; waiting for it")?,
            Some(Update::Back) => note(context, "the manager is back")?,
            Some(Update::Failed(status)) => return Err(manager.failed("watch the project")(status)),
            Some(Update::End) | None => {
                return Err(CliError::new(
                    Exit::Unreachable,
                    "the manager says nothing more about the project",
                ));
            }
        }
    }
}

fn tell(context: &mut Context, seen: &mut BTreeMap<String, Task>, event: WatchResponse) -> Result<(), CliError> {
    let Some(task) = event.task else { return Ok(()) };
    let colour = context.screen.colour;
    let lines = changes(seen.get(&task.task_id), &task, colour);
    let prefix = format!(
        "{} {}",
        colour.faint(short_id(&task.task_id)),
        colour.strong(&safe(&task.name))
    );
    context
        .screen
        .say(&lines.iter().map(|line| format!("{prefix}  {line}")).collect::<Vec<_>>())?;
    if ended(&task) {
        seen.remove(&task.task_id);
    } else if seen.len() < REMEMBERED || seen.contains_key(&task.task_id) {
        seen.insert(task.task_id.clone(), task);
    }
    Ok(())
}

fn note(context: &mut Context, text: &str) -> Result<(), CliError> {
    if context.is_json() {
        return context.screen.json(&json::connection(text), JsonForm::Stream);
    }
    to_stderr(&format!("{}\n", stderr_colour().careful(&format!("— {text}"))));
    Ok(())
}
