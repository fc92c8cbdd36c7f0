//! The folder below which an agent or a local run keeps everything: chosen, or one per user. Users of
//! one machine do not share it, for whoever owns it can read and change what tasks have in it.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use deputy_executor::{WorkFolderError, is_private, private_folder};

use crate::exit::StartupError;
use crate::folder::{can_be_made, takes_files};

/// Below it, where attempts have their folders.
pub(crate) const WORKSPACES: &str = "work";

/// Below it, where logs wait for the manager.
pub(crate) const SPOOL: &str = "spool";

/// The chosen folder or the user's own one, as it stands.
#[derive(Debug)]
pub(crate) struct Found {
    /// Where it is.
    pub(crate) root: PathBuf,
    /// Is it there? Otherwise it can be made.
    pub(crate) is_there: bool,
}

/// Where the folder is, if it can be used. Nothing is changed.
///
/// # Errors
/// It is not this user's alone, takes no files, or is missing and cannot be made.
pub(crate) fn look(chosen: Option<&Path>) -> Result<Found, StartupError> {
    let root = match chosen {
        Some(folder) => folder.to_owned(),
        None => {
            let user = rustix::process::geteuid().as_raw();
            own(std::env::var_os("XDG_RUNTIME_DIR").as_deref(), &temporary(), user)
        }
    };
    let is_there = usable(&root, is_private).map_err(unusable(&root))?;
    Ok(Found { root, is_there })
}

/// The same with what an agent has in it: asked by the agent at its start and by the doctor.
///
/// # Errors
/// As for [`look`], of the folder, of its workspaces, or of the spool.
pub(crate) fn look_through(chosen: Option<&Path>) -> Result<Found, StartupError> {
    let found = look(chosen)?;
    if found.is_there {
        let root = &found.root;
        usable(&root.join(WORKSPACES), is_private).map_err(unusable(root))?;
        // The folder above it keeps others away.
        usable(&root.join(SPOOL), |_| Ok(())).map_err(unusable(root))?;
    }
    Ok(found)
}

/// Can this folder be used, and is it there?
fn usable(folder: &Path, is_fit: impl FnOnce(&Path) -> Result<(), WorkFolderError>) -> Result<bool, WorkFolderError> {
    let bad = |source| WorkFolderError::Io {
        path: folder.to_owned(),
        source,
    };
    match folder.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => can_be_made(folder).map(|()| false).map_err(bad),
        Err(error) => Err(bad(error)),
        Ok(found) if !found.is_dir() => Err(bad(io::ErrorKind::NotADirectory.into())),
        Ok(_) => is_fit(folder).and_then(|()| takes_files(folder).map(|()| true).map_err(bad)),
    }
}

/// The chosen folder or the user's own one; made if it is missing, and this user's alone.
///
/// # Errors
/// As for [`look`], or it cannot be made after all.
pub(crate) fn work_root(chosen: Option<&Path>) -> Result<PathBuf, StartupError> {
    let Found { root, is_there } = look(chosen)?;
    if !is_there {
        private_folder(&root).map_err(unusable(&root))?;
    }
    Ok(root)
}

fn unusable(root: &Path) -> impl Fn(WorkFolderError) -> StartupError {
    move |source| StartupError::Folder {
        what: "the work folder",
        path: root.to_owned(),
        source: Box::new(source),
    }
}

/// `$TMPDIR`, else /var/tmp: what is hidden in /tmp would take it from scripts. /tmp where that cannot be written.
fn temporary() -> PathBuf {
    let writable = |folder: &Path| rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_ok();
    let var = Path::new("/var/tmp");
    if std::env::var_os("TMPDIR").is_none() && writable(var) {
        var.to_owned()
    } else {
        std::env::temp_dir()
    }
}

/// `$XDG_RUNTIME_DIR/deputy-agent` where the session has such a folder, else one with the user's number.
fn own(runtime: Option<&OsStr>, temporary: &Path, user: u32) -> PathBuf {
    let runtime = runtime.map(Path::new).filter(|folder| {
        // Left over from another user's session after `su` or `sudo`, it is not ours.
        let is_ours = |found: std::fs::Metadata| found.is_dir() && found.uid() == user;
        folder.is_absolute() && folder.metadata().is_ok_and(is_ours)
    });
    match runtime {
        Some(folder) => folder.join("deputy-agent"),
        None => temporary.join(format!("deputy-agent-{user}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_user_has_a_folder_of_their_own() {
        let session = tempfile::tempdir().expect("a folder");
        let user = session.path().metadata().expect("metadata").uid();
        let runtime = Some(session.path().as_os_str());
        let temporary = Path::new("/tmp");
        assert_eq!(own(runtime, temporary, user), session.path().join("deputy-agent"));
        // Another user's, none, or nowhere.
        assert_eq!(
            own(runtime, temporary, user + 1),
            temporary.join(format!("deputy-agent-{}", user + 1))
        );
        assert_eq!(own(None, temporary, 7), Path::new("/tmp/deputy-agent-7"));
        assert_eq!(
            own(Some(OsStr::new("/nowhere")), temporary, 7),
            Path::new("/tmp/deputy-agent-7")
        );
        assert_eq!(
            own(Some(OsStr::new("")), temporary, 7),
            Path::new("/tmp/deputy-agent-7")
        );
    }

    /// Guards that the doctor, which only looks, sees what the agent would stumble over.
    #[test]
    fn what_is_in_the_way_inside_is_seen_before_the_start() {
        use std::os::unix::fs::PermissionsExt;
        let parent = tempfile::tempdir().expect("a folder");
        let refused = |name: &str, spoil: &dyn Fn(&Path)| {
            let root = parent.path().join(name);
            work_root(Some(&root)).expect("made");
            assert!(look_through(Some(&root)).expect("nothing is in it").is_there);
            spoil(&root);
            look_through(Some(&root)).expect_err(name).explained()
        };
        let file = |path: PathBuf| std::fs::write(path, "").expect("written");
        let told = refused("a", &|root| file(root.join(SPOOL)));
        assert!(
            told.contains("a/spool cannot be used") && told.contains("not a directory"),
            "{told}"
        );
        let told = refused("b", &|root| file(root.join(WORKSPACES)));
        assert!(
            told.contains("b/work cannot be used") && told.contains("not a directory"),
            "{told}"
        );
        let told = refused("c", &|root| {
            let work = root.join(WORKSPACES);
            std::fs::create_dir(&work).expect("made");
            std::fs::set_permissions(&work, std::fs::Permissions::from_mode(0o777)).expect("mode");
        });
        assert!(
            told.contains("others can write to") && told.contains("c/work"),
            "{told}"
        );
        let told = refused("d", &|root| {
            std::os::unix::fs::symlink("nowhere", root.join(SPOOL)).expect("linked")
        });
        assert!(told.contains("d/spool cannot be used"), "{told}");
    }

    #[test]
    fn a_chosen_folder_that_others_can_write_to_is_told_with_what_to_do() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).expect("mode");
        let error = work_root(Some(folder.path())).expect_err("refused");
        let told = error
            .explained()
            .replace(&folder.path().display().to_string(), "FOLDER");
        insta::assert_snapshot!(told, @r"
        error: cannot use FOLDER as the work folder
          caused by: others can write to FOLDER: its mode is 0777
        hint: choose a folder that belongs to this user and that nobody else can write to; of a volume that others share, one inside it, for example FOLDER/deputy-agent
        ");
    }
}
