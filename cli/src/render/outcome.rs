//! How a task ended: the sentence, what the world looks like, what remains, and what repairs it.

use deputy_proto::v1::{LogState, Task, TaskState, World};

use super::colour::Colour;
use super::words::{safe, short_id, since, state_name, world_name, world_sentence};

/// The closing lines of a task that has ended; empty for one that has not.
pub(crate) fn outcome(task: &Task, colour: Colour) -> Vec<String> {
    let Some(result) = &task.result else { return Vec::new() };
    let begin = if task.started_at_ms > 0 {
        task.started_at_ms
    } else {
        task.submitted_at_ms
    };
    let elapsed = since(task.finished_at_ms - begin);
    let name = colour.strong(&safe(&task.name));
    let mut lines = Vec::new();
    lines.push(match result.state() {
        TaskState::Succeeded => format!("{} {name} succeeded in {elapsed}", colour.good("✓")),
        TaskState::Cancelled => format!("{} {name} was cancelled after {elapsed}", colour.careful("■")),
        TaskState::TimedOut => format!("{} {name} ran out of time after {elapsed}", colour.careful("■")),
        TaskState::Expired => format!(
            "{} {name} expired: it waited in the queue for {elapsed}",
            colour.careful("■")
        ),
        TaskState::Rejected => format!("{} {name} was rejected", colour.bad("✗")),
        TaskState::Failed => format!("{} {name} failed after {elapsed}", colour.bad("✗")),
        other => format!(
            "{} {name} ended as {} after {elapsed}",
            colour.bad("✗"),
            state_name(other)
        ),
    });
    if let Some(failure) = &result.failure {
        let step = if failure.step.is_empty() {
            String::new()
        } else {
            format!("step {}: ", safe(&failure.step))
        };
        lines.extend(labelled(
            "why",
            &format!("{step}{}", safe_lines(&failure.summary)),
            colour,
        ));
        if !failure.hint.is_empty() {
            lines.extend(labelled("hint", &safe_lines(&failure.hint), colour));
        }
        if !failure.detail.is_empty() && failure.detail != failure.summary {
            lines.extend(labelled("detail", &safe_lines(&failure.detail), colour));
        }
    }
    let world = match result.world() {
        World::Unchanged | World::Changed => world_name(result.world()).to_owned(),
        World::RolledBack => colour.careful(world_name(result.world())),
        World::Unspecified | World::RollbackFailed | World::Unknown => colour.bad(world_name(result.world())),
    };
    if result.state() != TaskState::Succeeded || result.world() != World::Changed {
        lines.extend(labelled(
            "world",
            &format!("{world}, {}", world_sentence(result.world())),
            colour,
        ));
    } else {
        lines.extend(labelled("world", &world, colour));
    }
    for (index, remains) in result.remains.iter().enumerate() {
        lines.extend(labelled(
            if index == 0 { "remains" } else { "" },
            &safe_lines(remains),
            colour,
        ));
    }
    if !result.repair.is_empty() {
        lines.extend(labelled("repair", &colour.strong(&safe(&result.repair)), colour));
    }
    lines.extend(outputs(task, colour));
    if task.log_state() == LogState::Incomplete {
        lines.extend(labelled(
            "log",
            &format!("incomplete; what arrived: deputy logs {}", short_id(&task.task_id)),
            colour,
        ));
    }
    lines
}

/// A label before the first line of a text; the other lines stand below it.
fn labelled(label: &str, text: &str, colour: Colour) -> Vec<String> {
    let label_of = |index: usize| if index == 0 { label } else { "" };
    let lines = text.lines().filter(|line| !line.trim().is_empty()).enumerate();
    lines
        .map(|(index, line)| {
            format!(
                "  {} {}",
                colour.faint(&format!("{:<8}", label_of(index))),
                line.trim_end()
            )
        })
        .collect()
}

/// Text of several lines from elsewhere.
fn safe_lines(text: &str) -> String {
    text.lines().map(safe).collect::<Vec<_>>().join("\n")
}

fn outputs(task: &Task, colour: Colour) -> Vec<String> {
    let mut lines = Vec::new();
    let steps = task
        .result
        .as_ref()
        .map(|result| &result.steps)
        .filter(|steps| !steps.is_empty())
        .unwrap_or(&task.steps);
    for step in steps {
        let outputs: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&step.outputs).unwrap_or_default();
        for (name, value) in outputs {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let label = if lines.is_empty() { "outputs" } else { "" };
            lines.extend(labelled(
                label,
                &format!("{}.{} = {}", safe(&step.name), safe(&name), safe(&value)),
                colour,
            ));
        }
    }
    lines
}
