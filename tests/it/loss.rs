//! Agents that are lost: cut off, killed, frozen.

use std::time::Duration;

use deputy_proto::v1;
use deputy_tests::agent_process::AgentOptions;
use deputy_tests::proxy::rule::Matcher;
use deputy_tests::world::World;
use rustix::process::Signal;

use crate::recipe;

const SOON: Duration = Duration::from_secs(30);
const LATER: Duration = Duration::from_secs(90);

/// Guards that a cut wire touches no running script, and that its output is stored once and whole.
#[tokio::test]
async fn an_agent_that_was_cut_off_goes_on_and_its_log_is_whole() {
    let world = World::with_one_agent().await.expect("a world");
    let (go, printed) = (world.folder().join("go"), world.folder().join("printed"));
    let run = format!(
        "i=0; until test -e {}; do echo line-$((i += 1)); sleep 0.05; done; echo $i > {}",
        go.display(),
        printed.display()
    );
    let task = world
        .submit(&recipe::script("steady", "", "", &run))
        .await
        .expect("queued");
    let printing = async || {
        world
            .tasks
            .logs(&task)
            .await
            .is_ok_and(|logs| logs.contains("line-20\n"))
    };
    world.eventually("it prints", SOON, printing).await.expect("prints");
    let link = &world.agents[0].link;
    link.cut();
    world.wait_state(&task, v1::TaskState::Lost, SOON).await.expect("lost");
    link.resume();
    world
        .wait_state(&task, v1::TaskState::Running, SOON)
        .await
        .expect("back");
    // A second cut, shorter than the lease: nobody notices.
    link.cut();
    tokio::time::sleep(Duration::from_millis(700)).await;
    link.resume();
    std::fs::write(&go, "").expect("written");
    let done = world.succeeded(&task, SOON).await.expect("succeeded");
    assert_eq!(
        (done.agent_id.as_str(), done.run, done.epoch),
        ("agent-1", 1, 1),
        "{done:#?}"
    );
    let printed: u32 = recipe::lines(&printed).concat().parse().expect("how many there are");
    let logs = world.logs(&task).await.expect("logs");
    let lines: Vec<&str> = logs.lines().filter(|line| line.starts_with("line-")).collect();
    let expected: Vec<String> = (1..=printed).map(|i| format!("line-{i}")).collect();
    assert_eq!(lines, expected, "{logs}");
}

