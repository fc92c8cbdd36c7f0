//! Tasks as people see them: stored rows become wire messages here.

use deputy_proto::v1;
use deputy_task::outcome::Outcome;
use deputy_task::state::TaskState;
use prost::Message;

use crate::store::clock::StoreTime;
use crate::store::contract::{LogStreamRow, TaskRow};
use crate::store::event::Event;
use crate::store::task::TaskHead;

pub(super) fn state(state: TaskState) -> v1::TaskState {
    match state {
        TaskState::Queued => v1::TaskState::Queued,
        TaskState::Assigned => v1::TaskState::Assigned,
        TaskState::Running => v1::TaskState::Running,
        TaskState::Lost => v1::TaskState::Lost,
        TaskState::Ended(Outcome::Succeeded) => v1::TaskState::Succeeded,
        TaskState::Ended(Outcome::Failed) => v1::TaskState::Failed,
        TaskState::Ended(Outcome::Cancelled) => v1::TaskState::Cancelled,
        TaskState::Ended(Outcome::TimedOut) => v1::TaskState::TimedOut,
        TaskState::Ended(Outcome::Expired) => v1::TaskState::Expired,
        TaskState::Ended(Outcome::Rejected) => v1::TaskState::Rejected,
    }
}

/// A wire state as ours; `None` for one that is not known.
pub(super) fn known_state(wire: i32) -> Option<TaskState> {
    TaskState::ALL.into_iter().find(|ours| state(*ours) as i32 == wire)
}

/// How complete the log of the newest run is.
pub(super) fn log_state(head: &TaskHead, streams: &[LogStreamRow]) -> v1::LogState {
    let mut of_run = streams.iter().filter(|stream| stream.run == head.run).peekable();
    if of_run.peek().is_none() {
        return v1::LogState::Unspecified;
    }
    if of_run.all(|stream| stream.complete) && head.state.is_ended() {
        v1::LogState::Complete
    } else if head.state.is_ended() {
        v1::LogState::Incomplete
    } else {
        v1::LogState::Streaming
    }
}

/// A task with its steps as last heard.
pub(super) fn task(
    row: &TaskRow,
    streams: &[LogStreamRow],
    progress: Vec<v1::StepProgress>,
    now: StoreTime,
) -> v1::Task {
    let TaskRow { spec, head } = row;
    let result = head
        .state
        .is_ended()
        .then(|| v1::Result::decode(head.result.clone()).unwrap_or_default());
    let steps = match &result {
        Some(result) if !result.steps.is_empty() => result.steps.clone(),
        Some(_) | None => progress,
    };
    v1::Task {
        project: spec.key.project.to_string(),
        task_id: spec.key.task.to_string(),
        name: spec.name.clone(),
        labels: spec.labels.clone().into_iter().collect(),
        state: state(head.state).into(),
        condition: head.condition.clone(),
        run: head.run,
        epoch: head.epoch,
        agent_id: head.agent.as_ref().map_or_else(String::new, ToString::to_string),
        submitter: spec.submitter.clone(),
        submitted_at_ms: spec.submitted_at.millis(),
        started_at_ms: head.started_at.millis(),
        finished_at_ms: head.finished_at.millis(),
        steps,
        result,
        log_state: log_state(head, streams).into(),
        cancel_reason: head.cancel.clone(),
        exclusive_key: spec.exclusive_key.clone(),
        server_time_ms: now.millis(),
    }
}

/// The task as it was right after an event: what the event says wins over what is known now, and
/// what came later than the event, up to the task's newest revision, is not shown.
pub(super) fn task_after(event: &Event, newest: u64, mut task: v1::Task) -> v1::Task {
    let same_run = event.run == task.run;
    // After its end nothing about a run changes any more.
    if event.revision < newest && !(same_run && event.state.is_ended()) {
        task.steps.clear();
        task.started_at_ms = 0;
        task.log_state = v1::LogState::Unspecified.into();
    }
    task.state = state(event.state).into();
    task.run = event.run;
    task.epoch = event.epoch;
    task.agent_id = event.agent.as_ref().map_or_else(String::new, ToString::to_string);
    task.condition.clone_from(&event.condition);
    if !event.state.is_ended() || !same_run {
        task.result = None;
        task.finished_at_ms = 0;
    }
    task
}
