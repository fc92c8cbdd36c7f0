//! What is big and may wait: blobs to fetch, log bytes to upload. Runs on the agent's ordinary
//! runtime, over TCP connections of its own, so that it can never delay a heartbeat or a journal
//! frame. Spawned and joined by the agent's supervisor.

use std::collections::HashMap;
use std::future::Future;

use deputy_logs::Spool;
use deputy_task::message::{Command, RequestId};
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinSet};
use tracing::error;

use crate::blob_fetch;
use crate::config::SessionConfig;
use crate::log_upload;
use crate::token_request;

pub use crate::blob_fetch::BlobRequest;
pub use crate::log_upload::Finish;
pub use crate::token_request::TokenRequest;

/// Blobs fetched at the same time; more requests wait in their channel.
const MAX_FETCHES: usize = 4;
/// Tokens asked for at the same time.
const MAX_MINTS: usize = 8;

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
    let mut fetches = Fetches::default();
    loop {
        tokio::select! {
            request = requests.recv(), if fetches.going_on.len() < MAX_FETCHES => {
                let Some(request) = request else { return };
                let config = config.clone();
                fetches.begin(request.id, async move { blob_fetch::fetch(&config, &request).await });
            }
            Some(answer) = fetches.next() => {
                if commands.send(answer).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Answers token requests until the session drops its end of the channel. They have a way of their own: a role's
/// session must not wait behind a bundle.
pub async fn mint_tokens(
    config: SessionConfig,
    mut requests: mpsc::Receiver<TokenRequest>,
    commands: mpsc::Sender<Command>,
) {
    let mut going_on = JoinSet::new();
    loop {
        tokio::select! {
            request = requests.recv(), if going_on.len() < MAX_MINTS => {
                let Some(request) = request else { return };
                let (config, commands) = (config.clone(), commands.clone());
                going_on.spawn(async move {
                    let result = token_request::mint(&config, &request).await;
                    // An executor that has ended needs no answers.
                    drop(commands.send(Command::TokenMinted { id: request.id, result }).await);
                });
            }
            Some(ended) = going_on.join_next() => {
                if let Err(broken) = ended {
                    error!(%broken, "asking for a token broke");
                }
            }
        }
    }
}

/// The fetches that go on, each with the request that it answers.
#[derive(Default)]
struct Fetches {
    going_on: JoinSet<Result<(), String>>,
    requests: HashMap<Id, RequestId>,
}

impl Fetches {
    fn begin(&mut self, request: RequestId, fetch: impl Future<Output = Result<(), String>> + Send + 'static) {
        let begun = self.going_on.spawn(fetch);
        self.requests.insert(begun.id(), request);
    }

    /// The next answer; none if nothing goes on. Every request gets one, also where its fetch panicked. Cancel-safe.
    async fn next(&mut self) -> Option<Command> {
        loop {
            let (fetch, result) = match self.going_on.join_next_with_id().await? {
                Ok(ended) => ended,
                Err(broken) => {
                    error!(%broken, "a fetch broke");
                    (broken.id(), Err("fetching it failed inside the agent".to_owned()))
                }
            };
            if let Some(id) = self.requests.remove(&fetch) {
                return Some(Command::BlobFetched { id, result });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_fetch_that_panics_is_answered_like_any_other() {
        let mut fetches = Fetches::default();
        assert!(fetches.next().await.is_none());
        fetches.begin(7, async { panic!("the test says so") });
        match fetches.next().await {
            Some(Command::BlobFetched {
                id: 7,
                result: Err(why),
            }) => {
                assert!(why.contains("inside the agent"), "{why}");
            }
            other => panic!("{other:?}"),
        }
        fetches.begin(8, async { Ok(()) });
        assert!(matches!(
            fetches.next().await,
            Some(Command::BlobFetched { id: 8, result: Ok(()) })
        ));
    }
}
