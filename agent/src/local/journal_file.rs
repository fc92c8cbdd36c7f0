//! The journal of a local run in a file: append-only, and on disk before anything is answered.
//!
//! ```text
//! "deputy journal 1\n"
//! { length u32 LE, CRC-32 u32 LE, JSON of one entry }*
//! ```
//!
//! A torn last entry (the machine died while it was written) was never answered, so it is cut off; so are
//! zeros behind the last whole entry, which a power loss leaves where a length was written and no content.
//! A damaged entry before the last is an error: nothing after it can be believed.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use deputy_task::id::TaskId;
use deputy_task::outcome::Completion;
use deputy_task::record::Record;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

const MAGIC: &[u8] = b"deputy journal 1\n";
const FRAME_HEADER_BYTES: usize = 8;

/// Longest entry: a record with room for its frame.
const MAX_ENTRY_BYTES: usize = 4 * 1024 * 1024;

/// How often, and how far apart, a locked file is tried again. A child that its former holder has just forked holds the
/// lock too until it executes its program: that passes within milliseconds and is not another run.
const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// One entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Entry {
    /// The first: which task this is the journal of.
    Begun {
        task: TaskId,
        /// SHA-256 of the checked document with its inputs.
        document: String,
        /// Unix milliseconds.
        at_ms: i64,
    },
    /// A record, as it was acknowledged.
    Record(Record),
    /// The run has ended.
    Ended(Box<EndedRun>),
}

/// How and when a run ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EndedRun {
    /// Unix milliseconds; 0 in files from before this was kept.
    #[serde(default)]
    pub(crate) at_ms: i64,
    #[serde(flatten)]
    pub(crate) completion: Completion,
}

impl EndedRun {
    /// It ends now.
    pub(crate) fn now(completion: Completion) -> Self {
        Self {
            at_ms: unix_ms(),
            completion,
        }
    }
}

/// Unix milliseconds: for what survives the machine.
pub(crate) fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A journal file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    #[error("cannot {what} the journal {}: {source}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{} is not a journal of deputy-agent", .0.display())]
    NotAJournal(PathBuf),
    #[error("the journal {} is damaged at byte {offset}", path.display())]
    Damaged { path: PathBuf, offset: usize },
    #[error("{} is the journal of another task, or of another version of this one, or of other inputs", .0.display())]
    OtherTask(PathBuf),
    #[error("another process uses the journal {}", .0.display())]
    InUse(PathBuf),
}

/// An open journal file, locked for this process.
#[derive(Debug)]
pub(crate) struct JournalFile {
    file: File,
    path: PathBuf,
    buffer: Vec<u8>,
}

impl JournalFile {
    /// Opens or makes it, and reads what is in it.
    pub(crate) fn open(path: &Path) -> Result<(Self, Vec<Entry>), JournalError> {
        let failed = |what| {
            move |source| JournalError::Io {
                what,
                path: path.into(),
                source,
            }
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(path).map_err(failed("open"))?;
        if !lock(&file).map_err(failed("lock"))? {
            return Err(JournalError::InUse(path.into()));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed("read"))?;
        if bytes.is_empty() {
            file.write_all(MAGIC)
                .and_then(|()| file.sync_all())
                .map_err(failed("write"))?;
            sync_folder(path).map_err(failed("write"))?;
            return Ok((Self::at(file, path), Vec::new()));
        }
        let entries = bytes
            .strip_prefix(MAGIC)
            .ok_or_else(|| JournalError::NotAJournal(path.into()))?;
        let (entries, good) = read_entries(entries).map_err(|offset| JournalError::Damaged {
            path: path.into(),
            offset: MAGIC.len() + offset,
        })?;
        let end = u64::try_from(MAGIC.len() + good).unwrap_or(u64::MAX);
        file.set_len(end)
            .and_then(|()| file.seek(SeekFrom::Start(end)))
            .map_err(failed("repair"))?;
        Ok((Self::at(file, path), entries))
    }

    fn at(file: File, path: &Path) -> Self {
        Self {
            file,
            path: path.into(),
            buffer: Vec::new(),
        }
    }

    /// Adds an entry to what the next [`JournalFile::sync`] writes.
    pub(crate) fn add(&mut self, entry: &Entry) -> Result<(), JournalError> {
        let json = serde_json::to_vec(entry).map_err(|error| self.failed("write", io::Error::other(error)))?;
        let length = u32::try_from(json.len())
            .ok()
            .filter(|length| *length <= MAX_ENTRY_LENGTH);
        let length = length.ok_or_else(|| self.failed("write", io::Error::other("a record is too long")))?;
        self.buffer.extend_from_slice(&length.to_le_bytes());
        self.buffer.extend_from_slice(&crc32fast::hash(&json).to_le_bytes());
        self.buffer.extend_from_slice(&json);
        Ok(())
    }

    /// Everything added is on disk when this returns.
    pub(crate) fn sync(&mut self) -> Result<(), JournalError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let written = self.file.write_all(&self.buffer).and_then(|()| self.file.sync_data());
        self.buffer.clear();
        written.map_err(|source| self.failed("write", source))
    }

