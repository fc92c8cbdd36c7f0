//! The agent's certificate and key in the state folder, if there is one: for this user alone, written whole or not at
//! all, and there until the next one takes its place: what was revoked opens nothing, and its key is shown again where
//! the agent joins again. The key of a join is there before the manager is asked, until the certificate is. Without a
//! state folder they are in memory only.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, TryLockError};

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use deputy_session::held::{Keeper, Keeping};
use deputy_session::identity::Identity;
use serde::{Deserialize, Serialize};
use tracing::warn;
use zeroize::{Zeroize, Zeroizing};

use crate::exit::StartupError;
use crate::folder::{can_be_made, takes_files};

/// In the state folder.
const FILE: &str = "identity.json";
/// What it is written as before it has its name.
const PARTIAL: &str = "identity.partial";
/// The key of a join that is not answered, or whose certificate is not kept yet: PKCS #8, base64.
const JOINING: &str = "joining-key";
/// What that is written as before it has its name.
const JOINING_PARTIAL: &str = "joining-key.partial";
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
    /// Held by a write: one that hangs lets no other begin.
    writing: Arc<Mutex<()>>,
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
        for name in [FILE, PARTIAL, JOINING, JOINING_PARTIAL] {
            if folder.join(name).symlink_metadata().is_ok_and(|found| found.is_dir()) {
                return Err(unusable(folder)(io::Error::other(format!(
                    "{name} in it is a folder, and what the agent joins with is kept in a file of that name"
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
        Ok(Self::at(folder))
    }

    fn at(folder: &Path) -> Self {
        Self {
            path: folder.join(FILE),
            writing: Arc::default(),
        }
    }

    /// What is kept in this folder, of whichever agent; the folder stays as it is.
    ///
    /// # Errors
    /// If it cannot be read, or is damaged.
    pub(crate) fn kept_in(folder: &Path) -> io::Result<Option<Identity>> {
        Self::at(folder).read()
    }

    /// The key of a join in this folder whose certificate is not kept; the folder stays as it is.
    pub(crate) fn joining_key_in(folder: &Path) -> Option<Zeroizing<Vec<u8>>> {
        Self::at(folder).joining_key()
    }

    /// What is kept of this agent, and where the next is kept.
    pub(crate) fn keeping(self, agent_id: &str) -> Keeping {
        Keeping {
            identity: self.load(agent_id),
            joining_key: self.joining_key(),
            keeper: Some(Arc::new(self)),
        }
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
        let Some(text) = read_text(&self.path)? else {
            return Ok(None);
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

    /// One that is the kept certificate's was left behind by a kill.
    fn joining_key(&self) -> Option<Zeroizing<Vec<u8>>> {
        let path = self.path.with_file_name(JOINING);
        let text = match read_text(&path) {
            Ok(text) => text?,
            Err(error) => {
                warn!(file = %path.display(), %error, "the key of a join that was begun cannot be read; another is made");
                return None;
            }
        };
        let key = match BASE64.decode(text.trim()) {
            Ok(key) => Zeroizing::new(key),
            Err(error) => {
                warn!(file = %path.display(), %error, "the key of a join that was begun is damaged; another is made");
                return None;
            }
        };
        let is_answered = self.read().is_ok_and(|kept| kept.is_some_and(|kept| kept.key == key));
        (!is_answered).then_some(key)
    }

    fn write_key(&self, key: &Zeroizing<Vec<u8>>) -> io::Result<()> {
        let kept = self.read().ok().flatten();
        if kept.is_some_and(|kept| kept.key == *key) {
            return Ok(());
        }
        self.write_whole(JOINING, JOINING_PARTIAL, &Zeroizing::new(BASE64.encode(&**key)))?;
        self.folder_to_disk()
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
        self.write_whole(FILE, PARTIAL, &text)?;
        self.folder_to_disk()?;
        // Whatever joined, its key is in there or of no use any more.
        match fs::remove_file(self.path.with_file_name(JOINING)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    fn write_whole(&self, name: &str, partial: &str, text: &str) -> io::Result<()> {
        let partial = self.path.with_file_name(partial);
        // One that was left behind by another start may have another mode, or be somebody else's.
        match fs::remove_file(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&partial)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&partial, self.path.with_file_name(name))
    }

    /// A name is on disk when its folder is.
    fn folder_to_disk(&self) -> io::Result<()> {
        fs::File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }

    /// Writes on a thread that may wait for the disk.
    async fn written(&self, write: impl FnOnce(&Self) -> io::Result<()> + Send + 'static) -> Result<(), String> {
        let file = self.clone();
        let written = tokio::task::spawn_blocking(move || {
            let _writing = match file.writing.try_lock() {
                Ok(writing) => writing,
                Err(TryLockError::Poisoned(broken)) => broken.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    return Err(io::Error::other("the write before it has not come to an end"));
                }
            };
            write(&file)
        });
        let written = written.await.map_err(|error| format!("the write broke: {error}"))?;
        written.map_err(|error| format!("{}: {error}", self.path.display()))
    }
}

#[async_trait]
impl Keeper for IdentityFile {
    async fn keep(&self, identity: Arc<Identity>) -> Result<(), String> {
        self.written(move |file| file.write(&identity)).await
    }

    async fn keep_key(&self, key: Zeroizing<Vec<u8>>) -> Result<(), String> {
        self.written(move |file| file.write_key(&key)).await
    }
}

/// None: there is no such file.
fn read_text(path: &Path) -> io::Result<Option<Zeroizing<String>>> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = Zeroizing::new(String::new());
    io::Read::read_to_string(&mut io::Read::take(file, MAX_BYTES), &mut text)?;
    Ok(Some(text))
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

    /// Guards a kill between: the key is found until its certificate is, and then no more.
    #[test]
    fn the_key_of_a_join_is_there_until_its_certificate_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = IdentityFile::in_folder(folder.path()).expect("made");
        let found = || IdentityFile::joining_key_in(folder.path());
        let path = folder.path().join(JOINING);
        assert_eq!(found(), None);
        let key = identity().key;
        file.write_key(&key).expect("written");
        assert_eq!(found(), Some(key.clone()));
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        let left_behind = fs::read(&path).expect("read");
        file.write(&identity()).expect("written");
        assert!(!path.exists());
        fs::write(&path, left_behind).expect("as after a kill between the two");
        assert_eq!(found(), None, "it is answered");
        file.write_key(&key).expect("it is in the certificate's file");
        for damaged in ["%", "\u{0}"] {
            fs::write(&path, damaged).expect("written");
            assert_eq!(found(), None);
        }
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
