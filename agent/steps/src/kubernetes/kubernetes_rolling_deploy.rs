//! The step `kubernetesRollingDeploy`: applies manifests with at least one workload, and follows the
//! rollout of every workload to steady state.

use async_trait::async_trait;
use deputy_task::document::step::KubernetesRollingDeploy;

use crate::context::{Outputs, StepContext, Undone};
use crate::failure::StepError;
use crate::program::{ProgramInfo, StepProgram};

use super::apply::Conflicts;
use super::deploy::{Demand, Deployment};
use super::undo::undo;

/// What the registry knows.
pub const INFO: ProgramInfo = ProgramInfo {
    kind: "kubernetesRollingDeploy",
    min_version: 1,
    max_version: 1,
    tools: &[],
};

/// One `kubernetesRollingDeploy` step.
#[derive(Debug, Clone)]
pub struct KubernetesRollingDeployProgram(Deployment);

impl KubernetesRollingDeployProgram {
    /// From the evaluated step.
    #[must_use]
    pub fn new(step: KubernetesRollingDeploy) -> Self {
        let KubernetesRollingDeploy {
            cluster,
            namespace,
            manifests,
            force_conflicts,
        } = step;
        let conflicts = Conflicts::from(force_conflicts);
        Self(Deployment {
            cluster,
            namespace,
            manifests,
            conflicts,
            demand: Demand::Workload,
        })
    }
}

#[async_trait]
impl StepProgram for KubernetesRollingDeployProgram {
    async fn run(&self, ctx: &StepContext) -> Result<Outputs, StepError> {
        self.0.run(ctx).await
    }

    async fn undo(&self, ctx: &StepContext) -> Result<Undone, StepError> {
        undo(&self.0, ctx).await
    }
}
