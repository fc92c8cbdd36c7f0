//! `deputy get`, `list`, `explain`: look, change nothing.

use std::collections::HashMap;

use deputy_proto::v1::{ExplainRequest, GetRequest, ListRequest};
use serde_json::{Value, json};

use super::context::{Context, read_task};
use crate::args::{Explain, Get, List};
use crate::client::Manager;
use crate::error::{CliError, Exit};
use crate::render::json as as_json;
use crate::render::{explanation, journal, listing, outcome, state_from_name, task as task_tree};
use crate::values::pair;

/// Most tasks of one page.
const PAGE: u32 = 1_000;

pub(crate) async fn get(context: &mut Context, args: Get) -> Result<Exit, CliError> {
    let manager = context.manager().await?;
    let request = GetRequest {
        task_id: args.task,
        with_journal: args.journal,
        with_document: args.document,
        ..GetRequest::default()
    };
    let (task, answer) = read_task(&manager, request).await?;
    let colour = context.screen.colour;
    let document: Value = serde_json::from_slice(&answer.document).unwrap_or(Value::Null);
    let mut lines = task_tree(&task, task.server_time_ms, colour);
    let end = outcome(&task, colour);
    if !end.is_empty() {
        lines.push(String::new());
        lines.extend(end);
    }
    if args.journal {
        lines.extend([String::new(), colour.strong("journal")]);
        lines.extend(journal(&answer.journal, task.submitted_at_ms, colour));
    }
    if args.document {
        lines.extend([String::new(), colour.strong("document"), format!("{document:#}")]);
    }
    context.tell(&lines, || {
        let mut value = as_json::task(&task);
        if args.journal {
            value["journal"] = answer.journal.iter().map(as_json::record).collect();
        }
        if args.document {
            value["document"] = document;
        }
        value
    })
}

pub(crate) async fn list(context: &mut Context, args: List) -> Result<Exit, CliError> {
    let states = args
        .state
        .iter()
        .map(|name| state_from_name(name).map(i32::from))
        .collect::<Result<Vec<_>, _>>();
    let states = states.map_err(CliError::bad_input)?;
    let labels = args
        .label
        .iter()
        .map(|text| pair(text, "--label").map(|(name, value)| (name.to_owned(), value.to_owned())));
    let labels = labels.collect::<Result<HashMap<_, _>, _>>()?;
    let manager = context.manager().await?;
    let mut tasks = Vec::new();
    let mut page_token = String::new();
    loop {
        let left = args
            .limit
            .saturating_sub(u32::try_from(tasks.len()).unwrap_or(u32::MAX));
        let request = ListRequest {
            project: manager.project.clone(),
            states: states.clone(),
            labels: labels.clone().into_iter().collect(),
            page_size: left.min(PAGE),
            page_token,
        };
        if left == 0 {
            break;
        }
        let answer = manager
            .tasks()
            .list(Manager::call(request))
            .await
            .map_err(manager.failed("list tasks"))?
            .into_inner();
        tasks.extend(answer.tasks);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let colour = context.screen.colour;
    let lines = if tasks.is_empty() {
        vec![colour.faint("no tasks")]
    } else {
        listing(&tasks, colour)
    };
    context.tell(
        &lines,
        || json!({ "tasks": tasks.iter().map(as_json::task).collect::<Vec<_>>() }),
    )
}

pub(crate) async fn explain(context: &mut Context, args: Explain) -> Result<Exit, CliError> {
    let manager = context.manager().await?;
    let request = ExplainRequest {
        project: manager.project.clone(),
        task_id: args.task,
    };
    let answer = manager
        .tasks()
        .explain(Manager::call(request))
        .await
        .map_err(manager.failed("explain the task"))?
        .into_inner();
    let lines = explanation(&answer, context.screen.colour);
    context.tell(&lines, || {
        let agents: Vec<Value> = answer.agents.iter().map(|a| json!({ "agentId": a.agent_id, "eligible": a.eligible, "reasons": a.reasons })).collect();
        json!({ "task": answer.task.as_ref().map(as_json::task), "summary": answer.summary, "agents": agents, "next": answer.next })
    })
}
