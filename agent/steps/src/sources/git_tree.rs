//! What is in a commit: counted before anything is written, and its links looked at before anybody follows one.

use std::io;
use std::path::{Component, Path};

use deputy_folder::Folder;
use deputy_task::outcome::Failure;

const SUBMODULE: &str = "160000";

/// Why a commit cannot be a source.
#[derive(Debug, thiserror::Error)]
pub(super) enum TreeProblem {
    #[error("there is nothing in {within:?}")]
    Empty { within: String },
    #[error("its subfolder {within:?} leads out of it: {link:?} is a link to {target:?}")]
    SubfolderLeaves {
        within: String,
        link: String,
        target: String,
    },
    #[error("its subfolder {within:?} is no folder")]
    NoFolder { within: String },
    #[error("its subfolder {within:?} is behind too many links")]
    Loops { within: String },
    #[error("it has {entries} files and folders; at most {limit}")]
    TooMany { entries: u64, limit: u64 },
    #[error("its files have {bytes} bytes; at most {limit}")]
    TooLarge { bytes: u64, limit: u64 },
    #[error("its link {path:?} leads out of it, to {target:?}")]
    Leaves { path: String, target: String },
    #[error("git lists it in a way that cannot be read: {0:?}")]
    Unreadable(String),
    #[error("its files cannot be looked through: {0}")]
    Io(#[from] io::Error),
}

impl TreeProblem {
    pub(super) fn told(&self, name: &str) -> Failure {
        Failure::new("source.refused", format!("source {name}: {self}"))
            .hint("name a `subfolder` that has what the steps need, and keep links within it")
    }
}

/// What a tree has.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tree {
    pub(super) files: u64,
    folders: u64,
    pub(super) bytes: u64,
    submodules: u64,
}

impl Tree {
    /// Files and folders.
    pub(super) const fn entries(&self) -> u64 {
        self.files.saturating_add(self.folders)
    }

    /// For people.
    pub(super) fn summary(&self, commit: &str) -> String {
        let mut line = format!(
            "commit {commit}, {} files, {} KiB",
            self.files,
            self.bytes.div_ceil(1024)
        );
        if self.submodules > 0 {
            line.push_str(&format!("; {} submodules were left out", self.submodules));
        }
        line
    }
}

/// Reads the output of `git ls-tree -r -l -z`.
pub(super) fn read(listed: &str) -> Result<Tree, TreeProblem> {
    let mut tree = Tree::default();
    let mut folder: Vec<&str> = Vec::new();
    for line in listed.split_terminator('\0') {
        let unreadable = || TreeProblem::Unreadable(line.chars().take(200).collect());
        let (about, path) = line.split_once('\t').ok_or_else(unreadable)?;
        let mut words = about.split_whitespace();
        let (mode, size) = (
            words.next().ok_or_else(unreadable)?,
            words.next_back().ok_or_else(unreadable)?,
        );
        // The list is in order, and folders are nobody's entries: a tree that stands in many places costs nothing there.
        let mut around: Vec<&str> = path.split('/').collect();
        around.pop();
        let new = around.len() - shared(&around, &folder);
        tree.folders = tree.folders.saturating_add(u64::try_from(new).unwrap_or(u64::MAX));
        folder = around;
        if mode == SUBMODULE {
            // Left out, but for its folder.
            tree.submodules += 1;
            tree.folders = tree.folders.saturating_add(1);
            continue;
        }
        tree.files += 1;
        tree.bytes = tree.bytes.saturating_add(size.parse().map_err(|_| unreadable())?);
    }
    Ok(tree)
}

/// How many folders two ways have in common. Names that are no text all look alike here, and may be different ones.
fn shared(one: &[&str], other: &[&str]) -> usize {
    let is_same = |(one, other): &(&&str, &&str)| one == other && !one.contains(char::REPLACEMENT_CHARACTER);
    one.iter().zip(other).take_while(is_same).count()
}

