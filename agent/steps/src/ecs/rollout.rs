//! Follows one deployment to its end: narrates ECS's events and stopped tasks once each, shows what is
//! awaited, and ends as soon as the end is certain. Only reads.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use aws_sdk_ecs::types::{Deployment, DeploymentRolloutState};
use deputy_task::outcome::Failure;
use deputy_task::record::Direction;
use tokio::time::Instant;

use crate::context::StepContext;
use crate::ecs::client::Ecs;
use crate::ecs::document::short;
use crate::ecs::reading::{is_about_the_clock, passes};
use crate::ecs::service::Seen;
use crate::ecs::stopped::{StopKind, Stopped};
use crate::ecs::verdict::{Followed, Judgement, Rollout, Verdict, View};
use crate::failure::StepError;

/// Between looks, in the first minute and after it: quick where it is quick, gentle to the API's rate
/// where it is slow.
const QUICK: Duration = Duration::from_secs(1);
const GENTLE: Duration = Duration::from_secs(5);
const QUICK_FOR: Duration = Duration::from_secs(60);
/// Stopped tasks are looked at that often.
const STOPS_EVERY: Duration = Duration::from_secs(4);
/// Narrated stopped tasks; a crash loop would fill the log.
const MAX_STOP_LINES: usize = 20;
/// ECS stamps events a little before the deployment that they are about.
const EVENT_SLACK: Duration = Duration::from_secs(2);

/// What is followed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) service: &'a str,
    pub(crate) task_definition: &'a str,
    /// Empty where it is not known: then the newest of the task definition.
    pub(crate) deployment_id: &'a str,
    /// What ran before.
    pub(crate) previous: Option<&'a str>,
}

/// Follows `target` until it is steady or has failed.
pub(crate) async fn follow(ctx: &StepContext, ecs: &Ecs, target: Target<'_>) -> Result<Verdict, StepError> {
    let mut follower = Follower::new(ctx, ecs, target);
    loop {
        let pause = if follower.began.elapsed() < QUICK_FOR {
            QUICK
        } else {
            GENTLE
        };
        // A look may take as long as the API lets it hang; it changes nothing.
        let looked = tokio::select! {
            biased;
            halt = ctx.halted() => return Err(halt.into()),
            looked = follower.look() => looked,
        };
        let waiting_for = match looked {
            Ok(Judgement::End(verdict)) => return Ok(verdict),
            Ok(Judgement::Wait(what)) => {
                follower.trouble = None;
                what
            }
            Err(failure) if passes(&failure) || is_about_the_clock(&failure) => follower.troubled(&failure),
            Err(failure) => return Err(failure.into()),
        };
        ctx.sleep(pause, waiting_for).await?;
    }
}

struct Follower<'a> {
    ctx: &'a StepContext,
    ecs: &'a Ecs,
    target: Target<'a>,
    began: Instant,
    events: BTreeSet<String>,
    stops: Vec<Stopped>,
    known: BTreeSet<String>,
    stops_seen: Option<Instant>,
    steady_since: Option<Instant>,
    trouble: Option<String>,
}

impl<'a> Follower<'a> {
    fn new(ctx: &'a StepContext, ecs: &'a Ecs, target: Target<'a>) -> Self {
        Self {
            ctx,
            ecs,
            target,
            began: Instant::now(),
            events: BTreeSet::new(),
            stops: Vec::new(),
            known: BTreeSet::new(),
            stops_seen: None,
            steady_since: None,
            trouble: None,
        }
    }

    async fn look(&mut self) -> Result<Judgement, Failure> {
        let service = self.target.service;
        let Some(seen) = self.ecs.describe(service).await? else {
            let summary = format!("the service {service} was deleted while it was being deployed");
            return Ok(Judgement::End(Verdict::Failed(Failure::new("ecs.overtaken", summary))));
        };
        let deployment = self.followed(&seen).cloned();
        self.narrate_events(&seen, deployment.as_ref());
        let ending = deployment
            .as_ref()
            .is_none_or(|one| one.rollout_state() == Some(&DeploymentRolloutState::Failed));
        if ending || self.stops_seen.is_none_or(|at| at.elapsed() >= STOPS_EVERY) {
            self.look_at_stops(deployment.as_ref()).await?;
        }
        self.judge(&seen, deployment.as_ref()).await
    }

