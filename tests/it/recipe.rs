//! Documents and things to deploy to, as the tests of lives and losses need them.

use std::time::Duration;

use aws_sdk_ecs::types::ContainerDefinition;
use deputy_proto::v1;
use deputy_tests::agent_process::AgentOptions;
use deputy_tests::cloud::Cloud;
use deputy_tests::ecs;
use deputy_tests::proxy::rule::{Handle, Matcher};
use deputy_tests::world::World;
use prost::Message;
use rusqlite::{Connection, params};

const SOON: Duration = Duration::from_secs(30);

/// What tests of AWS steps begin with.
pub(crate) const AWS: &str = r#"  aws:
    region: eu-west-1
    assumeRole: [ { roleArn: "arn:aws:iam::222222222222:role/deployer", externalId: deputy-demo } ]
"#;

/// A task; `more` are lines of its spec, indented by two.
pub(crate) fn task(name: &str, more: &str, steps: &str) -> String {
    format!("apiVersion: deputy.dev/v1\nkind: Task\nmetadata: {{ name: {name} }}\nspec:\n{more}  steps:\n{steps}")
}

/// A task of one script; `keys` are more keys of the step's kind, for example `retrySafe: true`.
pub(crate) fn script(name: &str, more: &str, keys: &str, run: &str) -> String {
    let run = run.replace('\n', "\n          ");
    let keys = if keys.is_empty() {
        String::new()
    } else {
        format!("        {keys}\n")
    };
    let step = format!("    - name: main\n      shell:\n{keys}        run: |\n          {run}\n");
    task(name, more, &step)
}

/// A task that gives the service another image and count.
pub(crate) fn ecs_update(service: &str, more: &str) -> String {
    let step = format!(
        r#"    - name: deploy
      ecsRollingDeploy:
        cluster: prod
        service: {service}
        taskDefinition: {{ family: {service}, containerDefinitions: [ {{ name: app, image: "checkout:2", memory: 64 }} ] }}
        serviceDefinition: {{ desiredCount: 3 }}
"#
    );
    task(service, &format!("{AWS}{more}"), &step)
}

/// A task that applies a Deployment whose pods are ready after six seconds.
pub(crate) fn slow_deployment(kind: &str, namespace: &str, more: &str) -> String {
    let step = format!(
        r#"    - name: deploy
      {kind}:
        cluster: prod
        namespace: {namespace}
        manifests:
          - {{ apiVersion: v1, kind: ConfigMap, metadata: {{ name: settings }}, data: {{ colour: green }} }}
          - apiVersion: apps/v1
            kind: Deployment
            metadata: {{ name: web }}
            spec:
              replicas: 2
              selector: {{ matchLabels: {{ app: web }} }}
              template:
                metadata: {{ labels: {{ app: web, deputy.test/behaviour: slow }} }}
                spec: {{ containers: [ {{ name: app, image: "web:1" }} ] }}
"#
    );
    task(namespace, &format!("{AWS}{more}"), &step)
}

/// A service that runs `checkout:1` twice, under a name of the world's own; its name and its revision.
pub(crate) async fn service(world: &World, stem: &str) -> (String, String) {
    let name = world.unique(stem);
    let container = ContainerDefinition::builder()
        .name("app")
        .image("checkout:1")
        .memory(64);
    let made = ecs::service(&world.ecs().expect("a cloud"), &name, container.build()).await;
    let revision = made.expect("a service");
    (name, revision)
}

/// What the service runs now: its revision and its count.
pub(crate) async fn runs(world: &World, service: &str) -> (String, i32) {
    let ecs = world.ecs().expect("a cloud");
    let described = ecs.describe_services().cluster("prod").services(service).send().await;
    let described = described.expect("described");
    let service = described.services().first().expect("the service");
    let revision = service.task_definition().unwrap_or_default().to_owned();
    (revision, service.desired_count())
}

/// How often `operation` was done for this service.
pub(crate) fn updates(world: &World, operation: &str, service: &str) -> usize {
    let calls = world.proxy().expect("a proxy").calls_of("ecs", operation);
    calls
        .iter()
        .filter(|call| call.succeeded() && call.body_text().contains(service))
        .count()
}

/// The changes of a namespace by the deployer, as the audit log has them, sorted.
pub(crate) async fn changes(world: &World, namespace: &str) -> Vec<String> {
    let cluster = world.kubernetes().await.expect("a cluster");
    let mutations = cluster.mutations(namespace).expect("the audit log");
    let mut changes: Vec<String> = mutations
        .iter()
        .filter(|one| one.user.contains("assumed-role/deployer/"))
        .map(|one| format!("{} {}/{} {}", one.verb, one.resource, one.name, one.status))
        .collect();
    changes.sort();
    changes
}

/// Waits until the task has ended, and why it failed.
pub(crate) async fn failure(world: &World, task: &str, within: Duration) -> (v1::Task, v1::Failure) {
    let ended = world.ended(task, within).await.expect("ended");
    let failure = ended.result.clone().and_then(|result| result.failure);
    (ended, failure.expect("a failure"))
}

/// The kinds of all events of a task that has ended: to its end, however long that takes to come, and what still comes
/// within a second of it.
pub(crate) async fn events(world: &World, task: &str) -> Vec<String> {
    let request = v1::WatchRequest {
        task_id: task.into(),
        ..v1::WatchRequest::default()
    };
    let mut watch = world.tasks.client().watch(request).await.expect("watched").into_inner();
    let mut kinds: Vec<String> = Vec::new();
    loop {
        let ended = kinds.iter().any(|kind| is_end(kind));
        let within = if ended { Duration::from_secs(1) } else { SOON };
        // All of it is stored by now; then the stream is silent.
        let Ok(event) = tokio::time::timeout(within, watch.message()).await else {
            return kinds;
        };
        let Some(event) = event.expect("an event") else {
            return kinds;
        };
        kinds.push(event.kind);
    }
}

