//! Folders on disk: one per agent process, in it one per attempt, made on first use and removed at
//! the end. What a dead agent left behind is removed at start. Nothing here outlives its process's
//! need for it, and nobody but the agent's user can read it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use deputy_folder::remove_all;
use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

const LOCK: &str = ".lock";
const PREFIX: &str = "agent-";
/// Bytes of a name that are read.
const LONGEST_NAME: u64 = 1024;

/// The folder of this agent process, below the work folder. Removed on drop.
#[derive(Debug)]
pub struct WorkFolder {
    folder: TempDir,
    /// Held for as long as the process lives; a folder whose lock can be taken belongs to nobody.
    lock: File,
    swept: Vec<PathBuf>,
}

/// The work folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WorkFolderError {
    /// It cannot be made, read or written: choose another.
    #[error("the work folder {} cannot be used", path.display())]
    Io {
        /// Which folder.
        path: PathBuf,
        #[source]
        /// Why.
        source: io::Error,
    },
    /// Whoever owns it can read and change what tasks have in it: choose another.
    #[error("{} belongs to user {owner}, and this is user {user}", path.display())]
    Foreign {
        /// Which folder.
        path: PathBuf,
        /// Who owns it, or the link that leads to it.
        owner: u32,
        /// Who we are.
        user: u32,
    },
    /// Others can put things into it and take them away: close it, or choose another.
    #[error("others can write to {}: its mode is {mode:04o}", path.display())]
    Open {
        /// Which folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

/// Makes a folder that is this user's alone, or sees that it is one. What is in it need not be looked at then.
///
/// # Errors
/// If it cannot be made, belongs to somebody else, or can be written by somebody else.
pub fn private_folder(path: &Path) -> Result<(), WorkFolderError> {
    let bad = |source| WorkFolderError::Io {
        path: path.to_owned(),
        source,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(bad)?;
    is_private(path)
}

/// Sees whether a folder is this user's alone; nothing is changed.
///
/// # Errors
/// If it cannot be looked at, belongs to somebody else, or can be written by somebody else.
pub fn is_private(path: &Path) -> Result<(), WorkFolderError> {
    let bad = |source| WorkFolderError::Io {
        path: path.to_owned(),
        source,
    };
    let user = rustix::process::geteuid().as_raw();
    let foreign = |owner| WorkFolderError::Foreign {
        path: path.to_owned(),
        owner,
        user,
    };
    // In a folder like /tmp somebody else may have been first, with a link to where we may write.
    let itself = std::fs::symlink_metadata(path).map_err(bad)?;
    if itself.is_symlink() && ![user, 0].contains(&itself.uid()) {
        return Err(foreign(itself.uid()));
    }
    let folder = std::fs::metadata(path).map_err(bad)?;
    if folder.uid() != user {
        return Err(foreign(folder.uid()));
    }
    let mode = folder.permissions().mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(WorkFolderError::Open {
            path: path.to_owned(),
            mode,
        });
    }
    Ok(())
}

impl WorkFolder {
    /// Makes a folder for this process below `root`, and removes those of processes that are gone.
    ///
    /// # Errors
    /// If `root` cannot be made or written, or others own it or can write to it.
    pub fn open(root: &Path) -> Result<Self, WorkFolderError> {
        let bad = |source| WorkFolderError::Io {
            path: root.to_owned(),
            source,
        };
        private_folder(root)?;
        let swept = sweep(root).map_err(bad)?;
        let folder = tempfile::Builder::new()
            .prefix(PREFIX)
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir_in(root)
            .map_err(bad)?;
        let lock = lock_file(folder.path()).map_err(bad)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| bad(error.into()))?;
        Ok(Self { folder, lock, swept })
    }

    /// Says whose folder this is, to whoever looks with [`at_work`].
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn name(&mut self, id: &str) -> io::Result<()> {
        self.lock.write_all(id.as_bytes())
    }

    /// The leftovers that were removed at start.
    #[must_use]
    pub fn swept(&self) -> &[PathBuf] {
        &self.swept
    }

    /// The folder of this process.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A new folder for one attempt, 0700, and the one aside of it.
    pub(crate) fn make(&self, name: &str) -> io::Result<PathBuf> {
        let folder = tempfile::Builder::new()
            .prefix(&format!("{name}."))
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir_in(self.folder.path())?;
        DirBuilder::new().mode(0o700).create(aside_of(folder.path()))?;
        Ok(folder.keep())
    }
}

/// Beside the folder of an attempt: what is not for all of the task's programs.
pub(crate) fn aside_of(workspace: &Path) -> PathBuf {
    let mut name = workspace.as_os_str().to_owned();
    name.push(".aside");
    name.into()
}

/// The names of the agents that work in folders below `root` at this moment. Nothing is changed.
#[must_use]
pub fn at_work(root: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    let ours = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX));
    ours.filter_map(|entry| holder(&entry.path())).collect()
}

