//! What an agent has of itself on disk, with real processes over TLS: whatever write fails and whenever it is killed,
//! what is there lets it in again, and a token that is good once is used once.

use std::path::PathBuf;
use std::time::Duration;

use deputy_proto::v1;
use deputy_tests::agent_process::AgentOptions;
use deputy_tests::world::World;
use rustix::process::Signal;

use crate::recipe;

const SOON: Duration = Duration::from_secs(40);

/// What is told of a certificate that is not on disk.
const NOT_ON_DISK: &str = "is not on disk";

/// A world with certificates of this life, and a file for a join token.
async fn world(life: &str) -> (World, PathBuf) {
    let built = World::builder().manager(|manager| {
        manager.flags.extend(["--certificate-life".to_owned(), life.to_owned()]);
    });
    let world = built.start().await.expect("a world");
    let file = world.folder().join("token-once");
    (world, file)
}

/// Writes a token that is good once.
async fn give_token(world: &World, file: &PathBuf) {
    let token = world.manager.access().expect("up").join_token(1).await.expect("made");
    std::fs::write(file, token).expect("written");
}

/// An agent that has joined with such a token.
async fn joined(life: &str) -> World {
    let (mut world, file) = world(life).await;
    give_token(&world, &file).await;
    let options = AgentOptions::default().join_token_file(&file.display().to_string());
    world.agent(options).await.expect("joined");
    world
}

/// What stands where the certificate is written first: from now on every write of it fails.
fn in_the_way(world: &World) -> PathBuf {
    let path = world.agents[0].state_folder().join("identity.partial");
    std::fs::create_dir(&path).expect("made");
    path
}

async fn says(world: &World, what: &str) {
    let said = async || world.agents[0].child.log().contains(what);
    let said = world.eventually(what, SOON, said).await;
    said.unwrap_or_else(|error| panic!("{error:#}\n{}", world.report()));
}

async fn warns(world: &World) -> bool {
    let listed = world.tasks.fleet().list(v1::FleetListRequest::default()).await;
    let agents = listed.map(|listed| listed.into_inner().agents).unwrap_or_default();
    let warnings = agents.iter().filter_map(|agent| agent.capabilities.as_ref());
    let mut warnings = warnings.flat_map(|offered| &offered.warnings);
    warnings.any(|warning| warning.contains(NOT_ON_DISK))
}

/// Ends the process without a word and starts it again; it is let in, and works.
async fn comes_back(world: &mut World) {
    world.agents[0].kill().expect("killed");
    // Its heartbeats: the manager may not take the dead one for the living.
    let gone = async || {
        let listed = world.tasks.fleet().list(v1::FleetListRequest::default()).await;
        listed.is_ok_and(|listed| {
            let agents = listed.into_inner().agents;
            agents.iter().all(|agent| agent.status() != v1::AgentStatus::Online)
        })
    };
    world.eventually("it is gone", SOON, gone).await.expect("gone");
    world.agents[0].start_again().expect("started");
    let back = world.joined("agent-1").await;
    back.unwrap_or_else(|error| panic!("{error:#}\n{}", world.report()));
    let task = world.submit(&recipe::script("back", "", "", "true")).await;
    world.succeeded(&task.expect("queued"), SOON).await.expect("succeeded");
}

/// A renewed certificate that cannot be written is not used: the one that is on disk stays good, whatever connects anew,
/// and a start after a kill is let in by it, without a token.
#[tokio::test]
async fn a_renewed_certificate_that_cannot_be_written_ends_nothing() {
    let mut world = joined("30s").await;
    let blocked = in_the_way(&world);
    says(&world, "the certificate was renewed").await;
    world.manager.kill_and_start_again().await.expect("up again");
    world.joined("agent-1").await.expect("connected anew");
    std::fs::remove_dir(&blocked).expect("removed");
    comes_back(&mut world).await;
}

/// It is told while it cannot be written, written soon after that is mended, and then a kill before its first use costs
/// nothing either.
#[tokio::test]
async fn a_renewed_certificate_is_written_as_soon_as_it_can_be() {
    let mut world = joined("30s").await;
    let blocked = in_the_way(&world);
    says(&world, NOT_ON_DISK).await;
    world
        .eventually("the fleet list warns", SOON, async || warns(&world).await)
        .await
        .expect("warned");
    let kept = || world.agents[0].child.log().matches("the certificate is kept").count();
    let before = kept();
    std::fs::remove_dir(&blocked).expect("removed");
    world
        .eventually("it is written", SOON, async || kept() > before)
        .await
        .expect("written");
    world
        .eventually("the warning goes", SOON, async || !warns(&world).await)
        .await
        .expect("gone");
    comes_back(&mut world).await;
}

/// An agent that works until its next start is better than none: at the end of the old certificate the new one is used,
/// and written when that is possible, be it at the last moment.
#[tokio::test]
async fn at_the_end_of_the_old_certificate_the_new_one_is_used_unwritten() {
    let mut world = joined("6s").await;
    let blocked = in_the_way(&world);
    says(&world, "is used all the same").await;
    tokio::time::sleep(Duration::from_secs(7)).await;
    world.manager.kill_and_start_again().await.expect("up again");
    world.joined("agent-1").await.expect("connected anew");
    let task = world.submit(&recipe::script("works", "", "", "true")).await;
    world.succeeded(&task.expect("queued"), SOON).await.expect("succeeded");
    std::fs::remove_dir(&blocked).expect("removed");
    world.agents[0].child.signal(Signal::TERM).expect("told");
    let left = async || world.agents[0].child.log().contains("elapsed_ms");
    world.eventually("it leaves", SOON, left).await.expect("left");
    tokio::time::sleep(Duration::from_secs(1)).await;
    comes_back(&mut world).await;
}

/// A join that was answered, and whose certificate never came to the disk, takes no second use of its token: the key was
/// there before the manager was asked.
#[tokio::test]
async fn a_kill_between_a_join_and_the_disk_burns_no_token() {
    let (mut world, file) = world("1h").await;
    let options = AgentOptions::default().join_token_file(&file.display().to_string());
    world.launch(options).await.expect("started");
    says(&world, "cannot be read").await;
    let blocked = in_the_way(&world);
    give_token(&world, &file).await;
    let asked = async || world.manager.log().contains("an agent joined");
    world.eventually("it has joined", SOON, asked).await.expect("joined");
    says(&world, NOT_ON_DISK).await;
    world.agents[0].kill().expect("killed");
    std::fs::remove_dir(&blocked).expect("removed");
    comes_back(&mut world).await;
    let left = std::fs::read_dir(world.agents[0].state_folder())
        .expect("listed")
        .flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
    assert_eq!(
        left,
        ["identity.json"],
        "the key of the join is no longer there by itself"
    );
}

/// An agent that slept past the end of its certificate, whose token is used up: what it got in exchange for that is not
/// used before it is on disk, for what is there is exchanged again only until then.
#[tokio::test]
async fn a_kill_between_an_exchange_and_the_disk_locks_nobody_out() {
    let mut world = joined("10s").await;
    world.agents[0].child.signal(Signal::STOP).expect("stopped");
    let blocked = in_the_way(&world);
    tokio::time::sleep(Duration::from_secs(13)).await;
    world.agents[0].child.signal(Signal::CONT).expect("goes on");
    let asked = async || world.manager.log().contains("an expired certificate was renewed");
    world
        .eventually("it is exchanged", SOON, asked)
        .await
        .expect("exchanged");
    says(&world, NOT_ON_DISK).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.agents[0].kill().expect("killed");
    std::fs::remove_dir(&blocked).expect("removed");
    comes_back(&mut world).await;
}
