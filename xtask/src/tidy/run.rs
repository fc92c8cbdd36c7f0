//! Runs the checks, cheap ones first, and prints what they find.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;

use super::problem::Problem;
use super::sources::Source;
use super::{clients, commands, dependencies, documents, generated, module_order, sizes, sources, words};
use crate::tools::ensure;
use crate::tools::progress::elapsed;
use crate::tools::recipe::Half;

/// What tidy is told.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Leave out clippy, which compiles everything
    #[arg(long)]
    pub(crate) quick: bool,
}

type Check<'a> = (&'static str, Box<dyn Fn() -> Result<Vec<Problem>> + 'a>);

/// Prints every problem; fails if there is one.
pub(crate) fn run(root: &Path, options: &Options) -> Result<ExitCode> {
    let found = problems(root, options)?;
    if found == 0 {
        println!("tidy: nothing to mend");
        return Ok(ExitCode::SUCCESS);
    }
    println!("tidy: {found} to mend");
    Ok(ExitCode::FAILURE)
}

/// Runs all checks and prints what they find; how many problems there are.
pub(crate) fn problems(root: &Path, options: &Options) -> Result<usize> {
    ensure::ensure(root, &[Half::Aws])?;
    let sources = sources::read(root)?;
    let mut count = 0;
    for (name, check) in checks(root, &sources, options) {
        let since = Instant::now();
        let mut problems = check().unwrap_or_else(|error| vec![could_not_run(name, &error)]);
        problems.sort();
        problems.dedup();
        let verdict = if problems.is_empty() { "✓" } else { "✗" };
        println!("  {verdict} {name:<34} {}", elapsed(since.elapsed()));
        for problem in &problems {
            println!("{problem}");
        }
        count += problems.len();
    }
    Ok(count)
}

fn could_not_run(name: &str, error: &anyhow::Error) -> Problem {
    Problem {
        file: "xtask".into(),
        line: 0,
        what: format!("the check `{name}` could not run: {error:#}"),
        mend: "as the message says".into(),
    }
}

fn checks<'a>(root: &'a Path, sources: &'a [Source], options: &Options) -> Vec<Check<'a>> {
    let mut checks: Vec<Check<'a>> = vec![
        ("files: docs, names, sizes", Box::new(|| Ok(sizes::check(sources)))),
        ("AWS clients have a pace", Box::new(|| Ok(clients::check(sources)))),
        ("words", Box::new(|| Ok(words::check(sources)))),
        ("modules point down", Box::new(|| Ok(module_order::check(sources)))),
        ("documents say what is so", Box::new(|| documents::check(root, sources))),
        ("layers and banned crates", Box::new(|| dependencies::check(root))),
        ("format", Box::new(|| commands::fmt(root))),
        ("protocol (buf lint)", Box::new(|| commands::buf(root))),
        ("generated files", Box::new(|| generated::check(root))),
    ];
    if !options.quick {
        checks.push(("clippy", Box::new(|| commands::clippy(root))));
    }
    checks
}