    fn failed(&self, what: &'static str, source: io::Error) -> JournalError {
        JournalError::Io {
            what,
            path: self.path.clone(),
            source,
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a constant that fits")]
const MAX_ENTRY_LENGTH: u32 = MAX_ENTRY_BYTES as u32;

/// Whether the file is now this process's alone.
fn lock(file: &File) -> io::Result<bool> {
    for _ in 0..LOCK_TRIES {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) => thread::sleep(LOCK_PAUSE),
            Err(other) => return Err(other.into()),
        }
    }
    Ok(false)
}

/// The new file's name must survive a crash as its content does.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// The entries and how many bytes of them are good. The error is the offset of a damaged entry.
fn read_entries(bytes: &[u8]) -> Result<(Vec<Entry>, usize), usize> {
    let mut entries = Vec::new();
    let mut offset = 0;
    while !is_blank(bytes, offset)
        && let Some(header) = bytes.get(offset..offset + FRAME_HEADER_BYTES)
    {
        let field = |at: usize| {
            let four = header
                .get(at..at + 4)
                .and_then(|four| four.try_into().ok())
                .unwrap_or_default();
            u32::from_le_bytes(four)
        };
        let length = usize::try_from(field(0)).unwrap_or(usize::MAX);
        if length > MAX_ENTRY_BYTES {
            return Err(offset);
        }
        let from = offset + FRAME_HEADER_BYTES;
        let Some(json) = bytes.get(from..from + length) else {
            break;
        };
        let is_last = is_blank(bytes, from + length);
        let good = crc32fast::hash(json) == field(4);
        match serde_json::from_slice(json) {
            Ok(entry) if good => entries.push(entry),
            // Length on disk, content not or in part: the last write of a machine that died.
            _ if is_last => break,
            _ => return Err(offset),
        }
        offset = from + length;
    }
    Ok((entries, offset))
}

/// Is there nothing from here on, or nothing but zeros?
fn is_blank(bytes: &[u8], from: usize) -> bool {
    bytes.iter().skip(from).all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use deputy_task::outcome::{Outcome, World};
    use deputy_task::record::{EffectKey, RecordBody, Sealing};
    use proptest::prelude::*;

    use super::*;

    fn entry(n: u32) -> Entry {
        Entry::Record(Record {
            key: EffectKey::new("step", &format!("fact/{n}")),
            program_version: 1,
            step_kind: "shell".into(),
            body: RecordBody::Fact(n.into()),
            epoch: 1,
            sealing: Sealing::default(),
        })
    }

    fn written(path: &Path, count: u32) -> Vec<Entry> {
        let (mut journal, old) = JournalFile::open(path).expect("open");
        assert!(old.is_empty());
        let entries: Vec<_> = (0..count).map(entry).collect();
        for entry in &entries {
            journal.add(entry).expect("add");
        }
        journal.sync().expect("sync");
        entries
    }

    /// The former holder has closed its file, but a child that it forked a moment ago has not yet executed its program.
    #[test]
    fn a_lock_that_a_forked_child_still_holds_is_waited_for() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("journal");
        let (journal, _) = JournalFile::open(&path).expect("open");
        let inherited = journal.file.try_clone().expect("clone");
        drop(journal);
        let child = thread::spawn(move || {
            thread::sleep(10 * LOCK_PAUSE);
            drop(inherited);
        });
        JournalFile::open(&path).expect("open");
        child.join().expect("child");
    }

