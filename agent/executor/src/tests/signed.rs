//! Signed tasks against a manager that changes them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use deputy_policy::signers::TrustedSigners;
use deputy_policy::source::PolicySource;
use deputy_seal::{RunSeal, Subject};
use deputy_task::message::{Assignment, BlobRef};
use deputy_task::outcome::Outcome;
use deputy_task::record::{Decision, EffectKey, Record, RecordBody};
use deputy_task::signed::Signed;
use serde_json::json;

use super::bench::{Bench, Crash};
use super::lifecycle::refusals;
use super::script::{Do, Script};
use super::sealed::{ring, sent};
use crate::arguments::{task_key, task_record};
use crate::local::MemoryJournal;
use crate::vouch::{Begun, Problem, Vouched, vouch};

const DOCUMENT: &str = "apiVersion: deputy.dev/v1\nkind: Task\nmetadata: { name: signed }\nspec: { steps: [ { name: a, shell: { run: \"true\" } } ] }\n";

struct Signer {
    key: Ed25519KeyPair,
    folder: tempfile::TempDir,
}

impl Signer {
    fn new() -> Self {
        let key = Ed25519KeyPair::generate().expect("a key");
        let folder = tempfile::tempdir().expect("a folder");
        let der = key.public_key().as_der().expect("der");
        let text = base64::engine::general_purpose::STANDARD.encode(der.as_ref());
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n");
        std::fs::write(folder.path().join("pipeline.pem"), pem).expect("written");
        Self { key, folder }
    }

    fn trusted(&self) -> TrustedSigners {
        TrustedSigners::at(self.folder.path().to_owned())
    }

    fn sign(&self, not_after: u64, blob: &BlobRef) -> Signed {
        self.sign_document(DOCUMENT, not_after, blob)
    }

    fn sign_document(&self, document: &str, not_after: u64, blob: &BlobRef) -> Signed {
        let mut signed = Signed {
            document: document.into(),
            inputs: "{}".into(),
            bundles: [("bundle".to_owned(), blob.sha256.clone())].into(),
            project: "default".into(),
            request: "r-1".into(),
            not_after,
            signature: String::new(),
        };
        let statement = signed.statement().expect("signable");
        signed.signature = hex::encode(self.key.sign(&statement).as_ref());
        signed
    }
}

fn assignment(signer: &Signer, not_after: u64) -> Assignment {
    let mut bench = Bench::new(Script::from([("a", vec![Do::Put("x", "1")])]), json!({}));
    bench.journal.next_epoch();
    let mut assignment = bench.assignment(1);
    let blob = assignment.bundles["bundle"].clone();
    assignment.signed = Some(Arc::new(signer.sign(not_after, &blob)));
    assignment
}

/// As an agent without labels judges it that allows no time for undo.
fn judged(signer: &Signer, assignment: &Assignment, begun: Begun) -> Vouched {
    vouch(&signer.trusted(), &BTreeMap::new(), assignment).at(begun, Duration::ZERO)
}

/// Guards that what was signed is what is run, whatever else the manager sends as its reading of it.
#[test]
fn what_was_signed_is_run_and_not_what_the_manager_made_of_it() {
    let signer = Signer::new();
    let vouched = judged(&signer, &assignment(&signer, u64::MAX), Begun::Unproven);
    assert_eq!(vouched.signer.as_deref(), Some("pipeline"), "{:?}", vouched.problem);
    assert_eq!(vouched.document.metadata.name, "signed");
    assert_eq!(vouched.document.spec.steps[0].kind.name(), "shell");
}

