//! Makes sure that tools are there, in the foreground or beside other work.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow};
use rustix::fs::{FlockOperation, flock};

use super::install::{Install, MARKER};
use super::manifest::{self, Programs};
use super::prerequisite;
use super::progress::{Line, Progress};
use super::recipe::{Half, TOOLS, Tool};

/// Tools that are being made beside other work.
pub(crate) struct Background {
    failed: Arc<AtomicBool>,
    thread: JoinHandle<Result<Programs>>,
}

/// How things stand with one tool.
pub(crate) struct Standing {
    /// The tool.
    pub(crate) tool: &'static Tool,
    /// Where it is or will be.
    pub(crate) folder: PathBuf,
    /// Made by the recipe of this checkout.
    pub(crate) ready: bool,
}

impl Background {
    /// Whether it has ended without all tools.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Waits for the end.
    pub(crate) fn wait(self) -> Result<Programs> {
        self.thread
            .join()
            .map_err(|_| anyhow!("the thread that makes tools panicked"))?
    }
}

/// Everything that tests use, as far as this machine can have it: an image is for root with debootstrap. With
/// `CI=true` nothing is left out.
pub(crate) fn everything() -> &'static [Half] {
    let in_ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
    if in_ci || prerequisite::debootstrap().is_ok() {
        &[Half::Aws, Half::Kubernetes, Half::Image]
    } else {
        &[Half::Aws, Half::Kubernetes]
    }
}

/// Makes sure that the tools of these halves are there; says how it goes on standard error.
pub(crate) fn ensure(root: &Path, halves: &[Half]) -> Result<Programs> {
    ensure_with(root, halves, &Line::new())
}

/// The same in a thread of its own, beside something else that prints.
pub(crate) fn ensure_in_background(root: &Path, halves: &'static [Half]) -> Background {
    let failed = Arc::new(AtomicBool::new(false));
    let root = root.to_owned();
    let marked = Arc::clone(&failed);
    let thread = std::thread::spawn(move || {
        let outcome = ensure_with(&root, halves, &Line::beside());
        marked.store(outcome.is_err(), Ordering::Release);
        outcome
    });
    Background { failed, thread }
}

/// How things stand with every tool.
pub(crate) fn standing(root: &Path) -> Result<Vec<Standing>> {
    let cache = manifest::cache()?;
    TOOLS
        .iter()
        .map(|tool| {
            Ok(Standing {
                tool,
                folder: tool.folder(&cache),
                ready: is_ready(root, &cache, tool)?,
            })
        })
        .collect()
}

fn ensure_with(root: &Path, halves: &[Half], progress: &dyn Progress) -> Result<Programs> {
    let cache = manifest::cache()?;
    let folder = cache.join("tools");
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    for tool in TOOLS.iter().filter(|tool| halves.contains(&tool.half)) {
        if !is_ready(root, &cache, tool)? {
            // One after the other, over all processes: two builds would only slow each other down.
            let lock = std::fs::File::create(folder.join(".lock"))?;
            progress.begin(&format!("{} {}", tool.name, tool.version), "in the making");
            flock(&lock, FlockOperation::LockExclusive).context("waiting for another run of `cargo xtask tools`")?;
            if !is_ready(root, &cache, tool)? {
                let how = Install {
                    root,
                    cache: &cache,
                    tool,
                    progress,
                }
                .run()?;
                progress.end(how);
            }
        }
        let folder = tool.folder(&cache);
        let programs = tool
            .provides()
            .into_iter()
            .map(|(name, path)| (name, folder.join(path)))
            .collect();
        manifest::add(&cache, programs)?;
    }
    Ok(manifest::read(&cache))
}

fn is_ready(root: &Path, cache: &Path, tool: &Tool) -> Result<bool> {
    let wanted = tool.recipe_hash(root)?;
    let marker = tool.folder(cache).join(MARKER);
    Ok(std::fs::read_to_string(marker).is_ok_and(|text| text == wanted))
}
