//! What is believed, what is not, and what only the pool can read.

use std::time::Duration;

use deputy_task::record::{Decision, Direction, EffectClass, Intent};
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn ring(keys: &[u8]) -> KeyRing {
    let key = |byte: &u8| PoolKey::new(Zeroizing::new([*byte; 32])).expect("a key");
    KeyRing::new(keys.iter().map(key).collect()).expect("a ring")
}

fn attempt(task: &str, run: u32, epoch: u64) -> AttemptRef {
    AttemptRef {
        project: deputy_task::id::Project::default_project(),
        task: task.parse().expect("an id"),
        run,
        epoch,
    }
}

fn sent(document: &str) -> Subject {
    Subject::Sent {
        document: document.into(),
        bundles: [("app".to_owned(), "00ff".to_owned())].into(),
    }
}

fn begin(ring: &KeyRing, attempt: &AttemptRef) -> Result<RunSeal, Refused> {
    RunSeal::begin(ring, attempt, &sent("d1"))
}

fn resume(ring: &KeyRing, attempt: &AttemptRef, journal: Vec<Record>) -> Result<(RunSeal, Vec<Record>), Forged> {
    RunSeal::resume(ring, attempt, (&sent("d1"), &[]), journal).map(|resumed| (resumed.seal, resumed.journal))
}

fn record(name: &str, body: RecordBody) -> Record {
    Record {
        key: EffectKey::new("step", name),
        program_version: 1,
        step_kind: "shell".into(),
        body,
        epoch: 0,
        sealing: Sealing::default(),
    }
}

fn fact(name: &str, value: Value) -> Record {
    record(name, RecordBody::Fact(value.into()))
}

fn intent(name: &str, digest: &str) -> Record {
    let intent = Intent {
        class: EffectClass::Bounded {
            budget: Duration::from_secs(20),
        },
        plan_digest: digest.into(),
        direction: Direction::Forward,
        summary: "UpdateService a".into(),
    };
    record(name, RecordBody::Intent(intent))
}

/// A fact, an intent, its result, and a sealed fact, as an attempt writes them.
fn written(seal: &mut RunSeal) -> Vec<Record> {
    let sealed = seal
        .seal(fact("secret", json!({ "TOKEN": "s3cr3t-value" })))
        .expect("sealed");
    [
        fact("before", json!({ "count": 2, "share": 0.1 })),
        intent("update/a", "d1"),
        record("update/a", RecordBody::Done(json!("ok").into())),
        sealed,
    ]
    .map(|record| seal.authenticate(record).expect("authenticated"))
    .into()
}

fn journal() -> Vec<Record> {
    written(&mut begin(&ring(&[1]), &attempt("t1", 1, 1)).expect("a seal"))
}

fn resumed(journal: Vec<Record>) -> Result<Vec<Record>, Forged> {
    resume(&ring(&[1]), &attempt("t1", 1, 2), journal).map(|(_, opened)| opened)
}

fn forged(journal: Vec<Record>) -> Forged {
    resumed(journal).expect_err("forged")
}

fn key(name: &str) -> EffectKey {
    EffectKey::new("step", name)
}

#[test]
fn another_agent_of_the_pool_believes_opens_and_goes_on() {
    let journal = journal();
    let shown = format!("{journal:?}{}", serde_json::to_string(&journal).expect("json"));
    assert!(!shown.contains("s3cr3t-value"), "{shown}");
    let (mut seal, opened) = resume(&ring(&[1]), &attempt("t1", 1, 2), journal.clone()).expect("believed");
    assert_eq!(
        opened[3].body,
        RecordBody::Fact(json!({ "TOKEN": "s3cr3t-value" }).into())
    );
    assert_eq!(
        opened[0].body,
        RecordBody::Fact(json!({ "count": 2, "share": 0.1 }).into())
    );
    let more = seal.authenticate(fact("later", json!(1))).expect("authenticated");
    assert_eq!(more.sealing.mac.as_ref().map(|mac| mac.position), Some(4));
    let all = [journal, vec![more]].concat();
    assert_eq!(resumed(all).expect("believed").len(), 5);
}