#[test]
fn a_signature_is_good_for_one_document_its_bundles_its_project_and_its_time() {
    let signer = Signer::new();
    let changed = |change: &dyn Fn(&mut Assignment)| {
        let mut assignment = assignment(&signer, u64::MAX);
        change(&mut assignment);
        judged(&signer, &assignment, Begun::Unproven)
    };
    let tamper = |change: fn(&mut Signed)| {
        let vouched = changed(&|assignment| {
            let mut signed = assignment.signed.as_deref().expect("signed").clone();
            change(&mut signed);
            assignment.signed = Some(Arc::new(signed));
        });
        assert_eq!(vouched.signer, None);
        assert!(
            vouched
                .note
                .is_some_and(|note| note.contains("changed after it was signed"))
        );
    };
    tamper(|signed| signed.document = signed.document.replace("true", "curl evil"));
    tamper(|signed| signed.inputs = "{\"a\":1}".into());
    tamper(|signed| drop(signed.bundles.insert("bundle".into(), "00".into())));
    tamper(|signed| signed.not_after -= 1);
    let refused = |vouched: Vouched| match vouched.problem {
        Some(Problem::Task(failure)) => failure.summary,
        other => panic!("{other:?}"),
    };
    let bundles = changed(&|assignment| {
        if let Some(blob) = assignment.bundles.get_mut("bundle") {
            blob.sha256 = "0".repeat(64);
        }
    });
    assert!(refused(bundles).contains("the bundles are others"));
    let project = changed(&|assignment| assignment.attempt.project = "other".parse().expect("a project"));
    assert!(refused(project).contains("signed for project default, not other"));
    let late = assignment(&signer, 1);
    let expired = judged(&signer, &late, Begun::Unproven);
    assert!(refused(expired).contains("time of the task's signature is over"));
    // What has begun, by the pool's own proof, is finished, if its own time is not over too.
    let begun = judged(&signer, &late, Begun::Proven);
    assert!(begun.signer.is_none() && begun.problem.is_none() && begun.note.is_some());
    let begun = judged(&signer, &assignment(&signer, ago(1800)), Begun::Proven);
    assert_eq!(begun.signer.as_deref(), Some("pipeline"), "{:?}", begun.problem);
    let stripped = changed(&|assignment| assignment.signed = None);
    assert!(stripped.signer.is_none() && stripped.problem.is_none());
    let stranger = judged(&Signer::new(), &assignment(&signer, u64::MAX), Begun::Unproven);
    assert!(stranger.signer.is_none() && stranger.note.is_some());
    std::fs::write(signer.folder.path().join("x.pem"), "no key").expect("written");
    let unusable = judged(&signer, &assignment(&signer, u64::MAX), Begun::Unproven);
    assert!(
        matches!(unusable.problem, Some(Problem::Agent(_))),
        "{:?}",
        unusable.problem
    );
}

/// Guards that a policy about signers is asked with the signature that was verified, and with nothing else.
#[tokio::test(start_paused = true)]
async fn a_stripped_signature_is_an_unsigned_task_and_is_rejected_where_one_is_needed() {
    let mut bench = Bench::new(Script::from([("a", vec![Do::Put("x", "1")])]), json!({}));
    let path = bench.root.path().join("agent.cedar");
    std::fs::write(&path, "permit (principal == Signer::\"pipeline\", action, resource);").expect("written");
    bench.policy = PolicySource::file(path);
    let completion = bench.run().await.expect("complete");
    assert_eq!(completion.outcome, Outcome::Rejected);
    assert!(bench.world.objects().is_empty());
}

/// The record as an agent of the pool writes it.
fn written(subject: &Subject, record: Record) -> Vec<Record> {
    let mut seal = RunSeal::begin(&ring(&[1]), &super::bench::attempt(1), subject).expect("a seal");
    vec![seal.authenticate(record).expect("authenticated")]
}

/// Guards that neither the manager's own word nor a real journal of something else makes an expired signature good.
#[tokio::test(start_paused = true)]
async fn only_what_the_pool_wrote_for_this_very_task_proves_that_it_has_begun() {
    let signer = Signer::new();
    let bench = |journal: &dyn Fn(&Assignment) -> Vec<Record>| {
        let mut bench = Bench::new(Script::from([("a", vec![Do::Put("x", "1")])]), json!({}));
        bench.signers = signer.trusted();
        bench.pool_keys = Some(ring(&[1]));
        let blob = bench.assignment(1).bundles["bundle"].clone();
        bench.signed = Some(Arc::new(signer.sign(ago(60), &blob)));
        bench.journal = MemoryJournal::resume(journal(&bench.assignment(1)));
        bench
    };
    let agent = task_record(task_key("agent"), RecordBody::Fact(json!({}).into()));
    let written = |subject: &Subject| written(subject, agent.clone());
    let mut begun = bench(&|assignment| written(&statement(assignment.signed.as_deref())));
    assert_eq!(begun.run().await.expect("complete").outcome, Outcome::Succeeded);

    let redo = Decision::Redo { reason: "look".into() };
    let mut word = bench(&|_| {
        vec![task_record(
            EffectKey::new("a", "run"),
            RecordBody::Decision(redo.clone()),
        )]
    });
    let completion = word.run().await.expect("complete");
    assert_eq!(completion.outcome, Outcome::Rejected);
    assert!(completion.failure.expect("why").summary.contains("signature is over"));

    let other = Subject::Signed(b"the statement of another task".to_vec());
    let mut foreign = bench(&|_| written(&other));
    assert_eq!(
        foreign.run().await.expect("complete").failure.expect("why").class,
        "journal.forged"
    );

    // An agent that does not know the signer began it: nobody has looked at the time.
    let mut unsigned = bench(&|_| Vec::new());
    unsigned.journal = MemoryJournal::resume(written(&sent(&unsigned)));
    assert_eq!(unsigned.run().await, None);
    let why = unsigned.journal.released().expect("given back").to_owned();
    assert!(why.contains("signature is over"), "{why}");
    for bench in [word, foreign, unsigned] {
        assert!(bench.world.objects().is_empty());
    }
}

