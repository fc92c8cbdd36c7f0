//! One agent's folder within the spool's, locked as long as the agent lives, so that the next agent
//! can tell the folders of the dead and remove them. Called by the spool only.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

const PREFIX: &str = "agent-";
const LOCK: &str = "lock";

/// A folder that is removed with the agent, or by the next one.
pub(crate) struct InstanceFolder {
    path: PathBuf,
    _lock: File,
}

impl InstanceFolder {
    /// Makes a folder of our own below `parent` and sweeps those whose agent is dead.
    pub(crate) fn make(parent: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        sweep(parent);
        // Made under another name: a folder without a lock is swept.
        let folder = tempfile::Builder::new().prefix(".new-").tempdir_in(parent)?;
        let lock = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(folder.path().join(LOCK))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        let made = folder.keep();
        let name = made.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let path = parent.join(format!("{PREFIX}{}", name.trim_start_matches(".new-")));
        fs::rename(&made, &path)?;
        Ok(Self { path, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for InstanceFolder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::debug!(folder = %self.path.display(), %error, "the log spool's folder could not be removed");
        }
    }
}

fn sweep(parent: &Path) {
    let entries = match fs::read_dir(parent) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!(folder = %parent.display(), %error, "old log spools cannot be listed");
            return;
        }
    };
    for entry in entries.filter_map(Result::ok) {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let folder = entry.path();
        let Ok(lock) = OpenOptions::new().write(true).open(folder.join(LOCK)) else {
            continue;
        };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            match fs::remove_dir_all(&folder) {
                Ok(()) => tracing::info!(folder = %folder.display(), "removed the log spool of an agent that is dead"),
                Err(error) => {
                    tracing::warn!(folder = %folder.display(), %error, "the log spool of a dead agent cannot be removed")
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_folders_of_dead_agents_are_swept() {
        let parent = tempfile::tempdir().expect("folder");
        let dead = parent.path().join("agent-dead");
        fs::create_dir(&dead).expect("folder");
        fs::write(dead.join(LOCK), "").expect("lock");
        fs::write(dead.join("0.segment"), "old").expect("segment");
        let alive = InstanceFolder::make(parent.path()).expect("folder");
        assert!(!dead.exists());
        let other = InstanceFolder::make(parent.path()).expect("folder");
        assert!(alive.path().exists() && other.path().exists());
        let path = alive.path().to_owned();
        drop(alive);
        assert!(!path.exists());
    }
}
