//! A secret may be an ordinary word: what a program acts on stays what it is, in this attempt and in every other.

use std::collections::BTreeMap;
use std::sync::Arc;

use deputy_task::outcome::{Completion, Outcome, World as Left};
use serde_json::json;

use super::bench::{Bench, Crash, label};
use super::script::{Do, Instead, Script};
use super::sealed::ring;

const WORD: &str = "shop";
const SECRET: &str = "made-Secret-9931";

/// A step makes the secret, the next does that, and the last fails.
fn bench(secret: &'static str, actions: Vec<Do>, last: Do, spec: serde_json::Value) -> Bench {
    let script = Script::from([("a", vec![Do::Secret("o", secret)]), ("b", actions), ("c", vec![last])]);
    let mut all = json!({ "onFailure": "rollback" });
    for (key, value) in spec.as_object().into_iter().flatten() {
        all[key] = value.clone();
    }
    Bench::new(script, all)
}

fn there(bench: &Bench, name: &str, value: &str) -> BTreeMap<String, String> {
    bench.world.state().objects.insert(name.into(), value.into());
    bench.world.objects()
}

fn ends(completion: &Completion) -> (Outcome, Left, &str) {
    let class = completion.failure.as_ref().map_or("", |failure| failure.class.as_str());
    (completion.outcome, completion.world, class)
}

fn journal(bench: &Bench) -> String {
    serde_json::to_string(bench.journal.records()).expect("json")
}

#[tokio::test(start_paused = true)]
async fn an_undo_puts_back_what_has_a_word_in_it_that_is_also_a_secret() {
    let spec = json!({ "exclusiveKey": WORD });
    let mut bench = bench(WORD, vec![Do::Put("shop-web", "2")], Do::Fail, spec);
    let before = there(&bench, "shop-web", "shop:1");
    let completion = bench.run().await.expect("complete");
    assert_eq!(
        ends(&completion),
        (Outcome::Failed, Left::RolledBack, "script.fail"),
        "{completion:?}"
    );
    assert_eq!(bench.world.objects(), before);
}

#[tokio::test(start_paused = true)]
async fn another_attempt_goes_on_and_undoes_with_a_word_that_is_also_a_secret() {
    for (last, outcome, left) in [
        (Do::Output("o", "v"), Outcome::Succeeded, Left::Changed),
        (Do::Fail, Outcome::Failed, Left::RolledBack),
    ] {
        let spec = json!({ "exclusiveKey": WORD });
        let mut bench = bench(WORD, vec![Do::Put("shop-web", "2")], last, spec);
        let before = there(&bench, "shop-web", "shop:1");
        bench.world.state().crash = Some((1, Instead::NoReply));
        assert!(bench.attempt(Some(Crash::InTheWorld)).await);
        bench.world.state().crash = None;
        let completion = bench.run().await.expect("complete");
        assert_eq!(
            (completion.outcome, completion.world),
            (outcome, left),
            "{completion:?}"
        );
        assert_eq!(bench.world.objects() == before, outcome == Outcome::Failed);
    }
}

/// Guards that nothing is changed that could only be put back as `***`, and that a pool key makes it possible.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_recorded_as_it_is_refuses_the_step_or_is_sealed() {
    for keys in [None, Some(ring(&[1]))] {
        let mut bench = bench(SECRET, vec![Do::Put("x", "2")], Do::Fail, json!({}));
        bench.pool_keys.clone_from(&keys);
        let before = there(&bench, "x", "made-Secret-9931:1");
        let completion = bench.run().await.expect("complete");
        let (left, class, changes) = match keys {
            None => (Left::Unchanged, "journal.secretValue", 0),
            Some(_) => (Left::RolledBack, "script.fail", 2),
        };
        assert_eq!(ends(&completion), (Outcome::Failed, left, class), "{completion:?}");
        assert_eq!(
            (bench.world.objects(), bench.world.state().mutations.len()),
            (before, changes)
        );
        let said = format!("{completion:?} {:?} {}", bench.progress, journal(&bench));
        assert!(!said.contains(SECRET), "{said}");
    }
}

/// Guards that what was done is acted on as it was answered, though the answer cannot be recorded: whoever goes on looks.
#[tokio::test(start_paused = true)]
async fn a_result_that_holds_a_secret_is_looked_for_again_and_never_altered() {
    for crash in [None, Some(Crash::WriteLost(6))] {
        let mut bench = bench(SECRET, vec![Do::Answer("x", "made-Secret-9931:7")], Do::Fail, json!({}));
        if crash.is_some() {
            assert!(bench.attempt(crash).await);
            assert_eq!(bench.world.objects().len(), 1, "{}", journal(&bench));
        }
        let completion = bench.run().await.expect("complete");
        assert_eq!(
            ends(&completion),
            (Outcome::Failed, Left::RolledBack, "script.fail"),
            "{completion:?}"
        );
        assert!(bench.world.objects().is_empty());
        assert!(!journal(&bench).contains(SECRET));
    }
}

/// Guards that a word which the manager has anyway stops no task, wherever it has it from.
#[tokio::test(start_paused = true)]
async fn a_name_made_of_what_the_manager_knows_stops_no_task() {
    let evaluated = |run: &str| {
        let noop = |name: &str| json!({ "name": name, "noopEffect": {} });
        json!({ "steps": [noop("a"), { "name": "b", "shell": { "run": run } }, noop("c")] })
    };
    for (secret, name, spec) in [
        ("scripted", "scripted-web", json!({})),
        (
            "prod",
            "checkout-prod",
            evaluated("${{ inputs.app }}-${{ inputs.env }}"),
        ),
        ("stag", "checkout-staging", evaluated("${{ inputs.app }}")),
        ("CHECK", "CHECKOUT", evaluated("${{ inputs.app | upper }}")),
        ("default", "ConfigMap/default/web", json!({})),
        ("apps", "Deployment.apps/team/web", json!({})),
    ] {
        let mut bench = bench(secret, vec![Do::Put(name, "1")], Do::Output("o", "v"), spec);
        bench.inputs =
            Arc::new(serde_json::from_value(json!({ "app": "checkout", "env": "staging" })).expect("inputs"));
        let completion = bench.run().await.expect("complete");
        assert_eq!(completion.outcome, Outcome::Succeeded, "{secret}: {completion:?}");
        let labels: Vec<_> = bench.journal.records().iter().map(label).collect();
        assert!(labels.contains(&format!("intent b/put/{name}")), "{labels:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_spans_the_parts_of_a_name_is_seen() {
    let mut bench = bench(
        "team/web",
        vec![Do::Put("Thing.example/team/web", "1")],
        Do::Fail,
        json!({}),
    );
    let completion = bench.run().await.expect("complete");
    assert_eq!(
        ends(&completion),
        (Outcome::Failed, Left::Unchanged, "journal.secretName"),
        "{completion:?}"
    );
    assert!(bench.world.state().mutations.is_empty());
}
