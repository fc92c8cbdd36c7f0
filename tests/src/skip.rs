//! Tests that a machine cannot run say so by name; they are never passed over in silence.

use std::io::Write;

/// Says whether the test `name` has to return at once because of `missing` (for example [`crate::podman::missing`]).
/// With `CI=true` nothing may be missing.
///
/// # Panics
/// With `CI=true`, if something is missing.
#[must_use]
pub fn skips(name: &str, missing: Option<String>) -> bool {
    let Some(reason) = missing else { return false };
    assert!(
        std::env::var_os("CI").is_none_or(|ci| ci != "true"),
        "{name} must run here, but {reason}"
    );
    // `cargo xtask test` names them at its end.
    if let Some(file) = std::env::var_os("DEPUTY_SKIPPED_FILE") {
        let opened = std::fs::File::options().append(true).create(true).open(file);
        if let Ok(mut file) = opened {
            let _ = writeln!(file, "{name}: {reason}");
        }
    }
    true
}
