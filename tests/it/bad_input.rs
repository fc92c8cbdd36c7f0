//! Bad input, bad neighbours, full disks: a clear error at the right place, and life goes on.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use deputy_proto::v1;
use deputy_tests::agent_process::AgentOptions;
use deputy_tests::link::Wire;
use deputy_tests::programs::{Binaries, workspace};
use deputy_tests::skip;
use deputy_tests::world::World;

use crate::recipe;

const SOON: Duration = Duration::from_secs(30);

/// Guards that nothing in a document can hurt: neither the command, nor a manager that is called without it.
#[tokio::test]
async fn bad_documents_are_refused_in_words_by_the_command_and_by_the_manager() {
    let world = World::with_one_agent().await.expect("a world");
    let large = world.folder().join("large.yaml");
    let padding = format!("# {}\n", "x".repeat(10 * 1024 * 1024));
    std::fs::write(&large, recipe::script("large", "", "", &format!("true\n{padding}"))).expect("written");
    let bad = |name: &str| workspace().join("tests/bad").join(name);
    for (file, words) in [
        (large, "1 MiB"),
        (bad("alias-bomb.yaml"), "more than 50000 values"),
        (bad("deep-nesting.yaml"), "nested deeper than 64 levels"),
        (bad("not-utf8.yaml"), "not UTF-8"),
        (bad("duplicate-keys.yaml"), "a second time"),
    ] {
        let shown = file.display().to_string();
        let run = world.deputy(&["submit", &shown]).await.expect("run");
        let said = format!("{}{}", run.stdout, run.stderr);
        assert_eq!(run.code, Some(2), "{shown}: {said}");
        assert!(said.contains(words), "{shown}: {said}");
        // Who calls the manager without the command is told the same, or is cut off by the size.
        let text = String::from_utf8_lossy(&std::fs::read(&file).expect("read")).into_owned();
        if !shown.ends_with("not-utf8.yaml") {
            let refused = world.tasks.submit(&text).await.expect_err("refused");
            let refused = format!("{refused:#}");
            assert!(
                refused.contains(words) || refused.contains("OutOfRange"),
                "{shown}: {refused}"
            );
        }
    }
    let task = world
        .submit(&recipe::script("good", "", "", "true"))
        .await
        .expect("queued");
    world.succeeded(&task, SOON).await.expect("succeeded");
    assert!(!world.report().contains("panicked"), "{}", world.report());
}

/// Guards the lock of the data folder.
#[tokio::test]
async fn a_second_manager_on_the_same_data_says_so_and_ends() {
    let world = World::with_one_agent().await.expect("a world");
    let mut command = Command::new(Binaries::beside_this().expect("built").manager);
    command
        .args(["--listen", "127.0.0.1:0", "--data"])
        .arg(world.manager.data());
    let second = tokio::task::spawn_blocking(move || command.output());
    let second = tokio::time::timeout(SOON, second).await.expect("in time");
    let second = second.expect("joined").expect("run");
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(10), "{said}");
    assert!(said.contains("another manager is using"), "{said}");
    let task = world
        .submit(&recipe::script("first", "", "", "true"))
        .await
        .expect("queued");
    world.succeeded(&task, SOON).await.expect("the first goes on");
}

/// A world whose agents may be silent for four seconds before they count as gone.
async fn patient_world() -> World {
    let builder = World::builder().manager(|manager| {
        manager.heartbeat = Duration::from_secs(2);
        manager.lease_ttl = Duration::from_secs(10);
    });
    builder.start().await.expect("a world")
}

