//! Whether a file can be changed by nobody but root and the agent's own user. Asked for the policy and for the keys of
//! trusted signers: who writes them decides what is run. Links are followed, and every folder on the way is looked at.

use std::ffi::OsString;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::process::geteuid;

const GROUP_WRITES: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;
/// In such a folder nobody can move or remove what is another's.
const STICKY: u32 = 0o1000;
/// As many as Linux follows.
const MAX_LINKS: usize = 40;

/// Somebody else can change what is there, or it cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unguarded {
    #[error("{} cannot be looked at: {error}", path.display())]
    Unseen { path: PathBuf, error: io::Error },
    #[error("{} has too many links on its way", path.display())]
    Links { path: PathBuf },
    #[error("{} can be written by {who}; take that right away (chmod {mode} {})", path.display(), path.display())]
    Writable {
        path: PathBuf,
        who: &'static str,
        mode: &'static str,
    },
    #[error(
        "{} belongs to user {owner}, who is neither root nor the agent's user {user}; give it to one of them (chown {user} {})",
        path.display(), path.display()
    )]
    Foreign { path: PathBuf, owner: u32, user: u32 },
}

/// Looks at a file or folder, and at everything on the way to it.
///
/// # Errors
/// The first thing that somebody else can change.
pub(crate) fn check(path: &Path) -> Result<(), Unguarded> {
    let unseen = |path: &Path| {
        let path = path.to_owned();
        move |error| Unguarded::Unseen { path, error }
    };
    let whole = std::path::absolute(path).map_err(unseen(path))?;
    let mut left: Vec<OsString> = parts(&whole);
    let mut at = PathBuf::from("/");
    let mut links = 0;
    look(&at, &at.symlink_metadata().map_err(unseen(&at))?)?;
    while let Some(part) = left.pop() {
        if part == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&part);
        let found = next.symlink_metadata().map_err(unseen(&next))?;
        look(&next, &found)?;
        if !found.is_symlink() {
            at = next;
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(Unguarded::Links { path: whole });
        }
        let target = next.read_link().map_err(unseen(&next))?;
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        left.extend(parts(&target));
    }
    Ok(())
}

/// The last one first.
fn parts(path: &Path) -> Vec<OsString> {
    let named = path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    named.collect()
}

fn look(path: &Path, found: &Metadata) -> Result<(), Unguarded> {
    let (owner, user) = (found.uid(), geteuid().as_raw());
    let problem = if owner != 0 && owner != user {
        Unguarded::Foreign {
            path: path.to_owned(),
            owner,
            user,
        }
    } else if found.is_symlink() || (found.is_dir() && found.mode() & STICKY != 0) {
        // The mode of a link means nothing; whoever can replace it can write its folder.
        return Ok(());
    } else if found.mode() & OTHERS_WRITE != 0 {
        Unguarded::Writable {
            path: path.to_owned(),
            who: "everybody",
            mode: "go-w",
        }
    } else if found.mode() & GROUP_WRITES != 0 {
        Unguarded::Writable {
            path: path.to_owned(),
            who: "its group",
            mode: "g-w",
        }
    } else {
        return Ok(());
    };
    // What is mounted read-only, as Kubernetes mounts ConfigMaps and Secrets, is changed by whoever mounted it and no
    // other, whatever its modes say. Of a link the folder's mount is asked, not its target's.
    let mount = if found.is_symlink() {
        path.parent().unwrap_or(path)
    } else {
        path
    };
    match statvfs(mount) {
        Ok(mount) if mount.f_flag.contains(StatVfsMountFlags::RDONLY) => Ok(()),
        Ok(_) | Err(_) => Err(problem),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mode");
    }

    fn why(path: &Path) -> String {
        check(path).expect_err("unguarded").to_string()
    }

    #[test]
    fn what_others_can_write_is_told_with_its_path_and_what_to_do() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join("etc/deputy");
        fs::create_dir_all(&folder).expect("made");
        let file = folder.join("agent.cedar");
        fs::write(&file, "x").expect("written");
        mode(&file, 0o644);
        check(&file).expect("guarded");
        mode(&file, 0o664);
        assert!(
            why(&file).contains("agent.cedar can be written by its group"),
            "{}",
            why(&file)
        );
        mode(&file, 0o646);
        let told = why(&file);
        assert!(told.contains("by everybody") && told.contains("chmod go-w"), "{told}");
        mode(&file, 0o600);
        mode(&folder, 0o777);
        assert!(
            why(&file).contains("etc/deputy can be written by everybody"),
            "{}",
            why(&file)
        );
        mode(&folder, 0o755);
        mode(folder.parent().expect("a parent"), 0o775);
        assert!(
            why(&file).contains("/etc can be written by its group"),
            "{}",
            why(&file)
        );
        assert!(why(&folder.join("../../etc/deputy/agent.cedar")).contains("its group"));
        // As /tmp is: others can add to it, and change nothing that is there.
        mode(folder.parent().expect("a parent"), 0o1777);
        check(&file).expect("guarded");
        assert!(why(&folder.join("none.cedar")).contains("cannot be looked at"));
    }

    #[test]
    fn links_are_followed_and_what_is_on_their_way_counts() {
        let root = tempfile::tempdir().expect("a folder");
        // A ConfigMap as Kubernetes mounts it.
        let mount = root.path().join("config");
        let version = mount.join("..2026_11_26");
        fs::create_dir_all(&version).expect("made");
        fs::write(version.join("agent.cedar"), "x").expect("written");
        symlink("..2026_11_26", mount.join("..data")).expect("linked");
        symlink("..data/agent.cedar", mount.join("agent.cedar")).expect("linked");
        let file = mount.join("agent.cedar");
        mode(&mount, 0o1777);
        check(&file).expect("guarded");
        let open = root.path().join("open");
        fs::create_dir(&open).expect("made");
        fs::write(open.join("agent.cedar"), "x").expect("written");
        symlink(open.join("agent.cedar"), root.path().join("link")).expect("linked");
        check(&root.path().join("link")).expect("guarded");
        mode(&open, 0o777);
        assert!(why(&root.path().join("link")).contains("open can be written"));
        symlink(root.path().join("round"), root.path().join("round")).expect("linked");
        assert!(why(&root.path().join("round")).contains("too many links"));
    }

    #[test]
    fn what_belongs_to_somebody_else_is_not_trusted() {
        let root = tempfile::tempdir().expect("a folder");
        let file = root.path().join("pipeline.pem");
        fs::write(&file, "x").expect("written");
        // Only root can give a file away.
        if geteuid().is_root() {
            chown(&file, Some(65_534), None).expect("given away");
            let told = why(&file);
            assert!(
                told.contains("belongs to user 65534") && told.contains("chown 0"),
                "{told}"
            );
        } else {
            check(&file).expect("the user's own");
        }
    }
}
