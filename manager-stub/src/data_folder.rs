//! The folder that holds everything the manager keeps: documents, journals and logs of every project. It is this
//! user's alone, and what is made in it is too. Called at the start, before anything in it is opened.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The database in the data folder.
pub const DATABASE: &str = "deputy.db";

/// What others may do: nothing.
const OTHERS: u32 = 0o077;

/// The data folder is not taken.
#[derive(Debug, thiserror::Error)]
pub enum DataFolderError {
    /// Whoever owns it can read and change what is in it. Choose another, or hand it over.
    #[error(
        "the data folder {} belongs to user {owner} and the manager runs as user {user}: the owner could read and change everything in it",
        path.display()
    )]
    Foreign {
        /// Which folder.
        path: PathBuf,
        /// Who owns it, or the link that leads to it.
        owner: u32,
        /// Who we are.
        user: u32,
    },
    /// Others use it too, and closing it would lock them out of what is not ours. Name a folder inside it.
    #[error(
        "the data folder {} is open to other users (its mode is {mode:04o}) and holds {}, which is not a manager's",
        path.display(), other.display()
    )]
    Shared {
        /// Which folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Something in it that is not ours.
        other: PathBuf,
    },
    /// It cannot be made, looked at or closed.
    #[error("cannot use the data folder {}: {source}", path.display())]
    Io {
        /// Which folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Makes the data folder for this user alone, or sees that it is this user's and closes it to others.
///
/// # Errors
/// If it cannot be made, closed, or belongs to somebody else.
pub fn open(path: &Path) -> Result<(), DataFolderError> {
    open_as(path, rustix::process::geteuid().as_raw())
}

fn open_as(path: &Path, user: u32) -> Result<(), DataFolderError> {
    let bad = |source| DataFolderError::Io {
        path: path.to_owned(),
        source,
    };
    let foreign = |owner| DataFolderError::Foreign {
        path: path.to_owned(),
        owner,
        user,
    };
    make(path).map_err(bad)?;
    // In a folder like /tmp somebody else may have been first, with a link to another folder of ours.
    let itself = std::fs::symlink_metadata(path).map_err(bad)?;
    if itself.is_symlink() && ![user, 0].contains(&itself.uid()) {
        return Err(foreign(itself.uid()));
    }
    // One handle from here on: what is looked at is what is closed.
    let folder = File::open(path).map_err(bad)?;
    let found = folder.metadata().map_err(bad)?;
    if found.uid() != user {
        return Err(foreign(found.uid()));
    }
    let mode = found.permissions().mode() & 0o7777;
    if mode & OTHERS != 0 {
        if let Some(other) = somebody_elses(path).map_err(bad)? {
            return Err(DataFolderError::Shared {
                path: path.to_owned(),
                mode,
                other,
            });
        }
        folder
            .set_permissions(Permissions::from_mode(mode & !OTHERS))
            .map_err(bad)?;
        tracing::warn!(
            folder = %path.display(),
            before = %format!("{mode:04o}"),
            now = %format!("{:04o}", mode & !OTHERS),
            "the data folder was open to other users and is closed now; what they read before they have"
        );
    }
    Ok(())
}

/// Something in a folder in which no manager has kept anything yet: closing `/tmp` or `/var` would break a machine.
fn somebody_elses(folder: &Path) -> io::Result<Option<PathBuf>> {
    if folder.join(DATABASE).try_exists()? {
        return Ok(None);
    }
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        // A fresh file system is not empty.
        if name != "lost+found" {
            return Ok(Some(name.into()));
        }
    }
    Ok(None)
}

/// Makes a folder and those above it, for this user alone; one that is there stays as it is.
///
/// # Errors
/// If it cannot be made.
pub fn make(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Opens a file for writing, one that is made for this user alone.
#[must_use]
pub fn writing() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        path.metadata().expect("metadata").permissions().mode() & 0o7777
    }

    #[test]
    fn a_missing_data_folder_is_made_for_this_user_alone() {
        let parent = tempfile::tempdir().expect("a folder");
        let data = parent.path().join("a/b");
        open(&data).expect("made");
        assert_eq!(mode(&data), 0o700);
    }

    #[test]
    fn a_data_folder_that_was_open_to_others_is_closed() {
        let data = tempfile::tempdir().expect("a folder");
        for before in [0o755, 0o777, 0o750, 0o701, 0o700] {
            std::fs::set_permissions(data.path(), Permissions::from_mode(before)).expect("set");
            open(data.path()).expect("ours");
            assert_eq!(mode(data.path()), 0o700, "{before:o}");
        }
    }

    #[test]
    fn a_folder_that_others_use_too_is_refused_and_left_as_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o1777)).expect("set");
        std::fs::create_dir(folder.path().join("somebody-elses")).expect("made");
        let error = open(folder.path()).expect_err("refused");
        assert!(
            matches!(&error, DataFolderError::Shared { mode: 0o1777, other, .. } if other.ends_with("somebody-elses")),
            "{error}"
        );
        assert_eq!(mode(folder.path()), 0o1777);
        std::fs::write(folder.path().join(DATABASE), "").expect("written");
        open(folder.path()).expect("a manager's");
        assert_eq!(mode(folder.path()), 0o1700);
    }

    #[test]
    fn a_data_folder_of_somebody_else_is_refused_and_left_as_it_is() {
        let data = tempfile::tempdir().expect("a folder");
        std::fs::set_permissions(data.path(), Permissions::from_mode(0o755)).expect("set");
        let owner = data.path().metadata().expect("metadata").uid();
        let error = open_as(data.path(), owner + 1).expect_err("refused");
        assert!(
            matches!(error, DataFolderError::Foreign { owner: found, user, .. } if (found, user) == (owner, owner + 1)),
            "{error}"
        );
        assert_eq!(mode(data.path()), 0o755);
    }
}
