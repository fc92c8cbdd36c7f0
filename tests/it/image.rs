//! The agent in its container, as it is meant to be run: nobody's user, read-only root, no capabilities.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use deputy_tests::child::{Child, Output};
use deputy_tests::cloud::Cloud;
use deputy_tests::image::{self, Image};
use deputy_tests::programs::Binaries;
use deputy_tests::skip;
use deputy_tests::world::World;

use crate::recipe;

const SOON: Duration = Duration::from_secs(60);

/// A kernel without Landlock, for a container.
const NO_LANDLOCK: &str = r#"{ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [ { "action": "SCMP_ACT_ERRNO", "errnoRet": 38,
  "names": ["landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"] } ] }"#;

/// What a step sees of the container, and a process that it leaves behind with nothing that tells whose it is.
const LOOKS: &str = r#"id -u; id -g
echo "named $(id -un)"
grep -e CapEff -e CapBnd -e NoNewPrivs /proc/self/status
touch /nothing 2> /dev/null || echo "root is read-only"
touch /tmp/something && echo "tmp is not"
echo "$HOME"
cat /proc/1/environ > /dev/null 2>&1 || echo "agent is closed"
ls -a /var/lib/deputy/agent > /dev/null 2>&1 || echo "work folder is closed"
test -s /etc/ssl/certs/ca-certificates.crt && echo "certificates"
cat /etc/deputy/join-token > /dev/null 2>&1 || echo "token is closed"
test -r /etc/deputy/ca.pem && echo "authority is open"
setsid env -i sh -c 'sleep 1' > /dev/null 2>&1 &
sleep 0.2"#;

async fn built() -> Image {
    let agent = Binaries::beside_this().expect("built").agent;
    tokio::task::spawn_blocking(move || Image::build(&agent))
        .await
        .expect("joined")
        .expect("an image")
}

/// Starts the agent of the image beside the world's manager; it joins with a token from a volume.
async fn start(world: &World, image: &Image, id: &str, options: &[&str], arguments: &[&str]) -> Child {
    let access = world.manager.access().expect("access");
    let volume = world.folder().join(format!("{id}-volume"));
    std::fs::create_dir(&volume).expect("a folder");
    std::fs::copy(&access.ca_file, volume.join("ca.pem")).expect("copied");
    std::fs::write(volume.join("join-token"), access.join_token(1).await.expect("a token")).expect("written");
    std::fs::write(volume.join("policy.cedar"), "permit(principal, action, resource);\n").expect("written");
    // As a Secret's files are for the pod's group: others of the machine have no business here, the folder is ours.
    let readable = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(volume.join("ca.pem"), readable).expect("readable");
    let mut run = image.run(id);
    run.arg(format!("--volume={}:/etc/deputy:ro", volume.display()));
    run.args(options).arg(image::NAME);
    run.args(["run", "--agent-id", id, "--manager", &access.url()]);
    run.args([
        "--ca-file",
        "/etc/deputy/ca.pem",
        "--join-token-file",
        "/etc/deputy/join-token",
        "--policy-file",
        "/etc/deputy/policy.cedar",
    ]);
    run.args(["--drain-timeout", "10s", "--grace", "2s"]).args(arguments);
    Child::spawn(id, run, &world.folder().join(format!("{id}.log")), Output::ToLog).expect("podman")
}

/// The contained agent deploys: its own identity from the container's environment, a role, a rollout.
async fn deploys(world: &World, agent: &Child) {
    let (service, _) = recipe::service(world, "contained").await;
    let task = world.submit(&recipe::ecs_update(&service, "")).await.expect("queued");
    world
        .succeeded(&task, SOON)
        .await
        .unwrap_or_else(|error| panic!("{error:#}\n{}", agent.tail()));
    let (revision, count) = recipe::runs(world, &service).await;
    assert!(revision.ends_with(":2") && count == 3, "{revision} {count}");
    assert_eq!(
        recipe::updates(world, "UpdateService", &service),
        1,
        "{}",
        world.report()
    );
}

