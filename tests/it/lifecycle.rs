//! How tasks are stopped, and how agents and managers leave and come back.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use deputy_proto::v1;
use deputy_tests::agent_process::AgentOptions;
use deputy_tests::proxy::rule::{Handle, Matcher};
use deputy_tests::tasks::Tasks;
use deputy_tests::world::World;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rustix::process::Signal;

use crate::recipe;

const SOON: Duration = Duration::from_secs(30);
const LATER: Duration = Duration::from_secs(90);

/// Guards that a cancel reaches the whole process group, and the exit code that CI sees.
#[tokio::test]
async fn a_cancelled_script_is_gone_with_its_children_and_submit_ends_with_4() {
    let world = World::with_one_agent().await.expect("a world");
    let pids = world.folder().join("pids");
    let run = format!("sleep 300 &\necho \"$$ $!\" > {}\nwait", pids.display());
    std::fs::write(
        world.folder().join("task.yaml"),
        recipe::script("cancelled", "", "", &run),
    )
    .expect("written");
    let mut command = world.deputy_command().expect("a command");
    command.args(["submit", "task.yaml", "--wait", "--request-id", "the-one"]);
    let submitted = tokio::task::spawn_blocking(move || command.output());
    world
        .eventually("the script runs", SOON, async || recipe::lines(&pids).len() == 1)
        .await
        .expect("runs");
    let listed = world.tasks.client().list(v1::ListRequest::default()).await;
    let task = listed.expect("listed").into_inner().tasks.remove(0).task_id;
    let cancel = world
        .deputy(&["cancel", &task, "--reason", "enough"])
        .await
        .expect("run");
    assert_eq!(cancel.code, Some(0), "{cancel:?}");
    let output = submitted.await.expect("joined").expect("run");
    assert_eq!(output.status.code(), Some(4), "{output:?}\n{}", world.report());
    let ended = world.ended(&task, SOON).await.expect("ended");
    assert_eq!(ended.state(), v1::TaskState::Cancelled, "{ended:#?}");
    for pid in recipe::lines(&pids)[0].split(' ') {
        assert!(!alive(pid), "process {pid} outlived its step\n{}", world.report());
    }
}

fn alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Guards that a task nobody runs is cancelled at once, and that times are kept by task and by step.
#[tokio::test]
async fn queued_tasks_are_cancelled_at_once_and_late_ones_are_stopped() {
    let world = World::with_one_agent().await.expect("a world");
    let nowhere = recipe::script("waits", "  selector: \"pool == 'none'\"\n", "", "true");
    let queued = world.submit(&nowhere).await.expect("queued");
    let slow_task = recipe::script("slow-task", "  timeout: 2s\n", "", "sleep 300");
    let slow_task = world.submit(&slow_task).await.expect("queued");
    let steps = "    - name: slow\n      timeout: 2s\n      shell: { run: sleep 300 }\n    - name: next\n      shell: { run: echo never }\n";
    let slow_step = world
        .submit(&recipe::task("slow-step", "", steps))
        .await
        .expect("queued");
    world.tasks.cancel(&queued, "not needed").await.expect("cancelled");
    let cancelled = world.ended(&queued, SOON).await.expect("ended");
    let result = cancelled.result.clone().expect("a result");
    assert_eq!(
        (cancelled.state(), cancelled.epoch),
        (v1::TaskState::Cancelled, 0),
        "{cancelled:#?}"
    );
    assert_eq!(result.world(), v1::World::Unchanged, "{result:#?}");
    for (task, state, class) in [
        (slow_task, v1::TaskState::TimedOut, "task.timeout"),
        (slow_step, v1::TaskState::Failed, "step.timeout"),
    ] {
        let late = world.ended(&task, SOON).await.expect("ended");
        let failure = late
            .result
            .clone()
            .and_then(|result| result.failure)
            .expect("a failure");
        assert_eq!((late.state(), failure.class.as_str()), (state, class), "{late:#?}");
        assert!(failure.summary.contains("2s"), "{failure:?}");
        assert!(!world.logs(&task).await.expect("logs").contains("never"));
    }
}

