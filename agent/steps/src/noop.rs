//! `noopEffect`: one bounded effect that changes nothing outside Deputy. For measurements and for
//! tests of the journal; it needs no workspace, no identity and no log.

use async_trait::async_trait;
use serde_json::Value;

use crate::context::{Outputs, StepContext, Undone};
use crate::effect::{Effect, Look};
use crate::failure::StepError;
use crate::program::{ProgramInfo, StepProgram};

/// What the registry knows about it.
pub const INFO: ProgramInfo = ProgramInfo {
    kind: "noopEffect",
    min_version: 1,
    max_version: 1,
    tools: &[],
};

/// The program of `noopEffect`.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoopProgram;

#[async_trait]
impl StepProgram for NoopProgram {
    async fn run(&self, ctx: &StepContext) -> Result<Outputs, StepError> {
        let effect = Effect::bounded("noop", "nothing", &Value::Null).settle(std::time::Duration::ZERO);
        ctx.effect(effect, || async { Ok(Look::Absent) }, |_| async { Ok(()) })
            .await?;
        Ok(Outputs::default())
    }

    async fn undo(&self, _ctx: &StepContext) -> Result<Undone, StepError> {
        Ok(Undone::default())
    }
}
