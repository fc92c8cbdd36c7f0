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

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// The measurements by name, in the order in which they are run.
const NAMES: [&str; 4] = ["dispatch", "throughput", "logs", "footprint"];

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let programs = PathBuf::from(arguments.next().context("usage: deputy-bench PROGRAMS-FOLDER [NAME …]")?);
    let mut names: Vec<String> = arguments.collect();
    if names.is_empty() {
        names = NAMES.map(String::from).to_vec();
    }
    if let Some(unknown) = names.iter().find(|name| !NAMES.contains(&name.as_str())) {
        bail!("there is no measurement {unknown:?}; there are: {}", NAMES.join(", "));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut rows = Vec::new();
    for name in &names {
        eprintln!("measuring {name} …");
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