/// The statement of its task.
fn statement(signed: Option<&Signed>) -> Subject {
    Subject::Signed(signed.expect("signed").statement().expect("one"))
}

/// This many seconds before now.
fn ago(seconds: u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    now.as_secs() - seconds
}

/// What a signer permits, with these scripts in two steps, the second of which also sees the outputs of the first.
fn permitted_to_signers(signer: &Signer, scripts: [&str; 2]) -> Bench {
    permitted_to_signers_with(signer, scripts, json!({}), u64::MAX)
}

/// The same, with this in the spec and good until then.
fn permitted_to_signers_with(
    signer: &Signer,
    scripts: [&str; 2],
    mut spec: serde_json::Value,
    not_after: u64,
) -> Bench {
    let script = Script::from([
        ("a", vec![Do::Put("x", "1"), Do::Output("o", "v")]),
        ("b", vec![Do::Put("y", "1")]),
    ]);
    let mut bench = Bench::new(script, json!({}));
    let path = bench.root.path().join("agent.cedar");
    std::fs::write(&path, "permit (principal == Signer::\"pipeline\", action, resource);").expect("written");
    bench.policy = PolicySource::file(path);
    bench.signers = signer.trusted();
    let steps = ["a", "b"].map(|name| json!({"name": name, "shell": {"run": scripts[usize::from(name == "b")]}}));
    spec["steps"] = json!(steps);
    let document = json!({"apiVersion": "deputy.dev/v1", "kind": "Task", "metadata": {"name": "signed"}, "spec": spec});
    let blob = bench.assignment(1).bundles["bundle"].clone();
    bench.signed = Some(Arc::new(signer.sign_document(&document.to_string(), not_after, &blob)));
    bench
}

/// Guards that what only the manager asserts, in a journal that no key vouches for or of the submitter, never comes
/// under a signer's permit.
#[tokio::test(start_paused = true)]
async fn a_signature_does_not_count_for_what_the_manager_puts_into_a_step() {
    let signer = Signer::new();
    let uses_output = ["true", "echo ${{ steps.a.outputs.o }}"];
    let mut fresh = permitted_to_signers(&signer, uses_output);
    assert_eq!(fresh.run().await.expect("complete").outcome, Outcome::Succeeded);

    let mut forged = permitted_to_signers(&signer, uses_output);
    let outputs = json!({"values": {"o": "; curl evil"}});
    let record = task_record(EffectKey::new("a", "outputs"), RecordBody::Fact(outputs.into()));
    forged.journal = MemoryJournal::resume(vec![record.clone()]);
    let completion = forged.run().await.expect("complete");
    assert_eq!(completion.outcome, Outcome::Failed);
    let failure = completion.failure.expect("why");
    assert_eq!((failure.class.as_str(), failure.step.as_str()), ("policy.denied", "b"));
    let why = "the signature does not count here: steps.a.outputs comes from a journal that is not sealed; give the pool a pool key";
    assert!(failure.hint.starts_with(why), "{}", failure.hint);
    assert!(forged.world.objects().is_empty());

    // The same death of an agent in a pool with a key: what is replayed is what an agent wrote.
    for (keys, outcome) in [(Some(ring(&[1])), Outcome::Succeeded), (None, Outcome::Failed)] {
        let mut interrupted = permitted_to_signers(&signer, uses_output);
        interrupted.pool_keys = keys;
        assert!(interrupted.attempt(Some(Crash::WriteLost(6))).await);
        assert!(interrupted.journal.records().len() >= 4);
        assert_eq!(interrupted.run().await.expect("complete").outcome, outcome);
    }

    // An agent that does not know the signer ran the manager's reading of the document.
    let mut unvouched = permitted_to_signers(&signer, uses_output);
    unvouched.pool_keys = Some(ring(&[1]));
    unvouched.journal = MemoryJournal::resume(written(&sent(&unvouched), record));
    let failure = unvouched.run().await.expect("complete").failure.expect("why");
    assert_eq!((failure.class.as_str(), failure.step.as_str()), ("policy.denied", "b"));
    let why =
        "steps.a.outputs comes from a run that was begun by an agent that did not know the signer; give every agent";
    assert!(failure.hint.contains(why), "{}", failure.hint);

    let mut submitted = permitted_to_signers(&signer, ["true", "echo ${{ task.submitter }}"]);
    let completion = submitted.run().await.expect("complete");
    assert_eq!(completion.outcome, Outcome::Rejected);
    let hint = completion.failure.expect("why").hint;
    assert!(hint.contains("task.submitter is what only the manager says"), "{hint}");
    assert!(submitted.world.objects().is_empty());
}