/// Tasks of the one agent that is about to be lost.
struct Lost {
    /// One service per value of `onAgentLoss`, all waiting for their steady state.
    services: Vec<(&'static str, String, String)>,
    deployments: Vec<String>,
    /// Scripts that only end when they are run a second time.
    retry_safe: String,
    resumed: String,
    failed: String,
    undone: String,
    /// Waits for the exclusive key of `failed`.
    behind: String,
}

/// A script that says that it runs, and ends only if it is run for the second time.
fn second_time(world: &World, name: &str) -> String {
    let file = world.folder().join(name);
    let file = file.display();
    format!("echo run >> {file}\nif [ $(wc -l < {file}) -lt 2 ]; then sleep 300; fi")
}

fn times_run(world: &World, name: &str) -> usize {
    recipe::lines(&world.folder().join(name)).len()
}

async fn begin(world: &World) -> Lost {
    let mut services = Vec::new();
    for policy in ["auto", "resume", "hold", "rollback"] {
        let (service, before) = recipe::service(world, policy).await;
        services.push((policy, service, before));
    }
    let proxy = world.proxy().expect("a proxy");
    let updating = proxy.withhold_reply(Matcher::on("ecs", "UpdateService").always());
    let mut deployments = Vec::new();
    for (policy, service, _) in &services {
        let document = recipe::ecs_update(service, &format!("  onAgentLoss: {policy}\n  onFailure: rollback\n"));
        deployments.push(world.submit(&document).await.expect("queued"));
    }
    let looks = recipe::waiting_for_steady(world, updating, &deployments).await;
    let script = async |name: &str, more: &str, keys: &str| {
        let document = recipe::script(name, more, keys, &second_time(world, name));
        let task = world.submit(&document).await.expect("queued");
        let runs = async || times_run(world, name) == 1;
        world.eventually(name, SOON, runs).await.expect("runs");
        task
    };
    let key = "  exclusiveKey: one-at-a-time\n";
    let lost = Lost {
        services,
        deployments,
        retry_safe: script("retry-safe", "", "retrySafe: true").await,
        resumed: script("resumed", "", "").await,
        failed: script("failed", key, "").await,
        undone: script("undone", "  onAgentLoss: rollback\n", "").await,
        behind: world
            .submit(&recipe::script("behind", key, "", "true"))
            .await
            .expect("queued"),
    };
    looks.abandon();
    lost
}

/// Guards every answer to the loss of the only agent: by policy, by an operator, and by nobody.
#[tokio::test]
async fn what_a_lost_agent_leaves_goes_on_is_held_or_is_undone_as_the_task_says() {
    let mut world = recipe::world_with_slots(12).await;
    let lost = begin(&world).await;
    world.agents[0].kill().expect("killed");
    for task in lost
        .deployments
        .iter()
        .chain([&lost.retry_safe, &lost.resumed, &lost.failed])
    {
        let seen = [v1::TaskState::Lost, v1::TaskState::Queued];
        world.tasks.wait_for(task, &seen, SOON).await.expect("lost");
    }
    world
        .agent(AgentOptions::default().slots(12))
        .await
        .expect("another agent");
    by_policy(&world, &lost).await;
    by_operator(&world, &lost).await;
}

/// What nobody has to decide about.
async fn by_policy(world: &World, lost: &Lost) {
    for (task, (policy, service, before)) in lost.deployments.iter().zip(&lost.services) {
        let expected = match *policy {
            "hold" => continue,
            "rollback" => (v1::TaskState::Failed, v1::World::RolledBack, 2, 2),
            _ => (v1::TaskState::Succeeded, v1::World::Changed, 1, 3),
        };
        let ended = world.ended(task, LATER).await.expect("ended");
        assert_eq!(ended.agent_id, "agent-2", "{policy}: {ended:#?}");
        let result = ended.result.as_ref().expect("a result");
        let updates = recipe::updates(world, "UpdateService", service);
        let (revision, count) = recipe::runs(world, service).await;
        let found = (ended.state(), result.world(), updates, count);
        assert_eq!(found, expected, "{policy}: {ended:#?}\n{}", world.report());
        assert_eq!(&revision == before, *policy == "rollback", "{policy}: {revision}");
        let registered = recipe::updates(world, "RegisterTaskDefinition", service);
        assert_eq!(registered, 1, "{policy}\n{}", world.report());
    }
    world.succeeded(&lost.retry_safe, LATER).await.expect("run again");
    assert_eq!(times_run(world, "retry-safe"), 2);
}

/// What stays LOST until an operator decides; each decision once.
async fn by_operator(world: &World, lost: &Lost) {
    let held = &lost.deployments[2];
    for task in [held, &lost.resumed, &lost.failed, &lost.undone] {
        let kept = world.tasks.get(task).await.expect("got");
        assert_eq!(kept.state(), v1::TaskState::Lost, "{kept:#?}\n{}", world.report());
        let explained = world.deputy(&["explain", task]).await.expect("run");
        assert!(
            explained.stdout.contains(&format!("deputy resolve {task}")),
            "{explained:?}"
        );
    }
    let behind = world.deputy(&["explain", &lost.behind]).await.expect("run");
    let why = format!("task {} holds the exclusive key one-at-a-time", lost.failed);
    assert!(behind.stdout.contains(&why), "{behind:?}");
    let (_, service, before) = &lost.services[2];
    for (task, decision, state, left) in [
        (held, "rollback", v1::TaskState::Failed, v1::World::RolledBack),
        (&lost.resumed, "resume", v1::TaskState::Succeeded, v1::World::Changed),
        (&lost.failed, "fail", v1::TaskState::Failed, v1::World::Unknown),
        (
            &lost.undone,
            "rollback",
            v1::TaskState::Failed,
            v1::World::RollbackFailed,
        ),
    ] {
        let resolved = world
            .deputy(&["resolve", task, decision, "--reason", "looked"])
            .await
            .expect("run");
        assert_eq!(resolved.code, Some(0), "{decision}: {resolved:?}\n{}", world.report());
        let ended = world.ended(task, LATER).await.expect("ended");
        let result = ended.result.as_ref().expect("a result");
        let found = (ended.state(), result.world());
        assert_eq!(found, (state, left), "{decision}: {ended:#?}\n{}", world.report());
    }
    assert_eq!(recipe::runs(world, service).await, (before.clone(), 2));
    assert_eq!(recipe::updates(world, "UpdateService", service), 2, "there and back");
    world.succeeded(&lost.behind, SOON).await.expect("its turn");
    let times = ["resumed", "failed", "undone"].map(|name| times_run(world, name));
    assert_eq!(times, [2, 1, 1]);
}

/// Guards that what was applied is adopted and not applied again when its agent dies while it waits for pods.
#[tokio::test]
async fn deployments_to_kubernetes_are_finished_by_another_agent() {
    let mut world = recipe::world_with_slots(4).await;
    let mut tasks = Vec::new();
    for (kind, stem) in [("kubernetesApply", "applied"), ("kubernetesRollingDeploy", "rolled")] {
        let namespace = world.namespace(stem).await.expect("a namespace");
        let task = world
            .submit(&recipe::slow_deployment(kind, &namespace, ""))
            .await
            .expect("queued");
        tasks.push((task, namespace));
    }
    for (task, _) in &tasks {
        recipe::waits(&world, task).await;
    }
    world.agents[0].kill().expect("killed");
    world.agent(AgentOptions::default()).await.expect("another agent");
    for (task, namespace) in &tasks {
        let done = world.succeeded(task, LATER).await.expect("succeeded");
        assert_eq!((done.agent_id.as_str(), done.epoch), ("agent-2", 2), "{done:#?}");
        recipe::applied_once(&world, namespace).await;
    }
}

/// Guards that a retry-safe script of an agent that is frozen is dead before it runs elsewhere.
#[tokio::test]
async fn a_script_of_a_frozen_agent_never_runs_in_two_places() {
    let mut world = World::with_one_agent().await.expect("a world");
    let file = world.folder().join("alive");
    // Every line is a sign of life; the second run is short.
    let run = format!(
        "n=150\nif test -e {0}; then n=20; fi\nfor i in $(seq $n); do echo $$ >> {0}; sleep 0.1; done",
        file.display()
    );
    let document = recipe::script("frozen", "", "retrySafe: true", &run);
    let task = world.submit(&document).await.expect("queued");
    let runs = async || recipe::lines(&file).len() > 2;
    world.eventually("it runs", SOON, runs).await.expect("runs");
    world.agents[0].child.pause().expect("frozen");
    world.agent(AgentOptions::default()).await.expect("another agent");
    let done = world.succeeded(&task, LATER).await.expect("succeeded");
    assert_eq!((done.agent_id.as_str(), done.epoch), ("agent-2", 2), "{done:#?}");
    world.agents[0].child.go_on().expect("thawed");
    world.joined("agent-1").await.expect("back");
    let mut pids = recipe::lines(&file);
    pids.dedup();
    assert_eq!(pids.len(), 2, "one run after the other: {pids:?}\n{}", world.report());
}

/// Guards the fence: an agent that is cut off records no intention, and so changes nothing any more, also when it is
/// back and another agent has gone on with its task.
#[tokio::test]
async fn an_agent_that_is_cut_off_changes_nothing_and_is_stale_when_another_has_gone_on() {
    let mut world = recipe::world_with_slots(4).await;
    let (service, _) = recipe::service(&world, "fenced").await;
    let proxy = world.proxy().expect("a proxy");
    let registering = proxy.withhold_reply(Matcher::on("ecs", "RegisterTaskDefinition").body_contains(&service));
    let task = world.submit(&recipe::ecs_update(&service, "")).await.expect("queued");
    registering.reached().await.expect("registered");
    world.agents[0].link.cut();
    registering.release();
    world.wait_state(&task, v1::TaskState::Lost, SOON).await.expect("lost");
    assert_eq!(
        recipe::updates(&world, "UpdateService", &service),
        0,
        "{}",
        world.report()
    );
    world.agent(AgentOptions::default()).await.expect("another agent");
    let done = world.succeeded(&task, LATER).await.expect("succeeded");
    assert_eq!((done.agent_id.as_str(), done.epoch), ("agent-2", 2), "{done:#?}");
    world.agents[0].link.resume();
    world.joined("agent-1").await.expect("back");
    // The first agent has given up its attempt: it can leave at once.
    world.agents[0].child.signal(Signal::TERM).expect("signalled");
    let left = world.agents[0].child.ended(SOON).await.expect("left");
    assert_eq!(left.code(), Some(0), "{}", world.report());
    for operation in ["RegisterTaskDefinition", "UpdateService"] {
        let times = recipe::updates(&world, operation, &service);
        assert_eq!(times, 1, "{operation}\n{}", world.report());
    }
}

/// Guards that an outage of the manager, longer than any lease, delays a deployment and does nothing else to it.
#[tokio::test]
async fn a_manager_that_is_away_for_longer_than_a_lease_costs_a_deployment_only_time() {
    let mut world = recipe::world_with_slots(4).await;
    let (service, _) = recipe::service(&world, "outage").await;
    let proxy = world.proxy().expect("a proxy");
    let registering = proxy.withhold_reply(Matcher::on("ecs", "RegisterTaskDefinition").body_contains(&service));
    let task = world.submit(&recipe::ecs_update(&service, "")).await.expect("queued");
    let run = "echo begun\nsleep 8\necho ended";
    let script = world
        .submit(&recipe::script("outage", "", "", run))
        .await
        .expect("queued");
    world
        .wait_state(&script, v1::TaskState::Running, SOON)
        .await
        .expect("running");
    registering.reached().await.expect("registered");
    world.manager.kill().expect("killed");
    registering.release();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(
        recipe::updates(&world, "UpdateService", &service),
        0,
        "{}",
        world.report()
    );
    world.manager.start_again().await.expect("started again");
    for task in [&task, &script] {
        let done = world.succeeded(task, LATER).await.expect("succeeded");
        assert_eq!(
            (done.agent_id.as_str(), done.run, done.epoch),
            ("agent-1", 1, 1),
            "{done:#?}"
        );
    }
    let logs = world.logs(&script).await.expect("logs");
    let times = ["begun", "ended"].map(|word| logs.lines().filter(|line| *line == word).count());
    assert_eq!(times, [1, 1], "{logs}");
    for operation in ["RegisterTaskDefinition", "UpdateService"] {
        let times = recipe::updates(&world, operation, &service);
        assert_eq!(times, 1, "{operation}\n{}", world.report());
    }
}
