//! A source from a git repository: one commit, without its history, without submodules, hooks and filters, and without
//! `.git`. The commit is a fact; the files are those of that commit and of nothing else.

use std::fs;
use std::path::Path;

use deputy_task::document::origin::{GitRef, GitSource, url_problem};
use deputy_task::outcome::Failure;
use serde::{Deserialize, Serialize};

use super::access::Access;
use super::git_program::Git;
use super::git_subfolder;
use super::git_tree::{self, TreeProblem};
use super::git_words::{self, no_room, shown};
use super::limits::SourceLimits;
use crate::context::StepContext;
use crate::failure::{Halt, StepError};

/// Which commit was fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Fetched {
    commit: String,
}

/// Fetches a source into `folder`, which must not exist.
///
/// # Errors
/// If it cannot be fetched, is too large, or is not what may be a source; or a halt.
pub async fn fetch(
    ctx: &StepContext,
    name: &str,
    source: &GitSource,
    folder: &Path,
    limits: SourceLimits,
) -> Result<(), StepError> {
    check(name, source)?;
    let fact = format!("source/{name}");
    let recorded: Option<Fetched> = ctx.recorded(&fact)?;
    if let Some(fetched) = &recorded {
        believe(name, &source.reference, &fetched.commit)?;
    }
    // What is shown to the server lies here too: no other program of the task may find it.
    let place = tempfile::Builder::new()
        .prefix("git-")
        .tempdir_in(ctx.aside().await?)
        .map_err(|error| no_room(name, &error))?;
    let access = Access::open(ctx, name, source, place.path()).await?;
    let domain = ctx.host().domain().await?.map(|domain| domain.instead(place.path()));
    let git = Git::new((ctx, name), place.path(), access, (domain, limits))?;
    git.said(&["init", "--quiet", "--template=", "repository"]).await?;

    let wanted = match (&recorded, &source.reference) {
        (Some(fetched), _) => fetched.commit.clone(),
        (None, GitRef::Branch(branch)) => format!("refs/heads/{branch}"),
        (None, GitRef::Tag(tag)) => format!("refs/tags/{tag}"),
        (None, GitRef::Commit(commit)) => commit.clone(),
    };
    ctx.narrate(format_args!(
        "source {name}: fetching {} of {}",
        shown(&source.reference),
        source.url
    ));
    let arguments = [
        "fetch",
        "--quiet",
        "--depth=1",
        "--no-tags",
        "--no-recurse-submodules",
        "--",
        source.url.as_str(),
        wanted.as_str(),
    ];
    let fetched = git.run(&arguments, Some(limits.bytes)).await?;
    if !fetched.exit.succeeded() {
        let known = recorded.as_ref().map(|fetched| fetched.commit.as_str());
        return Err(git_words::explain(name, source, known, &fetched.stderr).into());
    }
    let commit = git.said(&["rev-parse", "--verify", "FETCH_HEAD^{commit}"]).await?;
    let commit = commit.trim().to_owned();
    if let (GitRef::Commit(asked), None) = (&source.reference, &recorded)
        && *asked != commit
    {
        let failure = Failure::new(
            "source.otherCommit",
            format!("source {name}: the server gave commit {commit} for {asked}"),
        );
        return Err(failure.hint("name the hash of a commit, not that of a tag").into());
    }
    let fetched: Fetched = ctx.fact(&fact, async || Ok(Fetched { commit: commit.clone() })).await?;
    check_out(&git, name, source, &fetched.commit, (folder, limits)).await
}

/// What is recorded is a commit, and the one that the document fixes if it fixes one.
fn believe(name: &str, reference: &GitRef, recorded: &str) -> Result<(), Halt> {
    let other = matches!(reference, GitRef::Commit(asked) if asked != recorded);
    if other || GitRef::Commit(recorded.to_owned()).problem().is_some() {
        let recorded: String = recorded.chars().take(80).collect();
        let asked = shown(reference);
        let what = format!("it says that source {name}, {asked}, was fetched as commit {recorded}");
        return Err(Halt::Forged(what));
    }
    Ok(())
}

async fn check_out(
    git: &Git<'_>,
    name: &str,
    source: &GitSource,
    commit: &str,
    (folder, limits): (&Path, SourceLimits),
) -> Result<(), StepError> {
    let within = source.subfolder.as_deref().unwrap_or(".");
    let object = git_subfolder::tree_of(git, name, commit, within).await?;
    let listed = git.said(&["ls-tree", "-r", "-l", "-z", &object]).await?;
    let tree = git_tree::read(&listed).map_err(|problem| problem.told(name))?;
    let problem = if tree.files == 0 {
        Some(TreeProblem::Empty {
            within: within.to_owned(),
        })
    } else if tree.entries() > limits.entries {
        Some(TreeProblem::TooMany {
            entries: tree.entries(),
            limit: limits.entries,
        })
    } else if tree.bytes > limits.bytes {
        Some(TreeProblem::TooLarge {
            bytes: tree.bytes,
            limit: limits.bytes,
        })
    } else {
        None
    };
    if let Some(problem) = problem {
        return Err(problem.told(name).into());
    }
    let out = git.folder().join("files");
    fs::create_dir(&out).map_err(|error| no_room(name, &error))?;
    git.said(&[
        "--work-tree=../files",
        "checkout",
        "--quiet",
        "--force",
        &object,
        "--",
        ".",
    ])
    .await?;
    let checked = out.clone();
    tokio::task::spawn_blocking(move || git_tree::check_links(&checked))
        .await
        .map_err(|_| {
            Failure::new(
                "source.refused",
                format!("looking through source {name} failed inside the agent"),
            )
        })?
        .map_err(|problem| problem.told(name))?;
    fs::rename(&out, folder).map_err(|error| no_room(name, &error))?;
    git.narrate(&tree.summary(commit));
    Ok(())
}

/// Again at the agent: the document may have come another way.
fn check(name: &str, source: &GitSource) -> Result<(), Failure> {
    let bad = |what: &str, problem: &str| {
        Failure::new("source.refused", format!("source {name}: {what} {problem}")).hint("correct spec.sources")
    };
    if let Some(problem) = url_problem(&source.url) {
        return Err(bad("its url", problem));
    }
    if let Some(problem) = source.reference.problem() {
        return Err(bad(&format!("`{}`", source.reference.text()), problem));
    }
    let leaves = |path: &str| path.starts_with('/') || path.split('/').any(|part| matches!(part, ".." | ".git"));
    match &source.subfolder {
        Some(path) if leaves(path) || path.is_empty() => Err(bad("its subfolder", "is no folder within it")),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_commit_is_one_and_does_not_override_the_one_that_the_document_fixes() {
        let (one, other) = ("1a".repeat(20), "2b".repeat(20));
        let commit = GitRef::Commit(one.clone());
        let branch = GitRef::Branch("main".into());
        assert!(believe("app", &commit, &one).is_ok() && believe("app", &branch, &other).is_ok());
        for (reference, recorded) in [
            (&commit, other.as_str()),
            (&commit, ""),
            (&branch, "--output=/etc/x"),
            (&branch, "refs/heads/evil"),
        ] {
            let forged = believe("app", reference, recorded).expect_err("forged");
            assert!(
                matches!(&forged, Halt::Forged(what) if what.contains("source app")),
                "{forged}"
            );
        }
    }
}