/// Who holds this folder's lock, if anybody does and has said who he is.
fn holder(folder: &Path) -> Option<String> {
    let lock = File::open(folder.join(LOCK)).ok()?;
    let mut name = String::new();
    Read::take(&lock, LONGEST_NAME).read_to_string(&mut name).ok()?;
    // Who has written his name has had the lock before: nobody is kept from it by this look.
    let is_held = !name.is_empty() && flock(&lock, FlockOperation::NonBlockingLockShared).is_err();
    is_held.then_some(name)
}

/// Removes the folder of an attempt, and the one aside of it first: it may have secrets.
pub(crate) fn remove(workspace: &Path) -> io::Result<()> {
    let aside = remove_all(&aside_of(workspace));
    remove_all(workspace).and(aside)
}

fn lock_file(folder: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(folder.join(LOCK))
}

fn sweep(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut swept = Vec::new();
    for entry in std::fs::read_dir(root)? {
        let entry = entry?;
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX) && entry.file_type()?.is_dir();
        if !ours || !is_abandoned(&entry.path()) {
            continue;
        }
        match remove_all(&entry.path()) {
            Ok(()) => swept.push(entry.path()),
            Err(error) => {
                tracing::warn!(folder = %entry.path().display(), %error, "what an agent left behind cannot be removed");
            }
        }
    }
    Ok(swept)
}

/// Nobody holds its lock. A folder that has no lock yet is being made by another agent right now,
/// unless it has been that way for a minute.
fn is_abandoned(folder: &Path) -> bool {
    match OpenOptions::new().write(true).open(folder.join(LOCK)) {
        Ok(lock) => flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok(),
        Err(_) => {
            let modified = folder.metadata().and_then(|metadata| metadata.modified()).ok();
            modified
                .and_then(|time| time.elapsed().ok())
                .is_some_and(|age| age.as_secs() >= 60)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_agent_left_is_removed_and_what_a_live_one_uses_is_not() {
        let root = tempfile::tempdir().expect("root");
        let mut live = WorkFolder::open(root.path()).expect("live");
        assert_eq!(at_work(root.path()), [""; 0], "it has not said who it is");
        live.name("a1").expect("written");
        let task = live.make("task").expect("task");
        let aside = aside_of(&task);
        assert_eq!(aside.metadata().expect("made").permissions().mode() & 0o777, 0o700);
        let dead = root.path().join("agent-dead");
        std::fs::create_dir_all(dead.join("task.1/locked")).expect("dead");
        std::fs::write(dead.join(LOCK), "").expect("lock");
        std::fs::write(dead.join("task.1/kubeconfig"), "x").expect("file");
        std::fs::set_permissions(dead.join("task.1"), std::fs::Permissions::from_mode(0o500)).expect("mode");
        let stranger = root.path().join("notes");
        std::fs::create_dir(&stranger).expect("stranger");

        let other = WorkFolder::open(root.path()).expect("other");

        assert_eq!(other.swept(), [dead.as_path()]);
        assert!(!dead.exists() && task.exists() && stranger.exists());
        assert_eq!(task.metadata().expect("meta").permissions().mode() & 0o777, 0o700);
        std::fs::write(aside.join("key"), "x").expect("file");
        remove(&task).expect("removed");
        assert!(!task.exists() && !aside.exists());
        let gone = live.path().to_owned();
        drop(live);
        assert!(!gone.exists());
    }

    #[test]
    fn a_folder_that_others_can_write_to_is_refused_and_not_used() {
        let parent = tempfile::tempdir().expect("parent");
        for mode in [0o777, 0o1777, 0o770, 0o702] {
            let root = parent.path().join(format!("{mode:o}"));
            std::fs::create_dir(&root).expect("made");
            std::fs::set_permissions(&root, std::fs::Permissions::from_mode(mode)).expect("mode");
            let error = WorkFolder::open(&root).expect_err("others can write to it");
            assert!(
                matches!(error, WorkFolderError::Open { mode: found, .. } if found == mode),
                "{error}"
            );
            assert_eq!(std::fs::read_dir(&root).expect("read").count(), 0);
        }
    }

    #[test]
    fn a_folder_of_somebody_else_is_refused() {
        // Of root, and root's tests see theirs made somebody else's.
        let user = rustix::process::geteuid();
        let parent = tempfile::tempdir().expect("parent");
        let (root, owner) = if user.is_root() {
            let root = parent.path().join("given-away");
            std::fs::create_dir(&root).expect("made");
            std::os::unix::fs::chown(&root, Some(65_534), None).expect("given away");
            (root, 65_534)
        } else {
            (PathBuf::from("/usr"), 0)
        };
        let error = WorkFolder::open(&root).expect_err("somebody else's");
        assert!(
            matches!(error, WorkFolderError::Foreign { owner: found, .. } if found == owner),
            "{error}"
        );
    }

    #[test]
    fn a_missing_folder_is_made_for_this_user_alone() {
        let parent = tempfile::tempdir().expect("parent");
        let root = parent.path().join("a/b");
        private_folder(&root).expect("made");
        assert_eq!(root.metadata().expect("meta").permissions().mode() & 0o777, 0o700);
    }
}
