//! The agent's policy at every place where it is asked: nothing happens that it forbids.

use deputy_policy::source::PolicySource;
use deputy_task::outcome::{Outcome, World as Left};
use serde_json::json;

use super::bench::{Bench, label};
use super::script::{Do, Script};

fn guarded(mut bench: Bench, rules: &str) -> Bench {
    let path = bench.root.path().join("agent.cedar");
    std::fs::write(&path, rules).expect("written");
    bench.policy = PolicySource::file(path);
    bench
}

fn two_puts() -> Script {
    Script::from([("a", vec![Do::Put("x", "1")]), ("b", vec![Do::Put("y", "1")])])
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_denied_is_rejected_and_was_never_started() {
    let bench = Bench::new(two_puts(), json!({}));
    let mut bench = guarded(bench, "@id(\"none\") forbid (principal, action, resource);");
    let completion = bench.run().await.expect("complete");
    assert_eq!(
        (completion.outcome, completion.world),
        (Outcome::Rejected, Left::Unchanged)
    );
    let failure = completion.failure.expect("a failure");
    assert!(
        failure
            .summary
            .contains("agent-1 forbids running a noopEffect step (step a): none (line 1)"),
        "{failure}"
    );
    assert!(bench.journal.records().is_empty() && bench.world.objects().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_change_that_is_denied_is_not_intended_and_what_stays_is_named() {
    let bench = Bench::new(two_puts(), json!({}));
    let rules = "permit (principal, action, resource);\n@id(\"not-y\") forbid (principal, action == Action::\"effect\", resource) when { context.target == \"y\" };";
    let mut bench = guarded(bench, rules);
    let completion = bench.run().await.expect("complete");
    assert_eq!((completion.outcome, completion.world), (Outcome::Failed, Left::Changed));
    assert_eq!(completion.remains, ["Put x was done and stays"]);
    let failure = completion.failure.expect("a failure");
    assert_eq!((failure.class.as_str(), failure.step.as_str()), ("policy.denied", "b"));
    assert_eq!(bench.world.objects().len(), 1);
    assert!(
        !bench
            .journal
            .records()
            .iter()
            .any(|record| label(record).contains("b/put/y"))
    );
}

/// Guards that the journal is no way around the policy: an undo that it forbids is not executed, and that is said.
#[tokio::test(start_paused = true)]
async fn an_undo_that_is_denied_is_not_executed_and_is_told_as_left() {
    let script = Script::from([("a", vec![Do::Put("x", "1")]), ("b", vec![Do::Fail])]);
    let bench = Bench::new(script, json!({ "onFailure": "rollback" }));
    let rules = "permit (principal, action, resource);\n@id(\"keep\") forbid (principal, action == Action::\"effect\", resource) when { context.undo };";
    let mut bench = guarded(bench, rules);
    let completion = bench.run().await.expect("complete");
    assert_eq!(
        (completion.outcome, completion.world),
        (Outcome::Failed, Left::RollbackFailed)
    );
    assert!(
        completion.remains[0]
            .contains("a: not undone: the policy of agent agent-1 forbids the change restore x to undo the task"),
        "{:?}",
        completion.remains
    );
    assert_eq!(bench.world.objects()["x"], "1");
}

#[tokio::test(start_paused = true)]
async fn without_a_policy_a_task_is_handed_back_untouched() {
    let mut bench = Bench::new(two_puts(), json!({}));
    bench.policy = PolicySource::nothing();
    assert!(bench.run().await.is_none());
    let why = bench.journal.released().expect("handed back");
    assert!(why.contains("has no policy"), "{why}");
    assert!(bench.world.objects().is_empty());
}
