//! The flow, thin but whole: a task is queued, pulled, run, logged, reported.

use std::time::Duration;

use deputy_proto::v1;
use deputy_tests::world::World;

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
