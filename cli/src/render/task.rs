//! A task as a tree: where it stands, its steps with elapsed times, what is awaited.

use deputy_proto::v1::{LogState, StepProgress, StepStatus, Task, TaskState};
use unicode_width::UnicodeWidthStr;

use super::colour::Colour;
use super::words::{coloured_state, ended, safe, since, step_mark};

/// The head line and the steps. `now_ms` is on the store's clock.
pub(crate) fn task(task: &Task, now_ms: i64, colour: Colour) -> Vec<String> {
    let mut lines = vec![head(task, now_ms, colour)];
    if !task.condition.is_empty() {
        lines.push(format!("  {} {}", colour.careful("!"), safe(&task.condition)));
    }
    if !task.cancel_reason.is_empty() && !ended(task) {
        lines.push(format!(
            "  {} cancel wished: {}",
            colour.careful("!"),
            safe(&task.cancel_reason)
        ));
    }
    lines.extend(step_lines(&task.steps, now_ms, colour));
    if matches!(task.log_state(), LogState::Incomplete) {
        lines.push(format!(
            "  {} the log is incomplete: its agent has not delivered all of it",
            colour.careful("!")
        ));
    }
    lines
}

fn head(task: &Task, now_ms: i64, colour: Colour) -> String {
    let mut head = format!(
        "{} {} {}",
        colour.strong(&safe(&task.name)),
        colour.faint(&task.task_id),
        coloured_state(task.state(), colour)
    );
    match task.state() {
        TaskState::Assigned if !task.agent_id.is_empty() => head.push_str(&format!(" to {}", task.agent_id)),
        TaskState::Running | TaskState::Lost if !task.agent_id.is_empty() => {
            head.push_str(&format!(" on {}", task.agent_id))
        }
        _ => {}
    }
    let begin = if task.started_at_ms > 0 {
        task.started_at_ms
    } else {
        task.submitted_at_ms
    };
    let end = if task.finished_at_ms > 0 {
        task.finished_at_ms
    } else {
        now_ms
    };
    if begin > 0 {
        head.push_str(&format!(" {}", colour.faint(&since(end - begin))));
    }
    if task.run > 1 {
        head.push_str(&colour.faint(&format!(" run {}", task.run)));
    }
    if task.epoch > 1 {
        head.push_str(&colour.faint(&format!(" attempt {}", task.epoch)));
    }
    head
}

/// One line per step. Times of steps are on the agent's clock; a running step's time is measured
/// against `now_ms`, which is near enough for people.
fn step_lines(steps: &[StepProgress], now_ms: i64, colour: Colour) -> Vec<String> {
    let width = |text: fn(&StepProgress) -> &str| steps.iter().map(|step| text(step).width()).max().unwrap_or(0);
    let (name_width, kind_width) = (width(|step| &step.name), width(|step| &step.kind));
    let line = |step: &StepProgress| {
        let pad = |text: &str, to: usize| format!("{text}{}", " ".repeat(to.saturating_sub(text.width())));
        let name = pad(&safe(&step.name), name_width);
        let kind = colour.faint(&pad(&safe(&step.kind), kind_width));
        let elapsed = match (step.started_at_ms, step.finished_at_ms) {
            (0, _) => String::new(),
            (begin, 0) => since(now_ms - begin),
            (begin, end) => since(end - begin),
        };
        let mut line = format!("  {} {name}  {kind}  {elapsed:>6}", step_mark(step.status(), colour));
        if !step.waiting_for.is_empty() && matches!(step.status(), StepStatus::Running | StepStatus::Undoing) {
            line.push_str(&format!(
                "  {} {}",
                colour.active("waiting for"),
                safe(&step.waiting_for)
            ));
        }
        line.trim_end().to_owned()
    };
    steps.iter().map(line).collect()
}
