//! A pool with a key: its journals are authenticated, go on with agents of the pool, and stop when
//! somebody at the manager has changed them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use deputy_proto::v1;
use deputy_tests::agent_process::AgentOptions;
use deputy_tests::container_credentials::root_config;
use deputy_tests::world::World;
use prost::Message;

use crate::recipe;

const SOON: Duration = Duration::from_secs(60);
const LATER: Duration = Duration::from_secs(120);

/// A new pool key: its file, its id, and the key itself.
async fn pool_key(world: &World) -> (PathBuf, String, String) {
    let file = world.pool_key("pool-key").await.expect("a pool key");
    let text = std::fs::read_to_string(&file).expect("the ring");
    let after = |prefix: &str| {
        let found = text.lines().find_map(|line| line.strip_prefix(prefix));
        found.expect("a ring").to_owned()
    };
    let (id, secret) = (after("# "), after("deputy-pool-key-v1 "));
    (file, id, secret)
}

/// The records that agents wrote are all authenticated with this key.
fn assert_sealed(journal: &[v1::Record], id: &str) {
    for record in journal {
        let by_manager = record.kind() == v1::RecordKind::Decision && record.program_version == 0;
        if !by_manager {
            assert_eq!((record.pool_key.as_str(), record.mac.len()), (id, 32), "{record:?}");
        }
    }
}

/// Guards a deployment that one agent begins, another of the pool finishes, and both would undo: with everything
/// authenticated, and nobody outside the pool taking part.
#[tokio::test]
async fn another_agent_of_the_pool_goes_on_and_undoes_and_one_without_the_key_is_not_asked() {
    let cloud = deputy_tests::cloud::Cloud::shared().await.expect("a cloud");
    let mut world = World::builder().cloud(&cloud).start().await.expect("a world");
    let (ring, id, _) = pool_key(&world).await;
    let (service, before) = recipe::service(&world, "sealed").await;
    let first = AgentOptions::named("first").failpoint("after-act@deploy/updateService/*:kill");
    world.agent(first.pool_key(&ring)).await.expect("an agent");
    let fails = "    - name: check\n      shell: { run: exit 3 }\n";
    let document = recipe::ecs_update(&service, "  onFailure: rollback\n  onAgentLoss: resume\n") + fails;
    let task = world.submit(&document).await.expect("queued");
    world.agents[0]
        .child
        .ended(SOON)
        .await
        .expect("killed after the update");
    world.agent(AgentOptions::named("plain")).await.expect("an agent");
    world
        .wait_state(&task, v1::TaskState::Queued, SOON)
        .await
        .expect("given up");
    let refused = async || {
        let explained = world.tasks.explain(&task).await.expect("explained");
        let plain = explained.agents.iter().find(|verdict| verdict.agent_id == "plain");
        let sealed = format!("this run's journal is sealed with the pool key {id}: it has none");
        plain.is_some_and(|verdict| !verdict.eligible && verdict.reasons.contains(&sealed))
    };
    world
        .eventually("it waits for the pool", SOON, refused)
        .await
        .expect("explained");
    world
        .agent(AgentOptions::named("second").pool_key(&ring))
        .await
        .expect("an agent");
    let ended = world.ended(&task, LATER).await.expect("ended");
    let result = ended.result.clone().expect("a result");
    assert_eq!(
        (ended.agent_id.as_str(), ended.state(), result.world()),
        ("second", v1::TaskState::Failed, v1::World::RolledBack),
        "{ended:#?}"
    );
    assert_eq!(recipe::runs(&world, &service).await, (before, 2));
    assert_eq!(
        recipe::updates(&world, "UpdateService", &service),
        2,
        "once, and once back"
    );
    assert_sealed(&world.tasks.journal(&task).await.expect("the journal"), &id);
}

/// What somebody at the manager does to a record.
type Change = fn(&mut v1::Record);

