//! Packs the folders that a local task names as bundles, in the form that agents unpack: tar in zstd,
//! regular files and folders only, in a fixed order.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use deputy_task::message::BlobRef;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

/// Most bytes of one bundle's files.
const MAX_BYTES: u64 = 512 * 1024 * 1024;

/// A folder cannot be packed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PackError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is neither a file nor a folder; links and devices are not packed", .0.display())]
    NotAFile(PathBuf),
    #[error("{} has more than {} MiB of files", .0.display(), MAX_BYTES / 1024 / 1024)]
    TooLarge(PathBuf),
}

/// A packed folder; the file goes with the value.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(crate) file: NamedTempFile,
    pub(crate) blob: BlobRef,
}

/// Packs `folder` into a temporary file.
pub(crate) fn pack(folder: &Path) -> Result<Packed, PackError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| PackError::Io { path, source }
    };
    let file = NamedTempFile::new().map_err(failed(folder))?;
    let encoder = zstd::stream::write::Encoder::new(file, 1).map_err(failed(folder))?;
    let mut archive = tar::Builder::new(encoder);
    archive.mode(tar::HeaderMode::Deterministic);
    let mut left = MAX_BYTES;
    let mut todo = vec![PathBuf::new()];
    while let Some(relative) = todo.pop() {
        let here = folder.join(&relative);
        let mut names: Vec<_> = fs::read_dir(&here)
            .and_then(|entries| {
                entries
                    .map(|entry| entry.map(|entry| entry.file_name()))
                    .collect::<io::Result<_>>()
            })
            .map_err(failed(&here))?;
        names.sort();
        for name in names {
            let relative = relative.join(name);
            let path = folder.join(&relative);
            let metadata = fs::symlink_metadata(&path).map_err(failed(&path))?;
            if metadata.is_dir() {
                archive.append_dir(&relative, &path).map_err(failed(&path))?;
                todo.push(relative);
            } else if metadata.is_file() {
                left = left
                    .checked_sub(metadata.len())
                    .ok_or_else(|| PackError::TooLarge(folder.into()))?;
                archive.append_path_with_name(&path, &relative).map_err(failed(&path))?;
            } else {
                return Err(PackError::NotAFile(path));
            }
        }
    }
    let file = archive
        .into_inner()
        .and_then(zstd::Encoder::finish)
        .map_err(failed(folder))?;
    let blob = describe(file.path()).map_err(failed(folder))?;
    Ok(Packed { file, blob })
}

fn describe(path: &Path) -> io::Result<BlobRef> {
    let mut file = fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut size_bytes = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(BlobRef {
                sha256: hex::encode(hash.finalize()),
                size_bytes,
            });
        }
        hash.update(buffer.get(..read).unwrap_or_default());
        size_bytes += u64::try_from(read).unwrap_or(u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_folder_packs_to_the_same_bytes_and_links_are_refused() {
        let folder = tempfile::tempdir().expect("folder");
        fs::create_dir(folder.path().join("b")).expect("folder");
        fs::write(folder.path().join("b/two"), "2").expect("file");
        fs::write(folder.path().join("a"), "1").expect("file");
        let first = pack(folder.path()).expect("packed");
        assert_eq!(pack(folder.path()).expect("packed").blob, first.blob);
        std::os::unix::fs::symlink("a", folder.path().join("link")).expect("link");
        assert!(matches!(pack(folder.path()), Err(PackError::NotAFile(_))));
    }
}
