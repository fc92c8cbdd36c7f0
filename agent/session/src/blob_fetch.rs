//! Brings a blob to a file, over a connection that carries nothing else, and goes on where it was
//! when the connection breaks. Whoever asked checks the content's digest.

use std::path::{Path, PathBuf};
use std::time::Duration;

use deputy_proto::v1;
use deputy_task::attempt::AttemptRef;
use deputy_task::message::{BlobRef, RequestId};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout, timeout_at};

use crate::backoff::Retry;
use crate::config::SessionConfig;
use crate::dial;

/// Connection attempts without a byte of progress before the request is answered with an error.
/// With the default backoff this is several minutes; the task's own timeout usually ends it first.
const MAX_FRUITLESS_TRIES: u32 = 12;

/// From the request to its answer, whatever the manager does: a bundle of the largest size that is submitted
/// (64 MiB) needs no more over 300 kbit/s. Whoever waits behind a manager that sends a byte now and then must not
/// wait for ever.
const DEADLINE: Duration = Duration::from_secs(30 * 60);

/// A blob that the executor wants in a file.
#[derive(Debug)]
pub struct BlobRequest {
    pub(crate) id: RequestId,
    pub(crate) attempt: AttemptRef,
    pub(crate) blob: BlobRef,
    pub(crate) path: PathBuf,
    /// When it is answered at the latest.
    pub(crate) deadline: Instant,
}

impl BlobRequest {
    /// The deadline of a request that is made now.
    pub(crate) fn deadline() -> Instant {
        Instant::now() + DEADLINE
    }
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

/// Fetches until the file is complete or the request's deadline is over. The error is for people.
pub(crate) async fn fetch(config: &SessionConfig, request: &BlobRequest) -> Result<(), String> {
    let fetched = timeout_at(request.deadline, fetch_with_patience(config, request)).await;
    fetched.unwrap_or_else(|_| {
        Err(format!(
            "bundle {} did not arrive in time: the manager is too slow, or too many bundles are fetched at the same time",
            request.blob.sha256
        ))
    })
}

async fn fetch_with_patience(config: &SessionConfig, request: &BlobRequest) -> Result<(), String> {
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
    let mut client = dial::connect(config)
        .await
        .map_err(|error| FetchError::Connection(error.to_string()))?;
    let ask = v1::FetchBlobRequest {
        project: request.attempt.project.as_str().to_owned(),
        sha256: blob.sha256.clone(),
        offset: *written,
    };
    let answer = timeout(config.connect_timeout, client.fetch_blob(ask)).await;
    let answer =
        answer.map_err(|_| FetchError::Connection(format!("no answer within {:?}", config.connect_timeout)))?;
    let mut pieces = answer.map_err(|status| refused(&status))?.into_inner();
    // A manager that stops sending without closing is a broken connection too.
    while let Some(piece) = timeout(config.connect_timeout, pieces.message())
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

#[cfg(test)]
mod tests {
    use deputy_task::id::Project;

    use super::*;
    use crate::backoff::Backoff;

    /// Connects and never says a word.
    async fn mute() -> (tokio::net::TcpListener, SessionConfig) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("address");
        let (manager, membership) = crate::scripted_manager::in_the_clear(address);
        let config = SessionConfig {
            manager,
            membership,
            agent_id: "agent".parse().expect("id"),
            instance_id: "instance".parse().expect("id"),
            version: "0".into(),
            backoff: Backoff::new(Duration::from_millis(1), Duration::from_millis(2)).expect("good"),
            connect_timeout: Duration::from_millis(20),
        };
        (listener, config)
    }

    fn request(folder: &Path, deadline: Instant) -> BlobRequest {
        BlobRequest {
            id: 1,
            attempt: AttemptRef {
                project: Project::default_project(),
                task: "t1".parse().expect("id"),
                run: 1,
                epoch: 1,
            },
            blob: BlobRef {
                sha256: "00".into(),
                size_bytes: 1,
            },
            path: folder.join("packed"),
            deadline,
        }
    }

    #[tokio::test]
    async fn a_manager_that_takes_the_call_and_never_answers_is_given_up() {
        let folder = tempfile::tempdir().expect("folder");
        let (_listener, config) = mute().await;
        let request = request(folder.path(), BlobRequest::deadline());
        let fetched = timeout(Duration::from_secs(8), fetch(&config, &request)).await;
        let error = fetched.expect("not for ever").expect_err("nothing came");
        assert!(error.contains("no answer within"), "{error}");
    }

    #[tokio::test]
    async fn a_fetch_ends_with_its_deadline_whatever_the_manager_does() {
        let folder = tempfile::tempdir().expect("folder");
        let (_listener, config) = mute().await;
        let config = SessionConfig {
            connect_timeout: Duration::from_secs(60),
            ..config
        };
        let request = request(folder.path(), Instant::now() + Duration::from_millis(100));
        let fetched = timeout(Duration::from_secs(8), fetch(&config, &request)).await;
        let error = fetched.expect("not for ever").expect_err("nothing came");
        assert!(error.contains("did not arrive in time"), "{error}");
    }
}