/// Guards that a copied identity hurts nobody: the younger one is told what is wrong, and leaves.
#[tokio::test]
async fn of_two_agents_with_one_id_the_younger_one_leaves_with_8_and_the_script_of_the_older_one_goes_on() {
    let mut world = patient_world().await;
    world.agent(AgentOptions::named("twin")).await.expect("an agent");
    let (go, said) = (world.folder().join("go"), world.folder().join("said"));
    let run = format!(
        "echo begun >> {said}\nwhile [ ! -e {go} ]; do sleep 0.05; done\necho ended >> {said}",
        go = go.display(),
        said = said.display(),
    );
    let task = world.submit(&recipe::script("held", "", "", &run)).await;
    let task = task.expect("queued");
    let begun = async || recipe::lines(&said) == ["begun"];
    world.eventually("it runs", SOON, begun).await.expect("runs");
    world.agent(AgentOptions::named("twin")).await.expect("its twin");
    let status = world.agents[1].child.ended(SOON).await.expect("it leaves");
    let report = world.report();
    assert_eq!(status.code(), Some(8), "{report}");
    for words in [
        "waiting for the other process with this agent id to be gone",
        "another process with the agent id twin is alive",
        "give every agent its own --agent-id",
    ] {
        assert!(report.contains(words), "{words:?} is missing\n{report}");
    }
    assert!(world.agents[0].child.is_running(), "{report}");
    let held = world.tasks.get(&task).await.expect("the task");
    assert_eq!((held.state(), held.epoch), (v1::TaskState::Running, 1), "{report}");
    std::fs::write(&go, "").expect("go");
    world.succeeded(&task, SOON).await.expect("succeeded");
    assert_eq!(recipe::lines(&said), ["begun", "ended"]);
}

/// Guards that another token of the rule takes nothing from an agent that lives: who has its own key is not let in.
#[tokio::test]
async fn a_twin_elsewhere_is_not_let_in_and_leaves_with_8() {
    let mut world = patient_world().await;
    world.agent(AgentOptions::named("twin")).await.expect("an agent");
    let elsewhere = AgentOptions {
        folder: Some(world.folder().join("elsewhere")),
        ..AgentOptions::named("twin")
    };
    world.launch(elsewhere).await.expect("started");
    let status = world.agents[1].child.ended(SOON).await.expect("it leaves");
    let report = world.report();
    assert_eq!(status.code(), Some(8), "{report}");
    for words in ["is in use by another process", "give every agent its own --agent-id"] {
        assert!(report.contains(words), "{words:?} is missing\n{report}");
    }
    let task = world.submit(&recipe::script("first", "", "", "true")).await;
    world.succeeded(&task.expect("queued"), SOON).await.expect("succeeded");
    assert!(!world.agents[0].child.log().contains("superseded"), "{report}");
}

/// Guards that the protection of an id does not keep an agent from coming back after a crash.
#[tokio::test]
async fn an_agent_that_crashed_and_starts_again_at_once_waits_for_its_own_id_and_gets_it() {
    let mut world = patient_world().await;
    world.agent(AgentOptions::named("phoenix")).await.expect("an agent");
    world.agents[0].start_again().expect("killed and started");
    let task = world.submit(&recipe::script("one", "", "", "true")).await;
    world.succeeded(&task.expect("queued"), SOON).await.expect("succeeded");
    let report = world.report();
    assert!(
        report.contains("waiting for the other process with this agent id to be gone"),
        "{report}"
    );
    assert!(world.agents[0].child.is_running(), "{report}");
}

/// A small disk; gone with its value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None`, and said so: this machine does not let us mount.
    fn at(folder: &Path, mebibytes: u32, test: &str) -> Option<Self> {
        std::fs::create_dir_all(folder).expect("a folder");
        // As the folder of one user would be: an agent refuses a disk that everybody can write to.
        let size = format!("size={mebibytes}m,mode=0700");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "none"])
            .arg(folder)
            .output();
        let refused = match mounted {
            Ok(output) if output.status.success() => return Some(Self(folder.into())),
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        let missing = Some(format!("a small disk cannot be mounted: {refused}"));
        if skip::skips(test, missing) {
            return None;
        }
        unreachable!("something is missing")
    }

    /// A file that takes all the space there is.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = File::create(&path).expect("a filler");
        while file.write_all(&[0; 4096]).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Guards that a full disk under the database loses and half-does nothing, and that space is all it takes to go on.
