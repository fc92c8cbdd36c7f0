//! `cargo xtask demo`: the main job, told as a story, on real parts.
//!
//! An emulated AWS with IAM enforced, a manager, two agents; a deployment to ECS and one to a real Kubernetes behind
//! EKS, both through a role chain into another account; who the cluster says the caller is; an agent killed in the
//! middle of a third deployment and the other one finishing it. Ends with status 0 only if all of it is true.

mod story;
mod told;

use std::process::ExitCode;

use anyhow::{Result, bail};

fn main() -> Result<ExitCode> {
    let keep = match std::env::args().nth(1).as_deref() {
        None => story::Afterwards::End,
        Some("--keep") => story::Afterwards::Keep,
        Some(other) => bail!("{other:?} is not an option; there is: --keep"),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    Ok(runtime.block_on(story::tell(keep)))
}
