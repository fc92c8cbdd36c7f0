//! Blobs up and down: shared by `Agent.PutBlob`, `Agent.FetchBlob` and `Tasks.PutBundle`.

use bytes::Bytes;
use deputy_proto::v1;
use deputy_proto::version::MAX_BLOB_FRAME_BYTES;
use deputy_task::id::Project;
use futures::stream;
use tonic::Status;

use super::context::{Answers, Context, project_of, refused};
use crate::blob_store::{BlobError, BlobWriter};
use crate::store::op::Op;

/// A blob on its way in.
pub(super) struct Upload {
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
    pub(super) async fn begin(context: &Context, project: &str, sha256: &str) -> Result<Self, Status> {
        let project = project_of(project)?;
        let (blobs, of, name) = (context.blobs.clone(), project.clone(), sha256.to_owned());
        let writer = blocking(move || blobs.begin(&of, &name)).await?;
        Ok(Self {
            context: context.clone(),
            project,
            sha256: sha256.into(),
            writer,
        })
    }

    pub(super) async fn push(&mut self, data: Bytes) -> Result<(), Status> {
        // At most 256 KiB into the page cache: shorter than a change of threads.
        self.writer.push(&data).map_err(status)
    }

    pub(super) async fn finish(self) -> Result<u64, Status> {
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
