//! `deputy logs`: the log of a task, as lines, as JSON, or as it was written.

use std::pin::pin;

use deputy_proto::v1::{GetRequest, LogStream};
use futures::StreamExt;

use super::context::{Context, read_task};
use crate::args::Logs;
use crate::error::{CliError, Exit};
use crate::follow::{Log, LogLines, Reading, Update, piece_json, resuming};
use crate::screen::{JsonForm, stderr_colour, to_stderr};

pub(crate) async fn logs(context: &mut Context, args: Logs) -> Result<Exit, CliError> {
    let manager = context.manager().await?;
    let (task, _) = read_task(
        &manager,
        GetRequest {
            task_id: args.task,
            ..GetRequest::default()
        },
    )
    .await?;
    let mut lines = LogLines::default();
    lines.names(task.steps.iter().map(|step| step.name.as_str()));
    let mut log = pin!(resuming(Log {
        manager: manager.clone(),
        task_id: task.task_id,
        run: task.run,
        reading: if args.follow {
            Reading::ToTheEnd
        } else {
            Reading::WhatIsThere
        },
    }));
    let colour = context.screen.colour;
    loop {
        let update = tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(Exit::Interrupted),
            update = log.next() => update,
        };
        match update {
            Some(Update::Item(piece)) if args.raw && piece.stream() == LogStream::System => {}
            Some(Update::Item(piece)) if args.raw => context.screen.raw(&piece.data)?,
            Some(Update::Item(piece)) if context.is_json() => {
                context.screen.json(&piece_json(&piece), JsonForm::Stream)?
            }
            Some(Update::Item(piece)) => context.screen.say(&lines.push(&piece, colour))?,
            Some(Update::Lost) => note("the connection to the manager broke; waiting for it"),
            Some(Update::Back) => note("the manager is back"),
            Some(Update::Failed(status)) => return Err(manager.failed("read the log")(status)),
            Some(Update::End) | None => break,
        }
    }
    context.screen.say(&lines.flush(colour))?;
    Ok(Exit::Succeeded)
}

fn note(text: &str) {
    to_stderr(&format!("{}\n", stderr_colour().careful(&format!("— {text}"))));
}
