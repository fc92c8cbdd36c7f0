//! The step `kubernetesApply`: applies manifests, and waits for what has a clear notion of being
//! there: workloads roll out, Jobs complete, definitions are established, namespaces active.

use async_trait::async_trait;
use deputy_task::document::step::KubernetesApply;

use crate::context::{Outputs, StepContext, Undone};
use crate::failure::StepError;
use crate::program::{ProgramInfo, StepProgram};

use super::apply::Conflicts;
use super::deploy::{Demand, Deployment};
use super::undo::undo;

/// What the registry knows.
pub const INFO: ProgramInfo = ProgramInfo {
    kind: "kubernetesApply",
    min_version: 1,
    max_version: 1,
    tools: &[],
};

/// One `kubernetesApply` step.
#[derive(Debug, Clone)]
pub struct KubernetesApplyProgram(Deployment);

impl KubernetesApplyProgram {
    /// From the evaluated step.
    #[must_use]
    pub fn new(step: KubernetesApply) -> Self {
        let KubernetesApply {
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
            demand: Demand::Any,
        })
    }
}

#[async_trait]
impl StepProgram for KubernetesApplyProgram {
    async fn run(&self, ctx: &StepContext) -> Result<Outputs, StepError> {
        self.0.run(ctx).await
    }

    async fn undo(&self, ctx: &StepContext) -> Result<Undone, StepError> {
        undo(&self.0, ctx).await
    }
}
