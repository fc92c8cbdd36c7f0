//! The two streams of the manager that can be resumed: events and log.

use deputy_proto::v1::{LogState, TailLogsRequest, TailLogsResponse, WatchRequest, WatchResponse};
use tonic::{Status, Streaming};

use super::resume::{Ended, Resumable};
use crate::client::Manager;
use crate::render::ended;

/// Events of one task, or of the whole project for an empty id.
pub(crate) struct Events {
    pub(crate) manager: Manager,
    pub(crate) task_id: String,
}

impl Resumable for Events {
    type Item = WatchResponse;
    type Answers = Streaming<WatchResponse>;

    async fn open(&self, cursor: String) -> Result<Streaming<WatchResponse>, Status> {
        let request = WatchRequest {
            project: self.manager.project.clone(),
            task_id: self.task_id.clone(),
            cursor,
        };
        self.manager
            .tasks()
            .watch(request)
            .await
            .map(tonic::Response::into_inner)
    }

    fn cursor(item: &WatchResponse) -> &str {
        &item.cursor
    }

    /// There is always a next event.
    async fn ended(&mut self) -> Result<Ended, Status> {
        Ok(Ended::Broken)
    }
}

/// The log of one task.
pub(crate) struct Log {
    pub(crate) manager: Manager,
    pub(crate) task_id: String,
    /// Its newest run, whose log it is.
    pub(crate) run: u32,
    pub(crate) reading: Reading,
}

/// How far a log is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// What the manager has now.
    WhatIsThere,
    /// Until the task has ended and its log is complete.
    ToTheEnd,
}

impl Resumable for Log {
    type Item = TailLogsResponse;
    type Answers = Streaming<TailLogsResponse>;

    async fn open(&self, cursor: String) -> Result<Streaming<TailLogsResponse>, Status> {
        let request = TailLogsRequest {
            project: self.manager.project.clone(),
            task_id: self.task_id.clone(),
            cursor,
            follow: self.reading == Reading::ToTheEnd,
        };
        self.manager
            .tasks()
            .tail_logs(request)
            .await
            .map(tonic::Response::into_inner)
    }

    fn cursor(item: &TailLogsResponse) -> &str {
        &item.cursor
    }

    /// A log that is followed has its end after that of the task.
    async fn ended(&mut self) -> Result<Ended, Status> {
        if self.reading == Reading::WhatIsThere {
            return Ok(Ended::AllWasSaid);
        }
        let Some(task) = self.manager.task(&self.task_id).await? else {
            return Ok(Ended::Broken);
        };
        if task.run != self.run {
            return Ok(Ended::AllWasSaid);
        }
        Ok(match (ended(&task), task.log_state()) {
            (false, _) => Ended::Broken,
            (true, LogState::Complete) => Ended::AllWasSaid,
            // The manager has waited for the rest long enough; what it has is asked for once more.
            (true, LogState::Unspecified | LogState::Streaming | LogState::Incomplete) => {
                self.reading = Reading::WhatIsThere;
                Ended::AskAgain
            }
        })
    }
}
