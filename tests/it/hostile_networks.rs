//! Agents behind something that breaks HTTP/2: they fall back to long polls, say so, work, lose nothing, and come back.

use std::time::Duration;

use deputy_proto::v1;
use deputy_tests::agent_process::AgentOptions;
use deputy_tests::cloud::Cloud;
use deputy_tests::connect_proxy::{ConnectProxy, Rules};
use deputy_tests::middlebox::{Inspector, Treatment};
use deputy_tests::world::World;

use crate::recipe;

const SOON: Duration = Duration::from_secs(60);
/// A task that deploys through long polls, on a busy machine.
const LONG: Duration = Duration::from_secs(180);

async fn proxy(treatment: Treatment) -> ConnectProxy {
    let proxy = ConnectProxy::start(Rules::default()).await.expect("a proxy");
    proxy.middlebox().set(treatment);
    proxy
}

fn behind(proxy: &ConnectProxy) -> AgentOptions {
    AgentOptions::default().env("HTTPS_PROXY", &proxy.url(""))
}

async fn info(world: &World) -> v1::AgentInfo {
    let request = v1::FleetListRequest { include_gone: true };
    let listed = world.tasks.fleet().list(request).await.expect("listed").into_inner();
    listed.agents.into_iter().next().expect("the agent")
}

async fn carried_by(world: &World, transport: &str) {
    let what = format!("carried by {transport}");
    let is = async || info(world).await.transport == transport;
    world.eventually(&what, SOON, is).await.expect("carried");
}

async fn says(world: &World, agent: usize, what: &str) {
    let said = async || world.agents[agent].child.log().contains(what);
    world.eventually(what, SOON, said).await.expect("said");
}

/// Numbers for a while.
fn counting(name: &str, to: u32) -> String {
    let run = format!("for i in $(seq 1 {to}); do echo line $i; sleep 0.1; done; echo last");
    recipe::script(name, "", "", &run)
}

fn has_all_lines(log: &str, to: u32) -> bool {
    (1..=to).all(|i| log.lines().filter(|line| line.ends_with(&format!("line {i}"))).count() == 1)
        && log.contains("last")
}

async fn ended_at_its_first_attempt(world: &World, task: &str, to: u32) {
    let ended = world.succeeded(task, LONG).await.expect("succeeded");
    assert_eq!((ended.run, ended.epoch), (1, 1), "one attempt");
    let log = world.logs(task).await.expect("logged");
    assert!(has_all_lines(&log, to), "{log}");
}

/// Joins, works, is shown in the fleet list and by doctor, and goes back when HTTP/2 passes again.
#[tokio::test]
async fn an_agent_joins_and_works_where_http2_is_refused_and_comes_back_when_it_passes() {
    let mut world = World::builder().start().await.expect("a world");
    let proxy = proxy(Treatment::RefuseHttp2).await;
    world.agent(behind(&proxy)).await.expect("joined");
    carried_by(&world, "exchange").await;
    says(&world, 0, "falling back to long polls over HTTP/1.1").await;
    says(&world, 0, "does not speak HTTP/2").await;
    let listed = world.deputy(&["fleet", "list"]).await.expect("run").stdout;
    assert!(listed.contains("online (exchange)"), "{listed}");
    assert!(
        listed.contains("HTTP/2 does not pass between this agent and its manager"),
        "{listed}"
    );

    let task = world.submit(&counting("polled", 20)).await.expect("queued");
    ended_at_its_first_attempt(&world, &task, 20).await;

    let proxy_url = proxy.url("");
    let seen = world
        .doctor_with(&[("HTTPS_PROXY", &proxy_url)], &[])
        .await
        .expect("run");
    assert!(
        seen.stdout.contains("HTTP/2 does not pass on the way"),
        "{}",
        seen.stdout
    );

    let running = world.submit(&counting("back", 150)).await.expect("queued");
    world
        .wait_state(&running, v1::TaskState::Running, SOON)
        .await
        .expect("running");
    proxy.middlebox().set(Treatment::Pass);
    carried_by(&world, "stream").await;
    ended_at_its_first_attempt(&world, &running, 150).await;
    let listed = world.deputy(&["fleet", "list"]).await.expect("run").stdout;
    assert!(!listed.contains("exchange") && !listed.contains("HTTP/2"), "{listed}");
    says(&world, 0, "HTTP/2 passes again").await;
}