/// Guards the journal against whoever has the manager's disk: a changed or stripped record ends the task, and no
/// script of it runs.
#[tokio::test]
async fn a_record_that_was_changed_at_the_manager_stops_the_task_and_nothing_runs() {
    let mut world = World::builder().start().await.expect("a world");
    let (ring, ..) = pool_key(&world).await;
    let changes: [(&str, Change); 2] = [
        ("changed", |record| {
            record.payload = br#"{"values":{"WHO":"somebody else"}}"#.to_vec().into()
        }),
        ("stripped", |record| {
            record.mac.clear();
            record.pool_key.clear();
        }),
    ];
    for (name, change) in changes {
        let ran = world.folder().join(name);
        let options = AgentOptions::named(name)
            .label(&format!("only={name}"))
            .failpoint("after-intent@two/run:kill");
        let place = world.agent(options.pool_key(&ring)).await.expect("an agent");
        let steps = format!(
            "    - name: one\n      shell: {{ run: 'echo WHO=me >> \"$DEPUTY_OUTPUT\"' }}\n    - name: two\n      shell: {{ retrySafe: true, run: 'echo \"${{{{ steps.one.outputs.WHO }}}}\" > {}' }}\n",
            ran.display()
        );
        let more = format!("  selector: only == '{name}'\n  onFailure: rollback\n");
        let task = world.submit(&recipe::task(name, &more, &steps)).await.expect("queued");
        world.agents[place]
            .child
            .ended(SOON)
            .await
            .expect("killed before the script");
        world.manager.kill().expect("killed");
        recipe::tamper(&world, &task, |record| record.key == "one/outputs", change);
        world.manager.start_again().await.expect("started");
        world.agents[place].start_again().expect("started");
        let (ended, failure) = recipe::failure(&world, &task, LATER).await;
        assert_eq!(failure.class, "journal.forged", "{name}: {failure:#?}");
        let result = ended.result.clone().expect("a result");
        assert_eq!(
            (ended.state(), result.world()),
            (v1::TaskState::Failed, v1::World::Unknown),
            "{name}"
        );
        assert!(!ran.exists(), "{name}: the script ran");
        let explained = world.deputy(&["explain", &task]).await.expect("explained");
        assert!(
            explained.stdout.contains("not what agents of this pool wrote"),
            "{explained:?}"
        );
        let told = world.deputy(&["get", &task]).await.expect("told");
        assert!(
            told.stdout.contains("nothing was done and nothing was undone"),
            "{told:?}"
        );
    }
}

/// Guards that a secret output outlives its agent, and that only the pool can read it.
#[tokio::test]
async fn a_secret_output_goes_on_with_another_agent_and_is_in_nothing_that_the_manager_has() {
    const SECRET: &str = "sesame-Value-8812";
    let mut world = World::builder().start().await.expect("a world");
    let (ring, id, _) = pool_key(&world).await;
    let seen = world.folder().join("seen");
    let made = world.folder().join("made");
    std::fs::write(&made, SECRET).expect("written");
    let first = AgentOptions::named("first").failpoint("after-intent@two/run:kill");
    world.agent(first.pool_key(&ring)).await.expect("an agent");
    let steps = format!(
        "    - name: one\n      shell: {{ secretOutputs: [ TOKEN ], run: 'echo TOKEN=$(cat {}) >> \"$DEPUTY_OUTPUT\"' }}\n    - name: two\n      shell: {{ retrySafe: true, run: 'printf %s \"${{{{ steps.one.outputs.TOKEN }}}}\" > {}' }}\n",
        made.display(),
        seen.display()
    );
    let task = world
        .submit(&recipe::task("kept", "  onAgentLoss: resume\n", &steps))
        .await
        .expect("queued");
    world.agents[0]
        .child
        .ended(SOON)
        .await
        .expect("killed before the script");
    world
        .agent(AgentOptions::named("second").pool_key(&ring))
        .await
        .expect("an agent");
    world.succeeded(&task, LATER).await.expect("succeeded");
    assert_eq!(std::fs::read_to_string(&seen).expect("written"), SECRET);
    let journal = world.tasks.journal(&task).await.expect("the journal");
    assert_sealed(&journal, &id);
    assert!(journal.iter().any(|record| !record.seal.is_empty()), "{journal:#?}");
    let bytes: Vec<u8> = journal.iter().flat_map(Message::encode_to_vec).collect();
    let contains = |needle: &str| bytes.windows(needle.len()).any(|window| window == needle.as_bytes());
    assert!(
        !contains(SECRET) && contains("TOKEN"),
        "the name is there, and the value is not"
    );
}

