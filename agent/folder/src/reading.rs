//! Finds and reads what is below an open folder. Links are followed by hand, so that one that leads out of the folder
//! can be told of, whatever is changed meanwhile. Called by whoever reads what a task brought or made.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fstat, openat, readlinkat, statat};
use rustix::io::Errno;

use crate::folder::Folder;

/// As the kernel has it.
const MOST_LINKS: u32 = 40;

/// Folders in each other that are entered: each is a handle, and there are other tasks. Nobody's sources are so deep.
const MOST_FOLDERS: usize = 128;

/// Entries of one folder that are listed.
const MOST_ENTRIES: usize = 10_000;

/// Looks only: nothing is opened that does something when it is opened.
const LOOK: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Not a pipe that nobody writes to: it is open at once.
const READ: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// What is at a path below a folder.
#[derive(Debug)]
pub enum Within {
    /// A regular file, open for reading.
    File(File),
    /// A folder.
    Folder(Folder),
}

/// Why it is not read. The message says it of "it": the path is the caller's, who knows how people call it.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is not there.
    #[error("does not exist")]
    Missing,
    /// The path itself goes upwards or begins elsewhere.
    #[error("leads out of the folder")]
    Escapes,
    /// A link on the way or at its end leads out.
    #[error("leads out of the folder: {} is a link to {}", link.display(), target.display())]
    Leaves {
        /// The link, from the folder on.
        link: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// A link on the way or at its end leads to nothing.
    #[error("leads to nothing: {} is a link to {}, which does not exist", link.display(), target.display())]
    Dangles {
        /// The link, from the folder on.
        link: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// Links lead to links without end.
    #[error("is behind more than {MOST_LINKS} links")]
    Loops,
    /// It is deeper than anybody works.
    #[error("is in more than {MOST_FOLDERS} folders in each other")]
    Deep,
    /// A pipe, a device, a socket.
    #[error("is neither a file nor a folder")]
    Special,
    /// It has more than it may.
    #[error("has more than {limit} bytes")]
    TooLarge {
        /// Bytes that it may have.
        limit: u64,
    },
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
}

impl From<Errno> for ReadError {
    fn from(error: Errno) -> Self {
        match error {
            Errno::NOENT | Errno::NOTDIR => Self::Missing,
            other => Self::Io(other.into()),
        }
    }
}

impl Folder {
    /// What is at `path`. Links are followed as long as they stay below this folder; an absolute one does if it begins
    /// with the folder's own path.
    ///
    /// # Errors
    /// If it leads out, is not there, or is neither a file nor a folder.
    pub fn find(&self, path: &Path) -> Result<Within, ReadError> {
        if path.is_absolute() {
            return Err(ReadError::Escapes);
        }
        Walk {
            root: self,
            folders: Vec::new(),
            ahead: parts(path).collect(),
            link: None,
            after_link: 0,
            links: 0,
        }
        .end()
    }

    /// The bytes of the file at `name`, directly in this folder; `None` if there is nothing. Not through a link.
    ///
    /// # Errors
    /// If it is not a regular file, has more than `limit` bytes, or cannot be read.
    pub fn read_own(&self, name: &OsStr, limit: u64) -> Result<Option<Vec<u8>>, ReadError> {
        match openat(self.handle(), name, READ, Mode::empty()) {
            Ok(handle) => bytes(regular(handle)?, limit).map(Some),
            Err(Errno::NOENT) => Ok(None),
            // A link, or a socket.
            Err(Errno::LOOP | Errno::NXIO) => Err(ReadError::Special),
            Err(error) => Err(ReadError::Io(error.into())),
        }
    }

    /// How long the file `name` directly in this folder is, and when it was last changed or moved, whatever time it was
    /// given; `None` if there is no such file.
    #[must_use]
    pub fn version_of(&self, name: &OsStr) -> Option<(u64, SystemTime)> {
        let handle = openat(self.handle(), name, LOOK, Mode::empty()).ok()?;
        let metadata = File::from(handle).metadata().ok()?;
        let seconds = u64::try_from(metadata.ctime()).ok()?;
        let changed = UNIX_EPOCH + Duration::new(seconds, u32::try_from(metadata.ctime_nsec()).ok()?);
        metadata.is_file().then_some((metadata.len(), changed))
    }

    /// The names in this folder, sorted.
    ///
    /// # Errors
    /// If it cannot be listed, or has too many.
    pub fn names_in(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(self.handle())? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            if names.len() == MOST_ENTRIES {
                return Err(io::Error::other(format!(
                    "the folder has more than {MOST_ENTRIES} entries"
                )));
            }
            names.push(OsStr::from_bytes(name).to_owned());
        }
        names.sort();
        Ok(names)
    }

    /// Tells each link below this folder, where it is and where it leads. None is followed, and no handle is held for
    /// each level.
    ///
    /// # Errors
    /// If a folder cannot be listed or is another by now, or what `tell` says.
    pub fn each_link<E: From<io::Error>>(&self, mut tell: impl FnMut(&Path, &Path) -> Result<(), E>) -> Result<(), E> {
        let mut ahead = vec![PathBuf::new()];
        while let Some(folder) = ahead.pop() {
            let held = self.below(&folder)?;
            for entry in Dir::read_from(&held).map_err(io::Error::from)? {
                let entry = entry.map_err(io::Error::from)?;
                let name = OsStr::from_bytes(entry.file_name().to_bytes());
                if name == "." || name == ".." {
                    continue;
                }
                let found = statat(&held, name, AtFlags::SYMLINK_NOFOLLOW).map_err(io::Error::from)?;
                match FileType::from_raw_mode(found.st_mode) {
                    FileType::Directory => ahead.push(folder.join(name)),
                    FileType::Symlink => {
                        let target = readlinkat(&held, name, Vec::new()).map_err(io::Error::from)?;
                        tell(&folder.join(name), Path::new(OsStr::from_bytes(target.as_bytes())))?;
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// The folder at a relative path, following no link.
    fn below(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut held = openat(self.handle(), ".", flags, Mode::empty())?;
        for name in path {
            held = openat(&held, name, flags, Mode::empty())?;
        }
        Ok(held)
    }

    /// Where it is now.
    fn path(&self) -> io::Result<PathBuf> {
        std::fs::read_link(format!("/proc/self/fd/{}", self.handle().as_raw_fd()))
    }
}

impl Within {
    /// The bytes of a file.
    ///
    /// # Errors
    /// If it is a folder, has more than `limit` bytes, or cannot be read.
    pub fn bytes(self, limit: u64) -> Result<Vec<u8>, ReadError> {
        match self {
            Self::File(file) => bytes(file, limit),
            Self::Folder(_) => Err(ReadError::Io(io::ErrorKind::IsADirectory.into())),
        }
    }
}

/// A way below a folder, name by name.
struct Walk<'a> {
    root: &'a Folder,
    /// Those that were entered, each with its name: `..` goes back to the one before, wherever it has been moved to.
    folders: Vec<(OsString, OwnedFd)>,
    ahead: VecDeque<OsString>,
    /// The last link that was followed, and where it leads.
    link: Option<(PathBuf, PathBuf)>,
    /// How many names are ahead once its own way has been gone.
    after_link: usize,
    links: u32,
}

impl Walk<'_> {
    fn end(mut self) -> Result<Within, ReadError> {
        while let Some(name) = self.ahead.pop_front() {
            if name == ".." {
                drop(self.folders.pop().ok_or_else(|| self.leaves())?);
                continue;
            }
            let handle =
                openat(self.here(), name.as_os_str(), LOOK, Mode::empty()).map_err(|error| self.missing(error))?;
            match FileType::from_raw_mode(fstat(&handle)?.st_mode) {
                FileType::Directory if self.folders.len() == MOST_FOLDERS => return Err(ReadError::Deep),
                FileType::Directory => self.folders.push((name, handle)),
                FileType::Symlink => self.follow(&name, &handle)?,
                // What comes after a file is not there.
                _ if !self.ahead.is_empty() => return Err(ReadError::Missing),
                FileType::RegularFile => return Ok(Within::File(self.open(&name)?)),
                _ => return Err(ReadError::Special),
            }
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Within::Folder(Folder::held(openat(
            self.here(),
            ".",
            flags,
            Mode::empty(),
        )?)))
    }

    fn here(&self) -> &OwnedFd {
        self.folders.last().map_or(self.root.handle(), |(_, handle)| handle)
    }

    /// Again by its name, since what is held was for looking: another file is below the folder too, and a link is
    /// refused.
    fn open(&self, name: &OsStr) -> Result<File, ReadError> {
        regular(openat(self.here(), name, READ, Mode::empty())?)
    }

    fn follow(&mut self, name: &OsStr, link: &OwnedFd) -> Result<(), ReadError> {
        self.links += 1;
        if self.links > MOST_LINKS {
            return Err(ReadError::Loops);
        }
        let target = PathBuf::from(OsString::from_vec(readlinkat(link, "", Vec::new())?.into_bytes()));
        let way = self.folders.iter().map(|(name, _)| name.as_os_str());
        self.link = Some((way.chain([name]).collect(), target.clone()));
        let mut rest = target.as_path();
        if target.is_absolute() {
            rest = target.strip_prefix(self.root.path()?).map_err(|_| self.leaves())?;
            self.folders.clear();
        }
        self.after_link = self.ahead.len();
        let ahead: Vec<_> = parts(rest).collect();
        ahead.into_iter().rev().for_each(|name| self.ahead.push_front(name));
        Ok(())
    }

    /// What a link leads to is missed in other words than what the path itself names.
    fn missing(&self, error: Errno) -> ReadError {
        match (ReadError::from(error), self.link.clone()) {
            (ReadError::Missing, Some((link, target))) if self.ahead.len() >= self.after_link => {
                ReadError::Dangles { link, target }
            }
            (other, _) => other,
        }
    }

    fn leaves(&self) -> ReadError {
        match self.link.clone() {
            Some((link, target)) => ReadError::Leaves { link, target },
            None => ReadError::Escapes,
        }
    }
}

fn parts(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    })
}

fn regular(handle: OwnedFd) -> Result<File, ReadError> {
    let file = File::from(handle);
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(ReadError::Special)
    }
}