/// Guards that a real journal of one task proves nothing for another that is handed out under its id.
#[test]
fn a_journal_belongs_to_one_document_and_its_bundles_and_to_how_it_was_vouched_for() {
    let other_bundle = Subject::Sent {
        document: "d1".into(),
        bundles: [("app".to_owned(), "ff00".to_owned())].into(),
    };
    let signed = Subject::Signed(b"statement".to_vec());
    let as_one = |subject: &Subject, others: &[Subject]| {
        let resumed = RunSeal::resume(&ring(&[1]), &attempt("t1", 1, 2), (subject, others), journal());
        resumed.map(|resumed| resumed.begun)
    };
    for subject in [&sent("d2"), &other_bundle, &signed] {
        let error = as_one(subject, &[]).expect_err("another task");
        assert!(matches!(error, Forged::Altered(_)), "{error}");
    }
    let begun = as_one(&signed, &[sent("d1")]).expect("begun when nobody vouched for it");
    assert_eq!(begun, Some(sent("d1")));
    let nothing = RunSeal::resume(&ring(&[1]), &attempt("t1", 1, 2), (&signed, &[]), Vec::new());
    assert_eq!(nothing.expect("begins").begun, None);
    let redo = record("run", RecordBody::Decision(Decision::Redo { reason: "x".into() }));
    let manager = RunSeal::resume(&ring(&[1]), &attempt("t1", 1, 2), (&signed, &[]), vec![redo]);
    assert_eq!(
        manager.expect("begins").begun,
        None,
        "the manager's own word proves nothing"
    );
}

#[test]
fn a_changed_record_is_seen_whatever_was_changed() {
    type Change = fn(&mut Record);
    let changes: [Change; 7] = [
        |record| record.key = EffectKey::new("step", "other"),
        |record| record.program_version = 2,
        |record| record.step_kind = "ecsRollingDeploy".into(),
        |record| record.body = RecordBody::Done(Value::Null.into()),
        |record| record.body = RecordBody::Fact(json!("other").into()),
        |record| record.sealing.sealed.push(1),
        |record| {
            if let Some(mac) = &mut record.sealing.mac {
                mac.tag[31] ^= 1;
            }
        },
    ];
    for (number, change) in changes.into_iter().enumerate() {
        for at in 0..4 {
            let (mut journal, before) = (journal(), journal());
            change(&mut journal[at]);
            if journal != before {
                let error = forged(journal);
                assert!(
                    matches!(error, Forged::Altered(_)),
                    "change {number} of record {at}: {error}"
                );
            }
        }
    }
    for change in [
        |intent: &mut Intent| intent.plan_digest = "d2".into(),
        |intent: &mut Intent| intent.direction = Direction::Undo,
        |intent: &mut Intent| intent.class = EffectClass::Held { retry_safe: true },
        |intent: &mut Intent| intent.summary.clear(),
    ] {
        let mut journal = journal();
        if let RecordBody::Intent(intent) = &mut journal[1].body {
            change(intent);
        }
        assert_eq!(forged(journal), Forged::Altered(key("update/a")));
    }
}

#[test]
fn a_journal_of_another_run_task_or_pool_is_not_believed() {
    for other in [attempt("t2", 1, 2), attempt("t1", 2, 2)] {
        let error = resume(&ring(&[1]), &other, journal()).expect_err("forged");
        assert_eq!(error, Forged::Altered(key("before")));
    }
    let error = resume(&ring(&[2]), &attempt("t1", 1, 2), journal()).expect_err("forged");
    assert!(matches!(error, Forged::UnknownKey { .. }), "{error}");
}

#[test]
fn a_record_that_is_missing_in_the_middle_is_seen_and_one_at_the_end_is_not() {
    for at in 0..3 {
        let mut journal = journal();
        journal.remove(at);
        assert_eq!(forged(journal), Forged::Missing(u32::try_from(at).expect("small")));
    }
    let mut cut = journal();
    cut.pop();
    assert_eq!(resumed(cut).expect("nobody can know").len(), 3);
}

#[test]
fn records_that_stand_elsewhere_are_seen() {
    let mut swapped = journal();
    swapped.swap(0, 2);
    assert_eq!(forged(swapped), Forged::Reordered(key("before")));
    let mut renumbered = journal();
    for (at, position) in [(0, 1), (1, 0)] {
        if let Some(mac) = &mut renumbered[at].sealing.mac {
            mac.position = position;
        }
    }
    renumbered.swap(0, 1);
    assert!(matches!(forged(renumbered), Forged::Altered(_)));
}

