//! Segment files: numbered, append-only, never changed once they are full.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::data_folder;

/// A segment is closed when it is this large.
const SEGMENT_BYTES: u64 = 256 * 1024 * 1024;

fn path_of(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("segment-{number:010}.log"))
}

/// The newest segment, open for appending.
#[derive(Debug)]
pub(super) struct SegmentWriter {
    folder: PathBuf,
    file: File,
    number: u64,
    position: u64,
}

impl SegmentWriter {
    /// Goes on behind `end`, the newest committed byte; what lies behind it is cut off.
    pub(super) fn open(folder: &Path, end: Option<(u64, u64)>) -> io::Result<Self> {
        data_folder::make(folder)?;
        let (number, position) = end.unwrap_or((1, 0));
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path > path_of(folder, number) {
                std::fs::remove_file(&path)?;
            }
        }
        let file = data_folder::writing().open(path_of(folder, number))?;
        let mut writer = Self {
            folder: folder.to_owned(),
            file,
            number,
            position,
        };
        writer.cut()?;
        File::open(folder)?.sync_all()?;
        Ok(writer)
    }

    /// Cuts the file back to the position, after a failed append.
    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.position)?;
        io::Seek::seek(&mut self.file, io::SeekFrom::Start(self.position)).map(drop)
    }

    /// Where the next byte goes: segment and position.
    pub(super) fn end(&self) -> (u64, u64) {
        (self.number, self.position)
    }

    /// Begins the next segment if this one is full.
    pub(super) fn roll(&mut self) -> io::Result<()> {
        if self.position >= SEGMENT_BYTES {
            let file = data_folder::writing()
                .truncate(true)
                .open(path_of(&self.folder, self.number + 1))?;
            File::open(&self.folder)?.sync_all()?;
            self.file = file;
            self.number += 1;
            self.position = 0;
        }
        Ok(())
    }

    /// Appends the pieces and syncs them; nothing is appended if it fails.
    pub(super) fn append(&mut self, pieces: &[Bytes]) -> io::Result<()> {
        let outcome = self.write_and_sync(pieces);
        match outcome {
            Ok(bytes) => self.position += bytes,
            Err(_) => self.cut()?,
        }
        outcome.map(drop)
    }

    fn write_and_sync(&mut self, pieces: &[Bytes]) -> io::Result<u64> {
        // The last piece of a log may be empty, and alone: writing nothing is not a failure.
        let filled = pieces.iter().filter(|piece| !piece.is_empty());
        let mut slices: Vec<IoSlice<'_>> = filled.map(|piece| IoSlice::new(piece)).collect();
        let mut rest = &mut slices[..];
        let mut total = 0_u64;
        while !rest.is_empty() {
            let written = self.file.write_vectored(rest)?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            total += u64::try_from(written).unwrap_or(0);
            IoSlice::advance_slices(&mut rest, written);
        }
        self.file.sync_data()?;
        Ok(total)
    }
}

/// Reads committed bytes.
#[derive(Debug, Clone)]
pub struct SegmentReader {
    folder: PathBuf,
}

impl SegmentReader {
    /// Reads from the segments of this folder.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// Reads `length` bytes.
    ///
    /// # Errors
    /// If the file is missing, shorter, or cannot be read.
    pub fn read(&self, segment: u64, position: u64, length: usize) -> io::Result<Vec<u8>> {
        let file = File::open(path_of(&self.folder, segment))?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, position)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_committed_is_cut_off_at_the_next_start() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut writer = SegmentWriter::open(folder.path(), None).expect("open");
        writer
            .append(&[Bytes::from_static(b"committed"), Bytes::from_static(b" not")])
            .expect("append");
        writer.append(&[Bytes::new()]).expect("an empty piece is appended");
        drop(writer);
        let mut writer = SegmentWriter::open(folder.path(), Some((1, 9))).expect("open again");
        assert_eq!(writer.end(), (1, 9));
        writer.append(&[Bytes::from_static(b"!")]).expect("append");
        let reader = SegmentReader::new(folder.path());
        assert_eq!(reader.read(1, 0, 10).expect("read"), b"committed!");
        assert!(reader.read(1, 0, 11).is_err());
    }
}
