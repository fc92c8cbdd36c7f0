//! Makes files and folders below an open folder, name by name, and follows no link: who may write there cannot lead
//! what is made elsewhere by putting a link in the place of a folder meanwhile. Called by whoever unpacks a bundle, and
//! by steps for the files that they give to programs.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, open, openat, unlinkat};
use rustix::io::Errno;

const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

const NEW_FILE: OFlags = OFlags::WRONLY
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// An open folder.
#[derive(Debug)]
pub struct Folder(OwnedFd);

impl Folder {
    /// Opens it; not if it is a link. Whoever is to be kept from leading elsewhere must not be able to change what comes
    /// before its last name.
    ///
    /// # Errors
    /// If it is not there, or no folder.
    pub fn open(folder: &Path) -> io::Result<Self> {
        Ok(Self(open(folder, FOLDER, Mode::empty())?))
    }

    pub(crate) fn held(handle: OwnedFd) -> Self {
        Self(handle)
    }

    pub(crate) fn handle(&self) -> &OwnedFd {
        &self.0
    }

    /// The names on the way to a relative path; none if it leads upwards or begins elsewhere.
    #[must_use]
    pub fn names(path: &Path) -> Option<Vec<&OsStr>> {
        let named = path
            .components()
            .filter(|component| *component != Component::CurDir)
            .map(|component| match component {
                Component::Normal(name) => Some(name),
                _ => None,
            });
        named.collect()
    }

    /// The folder of that name, made with what is missing on the way, the owner's only.
    ///
    /// # Errors
    /// If something else is in its place, or it cannot be made.
    pub fn folder(&self, names: &[&OsStr]) -> io::Result<Self> {
        Ok(self.counted_folder(names)?.0)
    }

    /// The folder of that name, as [`Self::folder`], and how many folders were made for it.
    ///
    /// # Errors
    /// If something else is in its place, or it cannot be made.
    pub fn counted_folder(&self, names: &[&OsStr]) -> io::Result<(Self, u64)> {
        let mut folder = self.0.as_fd().try_clone_to_owned()?;
        let mut made = 0;
        for name in names {
            match mkdirat(&folder, *name, Mode::RWXU) {
                Ok(()) => made += 1,
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            folder = openat(&folder, *name, FOLDER, Mode::empty())?;
        }
        Ok((Self(folder), made))
    }

    /// A file that was not there, the owner's only; of `mode` counts whether he may execute it.
    ///
    /// # Errors
    /// If there is something of that name, or it cannot be made.
    pub fn new_file(&self, parents: &[&OsStr], name: &OsStr, mode: u32) -> io::Result<File> {
        let mode = Mode::RUSR | Mode::WUSR | (Mode::from_raw_mode(mode) & Mode::XUSR);
        Ok(openat(&self.folder(parents)?.0, name, NEW_FILE, mode)?.into())
    }

    /// Removes what is called so, unless it is a folder; what is not there is removed.
    ///
    /// # Errors
    /// If it is a folder, or cannot be removed.
    pub fn remove_file(&self, name: &OsStr) -> io::Result<()> {
        match unlinkat(&self.0, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_in_the_place_of_a_folder_or_a_file_leads_nowhere() {
        let root = tempfile::tempdir().expect("root");
        let (folder, elsewhere) = (root.path().join("folder"), root.path().join("elsewhere"));
        for made in [&folder, &elsewhere] {
            std::fs::create_dir(made).expect("made");
        }
        let below = Folder::open(&folder).expect("a folder");
        let path = Path::new("./a/b/file");
        let names = Folder::names(path).expect("stays below");
        let (name, parents) = names.split_last().expect("names");
        drop(below.new_file(parents, name, 0o644).expect("made"));
        assert!(folder.join("a/b/file").is_file());
        // What a program that was not ended could do between two entries.
        std::fs::rename(folder.join("a/b"), root.path().join("moved")).expect("moved");
        symlink(&elsewhere, folder.join("a/b")).expect("linked");
        symlink(elsewhere.join("new"), folder.join("a/link")).expect("linked");
        let next = OsStr::new("next");
        assert!(below.new_file(parents, next, 0o644).is_err(), "through a folder");
        assert!(below.folder(&names).is_err(), "a folder through a folder");
        assert!(
            below.new_file(&[OsStr::new("a")], OsStr::new("link"), 0o644).is_err(),
            "through a file"
        );
        let made = std::fs::read_dir(&elsewhere).expect("there").count();
        assert_eq!(made, 0, "nothing was made elsewhere");
        // Once it is open, the folder itself may be anywhere.
        std::fs::rename(&folder, root.path().join("gone")).expect("moved");
        symlink(&elsewhere, &folder).expect("linked");
        assert!(Folder::open(&folder).is_err(), "a link is no folder");
        drop(below.new_file(&[], next, 0o755).expect("made"));
        assert!(root.path().join("gone/next").is_file());
    }

    #[test]
    fn only_paths_that_stay_below_have_names() {
        for path in ["..", "../a", "a/../b", "/a"] {
            assert_eq!(Folder::names(Path::new(path)), None, "{path}");
        }
        assert_eq!(Folder::names(Path::new("./a/./b")).map(|names| names.len()), Some(2));
    }
}
