//! How values of ours are written in rows, and read back.

use bytes::Bytes;
use deputy_proto::v1;
use deputy_task::attempt::{Epoch, Run};
use deputy_task::document::OnAgentLoss;
use deputy_task::outcome::Outcome;
use deputy_task::state::TaskState;
use rusqlite::Row;
use rusqlite::types::ValueRef;

use crate::store::clock::StoreTime;
use crate::store::contract::StoreError;
use crate::store::task::{Resolve, TaskHead};

/// The columns of a head, in the order of [`head`], after `project, task`.
pub(super) const HEAD: &str = "state, run, epoch, agent, instance, condition, cancel, revision, queued_at, started_at, finished_at, deadline_at, resolve, result, losses";

pub(super) fn state_code(state: TaskState) -> i64 {
    let code = match state {
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
    };
    i64::from(code as i32)
}

pub(super) fn state(code: i64) -> Result<TaskState, StoreError> {
    TaskState::ALL
        .into_iter()
        .find(|state| state_code(*state) == code)
        .ok_or_else(|| corrupt("state", code))
}

pub(super) fn resolve_code(resolve: Option<Resolve>) -> i64 {
    match resolve {
        None => 0,
        Some(Resolve::Resume) => 1,
        Some(Resolve::Rollback) => 2,
    }
}

pub(super) fn on_agent_loss_code(policy: OnAgentLoss) -> &'static str {
    match policy {
        OnAgentLoss::Auto => "auto",
        OnAgentLoss::Resume => "resume",
        OnAgentLoss::Hold => "hold",
        OnAgentLoss::Rollback => "rollback",
    }
}

pub(super) fn on_agent_loss(text: &str) -> Result<OnAgentLoss, StoreError> {
    Ok(match text {
        "auto" => OnAgentLoss::Auto,
        "resume" => OnAgentLoss::Resume,
        "hold" => OnAgentLoss::Hold,
        "rollback" => OnAgentLoss::Rollback,
        _ => return Err(corrupt("onAgentLoss", text)),
    })
}

pub(super) fn corrupt(what: &'static str, value: impl ToString) -> StoreError {
    StoreError::Corrupt {
        what,
        value: value.to_string(),
    }
}

pub(super) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(row: &Row<'_>, column: usize) -> Result<u64, StoreError> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| corrupt("number", value))
}

pub(super) fn run(row: &Row<'_>, column: usize) -> Result<Run, StoreError> {
    let value: i64 = row.get(column)?;
    Run::try_from(value).map_err(|_| corrupt("run", value))
}

fn count(row: &Row<'_>, column: usize) -> Result<u32, StoreError> {
    let value: i64 = row.get(column)?;
    u32::try_from(value).map_err(|_| corrupt("count", value))
}

pub(super) fn time(row: &Row<'_>, column: usize) -> Result<StoreTime, StoreError> {
    Ok(StoreTime::from_millis(row.get(column)?))
}

pub(super) fn bytes(row: &Row<'_>, column: usize) -> Result<Bytes, StoreError> {
    Ok(match row.get_ref(column)? {
        ValueRef::Blob(blob) if !blob.is_empty() => Bytes::copy_from_slice(blob),
        ValueRef::Blob(_) | ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) | ValueRef::Text(_) => {
            Bytes::new()
        }
    })
}

pub(super) fn parsed<T: std::str::FromStr>(row: &Row<'_>, column: usize, what: &'static str) -> Result<T, StoreError> {
    let text = row.get_ref(column)?.as_str().map_err(|_| corrupt(what, "not text"))?;
    text.parse().map_err(|_| corrupt(what, text))
}

pub(super) fn parsed_opt<T: std::str::FromStr>(
    row: &Row<'_>,
    column: usize,
    what: &'static str,
) -> Result<Option<T>, StoreError> {
    match row.get_ref(column)? {
        ValueRef::Null => Ok(None),
        ValueRef::Blob(_) | ValueRef::Integer(_) | ValueRef::Real(_) | ValueRef::Text(_) => {
            parsed(row, column, what).map(Some)
        }
    }
}

/// A head whose columns begin at `first`.
pub(super) fn head(row: &Row<'_>, first: usize) -> Result<TaskHead, StoreError> {
    let epoch: Epoch = unsigned(row, first + 2)?;
    Ok(TaskHead {
        state: state(row.get(first)?)?,
        run: run(row, first + 1)?,
        epoch,
        agent: parsed_opt(row, first + 3, "agent id")?,
        instance: parsed_opt(row, first + 4, "instance id")?,
        condition: row.get(first + 5)?,
        cancel: row.get(first + 6)?,
        revision: unsigned(row, first + 7)?,
        queued_at: time(row, first + 8)?,
        started_at: time(row, first + 9)?,
        finished_at: time(row, first + 10)?,
        deadline_at: time(row, first + 11)?,
        resolve: match row.get::<_, i64>(first + 12)? {
            0 => None,
            1 => Some(Resolve::Resume),
            2 => Some(Resolve::Rollback),
            other => return Err(corrupt("resolution", other)),
        },
        result: bytes(row, first + 13)?,
        losses: count(row, first + 14)?,
    })
}