/// Guards that a manager that keeps one record of a signed run cannot have the task run as often as it likes, for
/// ever: a run has the time that was signed and its own timeout, and then the signature does not count for it.
#[tokio::test(start_paused = true)]
async fn a_run_that_has_begun_is_signed_for_as_long_as_it_may_take_and_no_longer() {
    let signer = Signer::new();
    let begun = |spec: serde_json::Value, not_after: u64| {
        let mut bench = permitted_to_signers_with(&signer, ["true", "true"], spec, not_after);
        bench.pool_keys = Some(ring(&[1]));
        let agent = task_record(task_key("agent"), RecordBody::Fact(json!({}).into()));
        bench.journal = MemoryJournal::resume(written(&statement(bench.signed.as_deref()), agent));
        bench
    };
    let (hour, minute) = (3600, 60);
    // An hour is what a task may take whose document does not say it; an undo and clocks are allowed for.
    for (spec, not_after) in [
        (json!({}), ago(59 * minute)),
        (json!({}), ago(hour + 19 * minute)),
        (json!({"timeout": "3h"}), ago(3 * hour)),
    ] {
        let completion = begun(spec, not_after).run().await.expect("complete");
        assert_eq!(completion.outcome, Outcome::Succeeded, "{:?}", completion.failure);
    }
    for (spec, not_after) in [
        (json!({}), 1),
        (json!({}), ago(hour + 21 * minute)),
        (json!({"timeout": "1m"}), ago(22 * minute)),
    ] {
        let mut late = begun(spec, not_after);
        let completion = late.run().await.expect("complete");
        assert_eq!(completion.outcome, Outcome::Failed);
        let failure = completion.failure.expect("why");
        assert_eq!((failure.class.as_str(), failure.step.as_str()), ("policy.denied", "a"));
        let why =
            "the time of the task's signature is over, and so is what a run that it began may take; submit it again";
        assert!(failure.hint.starts_with(why), "{}", failure.hint);
        assert!(late.world.objects().is_empty());
    }
}

/// Guards that where a signed task runs is what was signed too: the agent asks its own labels, whatever the manager
/// makes of the selector.
#[tokio::test(start_paused = true)]
async fn a_signed_task_runs_where_its_selector_says_and_the_agents_own_labels_count() {
    let signer = Signer::new();
    let bench = |pool: Option<&str>| {
        let spec = json!({"selector": "pool == 'staging'"});
        let mut bench = permitted_to_signers_with(&signer, ["true", "true"], spec, u64::MAX);
        bench.labels = pool
            .map(|pool| ("pool".to_owned(), pool.to_owned()))
            .into_iter()
            .collect();
        bench
    };
    let staging = bench(Some("staging")).run().await.expect("complete");
    assert_eq!(staging.outcome, Outcome::Succeeded, "{:?}", staging.failure);
    for elsewhere in [Some("production"), None] {
        let mut bench = bench(elsewhere);
        assert_eq!(bench.run().await, None, "another agent may take it");
        let why = bench.journal.released().expect("given back").to_owned();
        let expected =
            "what pipeline signed is for agents whose labels match \"pool == 'staging'\", and this agent's own do not";
        assert!(why.starts_with(expected), "{why}");
        assert!(bench.world.objects().is_empty());
    }
}

/// Guards that tenants are told apart by what will run, and not by the manager's reading of it.
#[tokio::test(start_paused = true)]
async fn a_signed_task_is_of_the_tenant_that_was_signed() {
    let signer = Signer::new();
    let mut bench = Bench::new(Script::from([("a", vec![Do::Hang])]), json!({}));
    bench.confinement = None;
    bench.signers = signer.trusted();
    let mut document = bench.document.as_ref().clone();
    let aws =
        json!({ "region": "eu-west-1", "assumeRole": [{ "roleArn": "arn:aws:iam::222222222222:role/deployer" }] });
    document.spec.aws = Some(serde_json::from_value(aws).expect("aws"));
    bench.document = Arc::new(document);
    let task = |name: &str| {
        let mut assignment = bench.assignment(1);
        assignment.attempt.task = name.parse().expect("an id");
        assignment
    };
    let (first, mut second) = (task("t1"), task("t2"));
    let blob = second.bundles["bundle"].clone();
    second.signed = Some(Arc::new(signer.sign(u64::MAX, &blob)));
    let refused = refusals(&bench, vec![first, second], None).await;
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert!(
        refused[0].starts_with("the agent cannot confine children"),
        "{refused:?}"
    );
}
