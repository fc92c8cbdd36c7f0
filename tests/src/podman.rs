//! Whether ECS tasks can be real containers on this machine. The service itself belongs to the emulated cloud
//! (`testbed/containers.py`).

use std::path::PathBuf;

/// The one image there is: busybox, with `/bin/sh`.
pub const IMAGE: &str = "localhost/deputy-test:1";

/// What is missing for containers; `None`: nothing. For [`crate::skip::skips`].
#[must_use]
pub fn missing() -> Option<String> {
    let absent: Vec<&str> = ["podman", "runc", "busybox"]
        .into_iter()
        .filter(|program| !on_path(program))
        .collect();
    if !absent.is_empty() {
        return Some(format!("{} not installed", absent.join(", ")));
    }
    (!rustix::process::geteuid().is_root()).then(|| "podman with a vfs storage of its own needs root here".to_owned())
}

pub(crate) fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .any(|folder| folder.join(program).is_file())
}
