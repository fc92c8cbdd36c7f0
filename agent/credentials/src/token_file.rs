//! A token in a file that somebody else renews: read anew each time it is needed, whole or not at all.

use std::io::Read;
use std::path::Path;

/// Longest token that is read. Kubernetes's have about 1 KiB.
const MAX_TOKEN_BYTES: u64 = 64 * 1024;

/// The token, whole. A file that is being replaced may be there and empty for a moment: the next reader finds it.
pub(crate) fn read(file: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = std::fs::File::open(file).and_then(|file| file.take(MAX_TOKEN_BYTES + 1).read_to_string(&mut text));
    read.map_err(|error| format!("cannot be read: {error}"))?;
    let token = text.trim();
    if token.is_empty() {
        return Err("is empty".into());
    }
    if text.len() as u64 > MAX_TOKEN_BYTES {
        return Err(format!("is longer than {MAX_TOKEN_BYTES} bytes"));
    }
    if token.split('.').count() != 3 {
        return Err("holds no token of three parts; it is perhaps written at this moment".into());
    }
    Ok(token.to_owned())
}