#[test]
fn two_ends_of_one_beginning_cannot_be_put_together() {
    let begun = journal();
    let go_on = |value: &str| {
        let (mut seal, _) = resume(&ring(&[1]), &attempt("t1", 1, 2), begun.clone()).expect("believed");
        let records = ["x", "y"].map(|name| seal.authenticate(fact(name, json!(value))).expect("authenticated"));
        records.to_vec()
    };
    let (one, other) = (go_on("one"), go_on("other"));
    let mixed = [&begun[..], &one[..1], &other[1..]].concat();
    assert_eq!(forged(mixed), Forged::Altered(key("y")));
    let doubled = [&begun[..], &one[..1], &other[..1]].concat();
    assert_eq!(forged(doubled), Forged::Fork(4));
}

#[test]
fn a_stripped_record_is_seen_and_the_managers_decisions_are_its_own() {
    for at in 0..4 {
        let mut journal = journal();
        journal[at].sealing.mac = None;
        assert!(matches!(forged(journal), Forged::Unauthenticated(_)));
    }
    let mut all_stripped = journal();
    all_stripped.iter_mut().for_each(|record| record.sealing.mac = None);
    assert_eq!(forged(all_stripped), Forged::Unauthenticated(key("before")));
    let decision = || record("undo", RecordBody::Decision(Decision::Undo { reason: "lost".into() }));
    let mut decided = journal();
    decided.insert(2, decision());
    assert_eq!(resumed(decided).expect("believed").len(), 5);
    assert_eq!(resumed(vec![decision()]).expect("believed").len(), 1);
    // Taken back, an agent's own decision leaves a hole.
    let mut seal = begin(&ring(&[1]), &attempt("t1", 1, 1)).expect("a seal");
    let mut own = vec![decision(), fact("after", json!(1))];
    own = own
        .into_iter()
        .map(|record| seal.authenticate(record).expect("authenticated"))
        .collect();
    own[0].sealing.mac = None;
    assert_eq!(forged(own), Forged::Missing(0));
}

#[test]
fn an_intent_that_is_written_again_is_the_same_record() {
    let journal = journal();
    let (mut seal, _) = resume(&ring(&[1]), &attempt("t1", 1, 2), journal.clone()).expect("believed");
    let again = seal.authenticate(intent("update/a", "d1")).expect("authenticated");
    assert_eq!(again.sealing, journal[1].sealing);
    let after = seal.authenticate(fact("after", json!(1))).expect("authenticated");
    // A manager keeps it where it was; a journal file has it twice; a journal in memory moves it.
    let kept = [&journal[..], std::slice::from_ref(&after)].concat();
    let twice = [&journal[..], &[again.clone(), after.clone()]].concat();
    let moved = [&journal[..1], &journal[2..], &[again, after]].concat();
    for presented in [kept, twice, moved] {
        resumed(presented).expect("believed");
    }
}

#[test]
fn keys_are_changed_without_a_gap() {
    let old = journal();
    // The new key is added behind the old one, then before it: what was begun goes on with its own key.
    for keys in [&[1, 2][..], &[2, 1]] {
        let (mut seal, _) = resume(&ring(keys), &attempt("t1", 1, 2), old.clone()).expect("believed");
        let more = seal.authenticate(fact("later", json!(1))).expect("authenticated");
        assert_eq!(resumed([&old[..], &[more]].concat()).expect("believed").len(), 5);
    }
    let (new, _) = resume(&ring(&[2, 1]), &attempt("t1", 1, 1), Vec::new()).expect("begun");
    assert_eq!(new.key(), ring(&[2]).first().id());
    // When the old key is gone, nobody opens what it sealed.
    let error = resume(&ring(&[2]), &attempt("t1", 1, 2), old.clone()).expect_err("forged");
    assert!(matches!(error, Forged::UnknownKey { .. }), "{error}");
    let mut other = begin(&ring(&[2]), &attempt("t1", 1, 1)).expect("a seal");
    let mixed = [&old[..1], &written(&mut other)[1..]].concat();
    let error = resume(&ring(&[1, 2]), &attempt("t1", 1, 2), mixed).expect_err("forged");
    assert_eq!(error, Forged::MixedKeys(key("update/a")));
}