/// Guards that a cancel lets a call that is under way finish, and that what it changed is undone exactly.
#[tokio::test]
async fn a_cancel_lets_the_call_under_way_finish_and_rolls_back() {
    let world = World::with_shared_cloud().await.expect("a world");
    let (service, before) = recipe::service(&world, "cancelled").await;
    let proxy = world.proxy().expect("a proxy");
    let updating = proxy.withhold_reply(Matcher::on("ecs", "UpdateService"));
    let document = recipe::ecs_update(&service, "  onFailure: rollback\n");
    let task = world.submit(&document).await.expect("queued");
    updating.reached().await.expect("updated");
    world.tasks.cancel(&task, "changed our minds").await.expect("cancelled");
    assert_eq!(
        world.tasks.get(&task).await.expect("got").state(),
        v1::TaskState::Running
    );
    // It is still waiting when the wish arrives.
    let look = proxy.hold(Matcher::on("ecs", "DescribeServices"));
    updating.release();
    let undoing = async || {
        let task = world.tasks.get(&task).await.expect("got");
        let mut steps = task.steps.iter();
        steps.any(|step| step.status() == v1::StepStatus::Undoing) || task.result.is_some()
    };
    world
        .eventually("it is being undone", SOON, undoing)
        .await
        .expect("undoing");
    drop(look);
    let ended = world.ended(&task, SOON).await.expect("ended");
    assert_eq!(ended.state(), v1::TaskState::Cancelled, "{ended:#?}");
    let result = ended.result.expect("a result");
    assert_eq!(result.world(), v1::World::RolledBack, "{result:#?}\n{}", world.report());
    assert_eq!(recipe::runs(&world, &service).await, (before, 2));
    assert_eq!(
        recipe::updates(&world, "UpdateService", &service),
        2,
        "there and back\n{}",
        world.report()
    );
}

/// Guards that an agent that is told to leave gives away what can go on elsewhere, and finishes what cannot.
#[tokio::test]
async fn a_leaving_agent_gives_its_deployments_away_and_finishes_its_script() {
    let mut world = World::with_shared_cloud().await.expect("a world");
    let (service, ecs, looks) = waiting_deployment(&world).await;
    let namespace = world.namespace("drained").await.expect("a namespace");
    let go = world.folder().join("go");
    let wait_for_go = format!("until test -e {}; do sleep 0.1; done\necho finished", go.display());
    let script = world
        .submit(&recipe::script("script", "", "", &wait_for_go))
        .await
        .expect("queued");
    world
        .wait_state(&script, v1::TaskState::Running, SOON)
        .await
        .expect("running");
    let pods = recipe::slow_deployment("kubernetesRollingDeploy", &namespace, "");
    let pods = world.submit(&pods).await.expect("queued");
    recipe::waits(&world, &pods).await;
    world.agents[0].child.signal(Signal::TERM).expect("signalled");
    for task in [&ecs, &pods] {
        let released = world
            .wait_state(task, v1::TaskState::Queued, SOON)
            .await
            .expect("released");
        assert_eq!(released.epoch, 1, "{released:#?}");
    }
    drop(looks);
    world.agent(AgentOptions::default()).await.expect("another agent");
    script_finished_and_agent_left(&mut world, &script, &go).await;
    for task in [&ecs, &pods] {
        let done = world.succeeded(task, LATER).await.expect("succeeded");
        assert_eq!((done.agent_id.as_str(), done.epoch), ("agent-2", 2), "{done:#?}");
    }
    assert_eq!(
        recipe::updates(&world, "UpdateService", &service),
        1,
        "{}",
        world.report()
    );
    recipe::applied_once(&world, &namespace).await;
}

/// A deployment whose looks at its service are held: the service, the task, and the handle.
async fn waiting_deployment(world: &World) -> (String, String, Handle) {
    let (service, _) = recipe::service(world, "drained").await;
    let proxy = world.proxy().expect("a proxy");
    let updating = proxy.withhold_reply(Matcher::on("ecs", "UpdateService").always());
    let task = world.submit(&recipe::ecs_update(&service, "")).await.expect("queued");
    let looks = recipe::waiting_for_steady(world, updating, std::slice::from_ref(&task)).await;
    (service, task, looks)
}

/// The leaving agent itself has finished its script, and has left in order.
async fn script_finished_and_agent_left(world: &mut World, script: &str, go: &Path) {
    assert!(
        world.agents[0].child.is_running(),
        "it waits for its script\n{}",
        world.report()
    );
    std::fs::write(go, "").expect("written");
    let finished = world.succeeded(script, SOON).await.expect("finished");
    assert_eq!((finished.agent_id.as_str(), finished.epoch), ("agent-1", 1));
    assert!(world.logs(script).await.expect("logs").contains("finished"));
    let left = world.agents[0].child.ended(SOON).await.expect("left");
    assert_eq!(left.code(), Some(0), "{}", world.report());
}

