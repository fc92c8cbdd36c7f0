//! What has changed between two sights of a task, one line each: what a log file or a CI job shows
//! instead of a tree that is drawn again.

use deputy_proto::v1::{StepProgress, StepStatus, Task, TaskState};

use super::colour::Colour;
use super::words::{coloured_state, ended, safe, since, step_mark, step_name};

/// One line per change. Nothing is said twice: two equal sights have no lines.
pub(crate) fn changes(before: Option<&Task>, now: &Task, colour: Colour) -> Vec<String> {
    let mut lines = Vec::new();
    let state_changed =
        before.is_none_or(|before| before.state != now.state || before.epoch != now.epoch || before.run != now.run);
    let runs = |task: &Task| !matches!(task.state(), TaskState::Queued | TaskState::Assigned);
    let same_run = before.filter(|before| before.run == now.run && runs(before));
    let before_of =
        |step: &StepProgress| same_run.and_then(|before| before.steps.iter().find(|other| other.name == step.name));
    // What is known of steps is newer than an event from before the start.
    let steps = now.steps.iter().filter(|_| runs(now));
    let steps = steps.filter_map(|step| step_line(before_of(step), step, colour));
    // The end of a task is told after the ends of its steps.
    if ended(now) {
        lines.extend(steps.clone());
    }
    if state_changed {
        lines.push(state_line(before, now, colour));
    }
    let differs = |part: fn(&Task) -> &str| before.map(part).unwrap_or_default() != part(now);
    if differs(|task| &task.condition) && !now.condition.is_empty() {
        lines.push(format!("{} {}", colour.careful("!"), safe(&now.condition)));
    }
    if differs(|task| &task.cancel_reason) && !now.cancel_reason.is_empty() {
        lines.push(format!(
            "{} cancel wished: {}",
            colour.careful("!"),
            safe(&now.cancel_reason)
        ));
    }
    if !ended(now) {
        lines.extend(steps);
    }
    lines
}

fn state_line(before: Option<&Task>, now: &Task, colour: Colour) -> String {
    let state = coloured_state(now.state(), colour);
    match now.state() {
        TaskState::Queued if before.is_some_and(|before| before.run < now.run) => {
            format!("{state} again, run {}", now.run)
        }
        TaskState::Queued if before.is_some_and(|before| before.epoch > 0) => {
            format!("{state} again, with the journal of run {}", now.run)
        }
        TaskState::Running if now.epoch > 1 => format!("{state} on {}, attempt {}", now.agent_id, now.epoch),
        TaskState::Running => format!("{state} on {}", now.agent_id),
        TaskState::Assigned => format!("{state} to {}", now.agent_id),
        TaskState::Lost => format!("{state}: {} is silent and its lease is over", now.agent_id),
        _ => state,
    }
}

fn step_line(before: Option<&StepProgress>, now: &StepProgress, colour: Colour) -> Option<String> {
    let name = safe(&now.name);
    let mark = step_mark(now.status(), colour);
    let status_changed = before.is_none_or(|before| before.status != now.status);
    if status_changed && !matches!(now.status(), StepStatus::Pending | StepStatus::Unspecified) {
        let elapsed = match (now.started_at_ms, now.finished_at_ms) {
            (0, _) | (_, 0) => String::new(),
            (begin, end) => format!(" after {}", since(end - begin)),
        };
        return Some(format!("{mark} {name} {}{elapsed}", step_name(now.status())));
    }
    let waits_anew = before.map(|before| &before.waiting_for) != Some(&now.waiting_for) && !now.waiting_for.is_empty();
    (waits_anew && matches!(now.status(), StepStatus::Running | StepStatus::Undoing))
        .then(|| format!("{mark} {name} waiting for {}", safe(&now.waiting_for)))
}
