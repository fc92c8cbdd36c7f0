//! Which step kinds exist, their program versions, and how a document's step becomes a program.
//! Called by the executor for each step, and by the agent for what it offers.

use deputy_task::capability::StepSupport;
use deputy_task::document::StepKind;

use crate::ecs;
use crate::kubernetes::{kubernetes_apply, kubernetes_rolling_deploy};
use crate::noop;
use crate::program::{ProgramInfo, StepProgram};
use crate::shell;

/// Every kind that this agent can run.
pub const KINDS: &[ProgramInfo] = &[
    ecs::INFO,
    kubernetes_apply::INFO,
    kubernetes_rolling_deploy::INFO,
    shell::INFO,
    noop::INFO,
];

/// What the agent offers.
#[must_use]
pub fn support() -> Vec<StepSupport> {
    let offer = |info: &ProgramInfo| StepSupport {
        kind: info.kind.to_owned(),
        min_version: info.min_version,
        max_version: info.max_version,
    };
    KINDS.iter().map(offer).collect()
}

/// The programs that steps of this kind need on the agent.
#[must_use]
pub fn required_tools(kind: &StepKind) -> &'static [&'static str] {
    info(kind.name()).map_or(&[], |info| info.tools)
}

/// Can a journal of this kind and version be replayed here?
#[must_use]
pub fn replays(kind: &str, version: u32) -> bool {
    info(kind).is_some_and(|info| (info.min_version..=info.max_version).contains(&version))
}

/// The version that new runs are written with.
#[must_use]
pub fn newest_version(kind: &StepKind) -> u32 {
    info(kind.name()).map_or(0, |info| info.max_version)
}

/// The program of an evaluated step.
#[must_use]
pub fn program(kind: StepKind) -> Box<dyn StepProgram> {
    match kind {
        StepKind::NoopEffect(_) => Box::new(noop::NoopProgram),
        StepKind::KubernetesApply(step) => Box::new(kubernetes_apply::KubernetesApplyProgram::new(step)),
        StepKind::KubernetesRollingDeploy(step) => {
            Box::new(kubernetes_rolling_deploy::KubernetesRollingDeployProgram::new(step))
        }
        StepKind::Shell(step) => Box::new(shell::ShellProgram::new(step)),
        StepKind::EcsRollingDeploy(step) => Box::new(ecs::EcsRollingDeployProgram::new(step)),
    }
}

fn info(kind: &str) -> Option<&'static ProgramInfo> {
    KINDS.iter().find(|info| info.kind == kind)
}