/// Every link below `root`, which is none itself, leads to something below `root`, or to nothing below it.
pub(super) fn check_links(root: &Path) -> Result<(), TreeProblem> {
    Folder::open(root)?.each_link(|link, target| {
        let depth = link.components().count().saturating_sub(1);
        if leaves(target, depth) {
            return Err(TreeProblem::Leaves {
                path: link.to_string_lossy().into_owned(),
                target: target.to_string_lossy().into_owned(),
            });
        }
        Ok(())
    })
}

/// By its words alone. A way through another link cannot lead out either: `..` after a name is refused, since that name
/// may be a link.
fn leaves(target: &Path, depth: usize) -> bool {
    let mut up = 0;
    let mut named = false;
    for component in target.components() {
        match component {
            Component::ParentDir if named || up == depth => return true,
            Component::ParentDir => up += 1,
            Component::Normal(_) => named = true,
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return true,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_list_is_counted_and_submodules_are_not() {
        let listed = "100644 blob 0a      12\ta b\x00120000 blob 0b       4\tlink\x00160000 commit 0c       -\tsub\0";
        let tree = read(listed).expect("read");
        assert_eq!((tree.files, tree.bytes, tree.submodules), (2, 16, 1));
        assert!(tree.summary("0a").contains("1 submodules were left out"));
        let listed = ["a/b/c/1", "a/b/c/2", "a/b/d/1", "a/b/d/e/f/1", "b/b/d/1", "c"];
        let listed: String = listed
            .iter()
            .map(|path| format!("100644 blob 0a 1\t{path}\0"))
            .collect();
        let tree = read(&listed).expect("read");
        assert_eq!((tree.files, tree.folders, tree.entries()), (6, 9, 15));
        let hidden =
            "160000 commit 0c -\ta/b/sub\x00100644 blob 0a 1\td\u{fffd}/a/1\x00100644 blob 0a 1\td\u{fffd}/a/1\0";
        assert_eq!(read(hidden).expect("read").folders, 3 + 2 + 2);
        assert!(read("nonsense").is_err() && read("100644 blob 0a many\tx").is_err());
    }

    #[test]
    fn links_within_are_kept_and_links_out_are_refused() {
        for (target, good) in [
            ("b", true),
            ("../top", true),
            ("./b", true),
            ("none/there", true),
            ("../../etc/passwd", false),
            ("/etc/passwd", false),
            ("b/../../../etc", false),
        ] {
            let root = tempfile::tempdir().expect("a folder");
            fs::create_dir(root.path().join("a")).expect("made");
            symlink(target, root.path().join("a/link")).expect("a link");
            assert_eq!(check_links(root.path()).is_ok(), good, "{target}");
            let other = tempfile::tempdir().expect("a folder");
            symlink(root.path(), other.path().join("root")).expect("a link");
            assert!(
                check_links(&other.path().join("root")).is_err(),
                "a link is not looked through"
            );
        }
    }

    /// Guards that a tree's depth costs neither handles nor stack.
    #[test]
    fn a_deep_tree_is_looked_through_within_a_small_stack() {
        let root = tempfile::tempdir().expect("a folder");
        let deepest = root.path().join("d/".repeat(1200));
        fs::create_dir_all(&deepest).expect("made");
        symlink("../".repeat(1201), deepest.join("link")).expect("a link");
        std::thread::scope(|scope| {
            let looked = std::thread::Builder::new()
                .stack_size(128 << 10)
                .spawn_scoped(scope, || check_links(root.path()))
                .expect("a thread");
            let told = looked.join().expect("no stack is used up").expect_err("it leaves");
            assert!(matches!(told, TreeProblem::Leaves { .. }), "{told}");
        });
        fs::remove_file(deepest.join("link")).expect("removed");
        symlink("../".repeat(1200), deepest.join("link")).expect("a link");
        check_links(root.path()).expect("it stays");
    }
}
