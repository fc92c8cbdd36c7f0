//! Real shells inside real domains. They need a kernel with Landlock, as continuous integration has.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::capture::{Captured, run_captured};
use crate::command::ChildCommand;
use crate::exit::Exit;

/// An agent's world: `root/state` and `root/tasks` are hidden, `root/tasks/mine` is the task's.
struct World {
    root: TempDir,
    confinement: Confinement,
}

impl World {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a folder");
        let path = root.path();
        for folder in ["state", "tasks/mine", "tasks/theirs", "tokens/..1", "cache", "keys"] {
            fs::create_dir_all(path.join(folder)).expect("a folder");
        }
        fs::write(path.join("state/key"), "SECRET").expect("a file");
        fs::write(path.join("tasks/theirs/kubeconfig"), "SECRET").expect("a file");
        fs::write(path.join("tokens/..1/token"), "SECRET").expect("a file");
        fs::write(path.join("beside"), "open").expect("a file");
        symlink("..1", path.join("tokens/..data")).expect("a link");
        symlink("..data/token", path.join("tokens/token")).expect("a link");
        fs::write(path.join("keys/key"), "SECRET").expect("a file");
        symlink("keys/key", path.join("linked")).expect("a link");
        let hidden = vec![
            path.join("state"),
            path.join("tasks"),
            path.join("tokens/token"),
            path.join("missing"),
            "/dev/null".into(),
            path.join("linked"),
        ];
        let confinement = Confinement::new(hidden, vec![path.join("cache")]);
        Self { root, confinement }
    }

    async fn sh(&self, script: &str) -> Captured {
        self.sh_taking(Ahead::default(), script).await
    }

    async fn sh_taking(&self, ahead: Ahead, script: &str) -> Captured {
        let domain = self.confinement.around(&self.root.path().join("tasks/mine"));
        let command = ChildCommand::new("/bin/sh")
            .args(["-c", script])
            .env("PATH", "/usr/bin:/bin")
            .env("ROOT", self.root.path())
            .current_dir(self.root.path().join("tasks/mine"))
            .confined(Some(domain.taking(ahead)));
        run_captured(command, Duration::from_secs(20), 64 * 1024)
            .await
            .expect("it runs")
    }

    async fn answers(&self, script: &str) -> String {
        let said = self.sh(script).await;
        assert_eq!(
            said.exit,
            Exit::Code(0),
            "{script}: {}",
            String::from_utf8_lossy(&said.stderr)
        );
        String::from_utf8_lossy(&said.stdout).into_owned()
    }

    async fn refuses(&self, script: &str) {
        let said = self.sh(script).await;
        let error = String::from_utf8_lossy(&said.stderr);
        assert_ne!(said.exit, Exit::Code(0), "{script} went through");
        assert!(
            ["Permission denied", "not permitted", "cross-device"]
                .iter()
                .any(|told| error.contains(told)),
            "{script}: {error}"
        );
        assert!(!String::from_utf8_lossy(&said.stdout).contains("SECRET"), "{script}");
    }
}

#[test]
fn this_kernel_can_do_everything() {
    assert_eq!(
        Confinement::support(),
        Support::Full,
        "the tests need Linux 6.12 with Landlock"
    );
}

#[tokio::test]
async fn what_is_hidden_cannot_be_read_listed_or_changed() {
    let world = World::new();
    for script in [
        "cat $ROOT/state/key",
        "ls $ROOT/state",
        "echo x >> $ROOT/state/key",
        "rm $ROOT/state/key",
        "cat $ROOT/tasks/theirs/kubeconfig",
        "ls $ROOT/tasks",
        "cat $ROOT/tokens/token",
        "cat $ROOT/tokens/..1/token",
        "mkdir $ROOT/tokens/new",
        "cat $ROOT/linked",
        "cat $ROOT/keys/key",
        "ln $ROOT/state/key ./mine",
        "mv $ROOT/state ./mine",
        "cat /proc/self/cwd/../theirs/kubeconfig",
    ] {
        world.refuses(script).await;
    }
    // A link or another name for it leads to the same place.
    world.refuses("ln -s $ROOT/state s; cat s/key").await;
    world.refuses("cat /proc/$$/root$ROOT/state/key").await;
    assert_eq!(fs::read(world.root.path().join("state/key")).expect("there"), b"SECRET");
}

#[tokio::test]
async fn what_is_rotated_in_while_a_child_runs_is_hidden_too() {
    let world = World::new();
    let root = world.root.path();
    let rotate = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        fs::create_dir(root.join("tokens/..2")).expect("a folder");
        fs::write(root.join("tokens/..2/token"), "SECRET 2").expect("a file");
        symlink("..2", root.join("tokens/..new")).expect("a link");
        fs::rename(root.join("tokens/..new"), root.join("tokens/..data")).expect("turned");
    };
    let script = "n=0; until [ -e $ROOT/tokens/..2/token ]; do sleep 0.05; n=$((n+1)); [ $n -lt 200 ] || exit 3; done; \
                  cat $ROOT/tokens/token";
    tokio::join!(rotate, world.refuses(script));
    world.refuses("cat $ROOT/tokens/token $ROOT/tokens/..2/token").await;
}

