//! Brings a blob to a file, over a connection that carries nothing else, and goes on where it was
//! when the connection breaks. Whoever asked checks the content's digest.

use std::path::{Path, PathBuf};

use deputy_proto::v1;
use deputy_proto::v1::agent_client::AgentClient;
use deputy_task::attempt::AttemptRef;
use deputy_task::message::{BlobRef, RequestId};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::io::AsyncWriteExt;

use crate::backoff::Retry;
use crate::config::SessionConfig;
use crate::dial;

/// Connection attempts without a byte of progress before the request is answered with an error.
/// With the default backoff this is several minutes; the task's own timeout usually ends it first.
const MAX_FRUITLESS_TRIES: u32 = 12;

/// A blob that the executor wants in a file.
#[derive(Debug)]
pub struct BlobRequest {
    pub(crate) id: RequestId,
    pub(crate) attempt: AttemptRef,
    pub(crate) blob: BlobRef,
    pub(crate) path: PathBuf,
}

/// Why a blob did not arrive.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    /// Tried again.
    #[error("{0}")]
    Connection(String),
    /// Not tried again: the manager does not have it, or it is another one.
    #[error("{0}")]
    Refused(String),
    /// Not tried again: the file cannot be written.
    #[error("cannot write {}: {reason}", path.display())]
    File { path: PathBuf, reason: String },
}

/// Fetches until the file is complete. The error is for people.
pub(crate) async fn fetch(config: &SessionConfig, request: &BlobRequest) -> Result<(), String> {
    let mut retry = Retry::new(config.backoff);
    let mut rng = SmallRng::from_os_rng();
    let mut written = 0;
    let mut fruitless = 0;
    let mut file = create(&request.path).await.map_err(|error| error.to_string())?;
    loop {
        let before = written;
        let Err(error) = fetch_on(config, request, &mut file, &mut written).await else {
            return Ok(());
        };
        if written > before {
            retry.reset();
            fruitless = 0;
        }
        fruitless += 1;
        if !matches!(error, FetchError::Connection(_)) || fruitless >= MAX_FRUITLESS_TRIES {
            return Err(format!("bundle {} could not be fetched: {error}", request.blob.sha256));
        }
        tokio::time::sleep(retry.next(&mut rng)).await;
    }
}

async fn create(path: &Path) -> Result<tokio::fs::File, FetchError> {
    let opened = tokio::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .await;
    opened.map_err(|error| FetchError::File {
        path: path.into(),
        reason: error.to_string(),
    })
}

async fn fetch_on(
    config: &SessionConfig,
    request: &BlobRequest,
    file: &mut tokio::fs::File,
    written: &mut u64,
) -> Result<(), FetchError> {
    let blob = &request.blob;
    let channel = dial::connect(config)
        .await
        .map_err(|error| FetchError::Connection(error.to_string()))?;
    let ask = v1::FetchBlobRequest {
        project: request.attempt.project.as_str().to_owned(),
        sha256: blob.sha256.clone(),
        offset: *written,
    };
    let answer = AgentClient::new(channel).fetch_blob(ask).await;
    let mut pieces = answer.map_err(|status| refused(&status))?.into_inner();
    // A manager that stops sending without closing is a broken connection too.
    while let Some(piece) = tokio::time::timeout(config.connect_timeout, pieces.message())
        .await
        .map_err(|_| FetchError::Connection("the manager stopped sending".into()))?
        .map_err(|status| refused(&status))?
    {
        *written += u64::try_from(piece.data.len()).unwrap_or(u64::MAX);
        if *written > blob.size_bytes {
            return Err(FetchError::Refused(format!(
                "it is longer than the {} bytes announced",
                blob.size_bytes
            )));
        }
        let wrote = file.write_all(&piece.data).await;
        wrote.map_err(|error| FetchError::File {
            path: request.path.clone(),
            reason: error.to_string(),
        })?;
    }
    if *written < blob.size_bytes {
        return Err(FetchError::Connection(format!(
            "it ended after {written} of {} bytes",
            blob.size_bytes
        )));
    }
    let flushed = file.flush().await;
    flushed.map_err(|error| FetchError::File {
        path: request.path.clone(),
        reason: error.to_string(),
    })
}

/// Only NOT_FOUND and OUT_OF_RANGE are believed: any other code can come from a proxy.
fn refused(status: &tonic::Status) -> FetchError {
    match status.code() {
        tonic::Code::NotFound => FetchError::Refused("the manager does not have it".into()),
        tonic::Code::OutOfRange => FetchError::Refused(status.message().to_owned()),
        code => FetchError::Connection(format!("{code:?}: {}", status.message())),
    }
}
