//! The chapters.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use deputy_tests::cloud::{Cloud, EcsTasks};
use deputy_tests::demo_world::{self, JOIN_RULE, POLICY};
use deputy_tests::programs::{Tools, workspace};
use deputy_tests::proxy::rule::Matcher;
use deputy_tests::world::World;

use crate::told::Told;

/// Building the Kubernetes programs takes ten minutes on two cores, and has begun before this program.
const KUBERNETES_WITHIN: Duration = Duration::from_secs(40 * 60);
/// For everything else.
const SOON: Duration = Duration::from_secs(120);

/// What becomes of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Afterwards {
    /// It ends.
    End,
    /// It stays until Ctrl-C.
    Keep,
}

/// Tells it; success only if everything was as it should be.
pub(crate) async fn tell(afterwards: Afterwards) -> ExitCode {
    let mut told = Told::begin();
    let mut world = None;
    let outcome = all(&mut told, &mut world, afterwards).await;
    let Err(error) = outcome else { return ExitCode::SUCCESS };
    let report = world.as_ref().map(World::report).unwrap_or_default();
    told.fail(&format!("the demonstration did not go as it should: {error:#}"));
    match keep_report(&format!("{error:#}\n\n{report}")) {
        Ok(path) => told.hint(&format!(
            "the logs of all processes and every call are in {}",
            path.display()
        )),
        Err(error) => told.hint(&format!("the logs could not be written: {error:#}\n{report}")),
    }
    ExitCode::FAILURE
}

fn keep_report(report: &str) -> Result<PathBuf> {
    let folder = std::env::current_exe()?
        .parent()
        .context("this program has no folder")?
        .join("demo");
    std::fs::create_dir_all(&folder)?;
    let path = folder.join("failure.log");
    std::fs::write(&path, report)?;
    Ok(path)
}

async fn all(told: &mut Told, place: &mut Option<World>, afterwards: Afterwards) -> Result<()> {
    told.chapter("An emulated AWS with IAM enforced, a manager, two agents that join by their AWS role")?;
    let cloud = Cloud::start(EcsTasks::Pretended).await?;
    let built = World::builder()
        .cloud(&cloud)
        .manager(|options| demo_world::manager(&cloud, options))
        .in_folder(Path::new("/var/tmp"));
    let world = place.insert(built.start().await?);
    deputy(world, &JOIN_RULE).await?;
    for id in ["agent-1", "agent-2"] {
        world.agent(demo_world::agent(id)).await?;
    }
    told.say("nothing secret was given to the agents: AWS says who they are, and the rule lets their role in")?;
    told.say(&format!("what tasks may do here, the agents decide by {POLICY}"))?;
    told.say(&format!("the agents' own role: {}", cloud.scenery().agent_role))?;
    told.say(&format!(
        "the role they deploy with: {} (asks for an external id)",
        cloud.scenery().deployer_role
    ))?;
    deputy(world, &["fleet", "list"]).await?;

    ecs(told, world).await?;
    kubernetes(told, world, &cloud).await?;
    examined(told, world).await?;
    killed(told, world).await?;
    ending(told, world, afterwards).await
}

async fn ecs(told: &mut Told, world: &World) -> Result<()> {
    told.chapter("examples/ecs-rolling.yaml, through a role chain into another account")?;
    deputy(
        world,
        &[
            "submit",
            &example("ecs-rolling.yaml"),
            "--input",
            "image=checkout-api:1.4.2",
            "--follow",
        ],
    )
    .await?;
    let calls = world.proxy()?.calls_of("ecs", "CreateService");
    let caller = calls.first().map(|call| call.caller.clone()).unwrap_or_default();
    told.say(&format!("AWS saw CreateService from {caller}"))?;
    told.check(
        "the service was created by the deployer's role",
        caller.contains("assumed-role/deployer/deputy-").into(),
    )
}

async fn killed(told: &mut Told, world: &mut World) -> Result<()> {
    told.chapter("An agent is killed in the middle of a third deployment; the other one finishes it")?;
    let before = mutations(world)?;
    let withheld = world.proxy()?.withhold_reply(Matcher::on("ecs", "UpdateService"));
    let example = example("ecs-rolling.yaml");
    let mut follow = world.deputy_command()?;
    follow.args([
        "submit",
        &example,
        "--input",
        "image=checkout-api:1.5.0",
        "--input",
        "desiredCount=3",
        "--follow",
    ]);
    let mut follow = tokio::process::Command::from(follow)
        .kill_on_drop(true)
        .spawn()
        .context("running deputy")?;
    tokio::time::timeout(SOON, withheld.reached())
        .await
        .context("UpdateService did not come")??;
    let task = newest(world).await?;
    let victim = world
        .agents
        .iter_mut()
        .find(|agent| agent.id == task.agent_id)
        .context("the agent of the task")?;
    victim.kill()?;
    withheld.abandon();
    told.say(&format!(
        "✂ killed {} (SIGKILL): AWS has done its UpdateService, and it never heard of it",
        task.agent_id
    ))?;
    told.say("  its lease ends, then the time in which its request could still be on its way; then the other one looks before it acts")?;
    let status = tokio::time::timeout(SOON, follow.wait())
        .await
        .context("the other agent did not finish in time")??;
    ensure!(status.success(), "deputy submit ended with {status}");
    let finished = world.tasks.get(&task.task_id).await?;
    told.check(
        &format!("{} finished what {} began", finished.agent_id, task.agent_id),
        (finished.agent_id != task.agent_id).into(),
    )?;
    told.say("the journal of that run:")?;
    deputy(world, &["get", &task.task_id, "--journal"]).await?;
    let after = mutations(world)?;
    let made: BTreeMap<String, usize> = after
        .into_iter()
        .map(|(name, count)| (name.clone(), count - before.get(&name).copied().unwrap_or(0)))
        .filter(|(_, count)| *count > 0)
        .collect();
    told.say("calls that changed something, as the other side counted them:")?;
    for (name, count) in &made {
        told.say(&format!("  {count} × {name}"))?;
    }
    told.check(
        "every change was made exactly once",
        made.values().all(|count| *count == 1).into(),
    )
}