#[tokio::test]
async fn the_tasks_own_folder_temporary_folders_and_named_ones_are_as_before() {
    let world = World::new();
    let script = "set -e; echo a > a; mkdir -p d/e; mv a d/e/b; cp d/e/b c; rm -r d; : > c; ln -s c l; mkfifo f; \
                  file=$(mktemp -p /var/tmp); echo x > $file; mv $file ./from-tmp; echo y > $ROOT/cache/kept; \
                  cat $ROOT/beside; ls /proc/self /usr/bin > /dev/null; echo out > /dev/stdout; echo err > /dev/stderr; \
                  [ -r /etc/passwd ]; head -c 1 /dev/urandom > /dev/null; sh -c 'echo inner'; ./l || cat < /dev/null";
    assert_eq!(world.answers(script).await, "openout\ninner\n");
    assert_eq!(fs::read(world.root.path().join("cache/kept")).expect("kept"), b"y\n");
}

#[tokio::test]
async fn nothing_else_is_changed() {
    let world = World::new();
    // As root, too: what the machine's own programs are made of would be run by others, outside.
    for script in [
        "echo x > /usr/bin/deputy-test",
        "echo x > /etc/deputy-test",
        "echo x > /deputy-test",
        "echo x > /dev/deputy-test",
        "echo x > $ROOT/new",
        "echo 0 > /proc/sys/kernel/core_uses_pid",
    ] {
        world.refuses(script).await;
    }
}

#[tokio::test]
async fn other_processes_cannot_be_read_traced_or_signalled() {
    let world = World::new();
    let agent = std::process::id();
    for script in [
        format!("cat /proc/{agent}/environ"),
        format!("cat /proc/{agent}/maps"),
        format!("head -c 1 /proc/{agent}/mem"),
        format!("ls -l /proc/{agent}/fd/0"),
        format!("cat /proc/{agent}/fd/0"),
        format!("ls /proc/{agent}/cwd/"),
        format!("ls -L /proc/{agent}/root"),
        format!("cat /proc/{agent}/task/{agent}/environ"),
        format!("kill -s TERM {agent}"),
        format!("kill -s CONT {}", std::os::unix::process::parent_id()),
    ] {
        world.refuses(&script).await;
    }
    // Nor does root have what would lead around it.
    let kept = world
        .answers("sed -n 's/^CapEff:.*\\(.\\{8\\}\\)$/\\1/p' /proc/self/status")
        .await;
    let kept = u32::from_str_radix(kept.trim(), 16).expect("a number");
    let root_may = [2_u32, 12, 13, 16, 17, 19, 21];
    assert!(root_may.iter().all(|number| kept & (1 << number) == 0), "{kept:x}");
    // Their own they can.
    world
        .answers("sleep 10 & cat /proc/$!/environ > /dev/null; kill $!")
        .await;
}

#[tokio::test]
async fn a_program_that_is_not_there_or_cannot_run_is_told_as_before() {
    let world = World::new();
    let domain = world.confinement.around(&world.root.path().join("tasks/mine"));
    let error = ChildCommand::new("/nowhere").confined(Some(domain.clone())).spawn();
    let error = error.err().expect("not there");
    assert_eq!(error.source.kind(), io::ErrorKind::NotFound);
    let own = ChildCommand::new("/bin/true")
        .confined(Some(world.confinement.around(Path::new("/nowhere"))))
        .spawn();
    assert_eq!(own.err().expect("no folder").source.kind(), io::ErrorKind::NotFound);
}

#[tokio::test]
async fn the_agent_itself_stays_outside() {
    let world = World::new();
    world.answers("true").await;
    assert_eq!(fs::read(world.root.path().join("state/key")).expect("ours"), b"SECRET");
    fs::write(world.root.path().join("state/key"), "changed").expect("ours");
}

/// Waits until it is found, and has it begun at another time. Answers when it was begun.
fn begun(ahead: &Ahead, at: impl FnOnce(Instant) -> Instant) -> Instant {
    let mut place = ahead.0.lock().expect("no panic");
    let Begun { when, made } = place.take().expect("nobody took it");
    let (send, again) = mpsc::channel();
    send.send(made.recv().expect("found")).expect("kept");
    *place = Some(Begun {
        when: at(when),
        made: again,
    });
    when
}

#[tokio::test]
async fn what_was_found_ahead_is_for_one_child_that_starts_soon() {
    const SCRIPT: &str = "echo mine > ./mine; cat $ROOT/beside $ROOT/later $ROOT/state/key 2>&1";
    let world = World::new();
    let seen = async |ahead| String::from_utf8_lossy(&world.sh_taking(ahead, SCRIPT).await.stdout).into_owned();
    let before = Instant::now();
    let (old, ahead) = (world.confinement.ahead(), world.confinement.ahead());
    let after = Instant::now();
    // A child that starts at once, however busy the machine is, and one that starts late.
    for when in [
        begun(&ahead, |_| after + Duration::from_secs(3600)),
        begun(&old, |when| when - LONGEST_AHEAD),
    ] {
        assert!((before..=after).contains(&when), "its age counts from the beginning");
    }
    fs::write(world.root.path().join("later"), "APPEARED").expect("a file");
    let first = seen(ahead.clone()).await;
    assert!(first.starts_with("open"), "{first}");
    assert!(
        !first.contains("APPEARED") && !first.contains("SECRET"),
        "it was looked for before: {first}"
    );
    assert!(world.root.path().join("tasks/mine/mine").exists());
    for next in [ahead, old] {
        let next = seen(next).await;
        assert!(next.starts_with("openAPPEARED") && !next.contains("SECRET"), "{next}");
    }
}
