//! Real children: shells that ignore signals, leave daemons, hold pipes, write much.

use std::fs;
use std::path::Path;

use super::*;
use crate::command::ChildCommand;
use crate::sink::StreamKind;

#[derive(Default)]
struct Collect {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// When the first output came: how long a shell takes to start is left out.
    since: Option<Instant>,
}

impl Collect {
    fn took(&self) -> Duration {
        self.since.expect("output").elapsed()
    }
}

impl OutputSink for Collect {
    fn write(&mut self, stream: StreamKind, bytes: &[u8]) {
        self.since.get_or_insert_with(Instant::now);
        match stream {
            StreamKind::Stdout => self.stdout.extend_from_slice(bytes),
            StreamKind::Stderr => self.stderr.extend_from_slice(bytes),
        }
    }
}

fn bash(script: &str) -> ChildCommand {
    ChildCommand::new("bash")
        .arg("-c")
        .arg(script)
        .env("PATH", std::env::var_os("PATH").expect("PATH"))
}

/// Runs a script to its end.
async fn run(script: &str) -> (Ended<()>, Collect) {
    let mut out = Collect::default();
    let ended = bash(script)
        .spawn()
        .expect("bash")
        .run(&mut out, std::future::pending())
        .await;
    (ended, out)
}

/// Stops a script as soon as it has written something.
async fn run_and_stop(script: &str, grace: Duration) -> (Ended<&'static str>, Collect) {
    struct Ready(Collect, Option<tokio::sync::oneshot::Sender<()>>);
    impl OutputSink for Ready {
        fn write(&mut self, stream: StreamKind, bytes: &[u8]) {
            self.0.write(stream, bytes);
            if let Some(ready) = self.1.take() {
                let _ = ready.send(());
            }
        }
    }
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let mut out = Ready(Collect::default(), Some(ready));
    let stop = async {
        let _ = is_ready.await;
        Stop {
            reason: "wished",
            grace,
        }
    };
    let ended = bash(script).spawn().expect("bash").run(&mut out, stop).await;
    (ended, out.0)
}

