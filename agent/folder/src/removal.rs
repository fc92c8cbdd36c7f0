//! Removes a folder with all that is in it, whatever modes its files were given. Called when a task has ended; programs
//! that it left behind may still be changing it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Dir, Mode, OFlags, openat};

/// Follows no link.
const LOOK: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Removes it. One that is not there is removed.
///
/// # Errors
/// If something of it cannot be removed.
pub fn remove_all(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(_) => {
            if let Ok(handle) = openat(CWD, folder, LOOK, Mode::empty()) {
                open_up(&handle);
            }
            std::fs::remove_dir_all(folder)
        }
    }
}

/// A child may have taken its own right to write to a folder; errors show when it is removed.
fn open_up(folder: &OwnedFd) {
    // By the handle: by its path, a link in its place would have the mode of something else changed.
    let held = format!("/proc/self/fd/{}", folder.as_raw_fd());
    // If it fails, so does the removal.
    let _ = rustix::fs::chmod(held, Mode::RWXU);
    let listed = openat(
        folder,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    );
    let Ok(entries) = listed.and_then(Dir::new) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if let Ok(inner) = openat(folder, name, LOOK, Mode::empty()) {
            open_up(&inner);
        }
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
        let closed = openat(CWD, &folder, LOOK, Mode::empty()).expect("opened");
        open_up(&closed);
        let mode = |path: &Path| path.metadata().expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&folder.join("closed")), 0o700);
        assert_eq!(mode(&elsewhere), 0o555, "through a link");
        set(&folder.join("closed"), 0o000);
        remove_all(&folder).expect("removed");
        remove_all(&folder).expect("is not there");
        assert!(!folder.exists() && elsewhere.join("kept").is_dir());
        // A link in the place of the folder itself.
        symlink(&elsewhere, &folder).expect("linked");
        remove_all(&folder).expect("the link");
        assert!(!folder.exists() && elsewhere.join("kept").is_dir());
    }
}