/// Its size says nothing: it may grow while it is read.
fn bytes(file: File, limit: u64) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
        return Err(ReadError::TooLarge { limit });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::CWD;

    use super::*;

    /// A folder with files and links, beside something that is not its own.
    fn tree() -> (tempfile::TempDir, Folder) {
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join("folder");
        std::fs::create_dir_all(folder.join("a/b")).expect("made");
        std::fs::create_dir(root.path().join("outside")).expect("made");
        std::fs::write(root.path().join("outside/file"), "hidden").expect("written");
        std::fs::write(folder.join("a/b/file"), "ours").expect("written");
        let held = Folder::open(&folder).expect("a folder");
        (root, held)
    }

    fn read(folder: &Folder, path: &str) -> String {
        match folder.find(Path::new(path)).and_then(|found| found.bytes(16)) {
            Ok(bytes) => String::from_utf8(bytes).expect("text"),
            Err(error) => format!("{path} {error}"),
        }
    }

    #[test]
    fn links_that_stay_within_are_followed_and_those_that_leave_are_named_with_their_target() {
        let (root, folder) = tree();
        let own = root.path().join("folder");
        for (target, link) in [
            ("b/file", "a/down"),
            ("../a/./b/file", "a/up"),
            ("a", "folder"),
            ("folder/b", "other"),
            (own.join("a/b/file").to_str().expect("text"), "absolute"),
        ] {
            symlink(target, own.join(link)).expect("linked");
        }
        for path in [
            "a/b/file",
            "./a/down",
            "a/up",
            "folder/b/file",
            "other/file",
            "absolute",
        ] {
            assert_eq!(read(&folder, path), "ours", "{path}");
        }
        let outside = root.path().join("outside/file");
        for (target, link) in [
            ("../outside/file", "l1"),
            ("../../outside/file", "a/l2"),
            ("b/../../../outside/file", "a/l3"),
            (outside.to_str().expect("text"), "l4"),
            ("../../..", "a/b/l6"),
            ("/proc/self/root", "l7"),
        ] {
            symlink(target, own.join(link)).expect("linked");
            let said = read(&folder, link);
            assert_eq!(
                said,
                format!("{link} leads out of the folder: {link} is a link to {target}")
            );
        }
        symlink("b/../b/./file", own.join("a/around")).expect("linked");
        assert_eq!(read(&folder, "a/around"), "ours");
        assert_eq!(read(&folder, "a/../a/b/../b/file"), "ours");
        let Err(ReadError::Leaves { link, target }) = folder.find(Path::new("folder/l2")) else {
            panic!("it leaves");
        };
        assert_eq!((link, target), ("a/l2".into(), "../../outside/file".into()));
    }

    /// Guards that a walk neither leaves the folder nor ends at how deep it is.
    #[test]
    fn each_link_is_told_and_none_is_followed() {
        let (root, folder) = tree();
        let own = root.path().join("folder");
        let deep: PathBuf = std::iter::repeat_n("d", 1_500).collect();
        std::fs::create_dir_all(own.join(&deep)).expect("made");
        symlink("inner", root.path().join("outside/link")).expect("linked");
        for (target, link) in [("../../outside", Path::new("a/out")), ("/etc", &deep.join("l"))] {
            symlink(target, own.join(link)).expect("linked");
        }
        let mut told = Vec::new();
        let all = folder.each_link(|link, target| {
            told.push((link.to_owned(), target.to_owned()));
            io::Result::Ok(())
        });
        all.expect("listed");
        told.sort();
        let wanted = [
            (PathBuf::from("a/out"), "../../outside".into()),
            (deep.join("l"), "/etc".into()),
        ];
        assert_eq!(told, wanted);
        let stopped = folder.each_link(|_, _| Err(io::Error::other("enough")));
        assert_eq!(stopped.expect_err("stopped").to_string(), "enough");
    }

    #[test]
    fn what_is_no_file_and_what_has_no_end_is_refused_at_once() {
        let (root, folder) = tree();
        let own = root.path().join("folder");
        rustix::fs::mknodat(CWD, own.join("pipe"), FileType::Fifo, 0o600.into(), 0).expect("a pipe");
        symlink("loop", own.join("loop")).expect("linked");
        symlink("a/none/file", own.join("dangling")).expect("linked");
        symlink("dangling", own.join("a/far")).expect("linked");
        symlink("../dangling", own.join("a/twice")).expect("linked");
        symlink("a/b", own.join("good")).expect("linked");
        std::fs::write(own.join("large"), vec![b'x'; 17]).expect("written");
        for (path, words) in [
            ("pipe", "pipe is neither a file nor a folder"),
            ("loop", "loop is behind more than 40 links"),
            ("large", "large has more than 16 bytes"),
            ("none", "none does not exist"),
            ("good/none", "good/none does not exist"),
            (
                "dangling",
                "dangling leads to nothing: dangling is a link to a/none/file, which does not exist",
            ),
            (
                "a/far",
                "a/far leads to nothing: a/far is a link to dangling, which does not exist",
            ),
            (
                "a/twice",
                "a/twice leads to nothing: dangling is a link to a/none/file, which does not exist",
            ),
            ("a/b/file/x", "a/b/file/x does not exist"),
            ("../outside/file", "../outside/file leads out of the folder"),
            ("/etc/passwd", "/etc/passwd leads out of the folder"),
        ] {
            assert_eq!(read(&folder, path), words);
        }
        assert!(read(&folder, "a").contains("is a directory"));
    }

    /// Guards that a way through folders in each other uses up no handles, by names or by links.
    #[test]
    fn what_is_deeper_than_anybody_works_is_refused() {
        let (root, folder) = tree();
        let own = root.path().join("folder");
        let way = |levels: usize| "d/".repeat(levels);
        std::fs::create_dir_all(own.join(way(MOST_FOLDERS + 2))).expect("made");
        for levels in [MOST_FOLDERS, MOST_FOLDERS + 1] {
            std::fs::write(own.join(way(levels)).join("file"), "ours").expect("written");
        }
        symlink(format!("{}link", way(MOST_FOLDERS - 1)), own.join("link")).expect("linked");
        symlink("d/d/file", own.join(format!("{}link", way(MOST_FOLDERS - 1)))).expect("linked");
        let told = |path: &str| read(&folder, &format!("{path}file")).replace(path, "… ");
        assert_eq!(told(&way(MOST_FOLDERS)), "ours");
        assert_eq!(
            told(&way(MOST_FOLDERS + 1)),
            "… file is in more than 128 folders in each other"
        );
        assert_eq!(read(&folder, "link"), "link is in more than 128 folders in each other");
        // Those that were left again do not count.
        assert_eq!(read(&folder, &format!("{}a/b/file", "a/b/../../".repeat(1000))), "ours");
    }

    #[test]
    fn an_open_folder_stays_itself_whatever_takes_its_place() {
        let (root, folder) = tree();
        let own = root.path().join("folder");
        std::fs::rename(&own, root.path().join("moved")).expect("moved");
        symlink(root.path().join("outside"), &own).expect("linked");
        assert_eq!(read(&folder, "a/b/file"), "ours");
        assert_eq!(read(&folder, "file"), "file does not exist");
        assert_eq!(folder.names_in().expect("listed"), ["a"]);
        let moved = root.path().join("moved");
        symlink("a/b/file", moved.join("link")).expect("linked");
        assert!(matches!(
            folder.read_own(OsStr::new("link"), 9),
            Err(ReadError::Special)
        ));
        assert!(folder.read_own(OsStr::new("none"), 9).expect("nothing").is_none());
        std::fs::write(moved.join("file"), "new").expect("written");
        assert_eq!(
            folder.read_own(OsStr::new("file"), 9).expect("read").as_deref(),
            Some(&b"new"[..])
        );
        folder.remove_file(OsStr::new("link")).expect("removed");
        assert!(!moved.join("link").exists() && moved.join("a/b/file").exists());
    }
}