#[tokio::test]
async fn with_a_full_disk_submit_is_refused_in_words_until_there_is_space_again() {
    let mut world = World::builder().start().await.expect("a world");
    world.manager.kill().expect("killed");
    let test = "bad_input::with_a_full_disk_submit_is_refused_in_words_until_there_is_space_again";
    let Some(disk) = SmallDisk::at(&world.manager.data(), 8, test) else {
        return;
    };
    world.manager.start_again().await.expect("a manager on a small disk");
    world.introduce_again().await.expect("introduced");
    let first = world
        .submit(&recipe::script("first", "", "", "true"))
        .await
        .expect("queued");
    let filler = disk.fill();
    // Pages that are there already may be used up first.
    let padded = recipe::script("padded", "", "", &format!("true # {}", "x".repeat(200_000)));
    let mut queued = vec![first];
    let refused = loop {
        match world.tasks.submit(&padded).await {
            Ok(task) => queued.push(task),
            Err(error) => break format!("{error:#}"),
        }
        assert!(queued.len() < 100, "the disk is never full");
    };
    assert!(refused.contains("disk is full"), "{refused}");
    std::fs::remove_file(filler).expect("space");
    let again = async || match world.tasks.submit(&recipe::script("again", "", "", "true")).await {
        Ok(_) => true,
        Err(error) => {
            assert!(format!("{error:#}").contains("disk is full"), "{error:#}");
            false
        }
    };
    world
        .eventually("it takes tasks again", SOON, again)
        .await
        .expect("recovered");
    world.agent(AgentOptions::default()).await.expect("an agent");
    for task in &queued {
        world
            .succeeded(task, SOON)
            .await
            .expect("what was acknowledged is done");
    }
    drop(disk);
}

/// Guards that a full disk under the spool never stops a task: its log has a gap that says so, and its result comes.
#[tokio::test]
async fn with_a_full_spool_a_chatty_task_ends_and_its_log_tells_of_the_gap() {
    let mut world = World::builder()
        .manager(|manager| manager.lease_ttl = Duration::from_secs(120))
        .start()
        .await
        .expect("a world");
    let test = "bad_input::with_a_full_spool_a_chatty_task_ends_and_its_log_tells_of_the_gap";
    let Some(disk) = SmallDisk::at(&world.agent_folder("agent-1").join("work"), 2, test) else {
        return;
    };
    world.agent(AgentOptions::default()).await.expect("an agent");
    let (go, written) = (world.folder().join("go"), world.folder().join("written"));
    let run = format!(
        "echo first; touch {written}.begun\nwhile [ ! -e {go} ]; do sleep 0.05; done\n(yes 0123456789012345678901234567890123456789 || true) | head -n 600000\ntouch {written}",
        go = go.display(),
        written = written.display(),
    );
    let task = world
        .submit(&recipe::script("chatty", "", "", &run))
        .await
        .expect("queued");
    let begun = written.with_extension("begun");
    world
        .eventually("it runs", SOON, async || begun.exists())
        .await
        .expect("runs");
    world.agents[0].link.set(Wire::StalledUp);
    std::fs::write(&go, "").expect("go");
    world
        .eventually("it writes 24 MB nobody takes", 2 * SOON, async || written.exists())
        .await
        .expect("not held up");
    world.agents[0].link.resume();
    world.succeeded(&task, 2 * SOON).await.expect("succeeded");
    world.logs(&task).await.expect("logs");
    let chunks = world.tasks.log_chunks(&task).await.expect("chunks");
    let missing: u64 = chunks.iter().map(|chunk| chunk.gap_bytes).sum();
    let there: usize = chunks.iter().map(|chunk| chunk.data.len()).sum();
    assert!(
        missing > 0,
        "{there} bytes are there and no gap is told\n{}",
        world.report()
    );
    let all = u64::try_from(there).expect("a size") + missing;
    assert!(all >= 600_000 * 41, "{there} bytes and a gap of {missing} are not all");
    drop(disk);
}
