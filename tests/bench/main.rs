//! `cargo xtask bench [name]`: figures of the release build, goal and measured side by side.
//!
//! Both sides run on this machine, and every figure that a machine could flatter is printed beside
//! its raw cost measured in the same run: a round trip, a durable commit, a process spawn, a copy.

mod dispatch;
mod throughput;
mod log_rate;
mod footprint;
mod baseline;
mod processes;
mod table;

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// The measurements by name, in the order in which they are run.
const NAMES: [&str; 4] = ["dispatch", "throughput", "logs", "footprint"];

fn main() -> Result<()> {
    // The programs that are measured lie beside this one.
    let programs = std::env::current_exe()?
        .parent()
        .map(Path::to_owned)
        .context("this program has no folder")?;
    let mut names: Vec<String> = std::env::args().skip(1).collect();
    if names.is_empty() {
        names = NAMES.map(String::from).to_vec();
    }
    if let Some(unknown) = names.iter().find(|name| !NAMES.contains(&name.as_str())) {
        bail!("there is no measurement {unknown:?}; there are: {}", NAMES.join(", "));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mut rows = Vec::new();
    for name in &names {
        writeln!(std::io::stderr().lock(), "measuring {name} …")?;
        rows.extend(runtime.block_on(async {
            match name.as_str() {
                "dispatch" => dispatch::measure(&programs).await,
                "throughput" => throughput::measure(&programs).await,
                "logs" => log_rate::measure(&programs).await,
                _ => footprint::measure(&programs).await,
            }
        })?);
    }
    table::print(&rows)
}