const TASKS: usize = 200;
const CLIENTS: usize = 4;
const KILLS: usize = 5;

/// Guards the durability of everything acknowledged, and that the same request id never makes a second task.
#[tokio::test]
async fn a_manager_that_is_killed_under_load_loses_nothing_and_starts_nothing_twice() {
    let mut world = World::builder().start().await.expect("a world");
    world.agent(AgentOptions::default().slots(8)).await.expect("an agent");
    let file = world.folder().join("ran");
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        clients.spawn(submit_share(
            world.tasks.clone(),
            client,
            file.clone(),
            Arc::clone(&acknowledged),
        ));
    }
    let mut dice = StdRng::seed_from_u64(9);
    for kill in 1..=KILLS {
        let share = kill * TASKS / (KILLS + 1);
        let enough = async || acknowledged.load(Ordering::Acquire) >= share;
        world
            .eventually("some are submitted", LATER, enough)
            .await
            .expect("submitted");
        tokio::time::sleep(Duration::from_millis(dice.random_range(0..60))).await;
        world.manager.kill_and_start_again().await.expect("started again");
    }
    let mut ids = Vec::new();
    while let Some(share) = clients.join_next().await {
        ids.extend(share.expect("a client").expect("all acknowledged"));
    }
    check_load(&world, ids, &file).await;
}

/// Every acknowledged task has run and ended once, and there is no other.
async fn check_load(world: &World, ids: Vec<(String, String)>, file: &Path) {
    for (name, id) in &ids {
        let done = world.succeeded(id, LATER).await.expect("succeeded");
        assert_eq!(done.run, 1, "{done:#?}");
        let again = submit_until_acknowledged(&world.tasks, name, file).await;
        assert_eq!(&again.expect("answered"), id, "the same request is the same task");
    }
    let told = futures::future::join_all(ids.iter().map(|(_, id)| ends(world, id))).await;
    assert!(told.iter().all(|ends| ends == &["succeeded"]), "{told:?}");
    let mut expected: Vec<String> = ids.into_iter().map(|(name, _)| name).collect();
    let mut ran = recipe::lines(file);
    expected.sort();
    ran.sort();
    assert_eq!(ran, expected, "each exactly once\n{}", world.report());
    let all = v1::ListRequest {
        page_size: 1000,
        ..v1::ListRequest::default()
    };
    let listed = world.tasks.client().list(all).await.expect("listed").into_inner();
    assert_eq!(listed.tasks.len(), TASKS);
}

/// Every end of a task that its events tell of.
async fn ends(world: &World, task: &str) -> Vec<String> {
    let mut events = recipe::events(world, task).await;
    events.retain(|kind| recipe::is_end(kind));
    events
}

/// Submits a client's share, each until it is acknowledged; name and id of each.
async fn submit_share(
    tasks: Tasks,
    client: usize,
    file: PathBuf,
    acknowledged: Arc<AtomicUsize>,
) -> anyhow::Result<Vec<(String, String)>> {
    let mut dice = StdRng::seed_from_u64(client as u64);
    let mut ids = Vec::new();
    for n in 0..TASKS / CLIENTS {
        let name = format!("load-{client}-{n}");
        let id = submit_until_acknowledged(&tasks, &name, &file).await?;
        ids.push((name, id));
        acknowledged.fetch_add(1, Ordering::AcqRel);
        tokio::time::sleep(Duration::from_millis(dice.random_range(0..60))).await;
    }
    Ok(ids)
}

async fn submit_until_acknowledged(tasks: &Tasks, name: &str, file: &Path) -> anyhow::Result<String> {
    let run = format!("echo {name} >> {}", file.display());
    let request = v1::SubmitRequest {
        client_request_id: format!("request-{name}"),
        document: recipe::script(name, "", "", &run).into_bytes().into(),
        inputs: "{}".into(),
        submitter: "load".into(),
        ..v1::SubmitRequest::default()
    };
    let deadline = tokio::time::Instant::now() + LATER;
    loop {
        let sent = tokio::time::timeout(SOON, tasks.client().submit(request.clone())).await;
        match sent {
            Ok(Ok(answer)) => return Ok(answer.into_inner().task_id),
            _ if tokio::time::Instant::now() > deadline => anyhow::bail!("{name} was not taken: {sent:?}"),
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
