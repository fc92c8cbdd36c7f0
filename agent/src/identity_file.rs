//! The agent's certificate and key in the state folder, if there is one: for this user alone, written whole or not at
//! all, and there until the next one takes its place: what was revoked opens nothing, and its key is shown again where
//! the agent joins again. Without a state folder they are in memory only.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use deputy_session::identity::Identity;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tracing::{error, info, warn};
use zeroize::{Zeroize, Zeroizing};

use crate::exit::StartupError;
use crate::folder::{can_be_made, takes_files};

/// In the state folder.
const FILE: &str = "identity.json";
/// What it is written as before it has its name.
const PARTIAL: &str = "identity.partial";
/// Largest file that is read.
const MAX_BYTES: u64 = 64 * 1024;

/// The file's form.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Kept {
    version: u32,
    agent_id: String,
    pool: String,
    join_rule: String,
    obtained_at_ms: i64,
    not_after_ms: i64,
    /// Leaf first, DER, base64.
    chain: Vec<String>,
    /// PKCS #8, base64.
    key: String,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// Where an identity is kept.
#[derive(Debug, Clone)]
pub(crate) struct IdentityFile {
    path: PathBuf,
}

/// Who can look into a state folder that the agent can use. Asked by the agent at its start, before a join token has been
/// used, and by the doctor: both judge alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Openness {
    /// This user alone.
    Closed,
    /// Nobody yet: the agent makes it when it starts, for this user alone.
    Missing,
    /// Others too: the agent closes it when it starts.
    Open {
        /// Its permissions as they are.
        mode: u32,
    },
}

impl Openness {
    /// Of this folder, which stays as it is.
    ///
    /// # Errors
    /// It cannot be looked at or made, is somebody else's, or takes no files.
    pub(crate) fn of(folder: &Path) -> Result<Self, StartupError> {
        let found = match fs::metadata(folder) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return can_be_made(folder).map(|()| Self::Missing).map_err(unusable(folder));
            }
            Err(error) => return Err(unusable(folder)(error)),
        };
        if !found.is_dir() {
            return Err(unusable(folder)(io::ErrorKind::NotADirectory.into()));
        }
        let user = rustix::process::geteuid().as_raw();
        if found.uid() != user {
            return Err(unusable(folder)(io::Error::other(format!(
                "it belongs to user {}, and this is user {user}; what the agent keeps there would be theirs to change",
                found.uid()
            ))));
        }
        takes_files(folder).map_err(unusable(folder))?;
        for name in [FILE, PARTIAL] {
            if folder.join(name).symlink_metadata().is_ok_and(|found| found.is_dir()) {
                return Err(unusable(folder)(io::Error::other(format!(
                    "{name} in it is a folder, and the certificate is kept in a file of that name"
                ))));
            }
        }
        let mode = found.permissions().mode() & 0o7777;
        Ok(if mode & 0o077 == 0 {
            Self::Closed
        } else {
            Self::Open { mode }
        })
    }
}

fn unusable(folder: &Path) -> impl Fn(io::Error) -> StartupError {
    move |source| StartupError::Folder {
        what: "the state folder",
        path: folder.to_owned(),
        source: Box::new(source),
    }
}