fn is_alive(pid: &[u8]) -> bool {
    let pid = String::from_utf8_lossy(pid).trim().to_owned();
    // A zombie that nobody reaps is dead too.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test]
async fn output_and_exit_code_of_a_child_are_told() {
    let (ended, out) = run("echo out; echo err >&2; exit 3").await;
    assert_eq!(ended.exit, Exit::Code(3));
    assert_eq!(
        (out.stdout.as_slice(), out.stderr.as_slice()),
        (b"out\n".as_slice(), b"err\n".as_slice())
    );
    assert_eq!((ended.stopped, ended.killed, ended.leftovers), (None, false, 0));
}

#[tokio::test]
async fn nothing_of_the_environment_is_inherited() {
    let env = ChildCommand::new("/usr/bin/env").env("A", "1").env("A", "2");
    let mut out = Collect::default();
    env.spawn()
        .expect("env")
        .run(&mut out, std::future::pending::<Stop<()>>())
        .await;
    let text = String::from_utf8(out.stdout).expect("text");
    let names: Vec<_> = text
        .lines()
        .filter(|line| !line.starts_with("DEPUTY_PROCESS="))
        .collect();
    assert_eq!(names, ["A=2"]);
}

#[tokio::test]
async fn a_flood_arrives_whole_and_in_order() {
    struct Count(u64, u64);
    impl OutputSink for Count {
        fn write(&mut self, stream: StreamKind, bytes: &[u8]) {
            let len = u64::try_from(bytes.len()).expect("small");
            match stream {
                StreamKind::Stdout => self.0 += len,
                StreamKind::Stderr => self.1 += len,
            }
        }
    }
    let mut count = Count(0, 0);
    let child = bash("head -c 30000000 /dev/zero; head -c 5000000 /dev/zero >&2")
        .spawn()
        .expect("bash");
    child.run(&mut count, std::future::pending::<Stop<()>>()).await;
    assert_eq!((count.0, count.1), (30_000_000, 5_000_000));
}

#[tokio::test]
async fn what_hears_sigterm_may_end_in_its_own_way() {
    let script = "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.05; done";
    let (ended, out) = run_and_stop(script, Duration::from_secs(30)).await;
    assert_eq!(
        (ended.exit, ended.stopped, ended.killed),
        (Exit::Code(7), Some("wished"), false)
    );
    assert_eq!(out.stdout, b"ready\nbye\n");
}

#[tokio::test]
async fn what_ignores_sigterm_is_killed_after_the_grace() {
    let script = "trap '' TERM; echo ready; while :; do sleep 100; done";
    let grace = Duration::from_millis(200);
    let (ended, out) = run_and_stop(script, grace).await;
    let took = out.took();
    assert_eq!((ended.exit, ended.killed), (Exit::Signal(9), true));
    assert!(took >= grace && took < grace + DRAIN, "{took:?}");
}

#[tokio::test]
async fn the_grace_is_for_the_whole_group_not_only_for_its_first_process() {
    // As in `terraform apply; echo done`: the shell dies of SIGTERM at once, the program has work to do.
    let script = "bash -c 'trap \"sleep 3; echo saved; exit 0\" TERM; echo ready; while :; do sleep 0.05; done'; :";
    let begun = Instant::now();
    let (ended, out) = run_and_stop(script, Duration::from_secs(30)).await;
    assert_eq!(
        (ended.exit, ended.killed, ended.leftovers),
        (Exit::Signal(15), false, 0)
    );
    assert_eq!(String::from_utf8_lossy(&out.stdout), "ready\nsaved\n");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_deaf_process_of_the_group_is_killed_when_the_grace_is_over() {
    let script = "bash -c 'trap \"\" TERM; echo ready; exec >/dev/null 2>&1; while :; do sleep 100; done'; :";
    let grace = Duration::from_millis(500);
    let (ended, out) = run_and_stop(script, grace).await;
    let took = out.took();
    assert_eq!((ended.exit, ended.killed), (Exit::Signal(15), true));
    assert!(took >= grace && took < grace + DRAIN, "{took:?}");
}

#[tokio::test]
async fn dead_processes_that_nobody_reaps_do_not_delay() {
    // Orphans of the group stay zombies until process 1 reaps them, which may take its time.
    let (ended, out) = run_and_stop(
        "for i in 1 2 3 4 5 6 7 8; do sleep 100 & done; echo ready; wait",
        Duration::from_secs(30),
    )
    .await;
    let took = out.took();
    assert_eq!(
        (ended.exit, ended.killed, ended.leftovers),
        (Exit::Signal(15), false, 0)
    );
    // Whatever takes them for alive waits longer: for the pipes, for the grace, or for SIGKILL to work.
    assert!(took < DRAIN, "{took:?}");
}

#[tokio::test]
async fn without_grace_a_child_is_killed_at_once() {
    let (ended, _) = run_and_stop(
        "trap 'echo no' TERM; echo ready; while :; do sleep 0.05; done",
        Duration::ZERO,
    )
    .await;
    assert_eq!(ended.exit, Exit::Signal(9));
}

#[tokio::test]
async fn a_grandchild_that_holds_the_pipe_open_delays_for_two_seconds_at_most() {
    let begun = Instant::now();
    let (ended, out) = run("sleep 100 & echo $!; exit 4").await;
    let took = out.took();
    assert_eq!((ended.exit, ended.leftovers), (Exit::Code(4), 1));
    assert!(
        begun.elapsed() >= DRAIN && took < DRAIN + Duration::from_secs(2),
        "{took:?}"
    );
    assert!(!is_alive(&out.stdout));
}

#[tokio::test]
async fn a_silent_background_job_does_not_outlive_its_child() {
    let (ended, out) = run("sleep 100 >/dev/null 2>&1 & echo $!").await;
    let took = out.took();
    assert_eq!((ended.exit, ended.leftovers), (Exit::Code(0), 1));
    assert!(took < DRAIN && !is_alive(&out.stdout), "{took:?}");
}

#[tokio::test]
async fn a_daemon_that_left_the_group_is_found_and_killed() {
    let script = "setsid bash -c 'trap \"\" TERM HUP; echo $$; exec >/dev/null 2>&1; sleep 100; :' & wait $!; :";
    let (ended, out) = run_and_stop(script, Duration::from_millis(100)).await;
    assert_eq!(ended.stopped, Some("wished"));
    assert!(ended.leftovers >= 1);
    assert!(!is_alive(&out.stdout));
}

#[tokio::test]
async fn a_child_that_nobody_waits_for_is_killed() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("pid");
    let child = bash("sleep 100 & echo $! >\"$1\"; wait")
        .arg("x")
        .arg(&file)
        .spawn()
        .expect("bash");
    let pid = wait_for_file(&file).await;
    drop(child);
    for _ in 0..200 {
        if !is_alive(&pid) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("process {} is alive", String::from_utf8_lossy(&pid));
}

async fn wait_for_file(file: &Path) -> Vec<u8> {
    for _ in 0..500 {
        match fs::read(file) {
            Ok(content) if content.ends_with(b"\n") => return content,
            _ => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    panic!("{} is not written", file.display());
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let error = ChildCommand::new("/no/such/program").spawn().err().expect("an error");
    assert_eq!(error.to_string(), "cannot start /no/such/program");
    assert_eq!(error.source.kind(), io::ErrorKind::NotFound);
}
