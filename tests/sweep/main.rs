//! `cargo xtask sweep <step kind>`: kills the agent at every point of every effect of a step, lets another agent
//! finish, and compares the world with that of an undisturbed run.
//!
//! The undisturbed run comes first: its journal says which effects there are, its world is the measure, and the
//! calls that changed something, in order, tell which request belongs to which effect. Then, for each effect and
//! each [`point::Point`], a fresh target, a manager and an agent of their own, and a death.

mod sweep;
mod scenario;
mod ecs;
mod kubernetes;
mod point;
mod report;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::scenario::Scenario;

fn main() -> Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let kind = arguments.next().context("usage: deputy-sweep STEP-KIND [--short]")?;
    let extent = match arguments.next().as_deref() {
        None => sweep::Extent::Full,
        Some("--short") => sweep::Extent::Short,
        Some(other) => bail!("{other:?} is not an option; there is: --short"),
    };
    let scenarios: Vec<Box<dyn Scenario>> = match kind.as_str() {
        "ecsRollingDeploy" => ecs::scenarios(),
        "kubernetesRollingDeploy" => kubernetes::scenarios(),
        other => bail!("there is no sweep of {other:?}; there are: ecsRollingDeploy, kubernetesRollingDeploy"),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let verdicts = runtime.block_on(sweep::run(&scenarios, extent))?;
    let survived = report::print(&kind, &verdicts)?;
    Ok(if survived == verdicts.len() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
