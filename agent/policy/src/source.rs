//! Where the policy comes from: a file, read again when it has changed, or `--allow-all`. Without
//! either, or with a file that is not good, nothing runs.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::guarded;
use crate::policy::Policy;

/// Most bytes of a policy file.
const MAX_BYTES: u64 = 1 << 20;

/// Where an agent's policy comes from.
#[derive(Debug, Clone)]
pub struct PolicySource(Arc<Origin>);

#[derive(Debug)]
enum Origin {
    AllowAll(Arc<Policy>, Reason),
    Nothing,
    File {
        path: PathBuf,
        reason: Reason,
        last: Mutex<Option<Loaded>>,
    },
}

/// Why there are these rules, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// The agent was started so: people are warned.
    Asked,
    /// Somebody runs a task by hand, as himself.
    ByHand,
}

/// A file as it was when it was read.
#[derive(Debug, Clone)]
struct Loaded {
    stamp: Stamp,
    policy: Result<Arc<Policy>, Unusable>,
}

/// Tells a changed file: where it is, when it was written, how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    length: u64,
    mode: u32,
}

/// Why there is no policy to ask, so that nothing runs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(pub String);

impl PolicySource {
    /// Everything is allowed, and people are warned.
    #[must_use]
    pub fn allow_all() -> Self {
        Self(Arc::new(Origin::AllowAll(Arc::new(Policy::AllowAll), Reason::Asked)))
    }

    /// A person runs a task with his own hands.
    #[must_use]
    pub fn by_hand() -> Self {
        Self(Arc::new(Origin::AllowAll(Arc::new(Policy::AllowAll), Reason::ByHand)))
    }

    /// No policy was named: nothing runs.
    #[must_use]
    pub fn nothing() -> Self {
        Self(Arc::new(Origin::Nothing))
    }

    /// The rules of a file, which nobody but root and the agent's user may be able to change.
    #[must_use]
    pub fn file(path: PathBuf) -> Self {
        Self::of_file(path, Reason::Asked)
    }

    /// The rules of a file that a person names with his own hands, whoever can change it.
    #[must_use]
    pub fn file_by_hand(path: PathBuf) -> Self {
        Self::of_file(path, Reason::ByHand)
    }

    fn of_file(path: PathBuf, reason: Reason) -> Self {
        Self(Arc::new(Origin::File {
            path,
            reason,
            last: Mutex::new(None),
        }))
    }

    /// The policy as it is now. A file that has changed is read again.
    ///
    /// # Errors
    /// There is none that can be used: nothing may run.
    pub fn current(&self) -> Result<Arc<Policy>, Unusable> {
        match self.0.as_ref() {
            Origin::AllowAll(policy, _) => Ok(Arc::clone(policy)),
            Origin::Nothing => Err(Unusable(
                "it has no policy; name one with --policy-file, or start it with --allow-all".into(),
            )),
            Origin::File { path, reason, last } => {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                let stamp = match stamp(path) {
                    Ok(stamp) => stamp,
                    Err(error) => {
                        *last = None;
                        return Err(unusable(path, &format!("cannot be read: {error}")));
                    }
                };
                if *reason == Reason::Asked
                    && let Err(unguarded) = guarded::check(path)
                {
                    *last = None;
                    return Err(unusable(path, &format!("is not used: {unguarded}")));
                }
                if let Some(loaded) = last.as_ref().filter(|loaded| loaded.stamp == stamp) {
                    return loaded.policy.clone();
                }
                let policy = load(path);
                *last = Some(Loaded {
                    stamp,
                    policy: policy.clone(),
                });
                policy
            }
        }
    }

    /// The file that it is read from, if it is.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self.0.as_ref() {
            Origin::File { path, .. } => Some(path),
            Origin::AllowAll(..) | Origin::Nothing => None,
        }
    }

    /// What people should see wherever the agent is shown.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        match self.0.as_ref() {
            Origin::AllowAll(_, Reason::Asked) => {
                Some("it was started with --allow-all: whatever the manager sends is run".into())
            }
            Origin::AllowAll(_, Reason::ByHand) => None,
            Origin::Nothing | Origin::File { .. } => self.current().err().map(|why| format!("it runs nothing: {why}")),
        }
    }
}

fn unusable(path: &Path, why: &str) -> Unusable {
    Unusable(format!("its policy {} {why}", path.display()))
}

fn stamp(path: &Path) -> std::io::Result<Stamp> {
    let metadata = std::fs::metadata(path)?;
    Ok(Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
        length: metadata.len(),
        mode: metadata.mode(),
    })
}

fn load(path: &Path) -> Result<Arc<Policy>, Unusable> {
    let metadata = std::fs::metadata(path).map_err(|error| unusable(path, &format!("cannot be read: {error}")))?;
    if !metadata.is_file() {
        return Err(unusable(path, "is not a file"));
    }
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text))
        .map_err(|error| unusable(path, &format!("cannot be read: {error}")))?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > MAX_BYTES {
        return Err(unusable(path, "is larger than 1 MiB"));
    }
    let policy = Policy::parse(&text).map_err(|bad| unusable(path, &format!("is not valid: {bad}")))?;
    Ok(Arc::new(policy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_again_when_it_has_changed_and_nothing_runs_while_it_is_not_good() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("agent.cedar");
        let source = PolicySource::file(path.clone());
        let why = source.current().expect_err("there is no file").to_string();
        assert!(why.contains("agent.cedar cannot be read"), "{why}");
        std::fs::write(&path, "permit (principal, action, resource);").expect("written");
        let first = source.current().expect("good");
        assert!(
            Arc::ptr_eq(&first, &source.current().expect("good")),
            "it is not read twice"
        );
        assert_eq!(source.warning(), None);
        std::fs::write(&path, "permit (principal, action, resource)").expect("written");
        let why = source.warning().expect("bad");
        assert!(why.contains("it runs nothing") && why.contains("is not valid"), "{why}");
        std::fs::write(&path, "permit (principal, action, resource);\n").expect("written");
        source.current().expect("mended");
        std::fs::remove_file(&path).expect("removed");
        source.current().expect_err("gone");
    }

    #[test]
    fn a_file_that_everybody_can_write_is_no_policy() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("agent.cedar");
        std::fs::write(&path, "permit (principal, action, resource);").expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).expect("mode");
        let source = PolicySource::file(path.clone());
        let why = source.current().expect_err("refused").to_string();
        assert!(why.contains("written by everybody"), "{why}");
        PolicySource::file_by_hand(path.clone())
            .current()
            .expect("a person reads it");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("mode");
        source.current().expect("mended");
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o770)).expect("mode");
        let why = source.current().expect_err("its folder counts, also later").to_string();
        assert!(why.contains("written by its group"), "{why}");
    }

    #[test]
    fn without_a_file_nothing_runs_and_allowing_all_is_a_warning() {
        assert!(PolicySource::nothing().current().is_err());
        assert!(PolicySource::nothing().warning().expect("one").contains("--allow-all"));
        assert!(
            PolicySource::allow_all()
                .warning()
                .expect("one")
                .contains("--allow-all")
        );
        assert_eq!(PolicySource::by_hand().warning(), None);
    }
}
