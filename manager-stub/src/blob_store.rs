//! Blobs: files named by their SHA-256, in a folder per project beside the database. A blob is
//! visible when its file is on disk and its row is committed.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use deputy_task::id::Project;
use sha2::{Digest, Sha256};

use crate::data_folder;

/// Largest blob.
pub const MAX_BLOB_BYTES: u64 = 1024 * 1024 * 1024;

/// Begins the names of files that are no blobs yet.
const PARTIAL: &str = ".upload-";

/// The blobs' folder. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BlobStore {
    folder: PathBuf,
}

/// A blob on its way in.
#[derive(Debug)]
pub struct BlobWriter {
    file: tempfile::NamedTempFile,
    hash: Sha256,
    bytes: u64,
    target: PathBuf,
    expected: String,
}

/// A blob was not stored.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The name is no SHA-256.
    #[error("{0:?} is not a SHA-256 in lower-case hex")]
    BadName(String),
    /// The bytes are not those that were announced. Send them again.
    #[error("the bytes have the SHA-256 {found}, not {expected}")]
    OtherContent {
        /// What was announced.
        expected: String,
        /// What was sent.
        found: String,
    },
    /// It is too large.
    #[error("the blob is larger than {MAX_BLOB_BYTES} bytes")]
    TooLarge,
    /// The file system failed.
    #[error("the blob cannot be stored: {0}")]
    Io(#[from] io::Error),
}

impl BlobStore {
    /// The store in this folder, without what a manager that was killed had half received. The caller holds
    /// the lock of the data: nobody else receives anything.
    ///
    /// # Errors
    /// If the folder cannot be made, read or swept.
    pub fn open(folder: &Path) -> io::Result<Self> {
        data_folder::make(folder)?;
        for project in std::fs::read_dir(folder)? {
            let project = project?;
            if project.file_type()?.is_dir() {
                sweep(&project.path())?;
            }
        }
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    fn path(&self, project: &Project, sha256: &str) -> Result<PathBuf, BlobError> {
        let good = sha256.len() == 64 && sha256.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if good {
            Ok(self.folder.join(project.as_str()).join(sha256))
        } else {
            Err(BlobError::BadName(sha256.into()))
        }
    }

    /// Begins a blob.
    ///
    /// # Errors
    /// If the name is none, or no file can be made.
    pub fn begin(&self, project: &Project, sha256: &str) -> Result<BlobWriter, BlobError> {
        let target = self.path(project, sha256)?;
        let folder = target.parent().unwrap_or(&self.folder).to_owned();
        data_folder::make(&folder)?;
        let file = tempfile::Builder::new().prefix(PARTIAL).tempfile_in(folder)?;
        Ok(BlobWriter {
            file,
            hash: Sha256::new(),
            bytes: 0,
            target,
            expected: sha256.into(),
        })
    }

    /// Reads up to `length` bytes from `offset` on; nothing at the end.
    ///
    /// # Errors
    /// If there is no such file, or it cannot be read.
    pub fn read(&self, (project, sha256): (&Project, &str), offset: u64, length: usize) -> Result<Vec<u8>, BlobError> {
        let file = File::open(self.path(project, sha256)?)?;
        let mut bytes = vec![0; length];
        let mut filled = 0;
        while filled < length {
            let read = file.read_at(&mut bytes[filled..], offset + u64::try_from(filled).unwrap_or(0))?;
            if read == 0 {
                break;
            }
            filled += read;
        }
        bytes.truncate(filled);
        Ok(bytes)
    }
}

/// Removes a project's partial files.
fn sweep(project: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(project)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PARTIAL) {
            std::fs::remove_file(entry.path())?;
            tracing::info!(file = %entry.path().display(), "removed a blob that was half received");
        }
    }
    Ok(())
}

impl BlobWriter {
    /// The next bytes.
    ///
    /// # Errors
    /// If there are too many, or they cannot be written.
    pub fn push(&mut self, data: &[u8]) -> Result<(), BlobError> {
        self.bytes += u64::try_from(data.len()).unwrap_or(u64::MAX);
        if self.bytes > MAX_BLOB_BYTES {
            return Err(BlobError::TooLarge);
        }
        self.hash.update(data);
        self.file.write_all(data)?;
        Ok(())
    }

    /// Checks the digest and makes the file durable; answers its size.
    ///
    /// # Errors
    /// If the digest is another one, or the file cannot be synced.
    pub fn finish(self) -> Result<u64, BlobError> {
        let found = hex::encode(self.hash.finalize());
        if found != self.expected {
            return Err(BlobError::OtherContent {
                expected: self.expected,
                found,
            });
        }
        self.file.as_file().sync_all()?;
        let folder = self.target.parent().map(Path::to_owned);
        self.file.persist(&self.target).map_err(|error| error.error)?;
        if let Some(folder) = folder {
            File::open(folder)?.sync_all()?;
        }
        Ok(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_stored_under_its_own_digest_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = BlobStore::open(folder.path()).expect("open");
        let project = Project::default_project();
        let good = hex::encode(Sha256::digest(b"hello"));
        let mut writer = store.begin(&project, &good).expect("begin");
        writer.push(b"hel").expect("push");
        writer.push(b"lo").expect("push");
        assert_eq!(writer.finish().expect("finish"), 5);
        assert_eq!(store.read((&project, &good), 1, 100).expect("read"), b"ello");
        let mut other = store.begin(&project, &good).expect("begin");
        other.push(b"other").expect("push");
        assert!(matches!(other.finish(), Err(BlobError::OtherContent { .. })));
        assert!(store.begin(&project, "../../etc/passwd").is_err());
    }

    #[test]
    fn what_was_half_received_when_a_manager_was_killed_is_swept_at_the_next_start() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = BlobStore::open(folder.path()).expect("open");
        let project = Project::default_project();
        let good = hex::encode(Sha256::digest(b"hello"));
        let mut whole = store.begin(&project, &good).expect("begin");
        whole.push(b"hello").expect("push");
        whole.finish().expect("finish");
        let mut half = store.begin(&project, &good).expect("begin");
        half.push(b"hel").expect("push");
        // As after SIGKILL: nobody removes it.
        half.file.disable_cleanup(true);
        drop(half);
        let files = || {
            std::fs::read_dir(folder.path().join("default"))
                .expect("a project")
                .count()
        };
        assert_eq!(files(), 2);
        let store = BlobStore::open(folder.path()).expect("open again");
        assert_eq!(files(), 1);
        assert_eq!(store.read((&project, &good), 0, 100).expect("read"), b"hello");
    }
}
