//! What documents say must be so: needed ones exist, links lead somewhere, files that the architecture names are
//! there, and every row of the failure modes names a test that exists.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};

use super::problem::Problem;
use super::sources::Source;

/// Documents that others rely on.
const NEEDED: [&str; 12] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "LICENSE",
    "docs/configuration.md",
    "docs/failure-modes.md",
    "docs/performance.md",
    "docs/test-cloud.md",
    "docs/threat-model.md",
    "docs/adr",
];

/// Checks them all.
pub(crate) fn check(root: &Path, sources: &[Source]) -> Result<Vec<Problem>> {
    let mut problems: Vec<Problem> = NEEDED
        .iter()
        .filter(|name| !root.join(name).exists())
        .map(|name| problem(name, 0, "is missing".into(), "write it"))
        .collect();
    for name in NEEDED.iter().filter(|name| name.ends_with(".md")) {
        let Ok(text) = std::fs::read_to_string(root.join(name)) else {
            continue;
        };
        let folder = Path::new(name).parent().context("a document has a folder")?;
        for (line, target) in links(&text) {
            let file = target.split('#').next().unwrap_or_default();
            if !target.contains("://") && !file.is_empty() && !root.join(folder).join(file).exists() {
                problems.push(problem(
                    name,
                    line,
                    format!("the link to {target} leads nowhere"),
                    "mend the link",
                ));
            }
        }
        problems.extend(doubled_rows(name, &text));
        problems.extend(headless_rows(name, &text));
        if *name == "ARCHITECTURE.md" {
            problems.extend(named_files(root, name, &text));
        }
        if *name == "docs/failure-modes.md" {
            problems.extend(named_tests(name, &text, sources));
        }
        if *name == "docs/threat-model.md" {
            problems.extend(named_threats(name, &text, sources));
        }
    }
    Ok(problems)
}

/// `[words](target)`, with line numbers.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let targets = line.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        found.extend(targets.map(|(target, _)| (index + 1, target)));
    }
    found
}

/// Words between backticks, with line numbers; fenced blocks are left out.
fn quoted(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (index, line) in text.lines().enumerate() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            found.extend(line.split('`').skip(1).step_by(2).map(|word| (index + 1, word)));
        }
    }
    found
}

fn named_files(root: &Path, name: &str, text: &str) -> Vec<Problem> {
    let is_path = |word: &str| word.contains('/') && word.ends_with(".rs") && !word.contains(' ');
    let exists = |word: &str| {
        let mut places = vec![
            root.join(word),
            root.join("agent").join(word),
            root.join("manager-stub/src").join(word),
        ];
        places.push(root.join("agent/session/src").join(word));
        places.iter().any(|place| place.exists())
    };
    let missing = quoted(text)
        .into_iter()
        .filter(|(_, word)| is_path(word) && !exists(word));
    missing
        .map(|(line, word)| {
            problem(
                name,
                line,
                format!("names {word}, which does not exist"),
                "name the file as it is now",
            )
        })
        .collect()
}

/// Two rows of one table that are about the same thing; one of them is stale.
fn doubled_rows(name: &str, text: &str) -> Vec<Problem> {
    let mut seen = BTreeSet::new();
    let mut problems = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let Some(row) = line.strip_prefix('|') else {
            seen.clear();
            continue;
        };
        let about = row.split('|').next().unwrap_or_default().trim();
        if !about.is_empty() && !seen.insert(about) {
            let what = format!("has two rows about {about:?} in one table");
            problems.push(problem(name, index + 1, what, "make them one"));
        }
    }
    problems
}

/// Tables that begin without a header: their rows are shown as one paragraph.
fn headless_rows(name: &str, text: &str) -> Vec<Problem> {
    let lines: Vec<&str> = text.lines().collect();
    let is_row = |index: usize| lines.get(index).is_some_and(|line| line.starts_with('|'));
    let begins =
        (0..lines.len()).filter(|index| is_row(*index) && index.checked_sub(1).is_none_or(|before| !is_row(before)));
    let headless = begins.filter(|index| !lines.get(index + 1).is_some_and(|line| line.starts_with("|---")));
    let what = "a row of a table that has no header";
    headless
        .map(|index| problem(name, index + 1, what.into(), "move it to its table"))
        .collect()
}

