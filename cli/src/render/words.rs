//! The words and numbers that every rendering uses.

use deputy_proto::v1::{self, StepStatus, TaskState, World};

use super::colour::Colour;

/// Every state with the word people read and write.
const STATES: [(TaskState, &str); 10] = [
    (TaskState::Queued, "queued"),
    (TaskState::Assigned, "assigned"),
    (TaskState::Running, "running"),
    (TaskState::Lost, "lost"),
    (TaskState::Succeeded, "succeeded"),
    (TaskState::Failed, "failed"),
    (TaskState::Cancelled, "cancelled"),
    (TaskState::TimedOut, "timedOut"),
    (TaskState::Expired, "expired"),
    (TaskState::Rejected, "rejected"),
];

pub(crate) fn state_name(state: TaskState) -> &'static str {
    STATES
        .iter()
        .find(|(known, _)| *known == state)
        .map_or("unknown", |(_, name)| name)
}

pub(crate) fn state_from_name(name: &str) -> Result<TaskState, String> {
    let wanted = name.to_lowercase().replace(['-', '_'], "");
    let found = STATES
        .iter()
        .find(|(_, known)| known.to_lowercase() == wanted)
        .map(|(state, _)| *state);
    found.ok_or_else(|| {
        format!(
            "there is no state `{name}`; there are: {}",
            STATES.map(|(_, name)| name).join(", ")
        )
    })
}

pub(super) fn coloured_state(state: TaskState, colour: Colour) -> String {
    let name = state_name(state);
    match state {
        TaskState::Succeeded => colour.good(name),
        TaskState::Failed | TaskState::Rejected | TaskState::Lost => colour.bad(name),
        TaskState::Cancelled | TaskState::TimedOut | TaskState::Expired => colour.careful(name),
        TaskState::Assigned | TaskState::Running => colour.active(name),
        TaskState::Queued | TaskState::Unspecified => colour.faint(name),
    }
}

pub(super) fn world_name(world: World) -> &'static str {
    match world {
        World::Unspecified => "not known yet",
        World::Unchanged => "unchanged",
        World::Changed => "changed",
        World::RolledBack => "rolledBack",
        World::RollbackFailed => "rollbackFailed",
        World::Unknown => "unknown",
    }
}

pub(super) fn world_sentence(world: World) -> &'static str {
    match world {
        World::Unspecified => "the task has not ended",
        World::Unchanged => "the task changed nothing",
        World::Changed => "what the task changed stays as it is",
        World::RolledBack => "what the task changed has been restored",
        World::RollbackFailed => "not everything could be restored",
        World::Unknown => "the outcome of a change is not known; a person must look",
    }
}

pub(super) fn step_name(status: StepStatus) -> &'static str {
    match status {
        StepStatus::Unspecified => "unknown",
        StepStatus::Pending => "pending",
        StepStatus::Running => "running",
        StepStatus::Succeeded => "succeeded",
        StepStatus::Failed => "failed",
        StepStatus::Skipped => "skipped",
        StepStatus::Undoing => "undoing",
        StepStatus::Undone => "undone",
        StepStatus::Interrupted => "interrupted",
    }
}

pub(super) fn step_mark(status: StepStatus, colour: Colour) -> String {
    match status {
        StepStatus::Pending | StepStatus::Unspecified => colour.faint("·"),
        StepStatus::Running => colour.active("▸"),
        StepStatus::Succeeded => colour.good("✓"),
        StepStatus::Failed => colour.bad("✗"),
        StepStatus::Skipped => colour.faint("−"),
        StepStatus::Undoing => colour.careful("↶"),
        StepStatus::Undone => colour.careful("↺"),
        StepStatus::Interrupted => colour.careful("■"),
    }
}

/// Has the task ended?
pub(crate) fn ended(task: &v1::Task) -> bool {
    task.result.is_some()
        || matches!(
            task.state(),
            TaskState::Succeeded
                | TaskState::Failed
                | TaskState::Cancelled
                | TaskState::TimedOut
                | TaskState::Expired
                | TaskState::Rejected
        )
}

/// A length of time in milliseconds, in two units at most.
pub(crate) fn since(milliseconds: i64) -> String {
    let milliseconds = milliseconds.max(0);
    let seconds = milliseconds / 1_000;
    match seconds {
        0 => format!("{milliseconds}ms"),
        1..10 => format!("{}.{}s", seconds, milliseconds % 1_000 / 100),
        10..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// A time, Unix milliseconds, for people: UTC, to the second.
pub(crate) fn moment(unix_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(unix_ms).map_or_else(
        |_| "at a time beyond all calendars".to_owned(),
        |at| at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
    )
}

/// A beginning of a task id that is short and in practice unique: its time in milliseconds.
pub(crate) fn short_id(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

pub(super) fn count(number: usize, noun: &str) -> String {
    if number == 1 {
        format!("1 {noun}")
    } else {
        format!("{number} {noun}s")
    }
}

/// Text from elsewhere on a terminal: no escape sequences, no control characters but tabs.
pub(crate) fn safe(text: &str) -> String {
    let plain = anstream::adapter::strip_str(text).to_string();
    plain
        .chars()
        .filter(|c| *c == '\t' || !c.is_control())
        .filter(|c| !matches!(*c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
        .collect()
}
