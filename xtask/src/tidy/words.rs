//! Words that must not be in the project: places of one machine, numbers of one tracker, promises to do it later.

use super::problem::Problem;
use super::sources::Source;

/// Forbidden text and what to write instead. Split, so that this file does not forbid itself.
const FORBIDDEN: &[(&str, &str)] = &[
    (
        concat!("/wo", "rk/"),
        "machine paths mean nothing elsewhere; write it from the workspace's root",
    ),
    (concat!("/home", "/user"), "machine paths mean nothing elsewhere"),
    (concat!("/ro", "ot/"), "machine paths mean nothing elsewhere"),
    (concat!("TO", "DO"), "do it, or write down in docs/ what is missing"),
    (concat!("FIX", "ME"), "mend it, or write down in docs/ what is wrong"),
    (concat!("XX", "X"), "say it in words, or do it"),
];

/// Package registries; named by their clients' configuration only.
const REGISTRIES: &[&str] = &[
    concat!("proxy.golang", ".org"),
    concat!("static.crates", ".io"),
    concat!("index.crates", ".io"),
    concat!("files.python", "hosted.org"),
    concat!("py", "pi.org"),
    concat!("registry.npm", "js.org"),
    concat!("deb.deb", "ian.org"),
    concat!("repo.maven.apa", "che.org"),
];

/// Everything about words in all text files.
pub(crate) fn check(sources: &[Source]) -> Vec<Problem> {
    let written = sources
        .iter()
        .filter(|source| !source.is_generated() && !is_lock_file(source));
    written.flat_map(check_one).collect()
}

fn is_lock_file(source: &Source) -> bool {
    let name = source.path.file_name().unwrap_or_default();
    ["Cargo.lock", "go.sum", "go.mod", "LICENSE"]
        .iter()
        .any(|lock| name == *lock)
}

fn check_one(source: &Source) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        let problem = |what: String, mend: &str| Problem {
            file: source.path.clone(),
            line: index + 1,
            what,
            mend: mend.into(),
        };
        let registries = REGISTRIES
            .iter()
            .map(|name| (*name, "name the package, not where it comes from"));
        for (word, mend) in FORBIDDEN.iter().copied().chain(registries) {
            if let Some(at) = line.find(word)
                && stands_alone(line, at, word)
            {
                problems.push(problem(format!("`{word}` must not be in the project"), mend));
            }
        }
        if let Some(number) = tracker_number(line) {
            let what = format!("`{number}` is a number of a tracker that readers do not have");
            problems.push(problem(what, "say what it was about"));
        }
    }
    problems
}

/// A word of letters is not part of a longer one.
fn stands_alone(line: &str, at: usize, word: &str) -> bool {
    if !word.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return true;
    }
    let before = line[..at].chars().next_back();
    let after = line[at + word.len()..].chars().next();
    ![before, after]
        .into_iter()
        .flatten()
        .any(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// A number behind a word like issue, or in parentheses.
fn tracker_number(line: &str) -> Option<String> {
    let lower = line.to_lowercase();
    for lead in ["issue #", "issues #", "pr #", "fixes #", "closes #", "(#"] {
        if let Some(at) = lower.find(lead) {
            let rest = &lower[at + lead.len()..];
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            if !digits.is_empty() && !lower[at + lead.len() + digits.len()..].starts_with('x') {
                return Some(format!("#{digits}"));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_only_where_they_stand_alone() {
        let problems = |text: &str| {
            check_one(&Source {
                path: "a.rs".into(),
                text: text.into(),
            })
            .len()
        };
        assert_eq!(problems(concat!("// TO", "DO later")), 1);
        assert_eq!(problems("mastodon TODOS"), 0);
        assert_eq!(problems(concat!("see issue ", "#12")), 1);
        assert_eq!(problems("epoch 1#2.3 and arn:…#token"), 0);
    }
}
