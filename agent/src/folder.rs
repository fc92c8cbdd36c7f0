//! Could this user keep files in a folder? Asked by the agent before it relies on one, and by the doctor: nothing that
//! anybody sees is changed.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

/// More than a certificate with its key takes.
const TRIAL: [u8; 16 * 1024] = [0; 16 * 1024];

/// Could this user make this folder, which is missing?
///
/// # Errors
/// Why not.
pub(crate) fn can_be_made(folder: &Path) -> io::Result<()> {
    let absolute = std::path::absolute(folder)?;
    // A link that leads nowhere is in the way.
    let in_the_way = absolute.ancestors().find(|above| above.symlink_metadata().is_ok());
    let above = in_the_way.unwrap_or(Path::new("/"));
    if !fs::metadata(above)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    Ok(rustix::fs::access(above, access)?)
}

/// Does this folder take files? Tried with one that has no name: modes do not say that a disk is full or read-only.
///
/// # Errors
/// Why not.
pub(crate) fn takes_files(folder: &Path) -> io::Result<()> {
    let mut trial = tempfile::tempfile_in(folder)?;
    trial.write_all(&TRIAL)?;
    trial.sync_all()
}
