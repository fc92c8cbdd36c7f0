//! A source from S3: one version of one object, into a file. Who calls unpacks it. The version is a fact; where a bucket
//! keeps none, the entity tag is, and another one is told.

use std::path::Path;

use deputy_credentials::s3_object::{Object, ObjectAsked, ObjectError};
use deputy_task::document::origin::S3Source;
use deputy_task::outcome::Failure;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;

use super::git_words::no_room;
use super::limits::SourceLimits;
use crate::aws::explain::Asked;
use crate::context::StepContext;
use crate::failure::{Halt, StepError};

/// Which object was fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fetched {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    etag: Option<String>,
}

/// Fetches the object into `file`, which must not exist.
///
/// # Errors
/// If it is not there, may not be read, has changed since an earlier attempt, or is too large; or a halt.
pub async fn fetch(
    ctx: &StepContext,
    name: &str,
    source: &S3Source,
    file: &Path,
    limits: SourceLimits,
) -> Result<(), StepError> {
    let fact = format!("source/{name}");
    let recorded: Option<Fetched> = ctx.recorded(&fact)?;
    believe(name, source, recorded.as_ref())?;
    let identity = ctx.identity().await?;
    let version = recorded.as_ref().and_then(|fetched| fetched.version_id.as_deref());
    let etag = recorded.as_ref().and_then(|fetched| fetched.etag.as_deref());
    let asked = ObjectAsked {
        bucket: &source.bucket,
        key: &source.key,
        region: source.region.as_deref(),
        version_id: version.or(source.version_id.as_deref()),
        etag: etag.filter(|_| version.is_none()),
    };
    let on = format!("the object s3://{}/{}", source.bucket, source.key);
    ctx.narrate(format_args!("source {name}: fetching {on}"));
    let object = tokio::select! {
        halt = ctx.halted() => return Err(halt.into()),
        object = identity.s3_object(&asked) => object.map_err(|error| {
            let asked = Asked { action: "s3:GetObject", on: &on, identity: &identity };
            explain(name, &asked, &error, recorded.as_ref())
        })?,
    };
    let fetched = Fetched {
        version_id: object.version_id.clone(),
        etag: object.etag.clone(),
    };
    ctx.fact(&fact, async || Ok(fetched)).await?;
    let bytes = tokio::select! {
        halt = ctx.halted() => return Err(halt.into()),
        written = write(object, file, limits.bytes) => written.map_err(|error| error.told(name, &on))?,
    };
    ctx.narrate(format_args!("source {name}: {} KiB", bytes.div_ceil(1024)));
    Ok(())
}

/// What is recorded is the version that the document fixes, if it fixes one.
fn believe(name: &str, source: &S3Source, recorded: Option<&Fetched>) -> Result<(), Halt> {
    let read = recorded.and_then(|read| read.version_id.as_deref());
    match (source.version_id.as_deref(), read) {
        (Some(asked), Some(read)) if asked != read => Err(Halt::Forged(format!(
            "it says that version {read} of source {name} was fetched, and the document asks for {asked}"
        ))),
        _ => Ok(()),
    }
}

enum Unwritten {
    Disk(std::io::Error),
    BrokenOff(String),
    TooLarge(u64),
}

impl Unwritten {
    fn told(self, name: &str, on: &str) -> Failure {
        match self {
            Self::Disk(error) => no_room(name, &error),
            Self::BrokenOff(why) => Failure::new("source.unreachable", format!("source {name}: {on} broke off: {why}"))
                .hint("check the way from the agent to S3 (VPC endpoint, proxy), and run the task again"),
            Self::TooLarge(limit) => Failure::new(
                "source.refused",
                format!("source {name}: {on} has more than {limit} bytes"),
            )
            .hint("sources are for scripts and manifests; put large files where the step can fetch them"),
        }
    }
}

async fn write(mut object: Object, path: &Path, limit: u64) -> Result<u64, Unwritten> {
    let mut file = tokio::fs::File::create_new(path).await.map_err(Unwritten::Disk)?;
    let mut total = 0_u64;
    while let Some(bytes) = object.body.next().await {
        let bytes = bytes.map_err(|error| Unwritten::BrokenOff(error.to_string()))?;
        total = total.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        if total > limit {
            return Err(Unwritten::TooLarge(limit));
        }
        file.write_all(&bytes).await.map_err(Unwritten::Disk)?;
    }
    file.flush().await.map_err(Unwritten::Disk)?;
    Ok(total)
}

fn explain(name: &str, asked: &Asked<'_>, error: &ObjectError, read: Option<&Fetched>) -> Failure {
    let on = asked.on;
    let failure = match error {
        ObjectError::Credentials(error) => return error.failure(),
        ObjectError::Unaskable(why) => Failure::new("source.refused", format!("source {name}: {on} {why}"))
            .hint("correct `bucket`, `key` and `region` of the source"),
        ObjectError::NoAnswer(_) => Failure::new(
            "source.unreachable",
            format!("source {name}: {on} could not be fetched"),
        )
        .hint("check the way from the agent to S3 (VPC endpoint, proxy, DNS), and the source's region"),
        ObjectError::Refused { code, .. }
            if read.is_some() && matches!(code.as_str(), "PreconditionFailed" | "NoSuchKey" | "NoSuchVersion") =>
        {
            Failure::new(
                "source.gone",
                format!("source {name}: {on} is not the one any more that an earlier attempt of this run had fetched"),
            )
            .hint("`deputy retry` begins a new run with what there is now; a bucket that keeps versions keeps them")
        }
        ObjectError::Refused { code, message, .. }
            if matches!(code.as_str(), "NoSuchKey" | "NoSuchBucket" | "NoSuchVersion") =>
        {
            Failure::new(
                "source.notFound",
                format!("source {name}: {on} does not exist: {message}"),
            )
            .hint("check `bucket`, `key` and `versionId` of the source")
        }
        ObjectError::Refused { status, code, message }
            if matches!(status, 301 | 307 | 400) && message.contains("the bucket is in") =>
        {
            Failure::new(
                "source.notFound",
                format!("source {name}: {on} was asked for in the wrong region ({code}): {message}"),
            )
            .hint("set `region` of the source")
        }
        ObjectError::Refused { code, message, .. } => {
            let mut failure = asked.refusal(code, message);
            failure.summary = format!("source {name}: {}", failure.summary);
            failure
        }
    };
    failure.caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_version_does_not_override_the_one_that_the_document_fixes() {
        let source = |version: Option<&str>| S3Source {
            bucket: "artefacts".into(),
            key: "app.tar".into(),
            version_id: version.map(str::to_owned),
            region: None,
        };
        let read = |version: Option<&str>| Fetched {
            version_id: version.map(str::to_owned),
            etag: None,
        };
        let forged = believe("app", &source(Some("v1")), Some(&read(Some("v2")))).expect_err("another version");
        assert!(
            matches!(&forged, Halt::Forged(what) if what.contains("version v2 of source app")),
            "{forged}"
        );
        for (asked, recorded) in [
            (Some("v1"), Some(read(Some("v1")))),
            (Some("v1"), Some(read(None))),
            (Some("v1"), None),
            (None, Some(read(Some("v2")))),
        ] {
            assert!(believe("app", &source(asked), recorded.as_ref()).is_ok());
        }
    }
}
