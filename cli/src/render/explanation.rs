//! Why a task is where it is, per agent, and what a person could do.

use deputy_proto::v1::{ExplainResponse, TaskState};

use super::colour::Colour;
use super::words::{coloured_state, safe};

/// The sentence, the agents, the next steps.
pub(crate) fn explanation(answer: &ExplainResponse, colour: Colour) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(task) = &answer.task {
        lines.push(format!(
            "{} {} {}",
            colour.strong(&safe(&task.name)),
            colour.faint(&task.task_id),
            coloured_state(task.state(), colour)
        ));
    }
    lines.push(safe(&answer.summary));
    // A lost task is offered to nobody before it is given away.
    let could = match answer.task.as_ref().map(|task| task.state()) {
        Some(TaskState::Lost) => "could take it if it is given away",
        _ => "could take it now",
    };
    // Who could take it says nothing about a task that somebody has.
    let waits = answer
        .task
        .as_ref()
        .is_none_or(|task| matches!(task.state(), TaskState::Queued | TaskState::Lost));
    for agent in answer.agents.iter().filter(|_| waits) {
        let id = safe(&agent.agent_id);
        if agent.eligible {
            lines.push(format!("  {} {id}  {could}", colour.good("✓")));
        }
        for (index, reason) in agent.reasons.iter().enumerate() {
            let (mark, name) = if index == 0 && !agent.eligible {
                (colour.bad("✗"), id.clone())
            } else {
                (" ".to_owned(), " ".repeat(id.chars().count()))
            };
            lines.push(format!("  {mark} {name}  {}", safe(reason)));
        }
    }
    for (index, next) in answer.next.iter().enumerate() {
        let label = if index == 0 {
            colour.strong("next:")
        } else {
            "     ".to_owned()
        };
        lines.push(format!("{label} {}", safe(next)));
    }
    lines
}
