//! The two streams of the manager that can be resumed: events and log.

use deputy_proto::v1::{TailLogsRequest, TailLogsResponse, WatchRequest, WatchResponse};
use tonic::{Status, Streaming};

use super::resume::Resumable;
use crate::client::Manager;

/// Events of one task, or of the whole project for an empty id.
pub(crate) struct Events {
    pub(crate) manager: Manager,
    pub(crate) task_id: String,
}

impl Resumable for Events {
    type Item = WatchResponse;

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
}

/// The log of one task.
pub(crate) struct Log {
    pub(crate) manager: Manager,
    pub(crate) task_id: String,
    pub(crate) follow: bool,
}

impl Resumable for Log {
    type Item = TailLogsResponse;

    async fn open(&self, cursor: String) -> Result<Streaming<TailLogsResponse>, Status> {
        let request = TailLogsRequest {
            project: self.manager.project.clone(),
            task_id: self.task_id.clone(),
            cursor,
            follow: self.follow,
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
}