/// Nothing says that HTTP/2 does not pass: it just brings no answer.
#[tokio::test]
async fn an_agent_joins_where_http2_stays_without_an_answer() {
    for treatment in [Treatment::SwallowHttp2, Treatment::IgnoreHttp2] {
        let mut world = World::builder().start().await.expect("a world");
        let proxy = proxy(treatment).await;
        let options = behind(&proxy).flag("--connect-timeout", "2s");
        world.agent(options).await.expect("joined");
        carried_by(&world, "exchange").await;
        let task = world.submit(&counting("silent", 5)).await.expect("queued");
        ended_at_its_first_attempt(&world, &task, 5).await;
    }
}

/// Certificates of a few seconds: several renewals go by over one session by long poll, and its connections are made
/// with the newest.
#[tokio::test]
async fn certificates_are_renewed_over_a_session_by_long_poll() {
    let mut world = recipe::world_that_renews().await;
    let rules = Rules {
        // So that connections are made again and again.
        cut_idle: Some(Duration::from_millis(300)),
        ..Rules::default()
    };
    let proxy = ConnectProxy::start(rules).await.expect("a proxy");
    world
        .agent(behind(&proxy).flag("--transport", "exchange"))
        .await
        .expect("joined");
    let counting = |go: &str| {
        format!("i=0; until test -e {go}; do echo line $((i += 1)); sleep 0.1; done; echo lines=$i; echo last")
    };
    let log = recipe::ran_through_two_renewals(&world, counting).await;
    let lines = log.lines().find_map(|line| line.strip_prefix("lines=")?.parse().ok());
    assert!(has_all_lines(&log, lines.expect("how many there are")), "{log}");
}

/// In the middle of a task HTTP/2 is cut, then swallowed, then let through: no lease is lost, no line, no attempt.
#[tokio::test]
async fn http2_that_breaks_while_a_task_runs_costs_nothing() {
    for treatment in [Treatment::ResetHttp2, Treatment::SwallowHttp2] {
        let mut world = World::builder().start().await.expect("a world");
        let proxy = proxy(Treatment::Pass).await;
        world.agent(behind(&proxy)).await.expect("joined");
        carried_by(&world, "stream").await;
        let task = world.submit(&counting("broken", 100)).await.expect("queued");
        world
            .wait_state(&task, v1::TaskState::Running, SOON)
            .await
            .expect("running");
        proxy.middlebox().set(treatment.clone());
        carried_by(&world, "exchange").await;
        ended_at_its_first_attempt(&world, &task, 100).await;
        let events = recipe::events(&world, &task).await;
        assert!(events.contains(&"succeeded".to_owned()), "{treatment:?}: {events:?}");
        assert!(!events.contains(&"lost".to_owned()), "{treatment:?}: {events:?}");
    }
}

/// An ECS deployment through long polls of which every fourth answer is lost with its connection, and a manager that
/// is started again: each change is made once.
#[tokio::test]
async fn a_deployment_whose_answers_are_lost_changes_everything_once() {
    let cloud = Cloud::shared().await.expect("a cloud");
    let mut world = World::builder().cloud(&cloud).start().await.expect("a world");
    let hostile = proxy(Treatment::LoseAnswers(4)).await;
    world.agent(behind(&hostile)).await.expect("joined");
    let (service, _) = recipe::service(&world, "polled").await;
    let task = world.submit(&recipe::ecs_update(&service, "")).await.expect("queued");
    let running = world
        .wait_state(&task, v1::TaskState::Running, SOON)
        .await
        .expect("running");
    world.manager.kill().expect("killed");
    world.manager.start_again().await.expect("started");
    let ended = world.succeeded(&task, LONG).await.expect("succeeded");
    // An offer whose answer was lost is made again, before anything has started.
    assert_eq!((ended.run, ended.epoch), (1, running.epoch), "one attempt");
    let aws = world.proxy().expect("a proxy");
    assert_eq!(aws.successes("ecs", "UpdateService"), 1, "{}", aws.transcript());
    assert_eq!(
        aws.successes("ecs", "RegisterTaskDefinition"),
        1,
        "{}",
        aws.transcript()
    );
    assert!(
        hostile.middlebox().lost() > 3,
        "{} answers were lost",
        hostile.middlebox().lost()
    );
    assert_eq!(info(&world).await.transport, "exchange");
}