    fn followed<'s>(&self, seen: &'s Seen) -> Option<&'s Deployment> {
        let mut ours = seen
            .service
            .deployments()
            .iter()
            .filter(|one| one.task_definition() == Some(self.target.task_definition));
        let by_id = ours
            .clone()
            .find(|one| !self.target.deployment_id.is_empty() && one.id() == Some(self.target.deployment_id));
        by_id
            .or_else(|| ours.clone().find(|one| one.status() == Some("PRIMARY")))
            .or_else(|| ours.next())
    }

    async fn judge(&mut self, seen: &Seen, deployment: Option<&Deployment>) -> Result<Judgement, Failure> {
        let service = &seen.service;
        let primary = service.deployments().iter().find(|one| one.status() == Some("PRIMARY"));
        let followed = deployment.map(|one| Followed {
            primary: one.status() == Some("PRIMARY"),
            desired: one.desired_count(),
            running: one.running_count(),
            pending: one.pending_count(),
            rollout: rollout(one),
            reason: one.rollout_state_reason().unwrap_or_default(),
        });
        let full = followed
            .as_ref()
            .is_some_and(|one| one.running == one.desired && one.pending == 0);
        self.steady_since = full.then(|| self.steady_since.unwrap_or_else(Instant::now));
        let failed = self.stops.iter().filter(|stop| stop.kind == StopKind::Failed).count();
        let counted = deployment.map_or(0, |one| usize::try_from(one.failed_tasks()).unwrap_or(0));
        let breaker = service
            .deployment_configuration()
            .and_then(|configuration| configuration.deployment_circuit_breaker())
            .is_some_and(|breaker| breaker.enable());
        let mut view = View {
            service: self.target.service,
            task_definition: self.target.task_definition,
            previous: self.target.previous,
            followed,
            primary: primary.and_then(|one| one.task_definition()).unwrap_or_default(),
            deployments: service.deployments().len(),
            failures: failed.max(counted),
            lines: self
                .stops
                .iter()
                .filter(|stop| stop.kind == StopKind::Failed)
                .map(|stop| stop.line.as_str())
                .collect(),
            proven: true,
            breaker,
            steady_for: self.steady_since.map(|since| since.elapsed()).unwrap_or_default(),
        };
        // Whether a task has proven itself costs two calls; ask only where it decides.
        let mut unproven = view.clone();
        unproven.proven = false;
        if view.judge() != unproven.judge() {
            let failed_at = self
                .stops
                .iter()
                .filter_map(|stop| stop.at)
                .max()
                .unwrap_or_else(SystemTime::now);
            view.proven = self
                .ecs
                .has_proven_task(self.target.service, self.target.task_definition, failed_at)
                .await?;
        }
        Ok(view.judge())
    }

    async fn look_at_stops(&mut self, deployment: Option<&Deployment>) -> Result<(), Failure> {
        let which = (self.target.service, self.target.task_definition);
        let fresh = self.ecs.newly_stopped(which, deployment, &mut self.known).await?;
        self.stops_seen = Some(Instant::now());
        for stop in fresh {
            let stop = match self.ctx.direction {
                Direction::Forward => stop,
                // What runs again is not the task's own.
                Direction::Undo => stop.without_values(),
            };
            match self.stops.len() {
                shown if shown < MAX_STOP_LINES => self.ctx.narrate(&stop.line),
                MAX_STOP_LINES => self.ctx.narrate("more tasks stopped; they are counted and not listed"),
                _ => {}
            }
            self.stops.push(stop);
        }
        Ok(())
    }

    /// Events since this deployment began, oldest first, once each. Where no call of ours began it, only
    /// those that come while we look.
    fn narrate_events(&mut self, seen: &Seen, deployment: Option<&Deployment>) {
        let began = deployment
            .and_then(|one| one.created_at())
            .and_then(|at| SystemTime::try_from(*at).ok());
        let Some(since) = began.and_then(|at| at.checked_sub(EVENT_SLACK)) else {
            return;
        };
        let silent = self.target.deployment_id.is_empty() && self.stops_seen.is_none();
        for event in seen.service.events().iter().rev() {
            let at = event.created_at().and_then(|at| SystemTime::try_from(*at).ok());
            let fresh =
                at.is_some_and(|at| at >= since) && self.events.insert(event.id().unwrap_or_default().to_owned());
            if fresh && !silent {
                self.ctx
                    .narrate(format_args!("ECS: {}", event.message().unwrap_or_default()));
            }
        }
    }

    /// Reading does not work for a while: that fails no deployment.
    fn troubled(&mut self, failure: &Failure) -> String {
        if self.trouble.as_deref() != Some(failure.class.as_str()) {
            self.ctx.narrate(format_args!(
                "cannot look at {} for now: {}",
                short(self.target.service),
                failure.summary
            ));
            self.trouble = Some(failure.class.clone());
        }
        "ECS to answer again".into()
    }
}

fn rollout(deployment: &Deployment) -> Rollout {
    match deployment.rollout_state().map(DeploymentRolloutState::as_str) {
        Some("COMPLETED") => Rollout::Completed,
        Some("FAILED") => Rollout::Failed,
        // A state that is new to us is not an end.
        Some(_) => Rollout::InProgress,
        None => Rollout::Untold,
    }
}
