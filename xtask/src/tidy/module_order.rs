//! Modules point down: in each `lib.rs` modules are declared in reading order, caller first, and a module may name
//! `crate::x` only if `x` is declared below it. This makes cycles impossible and the list a table of contents.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::problem::Problem;
use super::sources::{Source, code};

/// Checks every crate that has a `lib.rs`, and the modules inside modules.
pub(crate) fn check(sources: &[Source]) -> Vec<Problem> {
    let lists = sources
        .iter()
        .filter(|source| source.is_rust() && source.path.file_name().is_some_and(|n| n == "lib.rs"));
    lists.flat_map(|lib| check_crate(lib, sources)).collect()
}

fn check_crate(lib: &Source, sources: &[Source]) -> Vec<Problem> {
    let order: BTreeMap<String, usize> = declared(&lib.text).into_iter().zip(0..).collect();
    let Some(folder) = lib.path.parent() else {
        return Vec::new();
    };
    let mut problems = Vec::new();
    for source in sources
        .iter()
        .filter(|source| source.is_rust() && source.path.starts_with(folder))
    {
        if source.path == lib.path || source.is_test() {
            continue;
        }
        let Some(module) = top_module(folder, &source.path) else {
            continue;
        };
        let Some(&own) = order.get(&module) else { continue };
        for (line, named) in names(&source.text) {
            let Some(&other) = order.get(&named) else { continue };
            if other < own {
                problems.push(Problem {
                    file: source.path.clone(),
                    line,
                    what: format!(
                        "`{module}` names `crate::{named}`, which {} declares above it",
                        lib.path.display()
                    ),
                    mend: format!(
                        "move what is needed below, or declare `{named}` below `{module}` if it is the lower one"
                    ),
                });
            }
        }
    }
    problems
}

/// The modules that a list declares, in order.
fn declared(text: &str) -> Vec<String> {
    let Ok(file) = syn::parse_file(text) else {
        return Vec::new();
    };
    let modules = file.items.iter().filter_map(|item| match item {
        syn::Item::Mod(module) if module.content.is_none() && !is_for_tests(module) => Some(module.ident.to_string()),
        _ => None,
    });
    modules.collect()
}

/// `#[cfg(test)]`: may name everything.
fn is_for_tests(module: &syn::ItemMod) -> bool {
    module.attrs.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Ident>()
                .is_ok_and(|condition| condition == "test")
    })
}

fn top_module(folder: &Path, path: &Path) -> Option<String> {
    let inside: PathBuf = path.strip_prefix(folder).ok()?.to_owned();
    let first = inside.components().next()?.as_os_str().to_string_lossy().into_owned();
    Some(first.trim_end_matches(".rs").to_owned())
}

/// What the code before the test module names as `crate::…`, comments left out.
fn names(text: &str) -> Vec<(usize, String)> {
    let code = code(text);
    let mut found = Vec::new();
    for (index, line) in code.lines().enumerate() {
        if line.trim_start().starts_with("//") {
            continue;
        }
        for (at, _) in line.match_indices("crate::") {
            let before = line[..at].chars().next_back();
            if before.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_' || c == '$') {
                continue;
            }
            let rest = &line[at + "crate::".len()..];
            if let Some(group) = rest.strip_prefix('{') {
                let inner = group.split('}').next().unwrap_or_default();
                found.extend(inner.split(',').map(|name| (index + 1, leading_name(name.trim()))));
            } else {
                found.push((index + 1, leading_name(rest)));
            }
        }
    }
    found
}

fn leading_name(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source {
            path: path.into(),
            text: text.into(),
        }
    }

    #[test]
    fn an_edge_that_points_up_is_found() {
        let lib = source("x/src/lib.rs", "//! X.\npub mod caller;\npub mod callee;\n");
        let caller = source("x/src/caller.rs", "//! C.\nuse crate::callee::f;\n");
        let callee = source(
            "x/src/callee.rs",
            "//! D.\nfn f() {}\n// crate::caller is a word here\n",
        );
        assert!(check(&[lib, caller, callee]).is_empty());
        let lib = source("x/src/lib.rs", "//! X.\npub mod caller;\npub mod callee;\n");
        let up = source("x/src/callee.rs", "//! D.\nuse crate::{callee, caller::g};\n");
        let found = check(&[lib, up]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].line, 2);
    }
}
