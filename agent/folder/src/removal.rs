//! Removes a folder with all that is in it, whatever modes its files were given and however deep it is. Called when a
//! task has ended; programs that it left behind may still be changing it.
//!
//! A script decides how deep its folders are, so nothing here is as deep: no call within a call and no handle for each
//! level. What is in a folder below the first level is lifted up to that level, one folder after the other.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;

/// Follows no link.
const LOOK: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
/// A program that goes on making files could keep us for ever.
const LONGEST: Duration = Duration::from_secs(120);
/// Entries that are remembered at a time.
const MOST_LISTED: usize = 4_096;
/// Names that are tried for a folder that is lifted.
const MOST_NAMES: u32 = 1_000;

/// Removes it. One that is not there is removed, and of a link only the link.
///
/// # Errors
/// If something of it cannot be removed, or not within two minutes.
pub fn remove_all(folder: &Path) -> io::Result<()> {
    match openat(CWD, folder, LOOK, Mode::empty()) {
        Ok(top) => {
            Removal::of(top).run()?;
            gone(unlinkat(CWD, folder, AtFlags::REMOVEDIR))
        }
        Err(Errno::NOENT) => Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => gone(unlinkat(CWD, folder, AtFlags::empty())),
        Err(error) => Err(error.into()),
    }
}

/// One folder on its way to being empty.
struct Removal {
    top: OwnedFd,
    /// Folders that were lifted so far.
    lifted: u64,
    until: Instant,
}

/// What became of something in a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removed {
    Gone,
    /// A folder with something in it.
    NotEmpty,
}

impl Removal {
    fn of(top: OwnedFd) -> Self {
        Self {
            top,
            lifted: 0,
            until: Instant::now() + LONGEST,
        }
    }

    fn run(&mut self) -> io::Result<()> {
        open_up(&self.top);
        loop {
            let names = names(&self.top)?;
            if names.is_empty() {
                return Ok(());
            }
            for name in &names {
                if self.until <= Instant::now() {
                    return Err(Errno::TIMEDOUT.into());
                }
                if remove(&self.top, name)? == Removed::NotEmpty {
                    self.hollow(name)?;
                }
            }
        }
    }

    /// Empties a folder of the first level and removes it; what is not empty in it is lifted.
    fn hollow(&mut self, name: &CStr) -> io::Result<()> {
        let Some(folder) = entered(&self.top, name)? else {
            return Ok(());
        };
        for inner in &names(&folder)? {
            if remove(&folder, inner)? == Removed::NotEmpty && entered(&folder, inner)?.is_some() {
                self.lift(&folder, inner)?;
            }
        }
        // Somebody may have put something in again: then it is here the next time.
        remove(&self.top, name).map(drop)
    }

    fn lift(&mut self, folder: &OwnedFd, name: &CStr) -> io::Result<()> {
        for _ in 0..MOST_NAMES {
            self.lifted += 1;
            let fresh = CString::new(format!(".lifted-{}", self.lifted)).map_err(io::Error::other)?;
            match renameat(folder, name, &self.top, fresh.as_c_str()) {
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR | Errno::ISDIR) => {}
                moved => return gone(moved),
            }
        }
        Err(Errno::EXIST.into())
    }
}

/// Whatever it is, if it is no folder with something in it.
fn remove(folder: &OwnedFd, name: &CStr) -> io::Result<Removed> {
    match unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(Removed::Gone),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    match unlinkat(folder, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(Removed::Gone),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(Removed::NotEmpty),
        Err(error) => Err(error.into()),
    }
}

/// A folder that we may change; none if there is none any more.
fn entered(folder: &OwnedFd, name: &CStr) -> io::Result<Option<OwnedFd>> {
    match openat(folder, name, LOOK, Mode::empty()) {
        Ok(inner) => {
            open_up(&inner);
            Ok(Some(inner))
        }
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A child may have taken its own right to write to a folder; errors show when it is removed.
fn open_up(folder: &OwnedFd) {
    // By the handle: by its path, a link in its place would have the mode of something else changed.
    let held = format!("/proc/self/fd/{}", folder.as_raw_fd());
    // If it fails, so does the removal.
    let _ = rustix::fs::chmod(held, Mode::RWXU);
}

/// Of what is in it.
fn names(folder: &OwnedFd) -> io::Result<Vec<CString>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let listed = openat(folder, ".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::new(listed)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
        // The others come with the next look.
        if names.len() >= MOST_LISTED {
            break;
        }
    }
    Ok(names)
}

fn gone(done: rustix::io::Result<()>) -> io::Result<()> {
    match done {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn closed_folders_go_and_what_links_lead_to_stays_as_it_is() {
        let root = tempfile::tempdir().expect("a folder");
        let (folder, elsewhere) = (root.path().join("folder"), root.path().join("elsewhere"));
        fs::create_dir_all(folder.join("closed/inner")).expect("made");
        fs::create_dir_all(elsewhere.join("kept")).expect("made");
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
        symlink(&elsewhere, folder.join("closed/link")).expect("linked");
        set(&elsewhere, 0o555);
        set(&folder.join("closed"), 0o000);
        let mode = |path: &Path| path.metadata().expect("there").permissions().mode() & 0o777;
        remove_all(&folder).expect("removed");
        remove_all(&folder).expect("is not there");
        assert!(!folder.exists() && elsewhere.join("kept").is_dir());
        assert_eq!(mode(&elsewhere), 0o555, "through a link");
        // A link in the place of the folder itself.
        symlink(&elsewhere, &folder).expect("linked");
        remove_all(&folder).expect("the link");
        assert!(!folder.exists() && elsewhere.join("kept").is_dir());
    }

    /// Makes a folder in a folder, so often, and a file at each thousandth level.
    fn deep(folder: &Path, levels: u32) {
        fs::create_dir(folder).expect("made");
        let mut at = openat(CWD, folder, LOOK, Mode::empty()).expect("opened");
        for level in 0..levels {
            if level % 1_000 == 0 {
                let made = OFlags::CREATE | OFlags::WRONLY;
                openat(&at, "file", made, Mode::RUSR).expect("a file");
            }
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).expect("made");
            at = openat(&at, "d", LOOK, Mode::empty()).expect("opened");
        }
    }

    /// Guards that no script ends the agent by how deep its folders are: neither its stack nor its descriptors.
    #[test]
    fn however_deep_a_folder_is_it_goes() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join("folder");
        deep(&folder, 5_000);
        let small = std::thread::Builder::new().stack_size(64 * 1024);
        let removed = small.spawn({
            let folder = folder.clone();
            move || remove_all(&folder)
        });
        removed.expect("a thread").join().expect("no panic").expect("removed");
        assert!(!folder.exists());
    }

    #[test]
    fn wide_folders_and_names_that_are_taken_go_too() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join("folder");
        for name in [".lifted-1/x", ".lifted-2/x/y", "a/b/c", "a/d/e/f"] {
            fs::create_dir_all(folder.join(name)).expect("made");
        }
        for number in 0..MOST_LISTED + 10 {
            fs::write(folder.join(format!("a/d/{number}")), "").expect("made");
        }
        fs::write(folder.join(".lifted-3"), "").expect("made");
        remove_all(&folder).expect("removed");
        assert!(!folder.exists());
    }
}
