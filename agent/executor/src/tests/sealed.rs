//! Runs of a pool that has a key: what is believed, what is not, and what nobody else can read.

use std::sync::Arc;

use deputy_seal::pool_key::PoolKey;
use deputy_seal::{KeyRing, RunSeal, Subject};
use deputy_steps::effect::Secrecy;
use deputy_task::outcome::{Outcome, World as Left};
use deputy_task::record::{EffectKey, Record, RecordBody};
use serde_json::json;

use super::bench::{Bench, Crash, label};
use super::script::{Do, Script};
use crate::local::MemoryJournal;

const SECRET: &str = "a-value-that-nobody-may-read";

/// The same keys for the same numbers.
pub(super) fn ring(keys: &[u8]) -> Arc<KeyRing> {
    let key = |byte: &u8| PoolKey::new([*byte; 32].into()).expect("a key");
    Arc::new(KeyRing::new(keys.iter().map(key).collect()).expect("a ring"))
}

fn bench(script: Script) -> Bench {
    let mut bench = Bench::new(script, json!({ "onFailure": "rollback" }));
    bench.pool_keys = Some(ring(&[1]));
    bench
}

fn puts() -> Script {
    Script::from([
        ("a", vec![Do::Put("x", "1"), Do::Output("o", "v")]),
        ("b", vec![Do::Put("y", "2")]),
    ])
}

/// What the pool runs.
pub(super) fn sent(bench: &Bench) -> Subject {
    let assignment = bench.assignment(1);
    let bundles = assignment.bundles.into_iter().map(|(name, blob)| (name, blob.sha256));
    Subject::Sent {
        document: assignment.digest,
        bundles: bundles.collect(),
    }
}

/// Its agent died after `a` and before `b` changed anything.
async fn interrupted() -> Bench {
    let mut bench = bench(puts());
    assert!(bench.attempt(Some(Crash::WriteLost(8))).await);
    assert!(
        bench.journal.records().len() >= 5,
        "{:?}",
        labels(bench.journal.records())
    );
    bench
}

fn labels(records: &[Record]) -> Vec<String> {
    records.iter().map(label).collect()
}

fn text(bench: &Bench) -> String {
    serde_json::to_string(bench.journal.records()).expect("json")
}

#[tokio::test(start_paused = true)]
async fn every_record_is_authenticated_and_another_agent_of_the_pool_goes_on() {
    let mut bench = interrupted().await;
    let completion = bench.run().await.expect("complete");
    assert_eq!(completion.outcome, Outcome::Succeeded, "{completion:?}");
    assert_eq!(bench.world.state().mutations.len(), 2);
    let places: Vec<_> = bench
        .journal
        .records()
        .iter()
        .map(|record| {
            let mac = record.sealing.mac.as_ref().expect("authenticated");
            (mac.position, mac.key.clone())
        })
        .collect();
    let expected = (0..).zip(std::iter::repeat(ring(&[1]).first().id().clone()));
    assert_eq!(places, expected.take(places.len()).collect::<Vec<_>>());
}

/// Runs on with a journal that somebody has changed: nothing may happen.
async fn not_believed(name: &str, change: impl FnOnce(&mut Vec<Record>)) -> String {
    let mut bench = interrupted().await;
    let mut records = bench.journal.records().to_vec();
    change(&mut records);
    bench.journal = MemoryJournal::resume(records);
    let (before, changes) = (bench.journal.records().len(), bench.world.state().mutations.clone());
    let completion = bench.run().await.expect("complete");
    assert_eq!(
        (completion.outcome, completion.world),
        (Outcome::Failed, Left::Unknown),
        "{name}"
    );
    assert_eq!(
        bench.world.state().mutations,
        changes,
        "{name}: nothing is done, nothing is undone"
    );
    assert_eq!(bench.journal.records().len(), before, "{name}: nothing is written");
    let failure = completion.failure.expect("why");
    assert_eq!(failure.class, "journal.forged", "{name}");
    assert!(failure.hint.contains("nothing was undone"), "{}", failure.hint);
    failure.summary
}

