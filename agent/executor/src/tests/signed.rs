//! Signed tasks against a manager that changes them.

use std::sync::Arc;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use deputy_policy::signers::TrustedSigners;
use deputy_policy::source::PolicySource;
use deputy_task::message::{Assignment, BlobRef};
use deputy_task::outcome::Outcome;
use deputy_task::signed::Signed;
use serde_json::json;

use super::bench::Bench;
use super::lifecycle::refusals;
use super::script::{Do, Script};
use crate::vouch::{Begun, Problem, vouch};

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
        let mut signed = Signed {
            document: DOCUMENT.into(),
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

/// Guards that what was signed is what is run, whatever else the manager sends as its reading of it.
#[test]
fn what_was_signed_is_run_and_not_what_the_manager_made_of_it() {
    let signer = Signer::new();
    let vouched = vouch(&signer.trusted(), &assignment(&signer, u64::MAX), Begun::Unproven);
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
        vouch(&signer.trusted(), &assignment, Begun::Unproven)
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
    let refused = |vouched: crate::vouch::Vouched| match vouched.problem {
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
    let expired = vouch(&signer.trusted(), &late, Begun::Unproven);
    assert!(refused(expired).contains("time of the task's signature is over"));
    // What has begun, by the pool's own proof, is finished, however late it is.
    let begun = vouch(&signer.trusted(), &late, Begun::Proven);
    assert_eq!(begun.signer.as_deref(), Some("pipeline"), "{:?}", begun.problem);
    let stripped = changed(&|assignment| assignment.signed = None);
    assert!(stripped.signer.is_none() && stripped.problem.is_none());
    let stranger = vouch(
        &Signer::new().trusted(),
        &assignment(&signer, u64::MAX),
        Begun::Unproven,
    );
    assert!(stranger.signer.is_none() && stranger.note.is_some());
    std::fs::write(signer.folder.path().join("x.pem"), "no key").expect("written");
    let unusable = vouch(&signer.trusted(), &assignment(&signer, u64::MAX), Begun::Unproven);
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
