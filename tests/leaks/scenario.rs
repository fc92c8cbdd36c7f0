//! What a kind of step is shown with: something that is there before and holds canaries, and a task over it.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use deputy_proto::v1;
use deputy_tests::leaks::canary::Canaries;
use deputy_tests::world::World;

use crate::{ecs, kubernetes, shell};

/// A task of this suite, with its waits.
const WITHIN: Duration = Duration::from_secs(120);

/// Kinds of step that ask nobody who could refuse.
const ASKS_NOBODY: [&str; 1] = ["noopEffect"];

/// Whether the task succeeds, or its last step fails and everything before is undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Forward,
    Back,
}

/// A task that is refused, or fails, over what holds canaries.
pub(crate) struct Refused {
    /// As [`Scenario::spec`].
    pub(crate) spec: String,
    /// What its failure must say: that it failed where it should.
    pub(crate) words: &'static str,
}

/// One kind of step.
#[async_trait]
pub(crate) trait Scenario: Send + Sync {
    /// As in the task document.
    fn kind(&self) -> &'static str;
    /// Makes what is there before the task, with canaries in it, and gives the target's name.
    async fn prepare(&self, world: &World, canaries: &Canaries) -> Result<String>;
    /// The task over that target: the spec from `aws` on, without `onFailure`. Its steps end with one of this kind.
    fn spec(&self, target: &str) -> String;
    /// Tasks over a target of their own which whoever is asked refuses, and whose refusal could quote what is there; as
    /// many as there are ways.
    async fn refused(&self, world: &World, canaries: &Canaries) -> Result<Vec<Refused>>;
    /// What the way back leaves of the world: an undo that does nothing must not pass.
    fn left_by_undo(&self) -> v1::World {
        v1::World::RolledBack
    }
}

/// A scenario for every kind of step.
pub(crate) fn all() -> Vec<Box<dyn Scenario>> {
    vec![
        Box::new(shell::Shell),
        Box::new(shell::FromGit::default()),
        Box::new(ecs::RollingDeploy),
        Box::new(kubernetes::Kubernetes::Apply),
        Box::new(kubernetes::Kubernetes::RollingDeploy),
        Box::new(Noop),
    ]
}

/// Fails if the agent offers a kind of step that nobody looks at.
pub(crate) async fn are_complete(world: &World) -> Result<()> {
    let request = v1::FleetListRequest::default();
    let fleet = world.tasks.fleet().list(request).await?.into_inner();
    let offered = fleet.agents.iter().filter_map(|agent| agent.capabilities.as_ref());
    let offered: std::collections::BTreeSet<&str> = offered
        .flat_map(|capabilities| capabilities.steps.iter().map(|step| step.kind.as_str()))
        .collect();
    if offered.is_empty() {
        bail!("no agent offers anything");
    }
    let scenarios = all();
    let missing: Vec<&str> = offered
        .into_iter()
        .filter(|kind| !scenarios.iter().any(|scenario| scenario.kind() == *kind))
        .collect();
    if !missing.is_empty() {
        bail!(
            "no leak scenario for {}; hint: add it to tests/leaks/scenario.rs",
            missing.join(", ")
        );
    }
    Ok(())
}

/// Runs a scenario to its end, and asks for everything that a user can ask of the task.
pub(crate) async fn play(scenario: &dyn Scenario, way: Way, world: &World, canaries: &Canaries) -> Result<()> {
    let kind = scenario.kind();
    let target = scenario
        .prepare(world, canaries)
        .await
        .with_context(|| kind.to_owned())?;
    let (wanted, left, ending) = match way {
        Way::Forward => (v1::TaskState::Succeeded, v1::World::Changed, ""),
        Way::Back => (
            v1::TaskState::Failed,
            scenario.left_by_undo(),
            "    - name: fails\n      shell: { run: exit 1, retrySafe: true }\n",
        ),
    };
    let document = format!(
        "apiVersion: deputy.dev/v1\nkind: Task\nmetadata: {{ name: {target} }}\nspec:\n  onFailure: rollback\n{}{ending}",
        scenario.spec(&target)
    );
    let task = world.submit(&document).await?;
    let ended = world
        .wait_state(&task, wanted, WITHIN)
        .await
        .with_context(|| format!("{kind}, {way:?}"))?;
    let result = ended.result.unwrap_or_default();
    if result.world() != left {
        bail!(
            "{kind}, {way:?}: the world is {}, not {}; {}",
            result.world().as_str_name(),
            left.as_str_name(),
            result.remains.join("; ")
        );
    }
    ask_for_everything(world, &task).await
}

async fn ask_for_everything(world: &World, task: &str) -> Result<()> {
    // A step that says nothing has no log to wait for.
    if world.tasks.get(task).await?.log_state() != v1::LogState::Unspecified {
        world.logs(task).await?;
    }
    for arguments in [
        ["get", task, "--output", "json"],
        ["explain", task, "--output", "json"],
        ["logs", task, "--output", "text"],
    ] {
        world.deputy(&arguments).await?;
    }
    Ok(())
}

/// Runs what is refused, and asks for everything as [`play`] does. Answers how many tasks these were.
pub(crate) async fn play_refused(scenario: &dyn Scenario, world: &World, canaries: &Canaries) -> Result<u64> {
    let kind = scenario.kind();
    let all = scenario
        .refused(world, canaries)
        .await
        .with_context(|| kind.to_owned())?;
    if all.is_empty() && !ASKS_NOBODY.contains(&kind) {
        bail!("no task of {kind} is refused; hint: see `refused` in tests/leaks/scenario.rs");
    }
    let mut tasks = 0;
    for Refused { spec, words } in all {
        tasks += 1;
        let name = world.unique("refused");
        let document = format!(
            "apiVersion: deputy.dev/v1\nkind: Task\nmetadata: {{ name: {name} }}\nspec:\n  onFailure: rollback\n{spec}"
        );
        let task = world.submit(&document).await?;
        let ended = world.wait_state(&task, v1::TaskState::Failed, WITHIN).await;
        let failure = ended
            .with_context(|| format!("{kind}, {words}"))?
            .result
            .and_then(|result| result.failure);
        let said = failure.unwrap_or_default();
        if !said.summary.contains(words) {
            bail!("{kind} failed otherwise than with {words}: {said:?}");
        }
        ask_for_everything(world, &task).await?;
    }
    Ok(tasks)
}

/// The lines that take the deployer's role.
pub(crate) const AWS: &str = r#"  aws:
    region: eu-west-1
    assumeRole: [ { roleArn: "arn:aws:iam::222222222222:role/deployer", externalId: deputy-demo } ]
"#;

/// A step without any surroundings.
struct Noop;

#[async_trait]
impl Scenario for Noop {
    fn kind(&self) -> &'static str {
        "noopEffect"
    }

    async fn prepare(&self, world: &World, _: &Canaries) -> Result<String> {
        Ok(world.unique("noop"))
    }

    fn spec(&self, _: &str) -> String {
        "  steps:\n    - name: nothing\n      noopEffect: {}\n".into()
    }

    async fn refused(&self, _: &World, _: &Canaries) -> Result<Vec<Refused>> {
        Ok(Vec::new())
    }

    /// There is nothing to put back, and a script ran.
    fn left_by_undo(&self) -> v1::World {
        v1::World::Changed
    }
}
