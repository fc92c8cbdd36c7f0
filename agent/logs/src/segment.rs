//! A sealed part of a log: records that are complete, in memory or in a file of their own.
//! Called by the queue only.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use bytes::Bytes;

/// Where the bytes are.
pub(crate) enum Place {
    Memory(Bytes),
    Disk(PathBuf),
}

/// Records that are complete.
pub(crate) struct Segment {
    /// Offset in the log.
    pub(crate) start: u64,
    pub(crate) len: u64,
    pub(crate) place: Place,
}

impl Segment {
    pub(crate) fn in_memory(start: u64, bytes: Vec<u8>) -> Self {
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Self {
            start,
            len,
            place: Place::Memory(Bytes::from(bytes)),
        }
    }

    pub(crate) const fn end(&self) -> u64 {
        self.start + self.len
    }

    pub(crate) const fn memory(&self) -> u64 {
        match self.place {
            Place::Memory(_) => self.len,
            Place::Disk(_) => 0,
        }
    }

    /// Moves the bytes to a new file; they stay in memory if that fails.
    pub(crate) fn spill(&mut self, path: PathBuf) -> io::Result<()> {
        let Place::Memory(bytes) = &self.place else {
            return Ok(());
        };
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(bytes));
        if let Err(error) = written {
            // A part of it may be there.
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        self.place = Place::Disk(path);
        Ok(())
    }

    /// Frees the file, if there is one.
    pub(crate) fn remove(self) {
        if let Place::Disk(path) = self.place
            && let Err(error) = std::fs::remove_file(&path)
        {
            tracing::debug!(path = %path.display(), %error, "a segment of the log spool was gone already");
        }
    }
}

/// Up to `max` bytes of a place, from `skip` on.
pub(crate) fn read(place: &Place, skip: u64, max: usize) -> io::Result<Bytes> {
    match place {
        Place::Memory(bytes) => {
            let from = usize::try_from(skip).unwrap_or(usize::MAX).min(bytes.len());
            Ok(bytes.slice(from..bytes.len().min(from.saturating_add(max))))
        }
        Place::Disk(path) => {
            let file = File::open(path)?;
            let rest = usize::try_from(file.metadata()?.len().saturating_sub(skip)).unwrap_or(usize::MAX);
            let mut buffer = vec![0; rest.min(max)];
            file.read_exact_at(&mut buffer, skip)?;
            Ok(Bytes::from(buffer))
        }
    }
}
