//! What the control group of this process may use, by either version of control groups. Called by the look at the machine.

use std::path::{Path, PathBuf};

/// Where they are mounted.
const MOUNTED: &str = "/sys/fs/cgroup";

/// From here on version 1 means that there is no limit: it says the greatest multiple of a page.
const UNLIMITED: u64 = 1 << 62;

/// Something that a group may use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resource {
    /// As version 1 calls the hierarchy.
    controller: &'static str,
    file: &'static str,
    file_of_version_1: &'static str,
}

/// Bytes.
pub(crate) const MEMORY: Resource = Resource {
    controller: "memory",
    file: "memory.max",
    file_of_version_1: "memory.limit_in_bytes",
};

/// Processes and threads.
pub(crate) const PROCESSES: Resource = Resource {
    controller: "pids",
    file: "pids.max",
    file_of_version_1: "pids.max",
};

/// The least that this process's group and those around it have of it, as far as they are seen from here; none if there
/// is no such limit.
pub(crate) fn limit(resource: Resource) -> Option<u64> {
    // One that cannot be read leaves what is mounted: in a container, its own group.
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    limit_in(Path::new(MOUNTED), &own, resource)
}

/// `own` has lines of `NUMBER:CONTROLLERS:PATH`; version 2 names no controllers.
fn limit_in(mounted: &Path, own: &str, resource: Resource) -> Option<u64> {
    let Resource { controller, file, .. } = resource;
    let groups = own.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
    let of_hierarchies = groups.filter_map(|(controllers, path)| match controllers {
        "" => Some((mounted.to_owned(), path, file)),
        named if named.split(',').any(|name| name == controller) => {
            Some((mounted.join(controller), path, resource.file_of_version_1))
        }
        _ => None,
    });
    let unread = [
        (mounted.to_owned(), "/", file),
        (mounted.join(controller), "/", resource.file_of_version_1),
    ];
    let limits = of_hierarchies.chain(unread).flat_map(|(root, path, file)| {
        let group = root.join(path.trim_start_matches('/'));
        let around: Vec<PathBuf> = group
            .ancestors()
            .take_while(|group| group.starts_with(&root))
            .map(Path::to_owned)
            .collect();
        around.into_iter().filter_map(move |group| number(&group.join(file)))
    });
    limits.min()
}

/// `max` is none.
fn number(file: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    text.trim().parse().ok().filter(|number| *number < UNLIMITED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(files: &[(&str, &str)], own: &str) -> (Option<u64>, Option<u64>) {
        let root = tempfile::tempdir().expect("a folder");
        for (file, text) in files {
            let file = root.path().join(file);
            std::fs::create_dir_all(file.parent().expect("a folder")).expect("made");
            std::fs::write(file, text).expect("written");
        }
        let limit = |resource| limit_in(root.path(), own, resource);
        (limit(MEMORY), limit(PROCESSES))
    }

    #[test]
    fn limits_of_either_version_are_found() {
        let unlimited = "9223372036854771712\n";
        for (what, files, own, found) in [
            ("nothing", vec![], "", (None, None)),
            (
                "version 2, in a container",
                vec![("memory.max", "100\n"), ("pids.max", "max\n")],
                "0::/\n",
                (Some(100), None),
            ),
            (
                "version 2, of a service, within a smaller one",
                vec![
                    ("a.slice/memory.max", "50\n"),
                    ("a.slice/b/memory.max", "60\n"),
                    ("a.slice/b/pids.max", "7\n"),
                ],
                "0::/a.slice/b\n",
                (Some(50), Some(7)),
            ),
            (
                "version 1, in a container, whose own group is mounted",
                vec![("memory/memory.limit_in_bytes", "100\n"), ("pids/pids.max", "7\n")],
                "9:memory:/docker/0a\n8:pids:/docker/0a\n1:name=systemd:/docker/0a\n0::/system.slice\n",
                (Some(100), Some(7)),
            ),
            (
                "version 1, of a service",
                vec![
                    ("memory/memory.limit_in_bytes", unlimited),
                    ("memory/a/memory.limit_in_bytes", "60"),
                    ("pids/pids.max", "max"),
                ],
                "4:cpu,memory:/a\n",
                (Some(60), None),
            ),
            (
                "version 1, without limits",
                vec![("memory/memory.limit_in_bytes", unlimited), ("pids/pids.max", "max")],
                "4:memory:/\n3:pids:/\n",
                (None, None),
            ),
            (
                "not told which",
                vec![("memory/memory.limit_in_bytes", "100"), ("pids.max", "7")],
                "nonsense",
                (Some(100), Some(7)),
            ),
        ] {
            assert_eq!(with(&files, own), found, "{what}");
        }
    }
}
