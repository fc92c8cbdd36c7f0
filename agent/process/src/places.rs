//! Which files and folders are open to children, found by walking around what is hidden from them.
//!
//! Landlock allows hierarchies and cannot take anything out of one. So a folder on the way to something hidden is not
//! allowed itself; what is in it is, one by one. Called by the confinement. What appears in such a folder later is not
//! open to children that were started before. Symbolic links are never followed on the way: somebody could turn one
//! to what is hidden.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat};
use rustix::io::Errno;

/// Entries of one folder that are opened one by one; the others stay closed.
const MOST_ENTRIES: usize = 4096;

/// A file or folder, held open.
#[derive(Debug)]
pub(crate) struct Place {
    /// For path operations only (`O_PATH`).
    pub(crate) handle: OwnedFd,
    /// What it is.
    pub(crate) kind: Kind,
}

/// What a place is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A folder, with all that is in it.
    Folder,
    /// A file, a device, a socket.
    Other,
    /// A symbolic link: what it leads to has a path of its own.
    Link,
}

/// Takes what is open, piece by piece: there may be more than a process can hold open.
pub(crate) type HandOn<'a> = dyn FnMut(Place) -> io::Result<()> + 'a;

/// Device and number: the same for every path to it.
type Identity = (u64, u64);

/// What is hidden, and what leads there.
#[derive(Debug)]
pub(crate) struct Places {
    hidden: HashSet<Identity>,
    /// As they are really called.
    paths: Vec<PathBuf>,
    passages: HashSet<Identity>,
}

impl Place {
    /// What is there, links followed: for paths that we made.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        let handle = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let (_, kind) = told(&fstat(&handle)?);
        Ok(Self { handle, kind })
    }
}

impl Places {
    /// `hidden` is closed for everything; `closed` only for those who come from above.
    pub(crate) fn new(hidden: &[PathBuf], closed: &[&Path]) -> io::Result<Self> {
        let mut places = Self {
            hidden: HashSet::new(),
            paths: Vec::new(),
            passages: HashSet::new(),
        };
        let mut met = HashSet::new();
        for path in hidden {
            for path in really(path)? {
                places.hide(&path, &mut met)?;
                places.paths.push(path);
            }
        }
        for path in closed {
            places.hide(path, &mut met)?;
        }
        Ok(places)
    }

    /// `met` are the folders that are known to lead somewhere hidden: most of it has the same ones above it.
    fn hide(&mut self, path: &Path, met: &mut HashSet<PathBuf>) -> io::Result<()> {
        let identity = |path: &Path| match rustix::fs::stat(path) {
            Ok(found) => Ok(Some((found.st_dev, found.st_ino))),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => Ok(None),
            Err(error) => Err(io::Error::from(error)),
        };
        if let Some(found) = identity(path)? {
            self.hidden.insert(found);
        }
        for above in path.ancestors().skip(1) {
            if !met.insert(above.to_owned()) {
                break;
            }
            if let Some(found) = identity(above)? {
                self.passages.insert(found);
            }
        }
        Ok(())
    }

    /// Hands on what is open at and below `root`: `root` itself if nothing in it is hidden, nothing if it does not
    /// exist or is hidden.
    pub(crate) fn open(&self, root: &Path, hand_on: &mut HandOn<'_>) -> io::Result<()> {
        let root = match root.canonicalize() {
            Ok(root) => root,
            Err(error) if nobody_gets_there(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        if self.paths.iter().any(|hidden| root.starts_with(hidden)) {
            return Ok(());
        }
        let handle = openat(
            CWD,
            &root,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        self.enter(handle, hand_on)
    }

    fn enter(&self, handle: OwnedFd, hand_on: &mut HandOn<'_>) -> io::Result<()> {
        let found = fstat(&handle)?;
        let (identity, kind) = told(&found);
        if kind == Kind::Link || self.hidden.contains(&identity) {
            Ok(())
        } else if self.passages.contains(&identity) {
            self.walk(&handle, hand_on)
        } else {
            hand_on(Place { handle, kind })
        }
    }

    fn walk(&self, folder: &OwnedFd, hand_on: &mut HandOn<'_>) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let listed = match openat(folder, ".", flags, Mode::empty()) {
            Ok(listed) => listed,
            // What we cannot list, no child can.
            Err(Errno::ACCESS) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        for entry in Dir::new(listed)?.take(MOST_ENTRIES) {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            // Gone meanwhile, or not ours to look at.
            let Ok(handle) = openat(folder, name, flags, Mode::empty()) else {
                continue;
            };
            self.enter(handle, hand_on)?;
        }
        Ok(())
    }
}

/// The path without links; nothing if it is neither a file nor a folder (who reads no configuration says `/dev/null`).
/// A file in a volume of Kubernetes is a link through `..data`, which is turned when the file is renewed: the next one
/// lies beside this one, so all of the volume is meant.
fn really(path: &Path) -> io::Result<Vec<PathBuf>> {
    let real = match path.canonicalize() {
        Ok(real) => real,
        Err(error) if nobody_gets_there(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    if !real.is_file() && !real.is_dir() {
        return Ok(Vec::new());
    }
    let turns = path.read_link().is_ok_and(|target| target.starts_with("..data"));
    let volume = path.parent().filter(|_| turns).map(Path::canonicalize).transpose()?;
    Ok([Some(real), volume].into_iter().flatten().collect())
}

fn told(found: &Stat) -> (Identity, Kind) {
    let kind = match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory => Kind::Folder,
        FileType::Symlink => Kind::Link,
        _ => Kind::Other,
    };
    ((found.st_dev, found.st_ino), kind)
}

/// Then no child does either.
fn nobody_gets_there(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidFilename, NotADirectory, NotFound, PermissionDenied};
    matches!(
        error.kind(),
        NotFound | NotADirectory | PermissionDenied | InvalidFilename
    )
}
