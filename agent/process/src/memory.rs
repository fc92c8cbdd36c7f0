//! Did the kernel kill something here for want of memory? Called by the child.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// The counters of this container's or service's own control group, if it has any.
static EVENTS: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    // In a container the path may be that of the host; the root is then our own group.
    let root = Path::new("/sys/fs/cgroup");
    [root.join(own), root.to_owned()]
        .map(|group| group.join("memory.events"))
        .into_iter()
        .find(|file| file.exists())
});

/// How many processes were killed so far; 0 if it cannot be told.
pub(crate) fn oom_kills() -> u64 {
    let events = EVENTS
        .as_ref()
        .and_then(|file| fs::read_to_string(file).ok())
        .unwrap_or_default();
    events
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
        .unwrap_or(0)
}