/// Is this kind of event the end of a run?
pub(crate) fn is_end(kind: &str) -> bool {
    ["succeeded", "failed", "cancelled", "timedOut", "expired", "rejected"].contains(&kind)
}

/// The lines of a file that scripts write; none while it is not there.
pub(crate) fn lines(file: &std::path::Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Holds every look at services once `updates` of them have been made and their results are on record: all their
/// tasks wait for a steady state. Dropping the handle lets them go on.
pub(crate) async fn waiting_for_steady(world: &World, updating: Handle, tasks: &[String]) -> Handle {
    let count = u32::try_from(tasks.len()).expect("few");
    let reached = async || updating.count() == count;
    world
        .eventually("all services are updated", SOON, reached)
        .await
        .expect("updated");
    let looks = world
        .proxy()
        .expect("a proxy")
        .hold(Matcher::on("ecs", "DescribeServices").always());
    updating.release();
    let recorded = async || {
        for task in tasks {
            let journal = world.tasks.journal(task).await.unwrap_or_default();
            let of = |kind: v1::RecordKind| journal.iter().filter(|record| record.kind() == kind).count();
            if of(v1::RecordKind::Intent) != of(v1::RecordKind::Done) {
                return false;
            }
        }
        looks.count() >= count
    };
    world
        .eventually("all results are on record", SOON, recorded)
        .await
        .expect("recorded");
    looks
}

/// Waits until the task's step is followed to a steady state.
pub(crate) async fn waits(world: &World, task: &str) {
    let waiting = |task: &v1::Task| Ok(task.steps.iter().any(|step| step.waiting_for.contains("web")));
    let waited = world
        .tasks
        .wait_until(task, 2 * SOON, "waiting for its pods", waiting)
        .await;
    waited.unwrap_or_else(|error| panic!("{error:#}\n{}", world.report()));
}

/// Both objects of [`slow_deployment`] were applied once, and nothing else was done.
pub(crate) async fn applied_once(world: &World, namespace: &str) {
    let changes = changes(world, namespace).await;
    let expected = ["patch configmaps/settings 201", "patch deployments/web 201"];
    assert_eq!(changes, expected, "{}", world.report());
}

/// A world with the shared cloud and one agent with this many slots.
pub(crate) async fn world_with_slots(slots: u32) -> World {
    let cloud = Cloud::shared().await.expect("a cloud");
    let mut world = World::builder().cloud(&cloud).start().await.expect("a world");
    world
        .agent(AgentOptions::default().slots(slots))
        .await
        .expect("an agent");
    world
}

/// A world whose agents' certificates last eight seconds. Heartbeats are rare: what a busy machine delays breaks no
/// session off.
pub(crate) async fn world_that_renews() -> World {
    let built = World::builder().manager(|manager| {
        manager.flags.extend(["--certificate-life", "8s"].map(str::to_owned));
        manager.heartbeat = Duration::from_secs(2);
        manager.lease_ttl = Duration::from_secs(10);
    });
    built.start().await.expect("a world")
}

/// Runs a script until the first agent has renewed its certificate twice, in one attempt over one session; answers what
/// the script printed. It ends when there is the file whose path `script` is given.
pub(crate) async fn ran_through_two_renewals(world: &World, script: impl FnOnce(&str) -> String) -> String {
    let go = world.folder().join("go");
    let run = script(&go.display().to_string());
    let task = world
        .submit(&self::script("renewed", "", "", &run))
        .await
        .expect("queued");
    world
        .wait_state(&task, v1::TaskState::Running, SOON)
        .await
        .expect("running");
    let times = || {
        world.agents[0]
            .child
            .log()
            .matches("the certificate was renewed")
            .count()
    };
    let before = times();
    world
        .eventually("two renewals", SOON, async || times() >= before + 2)
        .await
        .expect("renewed");
    std::fs::write(&go, "").expect("written");
    let done = world.succeeded(&task, SOON).await.expect("succeeded");
    assert_eq!((done.run, done.epoch), (1, 1), "one attempt");
    let log = world.agents[0].child.log();
    assert_eq!(log.matches("session up").count(), 1, "{log}");
    world.logs(&task).await.expect("logged")
}

/// What somebody does at the manager's disk: reads the first such record of the task, and puts another in its place.
pub(crate) fn tamper(
    world: &World,
    task: &str,
    is_it: impl Fn(&v1::Record) -> bool,
    change: impl FnOnce(&mut v1::Record),
) {
    let database = Connection::open(world.manager.data().join("deputy.db")).expect("the manager's file");
    let mut statement = database
        .prepare("SELECT sequence, record FROM event WHERE task = ?1 AND record IS NOT NULL ORDER BY sequence")
        .expect("a statement");
    let rows = statement.query_map([task], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?)));
    let found = rows.expect("rows").find_map(|row| {
        let (sequence, bytes) = row.expect("a row");
        let record = v1::Record::decode(bytes.as_slice()).expect("a record");
        is_it(&record).then_some((sequence, record))
    });
    let (sequence, mut record) = found.expect("the record");
    change(&mut record);
    database
        .execute(
            "UPDATE event SET record = ?1 WHERE sequence = ?2",
            params![record.encode_to_vec(), sequence],
        )
        .expect("changed");
}
