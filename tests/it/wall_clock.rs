//! Somebody sets the wall clock of a machine while it works.

use std::time::Duration;

use deputy_proto::v1;
use deputy_tests::agent_process::AgentOptions;
use deputy_tests::cloud::Cloud;
use deputy_tests::proxy::rule::Matcher;
use deputy_tests::wall_clock::WallClock;
use deputy_tests::world::World;

use crate::recipe;

const SOON: Duration = Duration::from_secs(30);
const LATER: Duration = Duration::from_secs(90);
const HOUR: i64 = 3_600;

/// Longer than a lease of these worlds and its guard.
const A_LEASE: Duration = Duration::from_secs(6);

/// Guards leases, timeouts, waits and credentials against a clock that is set forward and back, at either end: nothing
/// ends, nothing is given away, nothing is done twice, and new tasks go on being taken.
#[tokio::test]
async fn setting_a_clock_by_an_hour_ends_no_lease_and_no_task() {
    let folder = tempfile::tempdir().expect("a folder");
    let clock = |name| WallClock::new(folder.path(), name).expect("a clock");
    let (inside, outside) = (clock("agent"), clock("manager"));
    let cloud = Cloud::shared().await.expect("a cloud");
    let world = World::builder()
        .cloud(&cloud)
        .manager(|options| options.environment = outside.environment());
    let mut world = world.start().await.expect("a world");
    let agent = AgentOptions {
        environment: inside.environment(),
        ..AgentOptions::default()
    };
    world.agent(agent).await.expect("an agent");
    // It would take over what the first one loses.
    world
        .agent(AgentOptions::named("other").label("role=other"))
        .await
        .expect("another");

    let (service, _) = recipe::service(&world, "clock").await;
    let proxy = world.proxy().expect("a proxy");
    let updating = proxy.withhold_reply(Matcher::on("ecs", "UpdateService").always());
    let selected = "  selector: \"role != 'other'\"\n  timeout: 20m\n";
    let deployment = world
        .submit(&recipe::ecs_update(&service, selected))
        .await
        .expect("queued");
    let looks = recipe::waiting_for_steady(&world, updating, std::slice::from_ref(&deployment)).await;
    let go = world.folder().join("go");
    let wait = format!("until test -e {}; do sleep 0.1; done\necho finished", go.display());
    let script = world
        .submit(&recipe::script("script", selected, "", &wait))
        .await
        .expect("queued");
    world
        .wait_state(&script, v1::TaskState::Running, SOON)
        .await
        .expect("running");

    for (at_the_agent, at_the_manager) in [(HOUR, 0), (HOUR, HOUR), (-HOUR, HOUR), (-HOUR, -HOUR), (0, -HOUR)] {
        let what = format!("{at_the_agent} s at the agent, {at_the_manager} s at the manager");
        inside.step(at_the_agent).expect("stepped");
        outside.step(at_the_manager).expect("stepped");
        tokio::time::sleep(A_LEASE / 2).await;
        for task in [&deployment, &script] {
            let task = world.tasks.get(task).await.expect("read");
            assert_eq!(
                (task.state(), task.epoch),
                (v1::TaskState::Running, 1),
                "{what}\n{}",
                world.report()
            );
        }
        let quick = world
            .submit(&recipe::script("quick", selected, "", "date"))
            .await
            .expect("queued");
        let quick = world.succeeded(&quick, SOON).await;
        quick.unwrap_or_else(|error| panic!("{what}: {error:#}"));
    }
    tokio::time::sleep(A_LEASE).await;

    drop(looks);
    std::fs::write(&go, "").expect("written");
    for task in [&deployment, &script] {
        let done = world.succeeded(task, LATER).await.expect("succeeded");
        assert_eq!((done.agent_id.as_str(), done.epoch), ("agent-1", 1), "{done:#?}");
    }
    assert!(world.logs(&script).await.expect("logs").contains("finished"));
    assert_eq!(
        recipe::updates(&world, "UpdateService", &service),
        1,
        "{}",
        world.report()
    );
}
