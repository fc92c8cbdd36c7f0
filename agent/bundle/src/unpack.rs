//! Unpacks one bundle into a folder that does not exist yet. Called by the executor when a step first asks for a source.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::Path;

use deputy_folder::Folder;
use deputy_task::document::origin::Packing;
use deputy_task::message::BlobRef;
use sha2::{Digest, Sha256};
use tar::EntryType;
use zstd::zstd_safe::zstd_sys::ZSTD_ErrorCode;

use crate::limits::BundleLimits;

/// Windows of more than 8 MiB are refused: a decoder takes that much memory, and each slot may have one. It is what
/// the format asks every decoder to have, and all that packing needs up to level 19, without `--long`.
const WINDOW_LOG_MAX: u32 = 23;

/// Of one entry, with what makes its name longer or says more about it: the archive's reader keeps all of it in memory.
const MAX_HEADER_BYTES: u64 = 1 << 20;

/// No path is longer on Linux.
const MAX_NAME_BYTES: usize = 4096;

/// Why a bundle is not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It is not what the task was submitted with.
    #[error("its SHA-256 is {found}, and the task was submitted with {expected}")]
    WrongDigest {
        /// What the task was submitted with.
        expected: String,
        /// What came.
        found: String,
    },
    /// A name leads out of the folder.
    #[error("it has an entry {path:?} that would be written outside its folder")]
    Escapes {
        /// The entry's name.
        path: String,
    },
    /// Links, devices and the like.
    #[error("its entry {path:?} is neither a file nor a folder")]
    NotAFile {
        /// The entry's name.
        path: String,
    },
    /// The same file twice: the second could be meant to replace what the first was checked for.
    #[error("its entry {path:?} comes twice")]
    Twice {
        /// The entry's name.
        path: String,
    },
    /// Too much.
    #[error("it has more than {limit} {what}")]
    TooMuch {
        /// How much is allowed.
        limit: u64,
        /// Of what.
        what: &'static str,
    },
    /// It was packed for decoders with more memory.
    #[error("it was packed with a window of more than {} MiB; pack it without `--long` and `--ultra`", 1 << (WINDOW_LOG_MAX - 20))]
    Window,
    /// It cannot be read, or the disk not written.
    #[error("it cannot be unpacked: {0}")]
    Io(#[from] io::Error),
}

/// Checks the packed file and unpacks it into `folder`, which must not exist. Blocks.
///
/// # Errors
/// What it is refused for; what was unpacked until then is left in the folder.
pub fn unpack(packed: &Path, blob: &BlobRef, folder: &Path, limits: BundleLimits) -> Result<(), BundleError> {
    let mut file = File::open(packed)?;
    verify(&mut file, blob)?;
    io::Seek::rewind(&mut file)?;
    unpack_file(file, Packing::TarZstd, folder, limits)
}

/// Unpacks a file of any origin into `folder`, which must not exist. Blocks.
///
/// # Errors
/// What it is refused for; what was unpacked until then is left in the folder.
pub fn unpack_as(packed: &Path, packing: Packing, folder: &Path, limits: BundleLimits) -> Result<(), BundleError> {
    unpack_file(File::open(packed)?, packing, folder, limits)
}

fn unpack_file(file: File, packing: Packing, folder: &Path, limits: BundleLimits) -> Result<(), BundleError> {
    let size = file.metadata()?.len();
    fs::create_dir(folder)?;
    let folder = Folder::open(folder)?;
    let file = BufReader::new(file);
    match packing {
        Packing::Tar => bounded(file, size, &folder, limits),
        Packing::TarZstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(file)?;
            decoder.window_log_max(WINDOW_LOG_MAX)?;
            bounded(decoder, size, &folder, limits)
        }
    }
}

fn bounded(decoder: impl Read, size: u64, folder: &Folder, limits: BundleLimits) -> Result<(), BundleError> {
    let allowed = limits
        .unpacked_bytes
        .min(size.saturating_mul(limits.ratio).saturating_add(1 << 20));
    // The archive's own headers count too; the reader ends a byte after the limit.
    let left = Left {
        all: Cell::new(allowed),
        of_headers: Cell::new(MAX_HEADER_BYTES),
    };
    let source = Budget {
        left: &left,
        source: decoder,
    };
    match entries(source, &left, folder, limits) {
        Err(_) if left.all.get() == 0 => Err(BundleError::TooMuch {
            limit: allowed,
            what: "bytes unpacked",
        }),
        Err(_) if left.of_headers.get() == 0 => Err(BundleError::TooMuch {
            limit: MAX_HEADER_BYTES,
            what: "bytes of headers for one entry",
        }),
        Err(BundleError::Io(error)) if needs_a_larger_window(&error) => Err(BundleError::Window),
        outcome => outcome,
    }
}

