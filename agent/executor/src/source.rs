//! The folders of a task's sources, each made when a step first asks for it: a bundle that came with the task, or what
//! the agent fetches itself. Called by [`crate::host`].

use std::path::{Path, PathBuf};

use deputy_bundle::{BundleError, unpack, unpack_as};
use deputy_steps::context::StepContext;
use deputy_steps::failure::{Halt, StepError};
use deputy_steps::sources::limits::SourceLimits;
use deputy_steps::sources::{git, s3};
use deputy_task::document::origin::{S3Source, packing_of};
use deputy_task::document::{Source, SourceKind};
use deputy_task::id::StepName;
use deputy_task::outcome::Failure;
use tokio::task::JoinError;

use crate::attempt::Attempt;

/// The folder of a source. `ctx` is the task's own, in which what was fetched is recorded.
pub(crate) async fn folder_of(attempt: &Attempt, ctx: &StepContext, name: Option<&str>) -> Result<PathBuf, StepError> {
    let source = named(attempt, name)?;
    attempt.switch.started().await?;
    let mut sources = attempt.sources.lock().await;
    if let Some(folder) = sources.get(&source.name) {
        return Ok(folder.clone());
    }
    let folder = place_of(&attempt.workspace().await?, &source.name)?;
    match &source.kind {
        SourceKind::Bundle(_) => bundle(attempt, ctx, &source.name, &folder).await?,
        SourceKind::Git(git) => git::fetch(ctx, &source.name, git, &folder, limits(attempt)).await?,
        SourceKind::S3(object) => from_s3(attempt, ctx, (&source.name, object), &folder).await?,
    }
    sources.insert(source.name.clone(), folder.clone());
    Ok(folder)
}

/// One new name within the workspace, whatever a document calls its source.
fn place_of(workspace: &Path, name: &str) -> Result<PathBuf, Failure> {
    match name.parse::<StepName>() {
        Ok(name) => Ok(workspace.join(format!("source-{name}"))),
        Err(_) => {
            let shown: String = name.chars().take(60).collect();
            let failure = Failure::new("source.refused", format!("`{shown}` cannot be the name of a source"));
            Err(failure.hint("1 to 128 letters, digits, `.`, `_` or `-`, not beginning with `.` or `-`"))
        }
    }
}

/// Where the packed form of it is until it is unpacked: no script is to change it meanwhile.
async fn packed_aside(ctx: &StepContext, name: &str) -> Result<PathBuf, StepError> {
    Ok(ctx.aside().await?.join(packed_name(name)))
}

fn packed_name(name: &str) -> String {
    format!("packed-{name}")
}

fn limits(attempt: &Attempt) -> SourceLimits {
    let bundle = attempt.shared.config.bundle;
    SourceLimits {
        bytes: bundle.unpacked_bytes,
        entries: bundle.entries,
    }
}

fn named<'a>(attempt: &'a Attempt, name: Option<&str>) -> Result<&'a Source, Failure> {
    let sources = &attempt.document.spec.sources;
    let known = |name: &str| sources.iter().find(|source| source.name == name);
    match (name, sources.as_slice()) {
        (None, [only]) => Ok(only),
        (Some(name), _) => {
            known(name).ok_or_else(|| Failure::new("source.unknown", format!("the task has no source {name}")))
        }
        (None, []) => Err(Failure::new(
            "source.unknown",
            "the step needs a source and the task has none",
        )),
        (None, _) => Err(
            Failure::new("source.unknown", "the task has several sources and the step names none")
                .hint("add `source:` to the step"),
        ),
    }
}

async fn bundle(attempt: &Attempt, ctx: &StepContext, name: &str, folder: &Path) -> Result<(), StepError> {
    let blob = attempt.bundles.get(name).cloned().ok_or_else(|| {
        Failure::new(
            "source.missing",
            format!("the bundle of source {name} was not submitted with the task"),
        )
        .hint("submit the task with `deputy submit`, which packs the folder")
    })?;
    let packed = packed_aside(ctx, name).await?;
    let fetched = tokio::select! {
        fetched = attempt.shared.outbox.fetch(&attempt.reference, &blob, packed.clone()) => fetched,
        halt = attempt.switch.halted() => return Err(halt.into()),
    };
    fetched.map_err(|_| Halt::Stale)?.map_err(|why| {
        Failure::new(
            "source.fetch",
            format!("the bundle of source {name} cannot be fetched from the manager: {why}"),
        )
    })?;
    let (from, to, limits) = (packed.clone(), folder.to_owned(), attempt.shared.config.bundle);
    let unpacked = tokio::task::spawn_blocking(move || unpack(&from, &blob, &to, limits)).await;
    drop(tokio::fs::remove_file(&packed).await);
    told(name, unpacked, "pack it again with `deputy submit`")
}

async fn from_s3(
    attempt: &Attempt,
    ctx: &StepContext,
    (name, object): (&str, &S3Source),
    folder: &Path,
) -> Result<(), StepError> {
    let Some(packing) = packing_of(&object.key) else {
        let failure = Failure::new(
            "source.refused",
            format!("source {name}: it cannot be told from {} how it is packed", object.key),
        );
        return Err(failure.hint("names end with .tar.zst, .tzst or .tar").into());
    };
    let packed = packed_aside(ctx, name).await?;
    s3::fetch(ctx, name, object, &packed, limits(attempt)).await?;
    let (from, to, limits) = (packed.clone(), folder.to_owned(), attempt.shared.config.bundle);
    let unpacked = tokio::task::spawn_blocking(move || unpack_as(&from, packing, &to, limits)).await;
    drop(tokio::fs::remove_file(&packed).await);
    told(
        name,
        unpacked,
        "pack plain files and folders by relative names, for example `tar -C dir --zstd -cf app.tar.zst .`",
    )
}

fn told(name: &str, unpacked: Result<Result<(), BundleError>, JoinError>, hint: &str) -> Result<(), StepError> {
    match unpacked {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            let failure = Failure::new(
                "source.unpack",
                format!("the bundle of source {name} is refused: {error}"),
            );
            Err(failure.hint(hint).into())
        }
        Err(_panicked) => Err(Failure::new(
            "source.unpack",
            format!("unpacking the bundle of source {name} failed inside the agent"),
        )
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards that no name leads out of the workspace, even if a document got past its checks.
    #[test]
    fn a_source_has_one_place_within_the_workspace() {
        let workspace = Path::new("/workspaces/task-1");
        let folder = place_of(workspace, "app.v1").expect("a name");
        assert_eq!(folder, workspace.join("source-app.v1"));
        assert_eq!(packed_name("app.v1"), "packed-app.v1");
        for name in ["", "..", "/etc", "a/b", "x/../../../../home/agent/.ssh", "a\0b", ".x"] {
            let refused = place_of(workspace, name).expect_err(name);
            assert_eq!(refused.class, "source.refused");
        }
    }
}
