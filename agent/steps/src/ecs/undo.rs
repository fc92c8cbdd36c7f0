//! The undo program of `ecsRollingDeploy`: exactly what was recorded before the change, and only where
//! the service still is as the forward program left it.

use std::time::Duration;

use deputy_task::outcome::Failure;
use deputy_task::touch::{Touch, roles_of};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::aws::guard::Pass;
use crate::context::{StepContext, Undone};
use crate::ecs::change::{CHANGED_BY_OTHERS, Change, Expected, overtaken};
use crate::ecs::client::Ecs;
use crate::ecs::document::{Wanted, digest, short, token};
use crate::ecs::names::Names;
use crate::ecs::reading::{brought, look_patiently, patiently};
use crate::ecs::revision::Revision;
use crate::ecs::rollout::{Target, follow};
use crate::ecs::service::{AsSeen, Before, BeforeService, secrecy};
use crate::ecs::verdict::Verdict;
use crate::effect::{Effect, Look, Secrecy, Settled};
use crate::failure::StepError;

/// ECS's documented read lag is short; an open call is looked at that long.
const SETTLE: Duration = Duration::from_secs(5);
/// Between looks at a service that is being deleted.
const DELETE_PAUSE: Duration = Duration::from_secs(2);

/// What the service is when the undo begins. Journaled: it decides what is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Current {
    /// It still runs our task definition.
    Ours {
        /// The touched fields as they are now.
        touched: Map<String, Value>,
    },
    /// It runs the recorded one again: a circuit breaker took ours back.
    Previous {
        /// The touched fields as they are now.
        touched: Map<String, Value>,
    },
    /// Somebody else's.
    Other {
        /// What it runs.
        task_definition: String,
    },
    /// It is not there.
    Gone,
}

impl Current {
    /// An undo is not refused for want of a key: what it would restore was sealed, or could carry no secret.
    fn secrecy(&self) -> Secrecy {
        match self {
            Self::Ours { touched } | Self::Previous { touched } if secrecy(touched) != Secrecy::Public => {
                Secrecy::Private
            }
            Self::Ours { .. } | Self::Previous { .. } | Self::Other { .. } | Self::Gone => Secrecy::Public,
        }
    }
}

/// Everything an undo needs, in one place.
struct Undo<'a> {
    ctx: &'a StepContext,
    ecs: Ecs,
    wanted: &'a Wanted,
    names: Names,
    undone: Undone,
}

/// Restores what the forward program's records say.
pub(crate) async fn undo(ctx: &StepContext, wanted: &Wanted) -> Result<Undone, StepError> {
    let names = Names::of(wanted);
    let Some(before) = ctx.recorded_fact::<Before>(&names.before)? else {
        return Ok(Undone::default());
    };
    let ecs = Ecs::of(ctx, &wanted.cluster).await?;
    let token = token(&ctx.attempt, &ctx.step, &names.register);
    let registered = ctx
        .settled(&names.register, SETTLE, || {
            look_patiently(ctx, || ecs.look_registered(&wanted.family, &token))
        })
        .await?;
    let Settled::Happened(revision) = registered else {
        return Ok(Undone::default());
    };
    let mut undo = Undo {
        ctx,
        ecs,
        wanted,
        names,
        undone: Undone::default(),
    };
    if let Settled::Happened(change) = undo.change(&before, &revision).await? {
        let ours = revision.task_definition_arn.as_str();
        match (&before.service, undo.current(&before, ours).await?) {
            (Some(service), current) => {
                let restored = undo.restore(service, &change, (ours, current)).await;
                undo.keep_what_is_done(restored)?;
            }
            (None, current) => undo.delete(ours, current).await?,
        }
    }
    undo.deregister(&revision).await?;
    Ok(undo.undone)
}