#[test]
fn a_sealed_value_opens_only_as_its_own_record() {
    let seal = begin(&ring(&[1]), &attempt("t1", 1, 1)).expect("a seal");
    let sealed = seal.seal(fact("one", json!("value"))).expect("sealed");
    assert_eq!(sealed.body, RecordBody::Fact(Value::Null.into()));
    let open = |record: Record| seal.open(record).map(|record| record.body);
    assert_eq!(open(sealed.clone()), Ok(RecordBody::Fact(json!("value").into())));
    let mut elsewhere = sealed.clone();
    elsewhere.key = key("two");
    assert_eq!(open(elsewhere), Err(Forged::Altered(key("two"))));
    let mut done = sealed.clone();
    done.body = RecordBody::Done(Value::Null.into());
    assert_eq!(open(done), Err(Forged::Altered(key("one"))));
    for length in 0..sealed.sealing.sealed.len() {
        let mut cut = sealed.clone();
        cut.sealing.sealed.truncate(length);
        assert!(length == 0 || open(cut).is_err(), "{length}");
    }
    let other = begin(&ring(&[1]), &attempt("t1", 2, 1)).expect("a seal");
    assert_eq!(
        other.open(sealed).map(|record| record.body),
        Err(Forged::Altered(key("one")))
    );
}

#[test]
fn digests_tell_plans_effects_runs_and_pools_apart() {
    let seal = |pool: u8, run| begin(&ring(&[pool]), &attempt("t1", run, 1)).expect("a seal");
    let one = seal(1, 1).digest(&key("a"), &json!({ "b": 1, "a": 2 }));
    assert_eq!(one, seal(1, 1).digest(&key("a"), &json!({ "a": 2, "b": 1 })));
    assert_eq!(one.len(), 64);
    for other in [
        seal(1, 1).digest(&key("a"), &json!({ "a": 2 })),
        seal(1, 1).digest(&key("b"), &json!({ "a": 2, "b": 1 })),
        seal(1, 2).digest(&key("a"), &json!({ "a": 2, "b": 1 })),
        seal(2, 1).digest(&key("a"), &json!({ "a": 2, "b": 1 })),
    ] {
        assert_ne!(one, other);
    }
}

#[test]
fn the_place_of_a_refused_record_is_free_again() {
    let mut seal = begin(&ring(&[1]), &attempt("t1", 1, 1)).expect("a seal");
    let mut journal = written(&mut seal);
    let refused = seal.authenticate(intent("update/b", "d")).expect("authenticated");
    seal.retract(&refused);
    // Not twice, and not what stands.
    seal.retract(&refused);
    seal.retract(&journal[3]);
    journal.push(seal.authenticate(fact("ending", json!(1))).expect("authenticated"));
    journal.push(seal.authenticate(intent("update/b", "d")).expect("authenticated"));
    assert_eq!(resumed(journal.clone()).expect("believed").len(), 6);
    seal.retract(&journal[4]);
    journal.push(seal.authenticate(fact("last", json!(1))).expect("authenticated"));
    assert_eq!(resumed(journal).expect("believed").len(), 7);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(".{0,5}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_was_written_and_went_through_json_is_believed(
        values in proptest::collection::vec((any_json(), any::<bool>()), 1..6), tamper in any::<proptest::sample::Index>(),
    ) {
        let mut seal = begin(&ring(&[1]), &attempt("t1", 1, 1)).expect("a seal");
        let mut journal = Vec::new();
        let mut expected = Vec::new();
        for (number, (value, sealed)) in values.into_iter().enumerate() {
            let mut record = fact(&number.to_string(), value.clone());
            if sealed {
                record = seal.seal(record).expect("sealed");
            }
            let record = seal.authenticate(record).expect("authenticated");
            expected.push(RecordBody::Fact(value.into()));
            journal.push(record);
        }
        let text = serde_json::to_string(&journal).expect("json");
        let journal: Vec<Record> = serde_json::from_str(&text).expect("json");
        let opened: Vec<String> = resumed(journal.clone())?.into_iter().map(|record| format!("{:?}", record.body)).collect();
        let expected: Vec<String> = expected.iter().map(|body| format!("{body:?}")).collect();
        prop_assert_eq!(opened, expected);
        let mut tampered = journal;
        let at = tamper.index(tampered.len());
        if let Some(mac) = &mut tampered[at].sealing.mac {
            mac.tag[0] ^= 0x80;
        }
        prop_assert!(resumed(tampered).is_err());
    }
}
