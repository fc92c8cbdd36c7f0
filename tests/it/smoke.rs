//! The flow, thin but whole: a task is queued, pulled, run, logged, reported.

use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use deputy_proto::v1;
use deputy_tests::world::World;
use rustix::process::Signal;

use crate::recipe;

const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_shell_task_succeeds_and_its_output_is_in_the_log() {
    let world = World::with_one_agent().await.expect("a world");
    let task = world
        .submit(
            r#"
apiVersion: deputy.dev/v1
kind: Task
metadata: { name: smoke }
spec:
  steps:
    - name: greet
      shell: { run: "echo hello from $((40 + 2))" }
"#,
        )
        .await
        .expect("queued");
    let done = world.succeeded(&task, SOON).await.expect("succeeded");
    let result = done.result.expect("a result");
    assert_eq!(result.state(), v1::TaskState::Succeeded);
    let logs = world.logs(&task).await.expect("logs");
    assert!(logs.contains("hello from 42"), "{logs}");
}

#[tokio::test]
async fn a_failing_script_fails_the_task_with_its_exit_code() {
    let world = World::with_one_agent().await.expect("a world");
    let document = r#"
apiVersion: deputy.dev/v1
kind: Task
metadata: { name: smoke-fails }
spec:
  steps:
    - name: fail
      shell: { run: "echo to stderr >&2; exit 7" }
"#;
    let task = world.submit(document).await.expect("queued");
    let done = world.ended(&task, SOON).await.expect("ended");
    assert_eq!(done.state(), v1::TaskState::Failed, "{done:#?}");
    let failure = done.result.and_then(|result| result.failure).expect("a failure");
    assert!(failure.summary.contains('7'), "{failure:?}");
}

#[tokio::test]
async fn a_task_is_submitted_and_followed_with_the_command() {
    let world = World::with_one_agent().await.expect("a world");
    let file = world.folder().join("task.yaml");
    let document = "apiVersion: deputy.dev/v1\nkind: Task\nmetadata: { name: by-hand }\nspec:\n  steps:\n    - name: say\n      shell: { run: echo followed }\n";
    std::fs::write(&file, document).expect("written");
    let run = world.deputy(&["submit", "task.yaml", "--follow"]).await.expect("run");
    assert_eq!(run.code, Some(0), "{run:#?}\n{}", world.report());
    assert!(run.stdout.contains("followed"), "{run:#?}");
}

#[tokio::test]
async fn a_watched_task_is_told_to_programs_as_one_event_per_line_also_after_its_end() {
    let world = World::with_one_agent().await.expect("a world");
    let document = "apiVersion: deputy.dev/v1\nkind: Task\nmetadata: { name: watched }\nspec:\n  steps:\n    - name: say\n      shell: { run: sleep 1 }\n";
    let task = world.submit(document).await.expect("queued");
    for what in ["while it runs", "after its end"] {
        let run = world.deputy(&["watch", &task, "-o", "json"]).await.expect("run");
        assert_eq!(run.code, Some(0), "{what}: {run:#?}\n{}", world.report());
        let events: Vec<serde_json::Value> = run
            .stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{what}: {line}: {error}")))
            .collect();
        assert!(events.iter().all(|event| event["type"] == "event"), "{what}: {run:#?}");
        let kinds: Vec<_> = events.iter().filter_map(|event| event["kind"].as_str()).collect();
        for kind in ["submitted", "assigned", "started", "intent", "done"] {
            assert!(kinds.contains(&kind), "{what}: {kind} is missing in {kinds:?}");
        }
        let last = events.last().expect("an event");
        assert_eq!(last["task"]["result"]["state"], "succeeded", "{what}: {last:#}");
    }
}

/// Guards that a reader who is behind does not take the end of the manager for the end of the log.
#[tokio::test]
async fn a_log_that_is_followed_is_whole_after_a_restart_of_the_manager_in_order() {
    let mut world = World::with_one_agent().await.expect("a world");
    let run = "pad=$(printf %0400d 0); for i in $(seq 1 20000); do echo line-$i-$pad; done; sleep 8";
    let task = world
        .submit(&recipe::script("long", "", "", run))
        .await
        .expect("queued");
    let printed = async || {
        let logs = world.tasks.logs(&task).await;
        logs.is_ok_and(|logs| logs.contains("line-20000-"))
    };
    world
        .eventually("it has printed", SOON, printed)
        .await
        .expect("printed");
    let mut command = world.deputy_command().expect("a command");
    command.args(["logs", &task, "--follow", "--raw"]);
    let mut follower = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    // Until no more has room on its way to somebody who does not read.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let manager = world.manager.child().expect("a manager");
    manager.signal(Signal::TERM).expect("told");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut read = follower.stdout.take().expect("piped");
    let followed = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        read.read_to_string(&mut text).map(|_| text)
    });
    manager.ended(SOON).await.expect("ended in order");
    world.manager.start_again().await.expect("up again");
    let text = followed.await.expect("joined").expect("text");
    let output = follower.wait_with_output().expect("ended");
    assert!(output.status.success(), "{output:?}\n{}", world.report());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("the connection to the manager broke"), "{said}");
    let lines: Vec<&str> = text
        .lines()
        .filter_map(|line| line.rsplit_once('-').map(|(line, _)| line))
        .collect();
    let expected: Vec<String> = (1..=20_000).map(|i| format!("line-{i}")).collect();
    assert!(
        lines == expected,
        "{} lines, last {:?}\n{said}",
        lines.len(),
        lines.last()
    );
}
