//! Finds the tree that a subfolder names in a commit. Links on the way are followed among git's own objects, so that
//! none leads to anything outside the repository: nothing has been written yet.

use std::collections::VecDeque;

use super::git_program::Git;
use super::git_tree::TreeProblem;
use crate::failure::StepError;

/// Each asks git once or twice.
const MOST_NAMES: u32 = 200;
/// Of a link's target: no path is longer on Linux.
const MOST_TARGET_BYTES: u64 = 4096;

/// The tree, by its hash; the commit itself if the subfolder is all of it.
pub(super) async fn tree_of(git: &Git<'_>, name: &str, commit: &str, within: &str) -> Result<String, StepError> {
    let refused = |problem: TreeProblem| StepError::from(problem.told(name));
    let within_owned = || within.to_owned();
    let mut way = Way::new(commit, within);
    let mut asked = 0;
    while let Some(part) = way.next().map_err(refused)? {
        asked += 1;
        if asked > MOST_NAMES {
            return Err(refused(TreeProblem::Loops { within: within_owned() }));
        }
        let listed = git.said(&["ls-tree", "-l", "-z", way.here(), "--", &part]).await?;
        if listed.is_empty() {
            return Err(refused(TreeProblem::Empty { within: within_owned() }));
        }
        let entry =
            entry(&listed).ok_or_else(|| refused(TreeProblem::Unreadable(listed.chars().take(200).collect())))?;
        match entry {
            Entry::Folder(hash) => way.enter(part, hash),
            Entry::Link(hash) => {
                let target = git.said(&["cat-file", "blob", hash]).await?;
                way.follow(&part, &target).map_err(refused)?;
            }
            Entry::Other => return Err(refused(TreeProblem::NoFolder { within: within_owned() })),
        }
    }
    Ok(way.here().to_owned())
}

/// What a name stands for in a tree.
#[derive(Debug, PartialEq, Eq)]
enum Entry<'a> {
    Folder(&'a str),
    Link(&'a str),
    Other,
}

/// Reads the one line that `git ls-tree -l -z` has for a name.
fn entry(listed: &str) -> Option<Entry<'_>> {
    let (about, _) = listed.split_once('\t')?;
    let mut words = about.split_whitespace();
    let (mode, _kind, hash, size) = (words.next()?, words.next()?, words.next()?, words.next()?);
    Some(match mode {
        "040000" => Entry::Folder(hash),
        "120000" if size.parse::<u64>().ok()? <= MOST_TARGET_BYTES => Entry::Link(hash),
        _ => Entry::Other,
    })
}

/// A way through trees, name by name.
struct Way<'a> {
    within: &'a str,
    commit: &'a str,
    /// Those that were entered, each with its name.
    entered: Vec<(String, String)>,
    ahead: VecDeque<String>,
    /// The last link that was followed, and where it leads.
    link: (String, String),
}

impl<'a> Way<'a> {
    fn new(commit: &'a str, within: &'a str) -> Self {
        Self {
            within,
            commit,
            entered: Vec::new(),
            ahead: parts(within).collect(),
            link: (within.to_owned(), within.to_owned()),
        }
    }

    fn here(&self) -> &str {
        self.entered.last().map_or(self.commit, |(_, hash)| hash)
    }

    /// The next name to look for, after those that lead upwards.
    fn next(&mut self) -> Result<Option<String>, TreeProblem> {
        while let Some(part) = self.ahead.pop_front() {
            if part != ".." {
                return Ok(Some(part));
            }
            if self.entered.pop().is_none() {
                return Err(self.leaves());
            }
        }
        Ok(None)
    }

    fn enter(&mut self, name: String, hash: &str) {
        self.entered.push((name, hash.to_owned()));
    }

    fn follow(&mut self, name: &str, target: &str) -> Result<(), TreeProblem> {
        let names = self.entered.iter().map(|(name, _)| name.as_str());
        let link: Vec<&str> = names.chain([name]).collect();
        self.link = (link.join("/"), target.to_owned());
        if target.starts_with('/') {
            return Err(self.leaves());
        }
        let ahead: Vec<String> = parts(target).collect();
        ahead.into_iter().rev().for_each(|part| self.ahead.push_front(part));
        Ok(())
    }

    fn leaves(&self) -> TreeProblem {
        let (link, target) = self.link.clone();
        TreeProblem::SubfolderLeaves {
            within: self.within.to_owned(),
            link,
            target,
        }
    }
}

fn parts(path: &str) -> impl Iterator<Item = String> {
    path.split('/')
        .filter(|part| !matches!(*part, "" | "."))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_folder_a_link_or_neither() {
        for (listed, wanted) in [
            ("040000 tree 0a       -\tin\0", Some(Entry::Folder("0a"))),
            ("120000 blob 0b       4\tin\0", Some(Entry::Link("0b"))),
            ("120000 blob 0b    4097\tin\0", Some(Entry::Other)),
            ("100644 blob 0c       4\tin\0", Some(Entry::Other)),
            ("160000 commit 0d       -\tin\0", Some(Entry::Other)),
            ("nonsense", None),
        ] {
            assert_eq!(entry(listed), wanted, "{listed}");
        }
    }

    /// Guards that a way ends where it would leave the repository, and goes up from where it really is.
    #[test]
    fn a_way_stays_among_the_trees_that_it_entered() {
        let mut way = Way::new("c", "./a//b/");
        assert_eq!(way.next().expect("a name").as_deref(), Some("a"));
        way.enter("a".into(), "ta");
        assert_eq!(way.next().expect("a name").as_deref(), Some("b"));
        way.follow("b", "../x").expect("stays");
        assert_eq!((way.next().expect("a name").as_deref(), way.here()), (Some("x"), "c"));
        way.enter("x".into(), "tx");
        assert_eq!((way.next().expect("the end"), way.here()), (None, "tx"));
        for target in ["/etc", "../.."] {
            let mut way = Way::new("c", "a/b");
            drop(way.next());
            way.enter("a".into(), "ta");
            drop(way.next());
            let followed = way.follow("b", target).and_then(|()| way.next());
            let told = followed.expect_err("leaves").to_string();
            let wanted = format!("its subfolder \"a/b\" leads out of it: \"a/b\" is a link to {target:?}");
            assert_eq!(told, wanted);
        }
    }
}
