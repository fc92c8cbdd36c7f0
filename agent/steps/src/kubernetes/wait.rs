//! Follows objects until they are as they were asked to be, or certainly never will be. Called by the
//! forward program and by undo. It only reads. Verdicts are facts: a replay does not look again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use deputy_task::outcome::Failure;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use crate::context::StepContext;
use crate::failure::{Halt, StepError};

use super::api::Api;
use super::hearing::Hearing;
use super::looking::{Looked, Watched, look};
use super::object::ObjectRef;
use super::rollout::assessment::{Problem, Progress};
use super::rollout::event;

/// Between looks at first: most changes of a healthy cluster are over in a second.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Between looks later.
const PAUSE: Duration = Duration::from_secs(1);

/// How following one object ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Verdict {
    /// It is as it was asked to be.
    Steady(Steady),
    /// It never will be.
    Failed(Failure),
}

/// A steady object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Steady {
    /// The revision that runs.
    pub(crate) revision: String,
    /// For people.
    pub(crate) summary: String,
}

/// Is there anything to follow for this kind?
pub(crate) fn is_followed(object: &ObjectRef) -> bool {
    is_workload(object) || object.is("batch", "Job") || is_early(object)
}

/// Must it be usable before what comes after it is applied?
pub(crate) fn is_early(object: &ObjectRef) -> bool {
    object.is("", "Namespace") || object.is("apiextensions.k8s.io", "CustomResourceDefinition")
}

/// Does it roll out?
pub(crate) fn is_workload(object: &ObjectRef) -> bool {
    ["Deployment", "StatefulSet", "DaemonSet"]
        .iter()
        .any(|kind| object.is("apps", kind))
}

/// Follows all of `watched` at once until every one is steady, or one has failed.
///
/// # Errors
/// The failure of the first one that cannot become steady; a halt.
pub(crate) async fn until_steady(
    ctx: &StepContext,
    api: &Api,
    watched: &[Watched],
) -> Result<BTreeMap<String, Steady>, StepError> {
    let mut following = Following {
        ctx,
        api,
        first_seen: BTreeMap::new(),
        told: BTreeSet::new(),
        hearing: Hearing::default(),
    };
    let mut steady = BTreeMap::new();
    let mut pause = FIRST_PAUSE;
    let mut looks = 0_u32;
    loop {
        let mut waiting = Vec::new();
        for one in watched {
            let id = one.object.id();
            if steady.contains_key(&id) {
                continue;
            }
            match following.verdict(one).await? {
                Ok(Verdict::Steady(found)) => {
                    following.hearing.forget(&one.object);
                    steady.insert(id, found);
                }
                Ok(Verdict::Failed(failure)) => return Err(failure.into()),
                Err(what) => waiting.push(what),
            }
        }
        let Some(first) = waiting.first() else {
            return Ok(steady);
        };
        let more = if waiting.len() > 1 {
            format!(" (and {} more)", waiting.len() - 1)
        } else {
            String::new()
        };
        ctx.sleep(pause, format!("{first}{more}")).await?;
        looks += 1;
        if looks > 8 {
            pause = PAUSE;
        }
    }
}

struct Following<'a> {
    ctx: &'a StepContext,
    api: &'a Api,
    /// Since when each problem lasts without a break.
    first_seen: BTreeMap<String, Instant>,
    told: BTreeSet<String>,
    hearing: Hearing,
}

impl Following<'_> {
    /// The verdict, recorded; or what is still awaited.
    async fn verdict(&mut self, one: &Watched) -> Result<Result<Verdict, String>, StepError> {
        let fact = format!("rollout/{}", one.object.id());
        let ctx = self.ctx;
        let mut seen = None;
        if ctx.host().recorded_fact(ctx.direction, &fact).is_none() {
            let looked = tokio::select! {
                biased;
                halt = ctx.halted() => return Err(halt.into()),
                looked = self.look(one) => looked?,
            };
            match looked {
                Ok(verdict) => seen = Some(verdict),
                Err(what) => return Ok(Err(what)),
            }
        }
        if let Some(Verdict::Steady(found)) = &seen {
            ctx.narrate(&found.summary);
        }
        let nothing = || StepError::from(Halt::Nondeterministic(format!("the fact {fact} has gone")));
        ctx.told_fact(&fact, || async { seen.ok_or_else(nothing) })
            .await
            .map(Ok)
    }

    async fn look(&mut self, one: &Watched) -> Result<Result<Verdict, String>, StepError> {
        let Looked {
            assessment,
            events,
            pods,
            uids,
        } = look(self.ctx, self.api, one, &mut self.hearing).await?;
        for line in event::news(&events, &pods, &uids, &mut self.told) {
            self.ctx.narrate(line);
        }
        let certain = self.certain(&one.object, &assessment.problems);
        Ok(match assessment.progress {
            Progress::Steady { revision, summary } => Ok(Verdict::Steady(Steady { revision, summary })),
            Progress::Failed(failure) => Ok(Verdict::Failed(*failure)),
            Progress::Waiting(what) => certain.map(Verdict::Failed).ok_or(what),
        })
    }

    /// The problem that has lasted its grace. Tells every new one once.
    fn certain(&mut self, object: &ObjectRef, problems: &[Problem]) -> Option<Failure> {
        let prefix = format!("{} ", object.id());
        let now = Instant::now();
        let keys: BTreeSet<String> = problems
            .iter()
            .map(|problem| format!("{prefix}{}", problem.key))
            .collect();
        self.first_seen
            .retain(|key, _| !key.starts_with(&prefix) || keys.contains(key));
        let mut certain = None;
        for problem in problems {
            let key = format!("{prefix}{}", problem.key);
            let since = *self.first_seen.entry(key.clone()).or_insert(now);
            if self.told.insert(key) {
                self.ctx.narrate(format!("{object}: {}", problem.failure.summary));
            }
            if now.duration_since(since) >= problem.grace && certain.is_none() {
                let mut failure = problem.failure.clone();
                let verb = if is_workload(object) { "roll out" } else { "complete" };
                failure.summary = format!("{object} cannot {verb}: {}", failure.summary);
                certain = Some(failure);
            }
        }
        certain
    }
}

/// Outputs of followed objects, by kind and name.
pub(crate) fn revisions(objects: &[ObjectRef], steady: &BTreeMap<String, Steady>) -> Value {
    let found = objects
        .iter()
        .filter(|object| is_workload(object))
        .filter_map(|object| {
            let found = steady.get(&object.id())?;
            Some((
                format!("{}/{}", object.kind.to_lowercase(), object.name),
                Value::from(found.revision.as_str()),
            ))
        });
    Value::Object(found.collect())
}