fn needs_a_larger_window(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<zstd::Error>());
    cause.is_some_and(|cause| cause.is(ZSTD_ErrorCode::ZSTD_error_frameParameter_windowTooLarge))
}

fn verify(file: &mut File, blob: &BlobRef) -> Result<(), BundleError> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
    }
    let found = hex::encode(hash.finalize());
    if found == blob.sha256 {
        Ok(())
    } else {
        Err(BundleError::WrongDigest {
            expected: blob.sha256.clone(),
            found,
        })
    }
}

fn entries(source: impl Read, left: &Left, folder: &Folder, limits: BundleLimits) -> Result<(), BundleError> {
    let mut archive = tar::Archive::new(source);
    let mut entries = archive.entries()?;
    let mut count = Entries {
        seen: 0,
        limit: limits.entries,
    };
    loop {
        left.of_headers.set(MAX_HEADER_BYTES);
        let Some(entry) = entries.next() else { return Ok(()) };
        let mut entry = entry?;
        left.of_headers.set(u64::MAX);
        count.add(1)?;
        let name = entry.path_bytes();
        if name.len() > MAX_NAME_BYTES {
            return Err(BundleError::TooMuch {
                limit: MAX_NAME_BYTES as u64,
                what: "bytes in one name",
            });
        }
        let shown = String::from_utf8_lossy(&name).into_owned();
        let kind = entry.header().entry_type();
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::Directory => {}
            EntryType::XGlobalHeader => continue,
            _ => return Err(BundleError::NotAFile { path: shown }),
        }
        let path = entry.path()?.into_owned();
        let names = Folder::names(&path).ok_or(BundleError::Escapes { path: shown.clone() })?;
        match (kind, names.split_last()) {
            (EntryType::Directory, _) => {
                let (_, made) = folder.counted_folder(&names)?;
                count.add(made.saturating_sub(1))?;
            }
            (_, Some((name, parents))) => {
                let mode = entry.header().mode()?;
                let (parent, made) = folder.counted_folder(parents)?;
                count.add(made)?;
                let mut file = match parent.new_file(&[], name, mode) {
                    Ok(file) => file,
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                        return Err(BundleError::Twice { path: shown });
                    }
                    Err(error) => return Err(error.into()),
                };
                io::copy(&mut entry, &mut file)?;
            }
            // The folder itself is no file.
            (_, None) => return Err(BundleError::Escapes { path: shown }),
        }
    }
}

/// Counts files and folders, also folders that only paths name: as many as a path is long.
struct Entries {
    seen: u64,
    limit: u64,
}

impl Entries {
    fn add(&mut self, more: u64) -> Result<(), BundleError> {
        self.seen += more;
        let (limit, what) = (self.limit, "entries");
        if self.seen > limit {
            return Err(BundleError::TooMuch { limit, what });
        }
        Ok(())
    }
}

/// How many bytes may still be read.
struct Left {
    all: Cell<u64>,
    /// Before the next entry is known; what is passed over on the way counts.
    of_headers: Cell<u64>,
}

/// Reads at most so much of a decoder.
struct Budget<'a, R> {
    left: &'a Left,
    source: R,
}

