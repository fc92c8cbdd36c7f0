//! What is big and may wait: blobs to fetch, log bytes to upload. Runs on the agent's ordinary
//! runtime, over TCP connections of its own, so that it can never delay a heartbeat or a journal
//! frame. Spawned and joined by the agent's supervisor.

use deputy_logs::Spool;
use deputy_task::message::Command;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::blob_fetch;
use crate::config::SessionConfig;
use crate::log_upload;

pub use crate::blob_fetch::BlobRequest;
pub use crate::log_upload::Finish;

/// Blobs fetched at the same time; more requests wait in their channel.
const MAX_FETCHES: usize = 4;

/// Uploads the spool until [`Finish::WhenEmpty`] and every log is complete at the manager.
pub async fn upload_logs(config: SessionConfig, spool: Spool, finish: watch::Receiver<Finish>) {
    log_upload::upload(config, spool, finish).await;
}

/// Answers blob requests until the session drops its end of the channel. Fetches still going on
/// then are dropped with it: nobody waits for them.
pub async fn fetch_blobs(
    config: SessionConfig,
    mut requests: mpsc::Receiver<BlobRequest>,
    commands: mpsc::Sender<Command>,
) {
    let mut fetches = JoinSet::new();
    loop {
        tokio::select! {
            request = requests.recv(), if fetches.len() < MAX_FETCHES => {
                let Some(request) = request else { return };
                let config = config.clone();
                fetches.spawn(async move {
                    let result = blob_fetch::fetch(&config, &request).await;
                    Command::BlobFetched { id: request.id, result }
                });
            }
            Some(fetched) = fetches.join_next() => {
                // A panic in a fetch leaves its request to the task's timeout.
                if let Ok(answer) = fetched && commands.send(answer).await.is_err() {
                    return;
                }
            }
        }
    }
}