/// A bundle comes by gRPC-Web, and an agent that is told so never speaks HTTP/2.
#[tokio::test]
async fn an_operator_chooses_the_way_and_bundles_come_by_it() {
    let mut world = World::builder().start().await.expect("a world");
    let proxy = proxy(Treatment::Pass).await;
    world
        .agent(behind(&proxy).flag("--transport", "exchange"))
        .await
        .expect("joined");
    carried_by(&world, "exchange").await;
    let folder = world.folder().join("bundle");
    std::fs::create_dir_all(&folder).expect("a folder");
    // More than one piece of a blob.
    let noise: Vec<u8> = (0..700_000u32)
        .flat_map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes())
        .collect();
    std::fs::write(folder.join("data"), &noise).expect("written");
    let document = recipe::script(
        "bundle",
        "  sources: [ { name: app, bundle: ./bundle } ]\n",
        "source: app",
        "wc -c < data",
    );
    let file = world.folder().join("task.yaml");
    std::fs::write(&file, document).expect("written");
    let run = world
        .deputy(&["submit", "--follow", &file.display().to_string()])
        .await
        .expect("run");
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stdout.contains("2800000"), "{run:?}");
    assert_eq!(proxy.middlebox().http2(), 0, "it never tried HTTP/2");
    let listed = world.deputy(&["fleet", "list"]).await.expect("run").stdout;
    assert!(
        !listed.contains("HTTP/2 does not pass"),
        "nothing to warn about: {listed}"
    );
}

/// A TLS-inspecting box that the agent is told to trust: it may join, and then its certificate does not reach the
/// manager. It is not let in, and the words say why.
#[tokio::test]
async fn inspected_tls_is_refused_with_the_reason() {
    let mut world = World::builder().start().await.expect("a world");
    let ca = std::fs::read(world.manager.access().expect("up").ca_file).expect("read");
    let inspector = Inspector::before(&ca).expect("made");
    let proxy = proxy(Treatment::Inspect(inspector.clone())).await;
    world.launch(behind(&proxy)).await.expect("started");
    says(&world, 0, "somebody is in between").await;

    let both = world.folder().join("trusted.pem");
    let mut text = ca;
    text.extend(inspector.authority_pem().as_bytes());
    std::fs::write(&both, text).expect("written");
    let trusting = AgentOptions {
        id: Some("trusting".into()),
        ca_file: Some(both),
        ..behind(&proxy)
    };
    world.launch(trusting).await.expect("started");
    says(&world, 1, "opens TLS on the way").await;
    assert!(world.agents[1].child.is_running(), "it tries again");
}

/// Idle connections are cut sooner than a heartbeat comes: neither way loses the agent.
#[tokio::test]
async fn a_proxy_that_cuts_idle_connections_loses_no_agent_that_polls() {
    let mut world = World::builder().start().await.expect("a world");
    let rules = Rules {
        cut_idle: Some(Duration::from_millis(300)),
        ..Rules::default()
    };
    let proxy = ConnectProxy::start(rules).await.expect("a proxy");
    proxy.middlebox().set(Treatment::ResetHttp2);
    world.agent(behind(&proxy)).await.expect("joined");
    let task = world.submit(&counting("cut", 50)).await.expect("queued");
    ended_at_its_first_attempt(&world, &task, 50).await;
    assert!(proxy.cut() > 0, "nothing was cut");
}