impl<R: Read> Read for Budget<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Left { all, of_headers } = self.left;
        let most = usize::try_from(all.get().min(of_headers.get()))
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        if most == 0 && !buffer.is_empty() {
            return Err(io::Error::other("more bytes than it may have"));
        }
        let read = self.source.read(&mut buffer[..most])?;
        for left in [all, of_headers] {
            left.set(left.get().saturating_sub(u64::try_from(read).unwrap_or(u64::MAX)));
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const LIMITS: BundleLimits = BundleLimits {
        unpacked_bytes: 4 << 20,
        ratio: 50,
        entries: 10,
    };

    /// Packs entries as they are given, whatever they are: kind, name, mode, content or link target.
    fn pack(entries: &[(EntryType, &str, u32, &[u8])]) -> Vec<u8> {
        let mut archive = Vec::new();
        for (kind, name, mode, content) in entries {
            let mut header = tar::Header::new_ustar();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_mode(*mode);
            header.set_entry_type(*kind);
            let mut body: &[u8] = content;
            if matches!(kind, EntryType::Symlink | EntryType::Link) {
                header.as_old_mut().linkname[..content.len()].copy_from_slice(content);
                body = b"";
            }
            header.set_size(u64::try_from(body.len()).expect("small"));
            header.set_cksum();
            archive.extend_from_slice(header.as_bytes());
            archive.extend_from_slice(body);
            archive.resize(archive.len().next_multiple_of(512), 0);
        }
        archive.resize(archive.len() + 1024, 0);
        zstd::stream::encode_all(&archive[..], 3).expect("packs")
    }

    fn unpacked(packed: &[u8]) -> (tempfile::TempDir, Result<(), BundleError>) {
        let root = tempfile::tempdir().expect("root");
        let file = root.path().join("packed");
        fs::write(&file, packed).expect("write");
        let blob = BlobRef {
            sha256: hex::encode(Sha256::digest(packed)),
            size_bytes: 0,
        };
        let outcome = unpack(
            &file,
            &blob,
            &root.path().join("a/b").parent().expect("parent").with_extension("out"),
            LIMITS,
        );
        (root, outcome)
    }

    #[test]
    fn a_good_bundle_is_unpacked_for_its_owner_only() {
        let packed = pack(&[
            (EntryType::Directory, "./bin/", 0o777, b""),
            (EntryType::Regular, "bin/run.sh", 0o4777, b"#!/bin/sh\n"),
            (EntryType::Regular, "deep/er/notes.txt", 0o644, b"text"),
        ]);
        let (root, outcome) = unpacked(&packed);
        outcome.expect("good");
        let mode = |name: &str| {
            root.path()
                .join("a.out")
                .join(name)
                .metadata()
                .expect("there")
                .permissions()
                .mode()
                & 0o7777
        };
        assert_eq!((mode("bin/run.sh"), mode("deep/er/notes.txt")), (0o700, 0o600));
        assert_eq!(
            fs::read(root.path().join("a.out/deep/er/notes.txt")).expect("read"),
            b"text"
        );
    }

    #[test]
    fn whatever_would_leave_the_folder_or_is_no_file_is_refused() {
        type Entry<'a> = (EntryType, &'a str, u32, &'a [u8]);
        let cases: &[(&[Entry<'_>], &str)] = &[
            (&[(EntryType::Regular, "../evil", 0o644, b"x")], "Escapes"),
            (&[(EntryType::Regular, "a/../../evil", 0o644, b"x")], "Escapes"),
            (&[(EntryType::Regular, "/tmp/deputy-evil", 0o644, b"x")], "Escapes"),
            (&[(EntryType::Directory, "../evil", 0o755, b"")], "Escapes"),
            (
                &[
                    (EntryType::Symlink, "link", 0o777, b"/etc"),
                    (EntryType::Regular, "link/evil", 0o644, b"x"),
                ],
                "NotAFile",
            ),
            (&[(EntryType::Link, "link", 0o777, b"/etc/passwd")], "NotAFile"),
            (&[(EntryType::Char, "null", 0o666, b"")], "NotAFile"),
            (&[(EntryType::Block, "disk", 0o666, b"")], "NotAFile"),
            (&[(EntryType::Fifo, "pipe", 0o666, b"")], "NotAFile"),
            (
                &[
                    (EntryType::Regular, "a", 0o644, b"1"),
                    (EntryType::Regular, "./a", 0o644, b"2"),
                ],
                "Twice",
            ),
            (
                &[
                    (EntryType::Regular, "a", 0o644, b"1"),
                    (EntryType::Regular, "a/b", 0o644, b"2"),
                ],
                "Io",
            ),
        ];
        for (entries, expected) in cases {
            let (root, outcome) = unpacked(&pack(entries));
            let error = outcome.expect_err(expected);
            assert!(format!("{error:?}").starts_with(expected), "{entries:?}: {error:?}");
            assert!(!root.path().join("evil").exists() && !Path::new("/tmp/deputy-evil").exists());
        }
    }

    #[test]
    fn bombs_are_stopped_at_their_limit() {
        let zeros = vec![0; 8 << 20];
        for (entries, expected) in [
            (vec![(EntryType::Regular, "zeros", 0o644, &zeros[..])], "bytes unpacked"),
            (vec![(EntryType::Directory, "d", 0o755, &b""[..]); 11], "entries"),
            (
                vec![(EntryType::Regular, "1/2/3/4/5/6/7/8/9/10/file", 0o644, &b""[..])],
                "entries",
            ),
            (
                vec![(EntryType::Directory, "1/2/3/4/5/6/7/8/9/10/11", 0o755, &b""[..])],
                "entries",
            ),
        ] {
            let (_root, outcome) = unpacked(&pack(&entries));
            assert!(
                matches!(outcome, Err(BundleError::TooMuch { what, .. }) if what == expected),
                "{outcome:?}"
            );
        }
    }

    /// Guards that what the archive's reader keeps in memory for one entry is bounded: long names, long links and
    /// extended headers, alone and together, and what is passed over between two entries.
    #[test]
    fn headers_are_bounded_before_memory_is_given_to_them() {
        let noise: Vec<u8> = (0_u32..1 << 16)
            .flat_map(|block| Sha256::digest(block.to_le_bytes()))
            .collect();
        let (long, half) = (&noise[..], &noise[..700 << 10]);
        let kinds = [
            EntryType::GNULongName,
            EntryType::GNULongLink,
            EntryType::XHeader,
            EntryType::XGlobalHeader,
            EntryType::Directory,
        ];
        let file = (EntryType::Regular, "a", 0o644, &b"x"[..]);
        let mut cases: Vec<_> = kinds
            .into_iter()
            .map(|kind| vec![(kind, "long", 0o644, long), file])
            .collect();
        cases.push(vec![
            (EntryType::GNULongName, "long", 0o644, half),
            (EntryType::GNULongLink, "long", 0o644, half),
            file,
        ]);
        for entries in cases {
            let (root, outcome) = unpacked(&pack(&entries));
            let kind = entries[0].0;
            assert!(
                matches!(outcome, Err(BundleError::TooMuch { limit, what: "bytes of headers for one entry" }) if limit == 1 << 20),
                "{kind:?}: {outcome:?}"
            );
            assert!(!root.path().join("a.out/a").exists(), "{kind:?}");
        }
        // What `git archive` and `tar --format=pax` write, and names of more than 100 bytes.
        let name = format!("{}/name", "folder".repeat(20));
        let (root, outcome) = unpacked(&pack(&[
            (
                EntryType::XGlobalHeader,
                "pax_global_header",
                0o644,
                b"20 comment=a commit\n",
            ),
            (EntryType::GNULongName, "././@LongLink", 0o644, name.as_bytes()),
            file,
            (EntryType::XHeader, "PaxHeader", 0o644, b"12 path=b/c\n"),
            file,
            (EntryType::Regular, "large", 0o644, long),
            (EntryType::Regular, "last", 0o644, b"x"),
        ]));
        outcome.expect("good");
        for path in [&name, "b/c", "large", "last"] {
            assert!(root.path().join("a.out").join(path).is_file(), "{path}");
        }
    }

    /// Guards what an error quotes, and how deep one entry can lead.
    #[test]
    fn a_name_is_no_longer_than_a_path_can_be() {
        let name = "d/".repeat(3_000);
        let (root, outcome) = unpacked(&pack(&[
            (EntryType::GNULongName, "long", 0o644, name.as_bytes()),
            (EntryType::Regular, "a", 0o644, b"x"),
        ]));
        assert!(
            matches!(
                outcome,
                Err(BundleError::TooMuch {
                    limit: 4096,
                    what: "bytes in one name"
                })
            ),
            "{outcome:?}"
        );
        assert!(!root.path().join("a.out/d").exists());
    }

    /// Guards that an agent with several decoders has room for them: what needs more than it must is told how to pack.
    #[test]
    fn a_window_of_more_than_8_mib_is_refused_with_what_to_do() {
        let packed = |window| {
            let archive = zstd::stream::decode_all(&pack(&[(EntryType::Regular, "a", 0o644, b"x")])[..]).expect("tar");
            let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).expect("an encoder");
            encoder.window_log(window).expect("a window");
            io::Write::write_all(&mut encoder, &archive).expect("packs");
            encoder.finish().expect("packs")
        };
        unpacked(&packed(23)).1.expect("what every level up to 19 needs");
        for window in [24, 27] {
            let outcome = unpacked(&packed(window)).1;
            assert!(matches!(outcome, Err(BundleError::Window)), "{outcome:?}");
        }
    }

    #[test]
    fn other_bytes_than_those_submitted_and_broken_ones_are_refused() {
        let packed = pack(&[(EntryType::Regular, "a", 0o644, b"x")]);
        let root = tempfile::tempdir().expect("root");
        let file = root.path().join("packed");
        fs::write(&file, &packed).expect("write");
        let blob = BlobRef {
            sha256: "00".into(),
            size_bytes: 0,
        };
        assert!(matches!(
            unpack(&file, &blob, &root.path().join("out"), LIMITS),
            Err(BundleError::WrongDigest { .. })
        ));
        assert!(!root.path().join("out").exists());
        assert!(matches!(
            unpacked(&packed[..packed.len() / 2]).1,
            Err(BundleError::Io(_))
        ));
        assert!(matches!(unpacked(b"not zstd").1, Err(BundleError::Io(_))));
    }
}