/// Guards the key itself against the steps of its agent.
#[tokio::test]
async fn the_pool_key_is_hidden_from_a_step_and_taken_out_of_its_output() {
    let mut world = World::builder().start().await.expect("a world");
    let (ring, id, secret) = pool_key(&world).await;
    let text = std::fs::read_to_string(&ring).expect("the ring");
    // What a step could have from somewhere else.
    let copy = world.folder().join("copy");
    std::fs::write(&copy, &text).expect("written");
    world
        .agent(AgentOptions::default().pool_key(&ring))
        .await
        .expect("an agent");
    let run = format!(
        "cat {} && echo readable || echo hidden\ncat {}",
        ring.display(),
        copy.display()
    );
    let task = world
        .submit(&recipe::script("reads", "", "", &run))
        .await
        .expect("queued");
    world.succeeded(&task, SOON).await.expect("succeeded");
    let logs = world.logs(&task).await.expect("logs");
    assert!(logs.contains("hidden") && !logs.contains("readable"), "{logs}");
    assert!(logs.contains("deputy-pool-key-v1 ***") || logs.contains(&id), "{logs}");
    assert!(!logs.contains(&secret), "the key is in the log");
    let doctor = world
        .doctor(&["--pool-key-file", &ring.display().to_string()])
        .await
        .expect("examined");
    assert!(
        doctor.stdout.contains(&format!("{id} seals, from the file")) && !doctor.stdout.contains(&secret),
        "{doctor:?}"
    );
}

/// Guards a ring that holds nothing secret: KMS makes its key, and each agent of the pool has it unwrapped.
#[tokio::test]
async fn a_key_that_kms_wraps_seals_and_opens_for_its_own_pool_alone() {
    use deputy_tests::cloud::{AWAY, Cloud, HOME};
    let cloud = Cloud::shared().await.expect("a cloud");
    let mut world = World::builder().cloud(&cloud).start().await.expect("a world");
    let key_of = async |account: &str| {
        let kms = aws_sdk_kms::Client::new(&root_config(&cloud, account));
        let made = kms.create_key().send().await.expect("made");
        made.key_metadata.and_then(|key| key.arn).expect("an ARN")
    };
    let ring = world.whole_folder().join("pool-key");
    let program = world.agent_program().to_owned();
    let new = |key: &str, file: &Path| {
        std::process::Command::new(&program)
            .args(["pool-key", "new", "--kms-key", key, "--pool", "eu"])
            .arg(file)
            .env("AWS_ACCESS_KEY_ID", HOME)
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_ENDPOINT_URL", &cloud.scenery().endpoint)
            .output()
            .expect("runs")
    };
    let key = key_of(HOME).await;
    let made = new(&key, &ring);
    assert!(made.status.success(), "{made:?}");
    world
        .agent(AgentOptions::default().pool_key(&ring))
        .await
        .expect("an agent");
    let task = world
        .submit(&recipe::script("sealed", "", "", "echo done"))
        .await
        .expect("queued");
    world.succeeded(&task, SOON).await.expect("succeeded");
    let journal = world.tasks.journal(&task).await.expect("the journal");
    let id = journal[0].pool_key.clone();
    assert_sealed(&journal, &id);
    let examined = async |file: &Path| {
        let arguments = ["--pool-key-file", file.to_str().expect("a path")];
        world.doctor(&arguments).await.expect("examined").stdout
    };
    // Every agent has the same key of it.
    let doctor = examined(&ring).await;
    assert!(
        doctor.contains(&format!("{id} seals, unwrapped by {key} for pool eu")),
        "{doctor}"
    );
    let text = std::fs::read_to_string(&ring).expect("the ring");
    let other_pool = world.whole_folder().join("other-pool");
    std::fs::copy(&ring, &other_pool).expect("copied");
    std::fs::write(&other_pool, text.replace(" eu ", " us ")).expect("written");
    let doctor = examined(&other_pool).await;
    assert!(
        doctor.contains("was not wrapped by") && doctor.contains("for another pool"),
        "{doctor}"
    );
    // A key that does not exist is said by whoever makes a ring, and nothing is written.
    let nowhere = world.folder().join("nowhere");
    let refused = new(
        &format!("arn:aws:kms:eu-west-1:{AWAY}:key/00000000-0000-0000-0000-000000000000"),
        &nowhere,
    );
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(10), "{said}");
    assert!(
        said.contains("KMS refused kms:GenerateDataKeyWithoutPlaintext") && !nowhere.exists(),
        "{said}"
    );
}
