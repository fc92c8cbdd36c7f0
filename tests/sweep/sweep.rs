//! The sweep itself: the undisturbed run, then every effect at every point.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use deputy_proto::v1::{RecordKind, Task};
use deputy_tests::agent_process::AgentOptions;
use deputy_tests::cloud::{Cloud, EcsTasks};
use deputy_tests::proxy::rule::Matcher;
use deputy_tests::world::World;
use futures::StreamExt as _;
use serde_json::Value;
use tokio::time::Instant;

use crate::point::Point;
use crate::report::{self, Verdict};
use crate::scenario::Scenario;

/// Most of a point's time is waiting for a lease to end, so several go on at the same time.
const AT_THE_SAME_TIME: usize = 4;
/// From submission until the point is reached.
const POINT_WITHIN: Duration = Duration::from_secs(60);
/// From the death until another agent has finished: a bounded effect's 20 s, the lease, the guard, and the work.
const FINISHED_WITHIN: Duration = Duration::from_secs(120);
/// How long a thawed agent is watched for a late request.
const THAWED_FOR: Duration = Duration::from_secs(3);

/// How much is swept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Every effect at every point.
    Full,
    /// Every point once.
    Short,
}

/// What an undisturbed run leaves.
struct Measure {
    effects: Vec<Effect>,
    ended: (i32, i32),
    counts: BTreeMap<String, usize>,
    after: Value,
}

/// One effect, and which of the calls is its request.
#[derive(Clone)]
struct Effect {
    key: String,
    matcher: Matcher,
}

/// Has the agents' pool a key? Half of the deaths are in journals that are sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pool {
    HasKey,
    HasNone,
}

impl Pool {
    const fn of(number: usize) -> Self {
        if number.is_multiple_of(2) {
            Self::HasKey
        } else {
            Self::HasNone
        }
    }
}

/// One effect at one point.
#[derive(Clone, Copy)]
struct Job<'a> {
    scenario: &'a dyn Scenario,
    measure: &'a Measure,
    effect: &'a Effect,
    point: Point,
    pool: Pool,
}

/// Runs all scenarios.
pub(crate) async fn run(scenarios: &[Box<dyn Scenario>], extent: Extent) -> Result<Vec<Verdict>> {
    let cloud = Cloud::start(EcsTasks::Pretended).await?;
    let mut jobs = Vec::new();
    let mut measures = Vec::new();
    for scenario in scenarios {
        let measure = undisturbed(scenario.as_ref(), &cloud)
            .await
            .with_context(|| format!("the undisturbed run of {}", scenario.name()))?;
        report::progress(&format!(
            "{}: {} effects; sweeping them …",
            scenario.name(),
            measure.effects.len()
        ));
        measures.push(measure);
    }
    for (scenario, measure) in scenarios.iter().zip(&measures) {
        for (number, effect) in measure.effects.iter().enumerate() {
            for (at, point) in Point::ALL.into_iter().enumerate() {
                let pool = Pool::of(number + at);
                jobs.push(Job {
                    scenario: scenario.as_ref(),
                    measure,
                    effect,
                    point,
                    pool,
                });
            }
        }
    }
    if extent == Extent::Short {
        jobs = one_of_each(jobs);
    }
    let verdicts = futures::stream::iter(jobs).map(|job| {
        let cloud = Arc::clone(&cloud);
        async move {
            let started = Instant::now();
            let result = survive(&cloud, job).await;
            let verdict = Verdict {
                scenario: job.scenario.name(),
                effect: job.effect.key.clone(),
                point: job.point,
                took: started.elapsed(),
                failure: result.err().map(|error| format!("{error:#}")),
            };
            report::progress(&format!("  {}", verdict.line()));
            verdict
        }
    });
    Ok(verdicts.buffered(AT_THE_SAME_TIME).collect().await)
}

