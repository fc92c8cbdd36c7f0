//! Makes files and folders below an open folder, name by name, and follows no link: who may write there cannot lead
//! what is made elsewhere by putting a link in the place of a folder meanwhile. Called by [`crate::unpack`].

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{Mode, OFlags, mkdirat, open, openat};
use rustix::io::Errno;

const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

const NEW_FILE: OFlags = OFlags::WRONLY
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// An open folder.
pub(crate) struct Below(OwnedFd);

impl Below {
    /// Opens it; not if it is a link.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        Ok(Self(open(folder, FOLDER, Mode::empty())?))
    }

    /// The names on the way to a relative path; none if it leads upwards or begins elsewhere.
    pub(crate) fn names(path: &Path) -> Option<Vec<&OsStr>> {
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
    pub(crate) fn folder(&self, names: &[&OsStr]) -> io::Result<Self> {
        let mut folder = self.0.as_fd().try_clone_to_owned()?;
        for name in names {
            match mkdirat(&folder, *name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            folder = openat(&folder, *name, FOLDER, Mode::empty())?;
        }
        Ok(Self(folder))
    }

    /// A file that was not there, the owner's only; of `mode` counts whether he may execute it.
    pub(crate) fn new_file(&self, parents: &[&OsStr], name: &OsStr, mode: u32) -> io::Result<File> {
        let mode = Mode::RUSR | Mode::WUSR | (Mode::from_raw_mode(mode) & Mode::XUSR);
        Ok(openat(&self.folder(parents)?.0, name, NEW_FILE, mode)?.into())
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
        let below = Below::open(&folder).expect("a folder");
        let path = Path::new("./a/b/file");
        let names = Below::names(path).expect("stays below");
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
        assert!(Below::open(&folder).is_err(), "a link is no folder");
        drop(below.new_file(&[], next, 0o755).expect("made"));
        assert!(root.path().join("gone/next").is_file());
    }

    #[test]
    fn only_paths_that_stay_below_have_names() {
        for path in ["..", "../a", "a/../b", "/a"] {
            assert_eq!(Below::names(Path::new(path)), None, "{path}");
        }
        assert_eq!(Below::names(Path::new("./a/./b")).map(|names| names.len()), Some(2));
    }
}
