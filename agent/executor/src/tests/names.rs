//! Names in the journal are exact, so what they would show is not done at all.

use std::time::Duration;

use deputy_steps::effect::RetrySafe;
use deputy_task::outcome::{Outcome, World as Left};
use serde_json::json;

use super::bench::{Bench, label};
use super::script::{Do, Script};

const SECRET: &str = "made-Secret-9931";

/// A step makes the secret, and the next does that.
fn bench(action: Do, spec: serde_json::Value) -> Bench {
    Bench::new(
        Script::from([("a", vec![Do::Secret("o", SECRET)]), ("b", vec![action])]),
        spec,
    )
}

#[tokio::test(start_paused = true)]
async fn a_change_whose_name_holds_a_secret_is_refused_before_it_is_made() {
    let child = |name| Do::Child(name, Duration::from_secs(1), RetrySafe::No);
    let within = "Deployment.apps/shop/web-made-Secret-9931-x";
    for action in [Do::Put(SECRET, "1"), child(SECRET), child(within)] {
        let told = format!("{action:?}");
        let mut bench = bench(action, json!({ "onFailure": "rollback" }));
        let completion = bench.run().await.expect("complete");
        assert_eq!(
            (completion.outcome, completion.world),
            (Outcome::Failed, Left::Unchanged),
            "{told}: {completion:?}"
        );
        let failure = completion.failure.clone().expect("why");
        assert_eq!(
            (failure.class.as_str(), failure.step.as_str()),
            ("journal.secretName", "b"),
            "{told}"
        );
        assert!(failure.summary.contains("***"), "{told}: {}", failure.summary);
        let state = bench.world.state();
        assert!(state.mutations.is_empty() && state.children.is_empty(), "{told}");
        let said = format!(
            "{completion:?} {:?} {:?} {}",
            bench.journal.records(),
            bench.progress,
            bench.log.lock().expect("log")
        );
        assert!(!said.contains(SECRET), "{told}: {said}");
    }
}

/// Whoever reads the journal has the document already: an ordinary word that is also a secret stops nothing.
#[tokio::test(start_paused = true)]
async fn a_name_of_the_document_may_hold_what_is_a_secret_elsewhere() {
    // Nor does one that is a word of the program's own.
    let secrets = vec![Do::Secret("o", SECRET), Do::Secret("word", "before")];
    let script = Script::from([("a", secrets), ("b", vec![Do::Put("web-made-Secret-9931", "1")])]);
    let mut bench = Bench::new(script, json!({ "exclusiveKey": "web-made-Secret-9931" }));
    let completion = bench.run().await.expect("complete");
    assert_eq!(completion.outcome, Outcome::Succeeded, "{completion:?}");
    let labels: Vec<_> = bench.journal.records().iter().map(label).collect();
    assert!(labels.contains(&format!("intent b/put/web-{SECRET}")), "{labels:?}");
}

/// Keys of what is recorded are masked as its values are; the fields of our own records are what they are.
#[tokio::test(start_paused = true)]
async fn the_keys_of_recorded_values_are_masked() {
    let mut bench = bench(Do::Labels("x-made-Secret-9931", SECRET), json!({}));
    bench.run().await.expect("complete");
    let recorded = serde_json::to_string(bench.journal.records()).expect("json");
    assert!(
        recorded.contains(r#"{"labels":{"x-***":"***"}}"#) && !recorded.contains(SECRET),
        "{recorded}"
    );
}