async fn kubernetes(told: &mut Told, world: &mut World, cloud: &Cloud) -> Result<()> {
    told.chapter("examples/eks-rolling.yaml: a real Kubernetes API server behind the emulated EKS")?;
    if Tools::load_with_kubernetes(Duration::ZERO).await.is_err() {
        told.say("its programs are still being built; what follows waits for them")?;
    }
    Tools::load_with_kubernetes(KUBERNETES_WITHIN).await?;
    cloud.kubernetes().await?;
    // The tools were not there when the agents looked for them.
    for agent in &mut world.agents {
        agent.start_again()?;
    }
    world.joined("agent-1").await?;
    world.joined("agent-2").await?;
    deputy(
        world,
        &[
            "submit",
            &example("eks-rolling.yaml"),
            "--input",
            "image=checkout:1.4.2",
            "--follow",
        ],
    )
    .await?;
    told.say("who does the cluster say the caller is? A task asks, with a kubeconfig that lives as long as its step:")?;
    let whoami = world.folder().join("whoami.yaml");
    std::fs::write(&whoami, WHO_AM_I)?;
    deputy(world, &["submit", &whoami.display().to_string(), "--follow"]).await?;
    let log = world.logs(&newest(world).await?.task_id).await?;
    told.check(
        "the cluster knows the deployer's role, and the task in its session name",
        log.contains("assumed-role/deployer/deputy-").into(),
    )?;
    told.check(
        "the token in that kubeconfig is made by aws-iam-authenticator",
        (log.contains("aws-iam-authenticator") && !log.contains("by the agent itself")).into(),
    )?;
    let made = cloud.kubernetes().await?.mutations("shop")?;
    let patches = made
        .iter()
        .filter(|change| change.resource == "deployments" && change.user.contains("assumed-role/deployer"))
        .count();
    told.check(
        "the API server's audit log has exactly one change of the Deployment",
        (patches == 1).into(),
    )
}

async fn examined(told: &mut Told, world: &World) -> Result<()> {
    told.chapter("deputy-agent doctor, as the first agent and in its place: can it work?")?;
    let seen = demo_world::doctor(world).await?;
    for line in seen.stdout.lines() {
        told.say(line)?;
    }
    told.check("it can", (seen.code == Some(0)).into())
}

async fn ending(told: &mut Told, world: &World, afterwards: Afterwards) -> Result<()> {
    told.chapter("What to try next")?;
    told.say("cargo run -p deputy-agent -- task examples/shell.yaml   a task without any manager")?;
    told.say("cargo xtask sweep ecsRollingDeploy                      kill the agent at every single point")?;
    told.say("cargo xtask test                                        everything a pull request must pass")?;
    told.say("cargo xtask bench                                       the figures, beside their goals")?;
    if afterwards == Afterwards::Keep {
        let deputy = world.deputy_command()?.get_program().display().to_string();
        told.say("")?;
        told.say("this world stays until you press Ctrl-C. In another terminal:")?;
        let access = world.manager.access()?;
        told.say(&format!("  export DEPUTY_MANAGER={}", access.url()))?;
        told.say(&format!("  export DEPUTY_CA_FILE={}", access.ca_file.display()))?;
        told.say(&format!(
            "  export DEPUTY_TOKEN_FILE={}",
            world.manager.data().join("admin-token").display()
        ))?;
        for rest in [
            "list",
            "fleet list",
            "submit examples/ecs-rolling.yaml --input image=checkout-api:1.6.0 --follow",
        ] {
            told.say(&format!("  {deputy} {rest}"))?;
        }
        tokio::signal::ctrl_c().await?;
    }
    told.say(&format!("done in {:.0} s", told.seconds()))
}

const WHO_AM_I: &str = r#"
apiVersion: deputy.dev/v1
kind: Task
metadata: { name: who-am-i }
spec:
  aws:
    region: eu-west-1
    assumeRole: [ { roleArn: "arn:aws:iam::222222222222:role/deployer", externalId: deputy-demo } ]
  steps:
    - name: ask
      shell: { cluster: prod, run: kubectl auth whoami }
"#;

/// Runs `deputy` with our terminal; it must succeed.
async fn deputy(world: &World, arguments: &[&str]) -> Result<()> {
    let mut command = world.deputy_command()?;
    command.args(arguments).stdin(Stdio::null());
    let mut child = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .spawn()
        .context("running deputy")?;
    let status = tokio::time::timeout(SOON, child.wait())
        .await
        .with_context(|| format!("deputy {} did not end", arguments.join(" ")))??;
    ensure!(status.success(), "deputy {} ended with {status}", arguments.join(" "));
    Ok(())
}

async fn newest(world: &World) -> Result<deputy_proto::v1::Task> {
    let request = deputy_proto::v1::ListRequest {
        page_size: 1,
        ..Default::default()
    };
    let tasks = world.tasks.client().list(request).await?.into_inner().tasks;
    tasks.into_iter().next().context("a task")
}

fn mutations(world: &World) -> Result<BTreeMap<String, usize>> {
    let mut counts = BTreeMap::new();
    for call in world.proxy()?.mutations() {
        if call.succeeded() {
            *counts
                .entry(format!("{} {}", call.service, call.operation))
                .or_default() += 1;
        }
    }
    Ok(counts)
}

fn example(name: &str) -> String {
    workspace().join("examples").join(name).display().to_string()
}