impl IdentityFile {
    /// The file in this folder, which is made for this user alone, or closed to others.
    ///
    /// # Errors
    /// If the folder cannot be made or closed, is somebody else's, or takes no files.
    pub(crate) fn in_folder(folder: &Path) -> Result<Self, StartupError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(unusable(folder))?;
        match Openness::of(folder)? {
            Openness::Closed | Openness::Missing => {}
            Openness::Open { mode } => {
                fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(unusable(folder))?;
                warn!(
                    folder = %folder.display(), mode = format_args!("{mode:04o}"),
                    "the state folder was open to other users and is closed now"
                );
            }
        }
        Ok(Self {
            path: folder.join(FILE),
        })
    }

    /// What is kept in this folder, of whichever agent; the folder stays as it is.
    ///
    /// # Errors
    /// If it cannot be read, or is damaged.
    pub(crate) fn kept_in(folder: &Path) -> io::Result<Option<Identity>> {
        let path = folder.join(FILE);
        Self { path }.read()
    }

    /// What is kept of this agent. A file that cannot be used is told of and left: joining writes it anew.
    pub(crate) fn load(&self, agent_id: &str) -> Option<Identity> {
        match self.read() {
            Ok(None) => None,
            Ok(Some(identity)) if identity.agent_id == agent_id => Some(identity),
            Ok(Some(identity)) => {
                warn!(
                    file = %self.path.display(), of = identity.agent_id, agent_id,
                    "the kept certificate is another agent's and is not used"
                );
                None
            }
            Err(error) => {
                warn!(file = %self.path.display(), %error, "the kept certificate cannot be used; joining anew");
                None
            }
        }
    }

    fn read(&self) -> io::Result<Option<Identity>> {
        let text = match fs::File::open(&self.path) {
            Ok(file) => {
                let mut text = Zeroizing::new(String::new());
                io::Read::read_to_string(&mut io::Read::take(file, MAX_BYTES), &mut text)?;
                text
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut kept: Kept = serde_json::from_str(&text).map_err(io::Error::other)?;
        if kept.version != 1 {
            return Err(io::Error::other(format!("it has version {}, not 1", kept.version)));
        }
        let chain: Result<Vec<_>, _> = kept.chain.iter().map(|one| BASE64.decode(one)).collect();
        Ok(Some(Identity {
            chain: chain.map_err(io::Error::other)?,
            key: Zeroizing::new(BASE64.decode(kept.key.as_bytes()).map_err(io::Error::other)?),
            obtained_at_ms: kept.obtained_at_ms,
            not_after_ms: kept.not_after_ms,
            agent_id: std::mem::take(&mut kept.agent_id),
            pool: std::mem::take(&mut kept.pool),
            join_rule: std::mem::take(&mut kept.join_rule),
        }))
    }

    fn write(&self, identity: &Identity) -> io::Result<()> {
        let kept = Kept {
            version: 1,
            agent_id: identity.agent_id.clone(),
            pool: identity.pool.clone(),
            join_rule: identity.join_rule.clone(),
            obtained_at_ms: identity.obtained_at_ms,
            not_after_ms: identity.not_after_ms,
            chain: identity.chain.iter().map(|one| BASE64.encode(one)).collect(),
            key: BASE64.encode(&*identity.key),
        };
        let text = Zeroizing::new(serde_json::to_string_pretty(&kept).map_err(io::Error::other)?);
        let partial = self.path.with_file_name(PARTIAL);
        // One that was left behind by another start may have another mode, or be somebody else's.
        match fs::remove_file(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&partial)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&partial, &self.path)?;
        // The name is on disk when its folder is.
        fs::File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }

    /// Keeps what the session has, for as long as it has one. Runs as a part of the supervisor's.
    pub(crate) async fn keep(self, mut identity: watch::Receiver<Option<Arc<Identity>>>) {
        while identity.changed().await.is_ok() {
            let Some(now) = identity.borrow_and_update().clone() else {
                continue;
            };
            let file = self.clone();
            let written = tokio::task::spawn_blocking(move || file.write(&now)).await;
            match written {
                Ok(Ok(())) => info!(file = %self.path.display(), "the certificate is kept"),
                Ok(Err(error)) => {
                    error!(file = %self.path.display(), %error, "the certificate cannot be kept; after a restart the agent has to join again");
                }
                Err(error) => error!(%error, "keeping the certificate broke"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            chain: vec![vec![1, 2, 3], vec![4]],
            key: Zeroizing::new(vec![7; 40]),
            obtained_at_ms: 1,
            not_after_ms: 2,
            agent_id: "a1".into(),
            pool: "eu".into(),
            join_rule: "rule".into(),
        }
    }

    #[test]
    fn what_was_kept_is_read_again_and_nobody_else_can_read_it() {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = parent.path().join("state");
        let file = IdentityFile::in_folder(&folder).expect("made");
        assert_eq!(file.load("a1"), None);
        let partial = file.path.with_extension("partial");
        fs::write(&partial, "left behind").expect("written");
        fs::set_permissions(&partial, fs::Permissions::from_mode(0o644)).expect("open to all");
        file.write(&identity()).expect("written");
        assert_eq!(file.load("a1"), Some(identity()));
        assert_eq!(file.load("a2"), None, "it is another agent's");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&file.path)), (0o700, 0o600));
    }

    #[test]
    fn a_folder_that_was_open_is_closed_and_a_damaged_file_is_not_used() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("set");
        let file = IdentityFile::in_folder(folder.path()).expect("closed");
        assert_eq!(
            fs::metadata(folder.path()).expect("there").permissions().mode() & 0o777,
            0o700
        );
        for damaged in ["", "{", "{\"version\": 2}", "[]"] {
            fs::write(&file.path, damaged).expect("written");
            assert_eq!(file.load("a1"), None, "{damaged:?}");
        }
    }

    /// Guards that the doctor and the agent judge a folder alike, and that looking changes nothing.
    #[test]
    fn an_open_folder_of_ours_is_closed_and_one_of_somebody_else_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let missing = folder.path().join("not/there");
        assert_eq!(Openness::of(&missing).expect("can be made"), Openness::Missing);
        assert!(!folder.path().join("not").exists(), "looking makes nothing");
        let file = folder.path().join("file");
        fs::write(&file, "").expect("written");
        for bad in [file.clone(), file.join("below")] {
            Openness::of(&bad).expect_err("a file is in the way");
        }
        let open = |mode| fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).expect("set");
        for mode in [0o755, 0o770, 0o777, 0o701] {
            open(mode);
            let seen = Openness::of(folder.path()).expect("ours to close");
            assert_eq!(seen, Openness::Open { mode });
            assert_eq!(Openness::of(folder.path()).expect("as before"), seen);
            IdentityFile::in_folder(folder.path()).expect("closed");
            assert_eq!(Openness::of(folder.path()).expect("closed"), Openness::Closed);
        }
        // Whoever is root could write all the same.
        let unwritable = Path::new("/proc/self/fd");
        let [judged, used] = [
            Openness::of(unwritable).map(drop),
            IdentityFile::in_folder(unwritable).map(drop),
        ]
        .map(|refused| refused.expect_err("nothing can be made there").explained());
        assert_eq!(judged, used);
        let taken = folder.path().join("taken");
        fs::create_dir_all(taken.join(FILE)).expect("made");
        fs::set_permissions(&taken, fs::Permissions::from_mode(0o700)).expect("set");
        let told = Openness::of(&taken).expect_err("a folder is in the way").explained();
        assert!(told.contains("identity.json"), "{told}");
        // Only root can give a folder away.
        if rustix::process::geteuid().is_root() {
            for mode in [0o755, 0o700] {
                open(mode);
                std::os::unix::fs::chown(folder.path(), Some(65_534), None).expect("given away");
                let [judged, used] = [
                    Openness::of(folder.path()).map(drop),
                    IdentityFile::in_folder(folder.path()).map(drop),
                ]
                .map(|refused| refused.expect_err("somebody else's").explained());
                assert_eq!(judged, used);
                assert!(judged.contains("belongs to user 65534"), "{judged}");
                std::os::unix::fs::chown(folder.path(), Some(0), None).expect("taken back");
            }
        }
    }
}
