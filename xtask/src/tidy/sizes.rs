//! Files stay small and say what they are for: `//!` at the top, no catch-all names, at most 600 lines without tests;
//! `lib.rs` and `mod.rs` only list.

use super::problem::Problem;
use super::sources::{Source, code};

/// Lines of code without tests that a file may have.
const MOST_LINES: usize = 600;

const BANNED_STEMS: [&str; 6] = ["utils", "helpers", "common", "misc", "manager", "imp"];

/// Everything about single Rust files.
pub(crate) fn check(sources: &[Source]) -> Vec<Problem> {
    sources
        .iter()
        .filter(|source| source.is_rust())
        .flat_map(check_one)
        .collect()
}

fn check_one(source: &Source) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut say = |line: usize, what: String, mend: &str| {
        problems.push(Problem {
            file: source.path.clone(),
            line,
            what,
            mend: mend.into(),
        });
    };
    if !source.text.trim_start().starts_with("//!") {
        say(
            1,
            "the file does not begin with `//!`".into(),
            "say its purpose, who calls it, and what it must never do",
        );
    }
    let stem = source
        .path
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    if BANNED_STEMS.contains(&stem.as_str()) {
        say(
            0,
            format!("`{stem}` says nothing about what is in the file"),
            "name it after the one thing it is about",
        );
    }
    let lines = code_lines(&source.text);
    if lines > MOST_LINES && !source.is_test() {
        say(
            0,
            format!("{lines} lines without tests, more than {MOST_LINES}"),
            "split it by concept",
        );
    }
    if (stem == "lib" || stem == "mod")
        && let Some((line, text)) = logic(&source.text)
    {
        let mend = "lib.rs and mod.rs hold docs, `mod` and `pub use` only; move it to a file with a name";
        say(line, format!("logic in {stem}.rs: `{text}`"), mend);
    }
    for (line, text) in numbered(&source.text) {
        if text.contains(concat!("#[", "ignore")) {
            say(
                line,
                "an ignored test proves nothing".into(),
                "make it run, or delete it",
            );
        }
        if text.contains(concat!("#[", "allow(")) || text.contains(concat!("#![", "allow(")) {
            say(
                line,
                "`allow` stays when its reason is gone".into(),
                "use #[expect(lint, reason = \"…\")]",
            );
        }
    }
    problems
}

/// Lines before the test module.
fn code_lines(text: &str) -> usize {
    let code = code(text);
    code.lines().count()
}

/// The first item that does not belong into a list of modules.
fn logic(text: &str) -> Option<(usize, String)> {
    let file = syn::parse_file(text).ok()?;
    let item = file.items.iter().find(|item| {
        !matches!(item, syn::Item::Mod(_) | syn::Item::Use(_)) && !matches!(item, syn::Item::ExternCrate(_))
    })?;
    let name = match item {
        syn::Item::Fn(item) => format!("fn {}", item.sig.ident),
        syn::Item::Struct(item) => format!("struct {}", item.ident),
        syn::Item::Enum(item) => format!("enum {}", item.ident),
        syn::Item::Const(item) => format!("const {}", item.ident),
        syn::Item::Trait(item) => format!("trait {}", item.ident),
        syn::Item::Impl(_) => "impl".to_owned(),
        _ => "item".to_owned(),
    };
    let needle = name.split(' ').next_back().unwrap_or_default().to_owned();
    let line = numbered(text).find(|(_, line)| line.contains(&needle) && !line.trim_start().starts_with("//"));
    Some((line.map_or(0, |(line, _)| line), name))
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(path: &str, text: &str) -> usize {
        check_one(&Source {
            path: path.into(),
            text: text.into(),
        })
        .len()
    }

    #[test]
    fn small_documented_files_pass_and_others_do_not() {
        assert_eq!(problems("a/src/lease.rs", "//! Leases.\nfn f() {}\n"), 0);
        assert_eq!(problems("a/src/lease.rs", "fn f() {}\n"), 1);
        assert_eq!(problems("a/src/utils.rs", "//! Things.\n"), 1);
        assert_eq!(problems("a/src/lib.rs", "//! A crate.\npub mod a;\npub use a::B;\n"), 0);
        assert_eq!(problems("a/src/lib.rs", "//! A crate.\nfn f() {}\n"), 1);
        assert_eq!(
            problems("a/src/long.rs", &format!("//! Long.\n{}", "fn f() {}\n".repeat(600))),
            1
        );
    }
}
