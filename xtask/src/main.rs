//! `cargo xtask …`: everything that is done to this project, as one command.

mod bench;
mod chart;
mod demo;
mod fuzz;
mod images;
mod leaks;
mod sweep;

mod test;
mod tidy;

mod r#gen;
mod program;
mod tools;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Everything that is done to this project", version)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Get every program that tests and the demonstration need beside Rust
    Tools {
        #[command(subcommand)]
        what: Option<ToolsWhat>,
    },
    /// Everything that can fail: tools, tidy, unit, doc and integration tests, a short sweep
    Test(test::run::Options),
    /// What the compiler does not check: layers, module order, docs, generated files, words
    Tidy(tidy::run::Options),
    /// What continuous integration runs
    Ci,
    /// Write the generated files
    Gen,
    /// A deployment on emulated AWS and real Kubernetes, from nothing
    Demo(demo::Options),
    /// Kill the agent at every point of a step and see the world come out the same
    Sweep(sweep::Options),
    /// Run every step over canaries and look for them in everything that leaves or is written
    Leaks(leaks::Options),
    /// Feed what comes from strangers to the code that reads it, within bounds
    Fuzz(fuzz::run::Options),
    /// Build the agent's image, and run it
    Images,
    /// Check the chart: lint, values, a real API server
    Chart,
    /// The figures: dispatch, throughput, logs, footprint
    Bench(bench::Options),
}

#[derive(Subcommand)]
enum ToolsWhat {
    /// Say which tools there are and where
    List,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    let root = workspace_root()?;
    match arguments.what {
        What::Tools { what: None } => {
            let programs = tools::ensure::ensure(&root, tools::ensure::everything())?;
            println!(
                "{} programs ready; the list: {}",
                programs.len(),
                tools::manifest::path(&tools::manifest::cache()?).display()
            );
            Ok(ExitCode::SUCCESS)
        }
        What::Tools {
            what: Some(ToolsWhat::List),
        } => {
            println!("{:<26} {:<10} {:<8} folder", "tool", "version", "");
            for one in tools::ensure::standing(&root)? {
                let word = if one.ready { "ready" } else { "missing" };
                println!(
                    "{:<26} {:<10} {word:<8} {}",
                    one.tool.name,
                    one.tool.version,
                    one.folder.display()
                );
            }
            Ok(ExitCode::SUCCESS)
        }
        What::Test(options) => test::run::run(&root, &options),
        What::Tidy(options) => tidy::run::run(&root, &options),
        What::Ci => test::run::ci(&root),
        What::Gen => {
            r#gen::proto(&root, &root.join("proto/src/gen"))?;
            r#gen::schema(&root)?;
            Ok(ExitCode::SUCCESS)
        }
        What::Demo(options) => demo::run(&root, &options),
        What::Sweep(options) => sweep::run(&root, &options),
        What::Leaks(options) => leaks::run(&root, &options),
        What::Fuzz(options) => fuzz::run::run(&root, &options),
        What::Images => images::run(&root),
        What::Chart => chart::run(&root),
        What::Bench(options) => bench::run(&root, &options),
    }
}

fn workspace_root() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("xtask lies in the workspace's root")?;
    Ok(root.to_owned())
}