/// Each point once, spread over the effects.
fn one_of_each(jobs: Vec<Job<'_>>) -> Vec<Job<'_>> {
    let points = Point::ALL.len();
    let effects = jobs.len() / points;
    (0..points)
        .filter_map(|n| jobs.get((n % effects.max(1)) * points + n).copied())
        .collect()
}

async fn undisturbed(scenario: &dyn Scenario, cloud: &Arc<Cloud>) -> Result<Measure> {
    let mut world = scenario.world(cloud).await?;
    let target = scenario.prepare(&world).await?;
    world.agent(AgentOptions::default()).await?;
    let task = world.submit(&scenario.document(&target)).await?;
    let task = world.ended(&task, FINISHED_WITHIN).await?;
    let keys: Vec<String> = world
        .tasks
        .journal(&task.task_id)
        .await?
        .into_iter()
        .filter(|record| record.kind() == RecordKind::Intent && record.key.starts_with("deploy/"))
        .map(|record| record.key)
        .collect();
    let calls = scenario.changes(&world, &target).await?;
    ensure!(
        keys.len() == calls.len(),
        "{} effects, but {} calls that change something: {keys:?}\n{}\n{task:#?}",
        keys.len(),
        calls.len(),
        world.report()
    );
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let mut effects = Vec::new();
    for (key, call) in keys.into_iter().zip(calls) {
        let earlier = seen.entry(call.operation.clone()).or_default();
        let matcher = Matcher::on(&call.service, &call.operation).after(*earlier);
        *earlier += 1;
        if key.contains(scenario.swept()) {
            effects.push(Effect {
                key: pattern(&key, &target),
                matcher,
            });
        }
    }
    ensure!(!effects.is_empty(), "no effect to sweep\n{}", world.report());
    Ok(Measure {
        effects,
        ended: how_it_ended(&task)?,
        counts: scenario.counts(&world, &target).await?,
        after: scenario.after(&world, &target).await?,
    })
}

/// The key with everything that another target changes in it left open: its name, and digests of its name.
fn pattern(key: &str, target: &str) -> String {
    let key = key.replace(target, "*");
    match key.split_once("deputy-before-") {
        Some((before, _)) => format!("{before}deputy-before-*"),
        None => key,
    }
}

fn how_it_ended(task: &Task) -> Result<(i32, i32)> {
    let result = task.result.as_ref().context("the task has no result")?;
    Ok((result.state, result.world))
}

async fn survive(cloud: &Arc<Cloud>, job: Job<'_>) -> Result<()> {
    let Job {
        scenario,
        measure,
        effect,
        point,
        pool,
    } = job;
    let mut world = scenario.world(cloud).await?;
    let target = scenario.prepare(&world).await?;
    let ring = match pool {
        Pool::HasKey => Some(world.pool_key("pool-key").await?),
        Pool::HasNone => None,
    };
    let agent = |id: &str| {
        let options = AgentOptions::named(id);
        match &ring {
            Some(ring) => options.pool_key(ring),
            None => options,
        }
    };
    let mut first = agent("first");
    first.failpoint = point.failpoint(&effect.key);
    world.agent(first).await?;
    let task = strike(scenario, &mut world, &target, effect, point).await?;
    world.agent(agent("second")).await?;
    let task = world.ended(&task, FINISHED_WITHIN).await?;
    if point == Point::FrozenBeforeSending {
        let first = world.agents.first_mut().context("an agent")?;
        first.child.go_on()?;
        tokio::time::sleep(THAWED_FOR).await;
    }
    let compare = async {
        ensure!(
            how_it_ended(&task)? == measure.ended,
            "it ended as {:?}, not as {:?}: {:?}",
            how_it_ended(&task)?,
            measure.ended,
            task.result
        );
        let counts = scenario.counts(&world, &target).await?;
        ensure!(
            counts == measure.counts,
            "changes: {counts:?}, undisturbed: {:?}",
            measure.counts
        );
        let after = scenario.after(&world, &target).await?;
        ensure!(
            after == measure.after,
            "the world is {after:#}\nundisturbed it is {:#}",
            measure.after
        );
        Ok(())
    };
    compare
        .await
        .map_err(|error: anyhow::Error| error.context(world.report()))
}

/// Submits the task and waits until the first agent is dead or frozen at the point.
async fn strike(
    scenario: &dyn Scenario,
    world: &mut World,
    target: &str,
    effect: &Effect,
    point: Point,
) -> Result<String> {
    let document = scenario.document(target);
    let handle = match point {
        Point::NotForwarded => Some(scenario.proxied(world).await?.hold(effect.matcher.clone())),
        Point::ReplyWithheld => Some(scenario.proxied(world).await?.withhold_reply(effect.matcher.clone())),
        _ => None,
    };
    let task = world.submit(&document).await?;
    let reached = async {
        match &handle {
            Some(handle) => {
                tokio::time::timeout(POINT_WITHIN, handle.reached())
                    .await
                    .context("the request did not come")??;
                world.agents.first_mut().context("an agent")?.kill()?;
                handle.abandon();
            }
            None => {
                let child = &mut world.agents.first_mut().context("an agent")?.child;
                if point == Point::FrozenBeforeSending {
                    child.paused(POINT_WITHIN).await?;
                } else {
                    let status = child.ended(POINT_WITHIN).await?;
                    if status.code().is_some() {
                        bail!("the agent left by itself: {status}");
                    }
                }
            }
        }
        Ok(())
    };
    reached
        .await
        .map_err(|error: anyhow::Error| error.context(world.report()))?;
    Ok(task)
}