fn functions(sources: &[Source]) -> BTreeSet<&str> {
    sources
        .iter()
        .flat_map(|source| source.text.split("fn ").skip(1))
        .filter_map(|rest| rest.split(['(', '<']).next())
        .collect()
}

/// What an attacker tries is shown by a test, is said to be open, or is said not to be prevented.
fn named_threats(name: &str, text: &str, sources: &[Source]) -> Vec<Problem> {
    let functions = functions(sources);
    let is_test = |word: &str| {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        word.chars().all(plain) && word.matches('_').count() >= 3
    };
    let gone = quoted(text)
        .into_iter()
        .filter(|(_, word)| is_test(word) && !functions.contains(word))
        .map(|(line, test)| {
            let what = format!("names the test {test}, which does not exist");
            problem(name, line, what, "name it as it is now")
        });
    let mut tries = false;
    let unshown = text.lines().enumerate().filter(|(_, line)| {
        if line.starts_with("| it tries to") || !line.starts_with('|') {
            tries = line.starts_with('|');
            return false;
        }
        let admitted = line.contains("*open") || line.contains("not prevented");
        tries && !line.starts_with("|---") && !admitted && !quoted(line).iter().any(|(_, word)| is_test(word))
    });
    let unshown = unshown.map(|(index, _)| {
        let what = "a claim without a test that shows it".into();
        problem(name, index + 1, what, "name the test, or say that it is *open*")
    });
    gone.chain(unshown).collect()
}

fn named_tests(name: &str, text: &str, sources: &[Source]) -> Vec<Problem> {
    let functions = functions(sources);
    let rows = text
        .lines()
        .enumerate()
        .filter(|(_, line)| line.starts_with("| ") && !line.starts_with("| what fails"));
    let mut problems = Vec::new();
    for (index, row) in rows {
        let tests = quoted(row.trim_end_matches(['|', ' ']).rsplit('|').next().unwrap_or_default());
        if tests.is_empty() {
            problems.push(problem(
                name,
                index + 1,
                "a failure without a test that shows it".into(),
                "name the test",
            ));
        }
        for (_, test) in tests {
            let function = test.rsplit("::").next().unwrap_or(test);
            if !functions.contains(function) && !test.starts_with("cargo xtask ") {
                problems.push(problem(
                    name,
                    index + 1,
                    format!("names the test {test}, which does not exist"),
                    "name it as it is now",
                ));
            }
        }
    }
    problems
}

fn problem(file: &str, line: usize, what: String, mend: &str) -> Problem {
    Problem {
        file: file.into(),
        line,
        what,
        mend: mend.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_needs_a_test_that_exists() {
        let text =
            "| what fails | what happens | shown by |\n|---|---|---|\n| a | b | `it::gone::away` |\n| a | b | none |\n";
        let found = named_tests("x.md", text, &[]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!((found[0].line, found[1].line), (3, 4));
    }

    #[test]
    fn a_threat_is_shown_or_admitted() {
        let text = "| | asset |\n|---|---|\n| A1 | keys |\n\n| it tries to | outcome | shown by |\n|---|---|---|\n| a | refused | `it_is_gone_away` |\n| b | refused | |\n| c | *open:* so | |\n";
        let lines: Vec<_> = named_threats("x.md", text, &[])
            .iter()
            .map(|found| found.line)
            .collect();
        assert_eq!(lines, [7, 8]);
    }

    /// A sentence between two rows ends their table.
    #[test]
    fn a_row_stands_below_a_header() {
        let text = "| what |\n|---|\n| a |\n\nA sentence.\n| b |\n| c |\n\n| what |\n|---|\n| d |\n| what |";
        let found = headless_rows("x.md", text);
        assert_eq!(found.iter().map(|found| found.line).collect::<Vec<_>>(), [6]);
    }

    /// Two branches that each rewrote a row leave both.
    #[test]
    fn a_row_is_there_once_in_a_table() {
        let text = "| what |\n|---|\n| a | 1 |\n| b | |\n| a | 2 |\n\n| what |\n|---|\n| a | |\n";
        let found = doubled_rows("x.md", text);
        assert_eq!(found.iter().map(|found| found.line).collect::<Vec<_>>(), [5]);
    }

    #[test]
    fn links_and_quotes_are_found_outside_fences() {
        let text = "see [a](b.md) and `c`\n```\n`not this`\n```\n";
        assert_eq!(links(text), [(1, "b.md")]);
        assert_eq!(quoted(text), [(1, "c")]);
    }
}