#[tokio::test(start_paused = true)]
async fn a_journal_that_was_tampered_with_stops_the_task() {
    let mut told = vec![
        not_believed("a changed fact", |records| {
            records[0].body = RecordBody::Fact("evil".into())
        })
        .await,
        not_believed("a stripped record", |records| records[1].sealing.mac = None).await,
        not_believed("a missing record", |records| drop(records.remove(1))).await,
        not_believed("a record under another key", |records| {
            records[2].key = EffectKey::new("a", "put/z")
        })
        .await,
        not_believed("records at each other's place", |records| records.swap(0, 2)).await,
    ];
    let foreign = {
        let mut other = bench(puts());
        other.pool_keys = Some(ring(&[2]));
        other.attempt(Some(Crash::WriteLost(8))).await;
        other.journal.records().to_vec()
    };
    let all = foreign.clone();
    told.push(not_believed("an unknown key", move |records| *records = all).await);
    told.push(not_believed("records of two keys", move |records| records[1] = foreign[1].clone()).await);
    let plain = {
        let mut other = bench(puts());
        other.pool_keys = None;
        other.attempt(Some(Crash::WriteLost(8))).await;
        other.journal.records().to_vec()
    };
    told.push(not_believed("a journal of agents without a key", move |records| *records = plain).await);
    let (own, other) = (ring(&[1]).first().id().to_string(), ring(&[2]).first().id().to_string());
    let told = told.join("\n").replace(&own, "OWN").replace(&other, "OTHER");
    insta::assert_snapshot!(told, @r"
    the journal of this run is not what agents of this pool wrote: no agent of this pool wrote the record a/before/x like this: it was changed, or belongs to another run, task, document, bundle or place
    the journal of this run is not what agents of this pool wrote: the record a/put/x is not authenticated, and agents of this pool authenticate what they write
    the journal of this run is not what agents of this pool wrote: record 1 of the run is missing, and later ones are there
    the journal of this run is not what agents of this pool wrote: no agent of this pool wrote the record a/put/z like this: it was changed, or belongs to another run, task, document, bundle or place
    the journal of this run is not what agents of this pool wrote: the record a/before/x does not stand where it was written
    the journal of this run is not what agents of this pool wrote: the record a/before/x is authenticated with the pool key OTHER, which this agent does not have
    the journal of this run is not what agents of this pool wrote: the record a/put/x is authenticated with another pool key than the one before it
    the journal of this run is not what agents of this pool wrote: the record a/before/x is not authenticated, and agents of this pool authenticate what they write
    ");
}

#[tokio::test(start_paused = true)]
async fn a_record_of_another_run_is_not_believed() {
    let mut bench = interrupted().await;
    let other = super::bench::attempt(1);
    let mut next_run = other.clone();
    next_run.run = 2;
    let records = bench.journal.records().to_vec();
    let subject = sent(&bench);
    let resume = |attempt, records| RunSeal::resume(&ring(&[1]), attempt, (&subject, &[]), records);
    let believed = resume(&other, records.clone()).expect("its own").journal;
    assert_eq!(believed.len(), records.len());
    assert!(resume(&next_run, records).is_err());
    assert_eq!(bench.run().await.expect("complete").outcome, Outcome::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn an_agent_without_the_key_gives_the_run_back_untouched() {
    let mut bench = interrupted().await;
    bench.pool_keys = None;
    let changes = bench.world.state().mutations.len();
    assert_eq!(bench.run().await, None);
    let why = bench.journal.released().expect("given back").to_owned();
    assert!(why.contains("this agent has no pool key (--pool-key-file)"), "{why}");
    assert_eq!(bench.world.state().mutations.len(), changes);
}

#[tokio::test(start_paused = true)]
async fn a_run_goes_on_with_its_key_while_keys_are_changed() {
    for next in [&[1, 2][..], &[2, 1]] {
        let mut bench = interrupted().await;
        bench.pool_keys = Some(ring(next));
        assert_eq!(bench.run().await.expect("complete").outcome, Outcome::Succeeded);
        let keys: Vec<_> = bench
            .journal
            .records()
            .iter()
            .flat_map(|record| &record.sealing.mac)
            .collect();
        assert!(keys.iter().all(|mac| mac.key == *ring(&[1]).first().id()));
    }
}

#[tokio::test(start_paused = true)]
async fn what_could_carry_a_secret_is_sealed_and_read_by_the_next_attempt() {
    let script = || {
        Script::from([(
            "a",
            vec![
                Do::Keep(SECRET, Secrecy::Secret("what a test keeps")),
                Do::Put("x", "1"),
            ],
        )])
    };
    let mut sealed = bench(script());
    assert!(sealed.attempt(Some(Crash::WriteLost(5))).await);
    assert_eq!(labels(sealed.journal.records())[0], "fact a/kept");
    assert!(!text(&sealed).contains(SECRET), "{}", text(&sealed));
    assert_eq!(sealed.run().await.expect("complete").outcome, Outcome::Succeeded);
    let mut without = bench(script());
    without.pool_keys = None;
    let completion = without.run().await.expect("complete");
    assert_eq!(
        (completion.outcome, completion.world),
        (Outcome::Failed, Left::Unchanged)
    );
    assert!(without.journal.records().is_empty() && without.world.state().mutations.is_empty());
    let failure = completion.failure.expect("why");
    insta::assert_snapshot!(format!("{}: {}\nhint: {}", failure.class, failure.summary, failure.hint), @r"
    journal.noPoolKey: what a test keeps could carry secrets and must be kept to be put back, and this agent has no pool key to seal it with
    hint: make one with `deputy-agent pool-key new`, give the same file to every agent of the pool with --pool-key-file, and run the task again
    ");
    // What only should not be guessed is sealed where it can be, and refuses nothing.
    let private = || bench(Script::from([("a", vec![Do::Keep(SECRET, Secrecy::Private)])]));
    for (keys, readable) in [(Some(ring(&[1])), false), (None, true)] {
        let mut bench = private();
        bench.pool_keys = keys;
        assert_eq!(bench.run().await.expect("complete").outcome, Outcome::Succeeded);
        assert_eq!(text(&bench).contains(SECRET), readable);
    }
}

#[tokio::test(start_paused = true)]
async fn digests_of_plans_are_keyed() {
    let digest = async |keys: Option<Arc<KeyRing>>| {
        let mut bench = bench(puts());
        bench.pool_keys = keys;
        bench.run().await.expect("complete");
        bench.journal.records().iter().find_map(|record| match &record.body {
            RecordBody::Intent(intent) => Some(intent.plan_digest.clone()),
            _ => None,
        })
    };
    let (plain, one, two) = (
        digest(None).await,
        digest(Some(ring(&[1]))).await,
        digest(Some(ring(&[2]))).await,
    );
    assert!(plain != one && one != two && plain != two);
    assert_eq!(one, digest(Some(ring(&[1]))).await);
    let known = crate::plan::digest(&json!(["x", "1", null]));
    assert_eq!(
        plain,
        Some(known),
        "without a key, anybody can try out what was planned"
    );
}
