//! Doors for the fuzz targets of `tests/fuzz`; compiled for them only.

use std::io;
use std::path::Path;

use deputy_task::message::BlobRef;
use sha2::{Digest, Sha256};

use crate::bundle;
use crate::environment::BundleLimits;

/// Unpacks these bytes as a bundle whose digest is right, by way of a file `packed` in `beside`.
///
/// # Errors
/// What the bundle is refused for.
pub fn unpack(packed: &[u8], beside: &Path, folder: &Path, limits: BundleLimits) -> io::Result<()> {
    let file = beside.join("packed");
    std::fs::write(&file, packed)?;
    let blob = BlobRef {
        sha256: hex::encode(Sha256::digest(packed)),
        size_bytes: u64::try_from(packed.len()).unwrap_or(u64::MAX),
    };
    bundle::unpack(&file, &blob, folder, limits).map_err(io::Error::other)
}
