//! The forward program of `ecsRollingDeploy`.

use std::sync::OnceLock;

use async_trait::async_trait;
use deputy_task::document::step::EcsRollingDeploy;
use serde_json::{Map, Value, json};

use crate::aws::guard::Pass;
use crate::context::{Outputs, StepContext, Undone};
use crate::ecs::change::{Change, Expected, overtaken};
use crate::ecs::client::Ecs;
use crate::ecs::document::{Wanted, digest, short, token};
use crate::ecs::names::Names;
use crate::ecs::reading::{brought, look_patiently, patiently};
use crate::ecs::revision::Revision;
use crate::ecs::rollout::{Target, follow};
use crate::ecs::service::Before;
use crate::ecs::undo::undo;
use crate::ecs::verdict::Verdict;
use crate::effect::Effect;
use crate::failure::StepError;
use crate::program::{ProgramInfo, StepProgram};

/// What the registry knows about the kind.
pub const INFO: ProgramInfo = ProgramInfo {
    kind: "ecsRollingDeploy",
    min_version: 1,
    max_version: 1,
    tools: &[],
};

/// One `ecsRollingDeploy` step, its arguments evaluated.
#[derive(Debug, Clone)]
pub struct EcsRollingDeployProgram {
    step: EcsRollingDeploy,
}

impl EcsRollingDeployProgram {
    /// The program of `step`.
    #[must_use]
    pub fn new(step: EcsRollingDeploy) -> Self {
        Self { step }
    }
}

#[async_trait]
impl StepProgram for EcsRollingDeployProgram {
    async fn run(&self, ctx: &StepContext) -> Result<Outputs, StepError> {
        let wanted = Wanted::of(&self.step)?;
        let names = Names::of(&wanted);
        let ecs = Ecs::of(ctx, &wanted.cluster).await?;
        let before: Before = ctx
            .guarded_fact(&names.before, Before::secrecy, || async {
                Ok(ecs.before(&wanted).await?)
            })
            .await?;
        narrate_before(ctx, &wanted, &before);
        let (revision, known_by) = register(ctx, &ecs, &wanted, &names).await?;
        ctx.narrate(format_args!("registered {}", short(&revision.task_definition_arn)));
        let change = change(ctx, &ecs, &wanted, (&before, &revision, known_by)).await?;
        ctx.narrate(format_args!(
            "deployment {} of {} to {}",
            change.deployment_id,
            short(&revision.task_definition_arn),
            wanted.service
        ));
        let target = Target {
            service: &wanted.service,
            task_definition: &revision.task_definition_arn,
            deployment_id: &change.deployment_id,
            previous: before.service.as_ref().map(|service| service.task_definition.as_str()),
        };
        match ctx.told_fact(&names.verdict, || follow(ctx, &ecs, target)).await? {
            Verdict::Failed(failure) => Err(failure.into()),
            Verdict::Steady { running } => {
                ctx.narrate(format_args!(
                    "steady: {running} tasks of {} run in {}",
                    short(&revision.task_definition_arn),
                    wanted.service
                ));
                Ok(outputs(&before, &revision, &change))
            }
        }
    }

    async fn undo(&self, ctx: &StepContext) -> Result<Undone, StepError> {
        undo(ctx, &Wanted::of(&self.step)?).await
    }
}

fn narrate_before(ctx: &StepContext, wanted: &Wanted, before: &Before) {
    match &before.service {
        None => ctx.narrate(format_args!(
            "the service {} does not exist yet and will be created",
            wanted.service
        )),
        Some(service) => {
            ctx.narrate(format_args!(
                "the service {} runs {}, {} tasks wanted",
                wanted.service,
                short(&service.task_definition),
                service.desired_count
            ));
            let left = wanted.left_on_update();
            if !left.is_empty() {
                ctx.narrate(format_args!(
                    "{} of serviceDefinition count only when a service is created",
                    left.join(", ")
                ));
            }
        }
    }
}

/// Who says which task definition the step registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KnownBy {
    /// ECS's answer to the document of this attempt.
    Answer,
    /// The journal, or a tag: what is in it can be something else.
    Record,
}

