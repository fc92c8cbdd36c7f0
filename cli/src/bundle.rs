//! Packs a folder: the same folder gives the same bytes on every machine (sorted, no times, no
//! owners), so that its SHA-256 names its content. Called by `deputy submit`.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::CliError;

/// Most files and folders of a bundle.
const MAX_ENTRIES: usize = 10_000;

/// Largest bundle, packed.
const MAX_PACKED_BYTES: usize = 64 * 1024 * 1024;

/// Largest bundle, unpacked: bounds what is read before the packed limit can be known.
const MAX_UNPACKED_BYTES: u64 = 1024 * 1024 * 1024;

const ZSTD_LEVEL: i32 = 3;

/// A packed folder.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(crate) bytes: Vec<u8>,
    /// Lower-case hex.
    pub(crate) sha256: String,
    pub(crate) files: usize,
}

/// Packs `folder` as tar in zstd.
pub(crate) fn pack(folder: &Path) -> Result<Packed, CliError> {
    let shown = folder.display();
    let metadata = fs::symlink_metadata(folder)
        .map_err(|error| CliError::bad_input(format!("cannot read the bundle folder {shown}")).caused_by(&error))?;
    if metadata.is_symlink() {
        return Err(symlink(folder));
    }
    if !metadata.is_dir() {
        return Err(CliError::bad_input(format!("the bundle {shown} is not a folder"))
            .hint("`bundle` names a folder beside the document"));
    }
    let mut found = Found::default();
    collect(folder, Path::new(""), &mut found)?;
    let mut entries = found.entries;
    entries.sort_by(|a, b| {
        a.relative
            .as_os_str()
            .as_encoded_bytes()
            .cmp(b.relative.as_os_str().as_encoded_bytes())
    });
    let failed = |error: io::Error| match error.get_ref().is_some_and(|inner| inner.is::<TooLarge>()) {
        true => CliError::bad_input(format!(
            "the bundle {shown} is larger than {} MiB when packed",
            MAX_PACKED_BYTES / 1024 / 1024
        ))
        .hint("bundles are for scripts and manifests; put large files where the step can fetch them"),
        false => CliError::bad_input(format!("cannot pack the bundle {shown}")).caused_by(&error),
    };
    let sink = Limited { bytes: Vec::new() };
    let encoder = zstd::stream::write::Encoder::new(sink, ZSTD_LEVEL).map_err(failed)?;
    let mut archive = tar::Builder::new(encoder);
    let mut files = 0;
    for entry in &entries {
        append(&mut archive, folder, entry).map_err(failed)?;
        files += usize::from(entry.kind != Kind::Folder);
    }
    let encoder = archive.into_inner().map_err(failed)?;
    let bytes = encoder.finish().map_err(failed)?.bytes;
    Ok(Packed {
        sha256: hex::encode(Sha256::digest(&bytes)),
        bytes,
        files,
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Folder,
    File,
    Program,
}

#[derive(Default)]
struct Found {
    entries: Vec<Entry>,
    size_bytes: u64,
}

struct Entry {
    relative: PathBuf,
    kind: Kind,
}

fn collect(root: &Path, relative: &Path, found: &mut Found) -> Result<(), CliError> {
    let folder = root.join(relative);
    let failed = |error: io::Error| CliError::bad_input(format!("cannot read {}", folder.display())).caused_by(&error);
    for item in fs::read_dir(&folder).map_err(failed)? {
        let item = item.map_err(failed)?;
        let relative = relative.join(item.file_name());
        let path = root.join(&relative);
        let metadata = fs::symlink_metadata(&path).map_err(failed)?;
        if metadata.is_symlink() {
            return Err(symlink(&path));
        }
        let kind = if metadata.is_dir() {
            Kind::Folder
        } else if !metadata.is_file() {
            return Err(
                CliError::bad_input(format!("{} is neither a file nor a folder", path.display()))
                    .hint("bundles have plain files only"),
            );
        } else if metadata.permissions().mode() & 0o100 != 0 {
            Kind::Program
        } else {
            Kind::File
        };
        if kind != Kind::Folder {
            found.size_bytes = found.size_bytes.saturating_add(metadata.len());
        }
        if found.size_bytes > MAX_UNPACKED_BYTES {
            return Err(
                CliError::bad_input(format!("the bundle {} has more than 1 GiB of files", root.display()))
                    .hint("name a smaller folder"),
            );
        }
        if found.entries.len() >= MAX_ENTRIES {
            return Err(CliError::bad_input(format!(
                "the bundle {} has more than {MAX_ENTRIES} files and folders",
                root.display()
            ))
            .hint("everything in the folder is packed; name a smaller folder"));
        }
        found.entries.push(Entry {
            relative: relative.clone(),
            kind,
        });
        if kind == Kind::Folder {
            collect(root, &relative, found)?;
        }
    }
    Ok(())
}

fn symlink(path: &Path) -> CliError {
    CliError::bad_input(format!("{} is a symbolic link", path.display()))
        .hint("bundles have no links: they could point out of the folder; put the file itself there")
}

fn append<W: Write>(archive: &mut tar::Builder<W>, root: &Path, entry: &Entry) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mode(if entry.kind == Kind::File { 0o644 } else { 0o755 });
    if entry.kind == Kind::Folder {
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        return archive.append_data(&mut header, &entry.relative, io::empty());
    }
    let content = fs::read(root.join(&entry.relative))?;
    let size = u64::try_from(content.len()).unwrap_or(u64::MAX);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(size);
    archive.append_data(&mut header, &entry.relative, content.as_slice())
}

/// Ends packing as soon as it is too large.
struct Limited {
    bytes: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
#[error("too large")]
struct TooLarge;

impl Write for Limited {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + piece.len() > MAX_PACKED_BYTES {
            return Err(io::Error::other(TooLarge));
        }
        self.bytes.extend_from_slice(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::render::Colour;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, content) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
            fs::write(path, content).expect("a file");
        }
        folder
    }

    #[test]
    fn the_same_content_gives_the_same_bytes() {
        let one = folder(&[
            ("b/two.txt", "2"),
            ("a.sh", "1"),
            (&format!("{}/x", "long/".repeat(40)), "3"),
        ]);
        let two = folder(&[
            (&format!("{}/x", "long/".repeat(40)), "3"),
            ("a.sh", "1"),
            ("b/two.txt", "2"),
        ]);
        let one = pack(one.path()).expect("packed");
        assert_eq!(one.sha256, pack(two.path()).expect("packed").sha256);
        assert_eq!(one.files, 3);
        let unpacked = zstd::stream::decode_all(one.bytes.as_slice()).expect("zstd");
        let mut archive = tar::Archive::new(unpacked.as_slice());
        let names: Vec<String> = archive
            .entries()
            .expect("tar")
            .map(|entry| entry.expect("entry").path().expect("path").display().to_string())
            .collect();
        assert_eq!((names[0].as_str(), names[1].trim_end_matches('/')), ("a.sh", "b"));
    }

    #[test]
    fn links_and_missing_folders_are_refused_with_their_path() {
        let folder = folder(&[("sub/a", "1")]);
        symlink("/etc/passwd", folder.path().join("sub/link")).expect("a link");
        let error = pack(folder.path()).expect_err("refused").rendered(Colour::Off);
        assert!(error.contains("sub/link is a symbolic link"), "{error}");
        assert!(pack(&folder.path().join("nowhere")).is_err());
        assert!(pack(&folder.path().join("sub/a")).is_err());
    }

    #[test]
    fn too_many_files_are_refused() {
        let folder = folder(&[]);
        for index in 0..=MAX_ENTRIES {
            fs::write(folder.path().join(index.to_string()), "").expect("a file");
        }
        let error = pack(folder.path()).expect_err("refused").rendered(Colour::Off);
        assert!(error.contains("more than 10000"), "{error}");
    }
}