    #[test]
    fn what_was_synced_is_read_again_and_can_be_continued() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("journal");
        let mut entries = written(&path, 3);
        let (mut journal, read) = JournalFile::open(&path).expect("open");
        assert_eq!(read, entries);
        assert!(matches!(JournalFile::open(&path), Err(JournalError::InUse(_))));
        journal.add(&entry(9)).expect("add");
        journal.sync().expect("sync");
        drop(journal);
        entries.push(entry(9));
        assert_eq!(JournalFile::open(&path).expect("open").1, entries);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_file_cut_anywhere_is_a_prefix(cut in 0usize..600) {
            let folder = tempfile::tempdir().expect("folder");
            let path = folder.path().join("journal");
            let entries = written(&path, 4);
            let bytes = std::fs::read(&path).expect("read");
            let cut = cut.clamp(MAGIC.len(), bytes.len());
            std::fs::write(&path, &bytes[..cut]).expect("cut");
            let (_, read) = JournalFile::open(&path).expect("open");
            prop_assert_eq!(&read[..], &entries[..read.len()]);
            prop_assert_eq!(read.len() == entries.len(), cut == bytes.len());
        }

        #[test]
        fn a_file_cut_anywhere_and_filled_with_zeros_is_a_prefix_and_goes_on(cut in 0usize..600, zeros in 1usize..9_000) {
            let folder = tempfile::tempdir().expect("folder");
            let path = folder.path().join("journal");
            let mut entries = written(&path, 4);
            let mut bytes = std::fs::read(&path).expect("read");
            let cut = cut.clamp(MAGIC.len(), bytes.len());
            let is_whole = cut == bytes.len();
            bytes.truncate(cut);
            bytes.resize(cut + zeros, 0);
            std::fs::write(&path, &bytes).expect("torn");
            let (mut journal, read) = JournalFile::open(&path).expect("open");
            prop_assert_eq!(&read[..], &entries[..read.len()]);
            prop_assert_eq!(read.len() == entries.len(), is_whole);
            journal.add(&entry(9)).expect("add");
            journal.sync().expect("sync");
            drop(journal);
            entries.truncate(read.len());
            entries.push(entry(9));
            prop_assert_eq!(JournalFile::open(&path).expect("open").1, entries);
        }

        #[test]
        fn a_flipped_bit_is_an_error_or_a_prefix_never_another_entry(at in 0usize..600, bit in 0u8..8) {
            let folder = tempfile::tempdir().expect("folder");
            let path = folder.path().join("journal");
            let entries = written(&path, 4);
            let mut bytes = std::fs::read(&path).expect("read");
            let at = at.min(bytes.len() - 1);
            bytes[at] ^= 1 << bit;
            std::fs::write(&path, &bytes).expect("damage");
            if let Ok((_, read)) = JournalFile::open(&path) {
                prop_assert_eq!(&read[..], &entries[..read.len()]);
            }
        }
    }

    #[test]
    fn zeros_with_an_entry_behind_them_are_damage() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("journal");
        written(&path, 2);
        let mut bytes = std::fs::read(&path).expect("read");
        let end = bytes.len();
        bytes.extend(vec![0; 16]);
        bytes.extend_from_within(MAGIC.len()..end);
        std::fs::write(&path, &bytes).expect("damage");
        let damaged = JournalFile::open(&path).expect_err("damaged");
        assert!(
            matches!(damaged, JournalError::Damaged { offset, .. } if offset == end),
            "{damaged}"
        );
        assert_eq!(std::fs::read(&path).expect("read"), bytes, "and nothing is cut");
    }

    #[test]
    fn an_end_is_read_with_its_time_and_without() {
        let completion = Completion {
            outcome: Outcome::Succeeded,
            world: World::Changed,
            failure: None,
            remains: Vec::new(),
            repair: String::new(),
            steps: Vec::new(),
        };
        let before = format!(r#"{{"ended":{}}}"#, serde_json::to_string(&completion).expect("JSON"));
        let ended = |at_ms| {
            let completion = completion.clone();
            Entry::Ended(Box::new(EndedRun { at_ms, completion }))
        };
        assert_eq!(serde_json::from_str::<Entry>(&before).expect("read"), ended(0));
        let now = serde_json::to_string(&ended(7)).expect("JSON");
        assert_eq!(serde_json::from_str::<Entry>(&now).expect("read"), ended(7));
    }

    #[test]
    fn another_file_is_not_touched() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("notes.txt");
        std::fs::write(&path, "dear diary").expect("written");
        assert!(matches!(JournalFile::open(&path), Err(JournalError::NotAJournal(_))));
        assert_eq!(std::fs::read(&path).expect("read"), b"dear diary");
    }
}