impl Undo<'_> {
    /// What became of our call. Where somebody else's change hides it, there is nothing of ours left to
    /// take back but the task definition: that is said, and the service left alone.
    async fn change(&mut self, before: &Before, revision: &Revision) -> Result<Settled<Change>, StepError> {
        let touched = self.wanted.touched();
        let expected = Expected {
            service: &self.wanted.service,
            task_definition: &revision.task_definition_arn,
            before: before.service.as_ref().map(|service| service.task_definition.as_str()),
            touched: &touched,
        };
        let name = if before.service.is_some() {
            &self.names.update
        } else {
            &self.names.create
        };
        let look = || look_patiently(self.ctx, || self.ecs.look_changed(expected));
        let settled = self.ctx.settled(name, SETTLE, look).await;
        match settled {
            Err(StepError::WorldUnknown(failure)) if failure.class == CHANGED_BY_OTHERS => {
                self.leave(&failure);
                Ok(Settled::Never)
            }
            other => other,
        }
    }

    /// Somebody else's change stays.
    fn leave(&mut self, failure: &Failure) {
        let left = format!("{}; it was left as it is", failure.summary);
        self.undone.left.push(left);
    }

    async fn current(&self, before: &Before, ours: &str) -> Result<Current, StepError> {
        let observe = || async {
            let seen = patiently(self.ctx, || self.ecs.describe(&self.wanted.service)).await?;
            let Some(seen) = seen.filter(|seen| seen.status() == "ACTIVE") else {
                return Ok(Current::Gone);
            };
            let touched = seen.touched(&self.wanted.touched());
            let previous = before.service.as_ref().map(|service| service.task_definition.as_str());
            Ok(match seen.task_definition() {
                running if running == ours => Current::Ours { touched },
                running if Some(running) == previous => Current::Previous { touched },
                running => Current::Other {
                    task_definition: running.to_owned(),
                },
            })
        };
        self.ctx
            .guarded_fact(&self.names.current, Current::secrecy, observe)
            .await
    }

    async fn restore(
        &mut self,
        before: &BeforeService,
        change: &Change,
        (ours, current): (&str, Current),
    ) -> Result<(), StepError> {
        let service = &self.wanted.service;
        let (running, seen, fields) = match current {
            Current::Gone => {
                self.undone
                    .left
                    .push(format!("the service {service} is gone; somebody deleted it"));
                return Ok(());
            }
            Current::Other { task_definition } => {
                let running = short(&task_definition);
                self.undone.left.push(format!(
                    "the service {service} runs {running}, which somebody else set meanwhile; it was left as it is"
                ));
                return Ok(());
            }
            Current::Previous { touched } => {
                let fields = self.fields_to_restore(before, change, &touched);
                if fields.is_empty() {
                    self.ctx.narrate(format_args!(
                        "{service} already runs {} again; nothing to restore",
                        short(&before.task_definition)
                    ));
                    return self.await_steady(before, "", None).await;
                }
                (before.task_definition.as_str(), touched, fields)
            }
            Current::Ours { touched } => {
                let fields = self.fields_to_restore(before, change, &touched);
                (ours, touched, fields)
            }
        };
        // Only what the update will write must still be as it was when that was decided.
        let seen = seen.into_iter().filter(|(key, _)| fields.contains_key(key)).collect();
        let seen = AsSeen {
            task_definition: running,
            or: Some(&before.task_definition),
            touched: &seen,
        };
        let restored = match self.update_back(before, ours, (fields, seen)).await {
            Err(StepError::Failed(failure)) if failure.class == CHANGED_BY_OTHERS => {
                self.leave(&failure);
                return Ok(());
            }
            other => other?,
        };
        self.undone.restored = true;
        self.await_steady(before, &restored.deployment_id, Some(ours)).await
    }

    /// Recorded values of the fields that still are what our update made of them.
    fn fields_to_restore(
        &mut self,
        before: &BeforeService,
        change: &Change,
        now: &Map<String, Value>,
    ) -> Map<String, Value> {
        let mut fields = Map::new();
        for (key, was) in &before.touched {
            let is = now.get(key).unwrap_or(&Value::Null);
            if is == was {
                continue;
            }
            if change.after.get(key) != Some(is) {
                self.undone.left.push(format!(
                    "{key} of {} was changed by somebody else meanwhile; it was left as it is",
                    self.wanted.service
                ));
                continue;
            }
            match (was, is) {
                (Value::Null, Value::Array(_)) => drop(fields.insert(key.clone(), json!([]))),
                (Value::Null, _) => self.undone.left.push(format!(
                    "{key} of {} had no value before, and ECS cannot take one away",
                    self.wanted.service
                )),
                (was, _) => drop(fields.insert(key.clone(), was.clone())),
            }
        }
        fields
    }

    async fn update_back(
        &self,
        before: &BeforeService,
        ours: &str,
        (fields, seen): (Map<String, Value>, AsSeen<'_>),
    ) -> Result<Change, StepError> {
        let service = &self.wanted.service;
        let mut body = fields.clone();
        body.insert("cluster".into(), json!(self.wanted.cluster));
        body.insert("service".into(), json!(service));
        body.insert("taskDefinition".into(), json!(before.task_definition));
        let body = Value::Object(body);
        let summary = format!("UpdateService {service} back to {}", short(&before.task_definition));
        let plan = json!({"cluster": self.wanted.cluster, "service": service, "document": digest(&body)});
        let expected = Expected {
            service,
            task_definition: &before.task_definition,
            before: Some(ours),
            touched: &fields,
        };
        let key = self.ctx.key(&self.names.update);
        let brought = brought(self.ctx, &self.ecs, &self.names.update, &before.task_definition).await?;
        // The journal says what the fields were: what is in them is asked about as well.
        let passed = roles_of(&Value::Object(fields.clone())).into_iter().map(Touch::Role);
        self.ctx
            .effect(
                Effect::bounded(&self.names.update, summary, &plan)
                    .touching(self.wanted.touches(Some(&before.task_definition)))
                    .touching(brought.into_iter().chain(passed)),
                || look_patiently(self.ctx, || self.look_restored(expected)),
                |permit| {
                    let pass = Pass::new(permit, key.clone());
                    async {
                        let now = patiently(self.ctx, || self.ecs.describe(service)).await?;
                        if let Some(what) = seen.changed_since(now.as_ref()) {
                            return Err(overtaken(service, &what).into());
                        }
                        self.ecs.update(expected, &body, pass).await
                    }
                },
            )
            .await
    }

    /// Unlike ours, the previous task definition may still have its old deployment while ours is
    /// primary, so only what the service wants now tells.
    async fn look_restored(&self, expected: Expected<'_>) -> Result<Look<Change>, Failure> {
        let seen = self.ecs.describe(expected.service).await?;
        match seen {
            Some(seen) if Some(seen.task_definition()) == expected.before => Ok(Look::Absent),
            // Only fields were to be restored: the same call again changes nothing more.
            Some(seen)
                if seen.task_definition() == expected.task_definition
                    && !fields_are_back(&seen.touched(expected.touched), expected.touched) =>
            {
                Ok(Look::Absent)
            }
            _ => self.ecs.look_changed(expected).await,
        }
    }

    async fn await_steady(
        &self,
        before: &BeforeService,
        deployment_id: &str,
        previous: Option<&str>,
    ) -> Result<(), StepError> {
        let target = Target {
            service: &self.wanted.service,
            task_definition: &before.task_definition,
            deployment_id,
            previous,
        };
        match self
            .ctx
            .told_fact(&self.names.verdict, || follow(self.ctx, &self.ecs, target))
            .await?
        {
            Verdict::Failed(failure) => Err(failure.into()),
            Verdict::Steady { running } => {
                self.ctx.narrate(format_args!(
                    "{} runs {} again, {running} tasks",
                    self.wanted.service,
                    short(&before.task_definition)
                ));
                Ok(())
            }
        }
    }

    /// The service did not exist before: it goes again, if it still is ours.
    async fn delete(&mut self, ours: &str, current: Current) -> Result<(), StepError> {
        let service = &self.wanted.service;
        match current {
            Current::Gone => return Ok(()),
            Current::Other { task_definition } => {
                let running = short(&task_definition);
                self.undone.left.push(format!("the service {service}, which this task created, now runs {running}, which somebody else set; it was left as it is"));
                return Ok(());
            }
            Current::Ours { .. } | Current::Previous { .. } => {}
        }
        let effect = Effect::bounded(
            &self.names.delete,
            format!("DeleteService {service}"),
            &json!({"cluster": self.wanted.cluster, "service": service}),
        )
        .touching(self.wanted.touches(None));
        let key = self.ctx.key(&self.names.delete);
        let seen = AsSeen {
            task_definition: ours,
            or: None,
            touched: &Map::new(),
        };
        let deleted = self
            .ctx
            .effect(
                effect,
                || look_patiently(self.ctx, || self.ecs.look_deleted(service)),
                |permit| {
                    let pass = Pass::new(permit, key.clone());
                    async {
                        let now = patiently(self.ctx, || self.ecs.describe(service)).await?;
                        match seen.changed_since(now.as_ref()) {
                            Some(what) if now.is_some() => Err(overtaken(service, &what).into()),
                            _ => self.ecs.delete(service, pass).await,
                        }
                    }
                },
            )
            .await;
        match deleted {
            Err(StepError::Failed(failure)) if failure.class == CHANGED_BY_OTHERS => {
                self.leave(&failure);
                return Ok(());
            }
            other => other?,
        }
        self.undone.restored = true;
        loop {
            let left = patiently(self.ctx, || self.ecs.describe(service))
                .await?
                .map_or(0, |seen| seen.service.running_count());
            if left == 0 {
                self.ctx.narrate(format_args!(
                    "deleted the service {service}, which this task had created"
                ));
                return Ok(());
            }
            self.ctx
                .sleep(DELETE_PAUSE, format!("{left} tasks of {service} to stop"))
                .await?;
        }
    }

    /// A service that was set back and does not become steady is something left: what was said and done before
    /// stays true.
    fn keep_what_is_done(&mut self, restored: Result<(), StepError>) -> Result<(), StepError> {
        match restored {
            Err(StepError::Failed(failure)) if self.undone.restored => {
                let left = format!("{} was set back, but: {}", self.wanted.service, failure.summary);
                self.undone.left.push(left);
                Ok(())
            }
            other => other,
        }
    }

    /// A revision that nothing runs is no harm: where it may not be deregistered, that is said, and the undo is
    /// what it is without it.
    async fn deregister(&mut self, revision: &Revision) -> Result<(), StepError> {
        let arn = revision.task_definition_arn.as_str();
        let effect = Effect::bounded(
            &self.names.deregister,
            format!("DeregisterTaskDefinition {}", short(arn)),
            &json!({"taskDefinition": arn}),
        )
        .touching([Touch::TaskDefinition(arn.to_owned())]);
        let key = self.ctx.key(&self.names.deregister);
        let deregistered = self
            .ctx
            .effect(
                effect,
                || look_patiently(self.ctx, || self.ecs.look_deregistered(arn)),
                |permit| self.ecs.deregister(arn, Pass::new(permit, key.clone())),
            )
            .await;
        match deregistered {
            Ok(_) => self.ctx.narrate(format_args!("deregistered {}", short(arn))),
            Err(StepError::Failed(failure)) => self.undone.noted.push(format!(
                "the task definition {} stays registered, and nothing runs it: {}",
                short(arn),
                failure.summary
            )),
            Err(other) => return Err(other),
        }
        Ok(())
    }
}

fn fields_are_back(now: &Map<String, Value>, wanted: &Map<String, Value>) -> bool {
    wanted.iter().all(|(key, value)| now.get(key) == Some(value))
}
