//! What a step kind is to the executor: a forward program and its undo, with a version range.
//!
//! Each kind's module offers `pub const INFO: ProgramInfo` and a struct built from the evaluated
//! document step (`XxxProgram::new(step: document::step::Xxx)`) that implements [`StepProgram`].
//! A program holds no state of its own between awaits that the journal does not hold too, and it
//! must never change the world other than through `ctx.effect`.

use async_trait::async_trait;

use crate::context::{Outputs, StepContext, Undone};
use crate::failure::StepError;

/// One step of one task, its arguments evaluated.
#[async_trait]
pub trait StepProgram: Send + Sync {
    /// The forward program. Run again from its beginning on every replay.
    async fn run(&self, ctx: &StepContext) -> Result<Outputs, StepError>;

    /// Restores what the forward program's records say it changed, and only what still equals what
    /// it wrote. Called only if the forward program recorded an intent. Run again from its
    /// beginning on every replay.
    async fn undo(&self, ctx: &StepContext) -> Result<Undone, StepError>;
}

/// What the registry knows about a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgramInfo {
    /// The key in the document, for example `ecsRollingDeploy`.
    pub kind: &'static str,
    /// Oldest journal that can be replayed.
    pub min_version: u32,
    /// Newest; new runs are written with it.
    pub max_version: u32,
    /// Programs that must be on the agent's PATH.
    pub tools: &'static [&'static str],
}
