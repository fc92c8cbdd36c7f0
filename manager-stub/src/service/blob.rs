//! Blobs up and down: shared by `Agent.PutBlob`, `Agent.FetchBlob` and `Tasks.PutBundle`.

use std::time::Duration;

use bytes::Bytes;
use deputy_proto::v1;
use deputy_proto::version::MAX_BLOB_FRAME_BYTES;
use deputy_task::id::Project;
use futures::stream;
use tonic::{Status, Streaming};

use super::context::{Answers, Context, project_of, refused};
use super::whose::has_task;
use crate::blob_store::{BlobError, BlobWriter};
use crate::store::contract::TaskRow;
use crate::store::op::Op;

/// A piece of a blob or a bundle; only the first one names it.
pub(super) struct Piece {
    project: String,
    sha256: String,
    data: Bytes,
}

impl From<v1::PutBlobRequest> for Piece {
    fn from(piece: v1::PutBlobRequest) -> Self {
        let v1::PutBlobRequest { project, sha256, data } = piece;
        Self { project, sha256, data }
    }
}

impl From<v1::PutBundleRequest> for Piece {
    fn from(piece: v1::PutBundleRequest) -> Self {
        let v1::PutBundleRequest { project, sha256, data } = piece;
        Self { project, sha256, data }
    }
}

/// Takes a whole upload and stores it; answers its size. A caller that stalls or never ends holds its place,
/// its file and its connection only until a deadline.
pub(super) async fn receive<P: Into<Piece>>(context: &Context, pieces: Streaming<P>) -> Result<u64, Status> {
    let _place = context.uploads.place().await?;
    let total = context.uploads.limits().total;
    let taken = tokio::time::timeout(total, take_all(context, pieces)).await;
    let upload = taken.map_err(|_| {
        Status::deadline_exceeded(format!("the upload took longer than {total:?}: nothing was stored"))
    })??;
    // Not cut short: it is bounded by the disk, and half of it would have to be done again.
    upload.finish().await
}

async fn take_all<P: Into<Piece>>(context: &Context, mut pieces: Streaming<P>) -> Result<Upload, Status> {
    let idle = context.uploads.limits().idle;
    let first = next(&mut pieces, idle)
        .await?
        .ok_or_else(|| Status::invalid_argument("the first frame names the blob"))?;
    let mut upload = Upload::begin(context, &first.project, &first.sha256).await?;
    upload.push(first.data).await?;
    while let Some(piece) = next(&mut pieces, idle).await? {
        upload.push(piece.data).await?;
    }
    Ok(upload)
}

async fn next<P: Into<Piece>>(pieces: &mut Streaming<P>, idle: Duration) -> Result<Option<Piece>, Status> {
    match tokio::time::timeout(idle, pieces.message()).await {
        Ok(piece) => Ok(piece?.map(Into::into)),
        Err(_) => Err(Status::deadline_exceeded(format!(
            "nothing of the upload came for {idle:?}: nothing was stored"
        ))),
    }
}

/// A blob on its way in.
struct Upload {
    context: Context,
    project: Project,
    sha256: String,
    writer: BlobWriter,
}

fn status(error: BlobError) -> Status {
    match error {
        BlobError::BadName(_) | BlobError::OtherContent { .. } | BlobError::TooLarge => {
            Status::invalid_argument(error.to_string())
        }
        BlobError::Io(io) if io.kind() == std::io::ErrorKind::StorageFull => {
            Status::resource_exhausted("the manager's disk is full: the blob was not stored")
        }
        BlobError::Io(io) if io.kind() == std::io::ErrorKind::NotFound => Status::not_found("there is no such blob"),
        BlobError::Io(_) => Status::unavailable(error.to_string()),
    }
}

/// Runs file work on a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Status::internal("a write of a blob panicked"))?
        .map_err(status)
}

impl Upload {
    async fn begin(context: &Context, project: &str, sha256: &str) -> Result<Self, Status> {
        let project = project_of(project)?;
        has_task(context, &project, "", |_| true).await?;
        let (blobs, of, name) = (context.blobs.clone(), project.clone(), sha256.to_owned());
        let writer = blocking(move || blobs.begin(&of, &name)).await?;
        Ok(Self {
            context: context.clone(),
            project,
            sha256: sha256.into(),
            writer,
        })
    }

    async fn push(&mut self, data: Bytes) -> Result<(), Status> {
        // At most 256 KiB into the page cache: shorter than a change of threads.
        self.writer.push(&data).map_err(status)
    }

    async fn finish(self) -> Result<u64, Status> {
        let Self {
            context,
            project,
            sha256,
            writer,
        } = self;
        let size_bytes = blocking(move || writer.finish()).await?;
        context
            .dispatcher
            .commit(vec![Op::PutBlob {
                project,
                sha256,
                size_bytes,
            }])
            .await
            .map_err(refused)?;
        Ok(size_bytes)
    }
}

/// Streams a blob from an offset on.
pub(super) async fn download(
    context: Context,
    request: v1::FetchBlobRequest,
) -> Result<Answers<v1::FetchBlobResponse>, Status> {
    let project = project_of(&request.project)?;
    let is_needed = |row: &TaskRow| row.spec.bundles.iter().any(|bundle| bundle.sha256 == request.sha256);
    has_task(&context, &project, " that needs this file", is_needed).await?;
    let (of, name) = (project.clone(), request.sha256.clone());
    if context.read(move |reads| reads.blob(&of, &name)).await?.is_none() {
        return Err(Status::not_found(format!(
            "project {project} has no blob {}",
            request.sha256
        )));
    }
    let begin = (context, project, request.sha256, request.offset);
    Ok(Box::pin(stream::try_unfold(
        begin,
        |(context, project, sha256, offset)| async move {
            let (blobs, of, name) = (context.blobs.clone(), project.clone(), sha256.clone());
            let data = blocking(move || blobs.read((&of, &name), offset, MAX_BLOB_FRAME_BYTES)).await?;
            if data.is_empty() {
                return Ok(None);
            }
            let next = offset + u64::try_from(data.len()).unwrap_or(0);
            Ok(Some((
                v1::FetchBlobResponse { data: data.into() },
                (context, project, sha256, next),
            )))
        },
    )))
}
