//! The file with the keys of the pool, read at the start and never again: who may own it, who may read
//! it, and what it must not be. Its content stays in memory, and out of every message.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use deputy_credentials::Identities;
use deputy_credentials::data_key::{self, Wrapping};
use deputy_seal::KeyRing;
use deputy_seal::key_ring::{BadRing, Entry, MAX_RING_BYTES, Wrapped, read};
use deputy_seal::pool_key::{KEY_BYTES, PoolKey};
use deputy_task::outcome::Failure;
use deputy_task::record::PoolKeyId;
use rustix::fs::OFlags;
use zeroize::Zeroizing;

use crate::exit::StartupError;

/// A network that swallows everything still lets the agent end.
const UNWRAPPED_WITHIN: Duration = Duration::from_secs(60);

/// Why the file is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RingError {
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("it is a link that leads out of its folder, to {}", .0.display())]
    LeadsAway(PathBuf),
    #[error("it is not a regular file")]
    NotAFile,
    #[error("it belongs to user {0}; it should be this agent's or root's")]
    ForeignOwner(u32),
    #[error(
        "its mode is {0:04o}, so that others than its owner and group can read it, or others than its owner can write it"
    )]
    Open(u32),
    #[error("everybody can replace it: the mode of its folder is {0:04o}")]
    OpenFolder(u32),
    #[error(transparent)]
    Bad(#[from] BadRing),
    #[error("{}", .0.summary)]
    Kms(Box<Failure>),
    #[error("AWS KMS did not answer within {} s", UNWRAPPED_WITHIN.as_secs())]
    KmsSilent,
    #[error("what AWS KMS unwraps with {0} is no pool key: it does not have {KEY_BYTES} bytes")]
    KmsOther(String),
}

