//! Tasks as a table.

use deputy_proto::v1::{StepStatus, Task};

use super::colour::Colour;
use super::table::table;
use super::words::{coloured_state, ended, safe, short_id, since};

/// Newest first, as the manager answers.
pub(crate) fn listing(tasks: &[Task], colour: Colour) -> Vec<String> {
    let row = |task: &Task| {
        let doing = task
            .steps
            .iter()
            .find(|step| matches!(step.status(), StepStatus::Running | StepStatus::Undoing));
        let doing = match doing {
            // What a lost task last did says nothing about what it waits for.
            _ if !task.condition.is_empty() => safe(&task.condition),
            Some(step) if step.waiting_for.is_empty() => safe(&step.name),
            Some(step) => format!("{}: waiting for {}", safe(&step.name), safe(&step.waiting_for)),
            None => task
                .result
                .as_ref()
                .and_then(|result| result.failure.as_ref())
                // Who was denied comes first, and what in the last line.
                .map(|failure| safe(failure.summary.lines().last().unwrap_or_default()))
                .unwrap_or_default(),
        };
        let took = match (task.started_at_ms, ended(task)) {
            (0, _) => "-".to_owned(),
            (begin, true) => since(task.finished_at_ms - begin),
            (begin, false) => since(task.server_time_ms - begin),
        };
        let doing: String = if doing.chars().count() > 70 {
            format!("{}…", doing.chars().take(69).collect::<String>())
        } else {
            doing
        };
        vec![
            short_id(&task.task_id).to_owned(),
            safe(&task.name),
            coloured_state(task.state(), colour),
            format!("{} ago", since(task.server_time_ms - task.submitted_at_ms)),
            took,
            if task.agent_id.is_empty() {
                "-".to_owned()
            } else {
                task.agent_id.clone()
            },
            doing,
        ]
    };
    let rows: Vec<Vec<String>> = tasks.iter().map(row).collect();
    table(&["TASK", "NAME", "STATE", "SUBMITTED", "TOOK", "AGENT", ""], &rows)
}