/// Guards the image: it joins, deploys to ECS, runs steps confined, reaps what they leave, and leaves in order on
/// SIGTERM.
#[tokio::test]
async fn the_agent_serves_from_a_container_without_any_privilege() {
    let test = "image::the_agent_serves_from_a_container_without_any_privilege";
    if skip::skips(test, image::missing()) {
        return;
    }
    let image = built().await;
    let cloud = Cloud::shared().await.expect("a cloud");
    let mut world = World::builder().cloud(&cloud).start().await.expect("a world");
    let environment = world.aws_environment();
    let environment = environment
        .iter()
        .map(|(name, value)| format!("--env={name}={}", value.to_string_lossy()));
    let environment: Vec<String> = environment.collect();
    let environment: Vec<&str> = environment.iter().map(String::as_str).collect();
    let mut agent = start(
        &world,
        &image,
        "contained",
        &environment,
        &["--confinement", "required"],
    )
    .await;
    world
        .joined("contained")
        .await
        .unwrap_or_else(|error| panic!("{error:#}\n{}", agent.tail()));
    deploys(&world, &agent).await;
    let task = world
        .submit(&recipe::script("looks", "", "", LOOKS))
        .await
        .expect("queued");
    world
        .succeeded(&task, SOON)
        .await
        .unwrap_or_else(|error| panic!("{error:#}\n{}", agent.tail()));
    let log = world.logs(&task).await.expect("its log");
    let nothing = "0000000000000000";
    for line in [
        "65532\n65532\n",
        "named deputy",
        &format!("CapBnd:\t{nothing}"),
        &format!("CapEff:\t{nothing}"),
        "NoNewPrivs:\t1",
        "root is read-only",
        "tmp is not",
        "/var/lib/deputy/agent/work",
        "agent is closed",
        "work folder is closed",
        "certificates",
        "token is closed",
        "authority is open",
    ] {
        assert!(log.contains(line), "{line:?} is not in\n{log}");
    }

    let zombies = "grep -l '^State:.Z' /proc/[0-9]*/status | wc -l";
    let count = || {
        image
            .podman(&["exec", "contained", "sh", "-c", zombies])
            .expect("counted")
    };
    let had = async || count().trim() != "0";
    world
        .eventually("the orphan has died", SOON, had)
        .await
        .expect("a zombie to reap");
    let reaped = async || count().trim() == "0";
    world
        .eventually("the orphan is reaped", SOON, reaped)
        .await
        .expect("reaped");

    image.podman(&["stop", "--time", "20", "contained"]).expect("stopped");
    let ended = agent.ended(SOON).await.expect("its end");
    assert_eq!(ended.code(), Some(0), "it leaves in order");

    without_landlock(&mut world, &image).await;
}

/// What a kernel without Landlock makes of an agent: a warning, or no agent at all.
async fn without_landlock(world: &mut World, image: &Image) {
    let profile = world.folder().join("seccomp.json");
    std::fs::write(&profile, NO_LANDLOCK).expect("written");
    let filtered = format!("--security-opt=seccomp={}", profile.display());
    let mut refused = start(world, image, "strict", &[&filtered], &["--confinement", "required"]).await;
    let ended = refused.ended(SOON).await.expect("its end");
    let said = refused.log();
    assert_eq!(ended.code(), Some(10), "{said}");
    assert!(
        said.contains("confinement is required, and this kernel has no Landlock"),
        "{said}"
    );

    let lenient = start(world, image, "lenient", &[&filtered], &[]).await;
    world
        .joined("lenient")
        .await
        .unwrap_or_else(|error| panic!("{error:#}\n{}", lenient.tail()));
    let fleet = world
        .deputy(&["fleet", "list", "--output", "json"])
        .await
        .expect("listed");
    assert!(
        fleet
            .stdout
            .contains("children are not confined: this kernel has no Landlock"),
        "{}",
        fleet.stdout
    );
    let task = world
        .submit(&recipe::script("runs", "", "", "echo all the same"))
        .await
        .expect("queued");
    world.succeeded(&task, SOON).await.expect("it works all the same");
}