/// The pool's keys, if it has any. Called before anything is said to a manager: an agent of a pool that has a key
/// must not begin a run without it.
pub(crate) fn open(path: Option<&Path>, identities: &Identities) -> Result<Option<Arc<KeyRing>>, StartupError> {
    let Some(path) = path else { return Ok(None) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(StartupError::Threads)?;
    let opened = entries(path).and_then(|entries| runtime.block_on(ring(entries, identities)));
    let opened = opened.map_err(|why| unusable(path, &why))?;
    let ids: Vec<&str> = opened.ids().map(PoolKeyId::as_str).collect();
    tracing::info!(seals = %opened.first().id(), opens = ids.join(","), "the pool has a key");
    Ok(Some(Arc::new(opened)))
}

/// The lines of the ring in this file.
pub(crate) fn entries(path: &Path) -> Result<Vec<Entry>, RingError> {
    Ok(read(&bytes(path)?)?)
}

/// The ring of these lines. Those that AWS KMS wrapped are unwrapped with the agent's own identity.
pub(crate) async fn ring(entries: Vec<Entry>, identities: &Identities) -> Result<KeyRing, RingError> {
    let mut keys = Vec::with_capacity(entries.len());
    for entry in entries {
        keys.push(match entry {
            Entry::Plain(key) => key,
            Entry::Kms(wrapped) => {
                let unwrapping = unwrapped(&wrapped, identities);
                let unwrapping = tokio::time::timeout(UNWRAPPED_WITHIN, unwrapping).await;
                unwrapping.map_err(|_| RingError::KmsSilent)??
            }
        });
    }
    Ok(KeyRing::new(keys)?)
}

async fn unwrapped(wrapped: &Wrapped, identities: &Identities) -> Result<PoolKey, RingError> {
    let context = context(&wrapped.pool);
    let wrapping = Wrapping {
        key_arn: &wrapped.key_arn,
        context: &context,
    };
    let bytes = data_key::unwrap(identities, &wrapping, &wrapped.ciphertext).await;
    let bytes = bytes.map_err(|failure| RingError::Kms(Box::new(failure)))?;
    let other = || RingError::KmsOther(wrapped.key_arn.clone());
    let secret = Zeroizing::new(bytes.as_slice().try_into().map_err(|_| other())?);
    PoolKey::new(secret).map_err(|_| other())
}

/// What AWS KMS binds a pool's key to. A role's policy can ask for it (`kms:EncryptionContext:deputy:pool`), so that
/// each pool's agents unwrap their own key and no other.
pub(crate) fn context(pool: &str) -> [(&str, &str); 2] {
    [("deputy:purpose", "pool-key"), ("deputy:pool", pool)]
}

/// The agent does not start without its ring.
pub(crate) fn unusable(path: &Path, why: &RingError) -> StartupError {
    let (hint, detail) = match why {
        RingError::Kms(failure) => (failure.hint.clone(), failure.detail.clone()),
        _ => (String::new(), String::new()),
    };
    StartupError::PoolKey {
        path: path.into(),
        why: why.to_string(),
        hint,
        detail,
    }
}

/// Everything that leads to the file: itself, and what it is a link to.
pub(crate) fn places(path: &Path) -> Vec<PathBuf> {
    let mut places = vec![path.to_owned()];
    places.extend(path.canonicalize().ok().filter(|real| real != path));
    places
}

fn bytes(path: &Path) -> Result<Zeroizing<Vec<u8>>, RingError> {
    let real = path.canonicalize()?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new(".")).canonicalize()?;
    // A mounted Kubernetes Secret is a link to a folder beside it, which is how it is renewed.
    if !real.starts_with(&folder) {
        return Err(RingError::LeadsAway(real));
    }
    check_folder(&folder.metadata()?)?;
    let mut options = OpenOptions::new();
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let mut file = options
        .read(true)
        .custom_flags(i32::try_from(flags).unwrap_or_default())
        .open(&real)?;
    check_file(&file.metadata()?, rustix::process::geteuid().as_raw())?;
    let mut bytes = Zeroizing::new(Vec::new());
    let limit = u64::try_from(MAX_RING_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    File::by_ref(&mut file).take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn check_folder(folder: &Metadata) -> Result<(), RingError> {
    let mode = folder.mode() & 0o7777;
    // In a sticky folder only the owner of a file replaces it.
    if mode & 0o002 != 0 && mode & 0o1000 == 0 {
        return Err(RingError::OpenFolder(mode));
    }
    Ok(())
}

fn check_file(file: &Metadata, user: u32) -> Result<(), RingError> {
    if !file.is_file() {
        return Err(RingError::NotAFile);
    }
    if file.uid() != user && file.uid() != 0 {
        return Err(RingError::ForeignOwner(file.uid()));
    }
    let mode = file.mode() & 0o7777;
    if mode & 0o027 != 0 {
        return Err(RingError::Open(mode));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use deputy_seal::key_ring::line;

    use super::*;

    fn written(folder: &Path, mode: u32) -> PathBuf {
        let path = folder.join("pool-key");
        let key = PoolKey::generate().expect("a key");
        fs::write(&path, line(&key).as_bytes()).expect("written");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("mode");
        path
    }

    fn refused(path: &Path) -> String {
        entries(path).expect_err("refused").to_string()
    }

    #[test]
    fn a_private_file_is_read_and_so_is_a_mounted_secret() {
        let folder = tempfile::tempdir().expect("a folder");
        for mode in [0o600, 0o400, 0o440] {
            let path = written(folder.path(), mode);
            assert!(matches!(&entries(&path).expect("read")[..], [Entry::Plain(_)]));
            fs::remove_file(path).expect("removed");
        }
        // As kubelet lays it out.
        let data = folder.path().join("..2026_11_26");
        fs::create_dir(&data).expect("made");
        written(&data, 0o440);
        symlink("..2026_11_26", folder.path().join("..data")).expect("a link");
        let path = folder.path().join("pool-key");
        symlink("..data/pool-key", &path).expect("a link");
        assert_eq!(entries(&path).expect("read").len(), 1);
        assert_eq!(
            places(&path),
            [path.clone(), data.canonicalize().expect("there").join("pool-key")]
        );
    }

    #[test]
    fn a_file_that_others_can_read_or_replace_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        for mode in [0o644, 0o604, 0o660, 0o620] {
            let path = written(folder.path(), mode);
            assert!(
                refused(&path).contains(&format!("its mode is {mode:04o}")),
                "{}",
                refused(&path)
            );
            fs::remove_file(path).expect("removed");
        }
        let path = written(folder.path(), 0o600);
        fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).expect("mode");
        assert!(refused(&path).contains("everybody can replace it"));
        fs::set_permissions(folder.path(), Permissions::from_mode(0o1777)).expect("mode");
        entries(&path).expect("only its owner replaces it");
    }

    #[test]
    fn what_is_no_ring_of_this_agent_is_refused() {
        let (folder, elsewhere) = (tempfile::tempdir().expect("one"), tempfile::tempdir().expect("other"));
        let path = folder.path().join("pool-key");
        assert!(refused(&path).contains("cannot be read"));
        symlink(written(elsewhere.path(), 0o600), &path).expect("a link");
        assert!(refused(&path).contains("leads out of its folder"));
        fs::remove_file(&path).expect("removed");
        fs::create_dir(&path).expect("made");
        assert!(refused(&path).contains("not a regular file"));
        let found = written(elsewhere.path(), 0o600).metadata().expect("there");
        if found.uid() != 0 {
            let foreign = check_file(&found, found.uid() + 1).expect_err("refused");
            assert!(matches!(foreign, RingError::ForeignOwner(_)));
        }
        fs::write(elsewhere.path().join("pool-key"), "s3cr3t").expect("written");
        let told = refused(&elsewhere.path().join("pool-key"));
        assert!(
            told.starts_with("line 1 is not a pool key") && !told.contains("s3cr3t"),
            "{told}"
        );
    }
}