async fn register(
    ctx: &StepContext,
    ecs: &Ecs,
    wanted: &Wanted,
    names: &Names,
) -> Result<(Revision, KnownBy), StepError> {
    let token = token(&ctx.attempt, &ctx.step, &names.register);
    let body = wanted.register_body(&token);
    let plan = json!({"family": wanted.family, "document": digest(&ctx.masked(&body))});
    let effect = Effect::bounded(
        &names.register,
        format!("RegisterTaskDefinition {}", wanted.family),
        &plan,
    );
    let key = ctx.key(&names.register);
    let answered = OnceLock::new();
    let revision = ctx
        .effect(
            effect,
            || look_patiently(ctx, || ecs.look_registered(&wanted.family, &token)),
            |permit| {
                let pass = Pass::new(permit, key.clone());
                async {
                    let revision = ecs.register(&wanted.family, &body, pass).await?;
                    answered.get_or_init(|| KnownBy::Answer);
                    Ok(revision)
                }
            },
        )
        .await?;
    Ok((revision, answered.into_inner().unwrap_or(KnownBy::Record)))
}

async fn change(
    ctx: &StepContext,
    ecs: &Ecs,
    wanted: &Wanted,
    (before, revision, known_by): (&Before, &Revision, KnownBy),
) -> Result<Change, StepError> {
    let names = Names::of(wanted);
    let task_definition = &revision.task_definition_arn;
    let touched = wanted.touched();
    let expected = Expected {
        service: &wanted.service,
        task_definition,
        before: before.service.as_ref().map(|service| service.task_definition.as_str()),
        touched: &touched,
    };
    let look = || look_patiently(ctx, || ecs.look_changed(expected));
    let name = if before.service.is_some() {
        &names.update
    } else {
        &names.create
    };
    let brought = match known_by {
        // The document was asked about.
        KnownBy::Answer => Vec::new(),
        KnownBy::Record => brought(ctx, ecs, name, task_definition).await?,
    };
    let touches = wanted.touches(Some(task_definition)).into_iter().chain(brought);
    if let Some(service) = &before.service {
        let body = wanted.update_body(task_definition);
        let effect = Effect::bounded(
            name,
            format!("UpdateService {} to {}", wanted.service, short(task_definition)),
            &plan(ctx, wanted, &body),
        )
        .read_by(before.readers())
        .touching(touches);
        let key = ctx.key(name);
        return ctx
            .effect(effect, look, |permit| {
                let pass = Pass::new(permit, key.clone());
                async {
                    let seen = patiently(ctx, || ecs.describe(&wanted.service)).await?;
                    if let Some(what) = service.as_seen().changed_since(seen.as_ref()) {
                        return Err(overtaken(&wanted.service, &what).into());
                    }
                    ecs.update(expected, &body, pass).await
                }
            })
            .await;
    }
    let body = wanted.create_body(task_definition, &token(&ctx.attempt, &ctx.step, &names.create));
    let effect = Effect::bounded(
        name,
        format!("CreateService {} with {}", wanted.service, short(task_definition)),
        &plan(ctx, wanted, &body),
    )
    .touching(touches);
    let key = ctx.key(name);
    ctx.effect(effect, look, |permit| {
        ecs.create(expected, &body, Pass::new(permit, key.clone()))
    })
    .await
}

fn plan(ctx: &StepContext, wanted: &Wanted, body: &Value) -> Value {
    json!({"cluster": wanted.cluster, "service": wanted.service, "document": digest(&ctx.masked(body))})
}

fn outputs(before: &Before, revision: &Revision, change: &Change) -> Outputs {
    let mut values = Map::new();
    values.insert("taskDefinitionArn".into(), json!(revision.task_definition_arn));
    values.insert("serviceArn".into(), json!(change.service_arn));
    values.insert("deploymentId".into(), json!(change.deployment_id));
    let previous = before.service.as_ref().map(|service| service.task_definition.clone());
    values.insert("previousTaskDefinitionArn".into(), json!(previous.unwrap_or_default()));
    Outputs {
        values,
        ..Outputs::default()
    }
}
