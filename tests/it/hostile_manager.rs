//! A manager that lies to a real agent. Whatever it says: nothing is run that the agent's policy forbids, the agent's
//! memory stays bounded, no part of it panics, and it still does an honest task afterwards.

use std::time::Duration;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use bytes::Bytes;
use deputy_proto::v1;
use deputy_proto::v1::session_request::Frame as Said;
use deputy_proto::v1::session_response::Frame as Answer;
use deputy_task::document::{Inputs, read, to_canonical};
use deputy_task::signed::Signed;
use deputy_tests::cloud::Cloud;
use deputy_tests::hostile::agent::BesetAgent;
use deputy_tests::hostile::server::{Blob, HostileManager, LogManners};
use deputy_tests::hostile::session::{Heard, Session};
use deputy_tests::world::World;
use prost::Message;
use sha2::{Digest, Sha256};

use crate::recipe;

/// A tag that the agent writes into an archive's name is looked for under this.
const ESCAPED: &str = "deputy-escaped";

/// What an agent may grow by, whatever it is sent: one frame of the largest size (16 MiB), twice, while it is taken
/// apart, and what its allocator keeps.
const GROWTH_KIB: u64 = 96 * 1024;

fn attempt(task: &str, epoch: u64) -> v1::AttemptRef {
    v1::AttemptRef {
        project: "default".into(),
        task_id: task.into(),
        run: 1,
        epoch,
    }
}

/// A document as a manager sends it.
fn canonical(text: &str) -> Bytes {
    let read = read("task.yaml", text.as_bytes(), &Inputs::default());
    let read = read.unwrap_or_else(|bad| panic!("{}", bad.rendered(deputy_task::document::Paint::Plain)));
    to_canonical(&read.checked).expect("a canonical form").into()
}

fn assignment(of: &v1::AttemptRef, text: &str) -> v1::Assignment {
    v1::Assignment {
        attempt: Some(of.clone()),
        document: canonical(text),
        submitter: "nobody".into(),
        start_deadline_ms: 60_000,
        ..v1::Assignment::default()
    }
}

/// A script that leaves a mark.
fn marks(agent: &BesetAgent, mark: &str) -> String {
    recipe::script(
        "marks",
        "",
        "",
        &format!("echo ran >> {}", agent.shared().join(mark).display()),
    )
}

fn times(agent: &BesetAgent, mark: &str) -> usize {
    std::fs::read_to_string(agent.shared().join(mark)).map_or(0, |text| text.lines().count())
}

/// Assigns and behaves until the agent's last word about it.
async fn run(session: &mut Session, assignment: v1::Assignment) {
    let of = assignment.attempt.clone().expect("one");
    session.say(Answer::Assignment(assignment)).await;
    let ended = session.behave_until(|heard| heard.has_ended(&of)).await;
    ended.expect("the agent says how it ended");
}

/// After everything: the same agent does an honest task, and is well.
async fn does_an_honest_task(agent: &mut BesetAgent, session: &mut Session) {
    let mark = format!("honest-{:016x}", rand::random::<u64>());
    let of = attempt(&mark, 1);
    run(session, assignment(&of, &marks(agent, &mark))).await;
    let heard = session.heard();
    let result = heard.result_of(&of).map(v1::Result::state);
    assert_eq!(result, Some(v1::TaskState::Succeeded), "{heard:#?}\n{}", agent.tail());
    assert_eq!(times(agent, &mark), 1);
    agent.assert_is_well();
}

async fn beset(rules: Option<&str>, flags: &[&str]) -> (HostileManager, BesetAgent, Session) {
    let mut manager = HostileManager::start().await.expect("a manager");
    let agent = BesetAgent::start(&manager, rules, Vec::new(), flags).expect("an agent");
    let session = manager.welcomed().await.expect("a session");
    (manager, agent, session)
}

fn record(key: &str, kind: v1::RecordKind, payload: &str) -> v1::Record {
    v1::Record {
        key: key.into(),
        kind: kind.into(),
        program_version: 1,
        step_kind: "ecsRollingDeploy".into(),
        payload: payload.as_bytes().to_vec().into(),
        epoch: 1,
        ..v1::Record::default()
    }
}

fn intent(key: &str) -> v1::Record {
    v1::Record {
        effect_class: v1::EffectClass::Bounded.into(),
        budget_ms: 20_000,
        plan_digest: Bytes::from_static(&[7; 32]),
        summary: "UpdateService".into(),
        ..record(key, v1::RecordKind::Intent, "")
    }
}

/// Guards that the agent's own rules stand, whatever the manager says of a task and of what was done before: no
/// script, no role that is not listed, nothing unsigned where a signature is needed, nor one of the manager's making,
/// no adopted effect and no undo in a cluster that is not permitted.
#[tokio::test]
async fn what_the_policy_forbids_is_not_run_by_any_word_of_a_manager() {
    let world = World::builder().cloud(&Cloud::shared().await.expect("a cloud"));
    let world = world.start().await.expect("a world");
    let mut manager = HostileManager::start().await.expect("a manager");
    let rules = r#"
        @id("all-else") permit (principal, action, resource)
        unless { [Action::"assumeRole", Action::"useCluster"].contains(action) };
        @id("signed-scripts") forbid (principal, action == Action::"runCommand", resource)
        unless { principal == Signer::"pipeline" || context.script like "*honest*" };
        @id("role") permit (principal, action == Action::"assumeRole", resource == Role::"arn:aws:iam::222222222222:role/deployer");
        @id("lab") permit (principal, action == Action::"useCluster", resource == EcsCluster::"lab");
    "#;
    let mut agent = BesetAgent::start(&manager, Some(rules), world.surroundings(), &[]).expect("an agent");
    let mut session = manager.welcomed().await.expect("a session");

    // A script; the same with a signature that the manager made up.
    let script = marks(&agent, "forbidden");
    let mut forged: serde_json::Value = serde_json::from_slice(&canonical(&script)).expect("JSON");
    forged["signed"] = serde_json::json!({
        "document": script, "inputs": "{}", "project": "default", "request": "r-1",
        "notAfter": 4_000_000_000_u64, "signature": "00".repeat(64),
    });
    let plain = attempt("script", 1);
    run(&mut session, assignment(&plain, &script)).await;
    let signed = attempt("signed", 1);
    let document = forged.to_string().into();
    run(
        &mut session,
        v1::Assignment {
            document,
            ..assignment(&signed, &script)
        },
    )
    .await;

    // A role that is not listed, and a cluster that is not.
    let ecs = recipe::ecs_update("checkout", "");
    let role = attempt("role", 1);
    run(
        &mut session,
        assignment(&role, &ecs.replace("role/deployer", "role/admin")),
    )
    .await;
    let cluster = attempt("cluster", 1);
    run(&mut session, assignment(&cluster, &ecs)).await;

    // The same cluster in a journal that says that all was permitted, begun, and is to be undone, or to be adopted.
    let before = r#"{"service":{"arn":"arn:aws:ecs:eu-west-1:222222222222:service/prod/checkout","taskDefinition":"evil:1","desiredCount":50,"touched":{}}}"#;
    let mut journal = vec![
        record("deploy/before/checkout", v1::RecordKind::Fact, before),
        intent("deploy/registerTaskDefinition/checkout"),
        record(
            "deploy/registerTaskDefinition/checkout",
            v1::RecordKind::Done,
            r#"{"taskDefinitionArn":"evil:2"}"#,
        ),
        intent("deploy/updateService/checkout"),
    ];
    let adopted = attempt("adopted", 2);
    let begun = v1::Assignment {
        journal: journal.clone(),
        ..assignment(&adopted, &ecs)
    };
    run(&mut session, begun).await;
    journal.push(v1::Record {
        step_kind: String::new(),
        ..record(
            "task/undo",
            v1::RecordKind::Decision,
            r#"{"undo":{"reason":"because I say so"}}"#,
        )
    });
    let undone = attempt("undone", 2);
    run(
        &mut session,
        v1::Assignment {
            journal: journal.clone(),
            ..assignment(&undone, &ecs)
        },
    )
    .await;
    // Undone with another role than the one that is listed.
    let other = attempt("other-role", 2);
    let document = ecs
        .replace("role/deployer", "role/admin")
        .replace("cluster: prod", "cluster: lab");
    run(
        &mut session,
        v1::Assignment {
            journal,
            ..assignment(&other, &document)
        },
    )
    .await;

    let heard = session.heard();
    for refused in [&plain, &signed, &role, &cluster] {
        let refusal = heard.refusal_of(refused);
        let refusal = refusal.unwrap_or_else(|| panic!("{refused:?} was taken: {heard:#?}"));
        assert!(refusal.permanent, "{refusal:?}");
        assert_eq!(
            refusal.failure.as_ref().map(|failure| failure.class.as_str()),
            Some("policy.denied"),
            "{refusal:?}"
        );
    }
    for ended in [&adopted, &undone, &other] {
        let result = heard
            .result_of(ended)
            .unwrap_or_else(|| panic!("{ended:?}: {heard:#?}"));
        assert_eq!(result.state(), v1::TaskState::Failed, "{result:?}");
        let told = format!("{result:?}");
        assert!(told.contains("policy of agent beset"), "{told}");
    }
    assert_eq!(times(&agent, "forbidden"), 0);
    let proxy = world.proxy().expect("a proxy");
    assert!(proxy.mutations().is_empty(), "{}", proxy.transcript());
    assert_eq!(
        proxy.count("sts", "AssumeRole"),
        0,
        "no role was taken: {}",
        proxy.transcript()
    );
    agent.assert_is_well();
}

/// Guards that nothing of the manager's own comes under the permit of a signer: not what it says that an earlier step
/// put out, not who it says submitted the task, and no time that is over.
#[tokio::test]
async fn a_signers_permit_covers_nothing_that_the_manager_puts_into_a_task() {
    let pair = Ed25519KeyPair::generate().expect("a key");
    let folder = tempfile::tempdir().expect("a folder");
    let trusted = folder.path().join("trusted");
    let public = pair.public_key().as_der().expect("der");
    crate::policy::trust(&trusted, "pipeline", public.as_ref());
    let rules = r#"@id("signed") permit (principal == Signer::"pipeline", action, resource);
        permit (principal, action, resource) unless { action == Action::"runCommand" };
        permit (principal, action == Action::"runCommand", resource) when { context.script like "*honest*" };"#;
    let flags = ["--trusted-signers", trusted.to_str().expect("a path")];
    let (_manager, mut agent, mut session) = beset(Some(rules), &flags).await;
    let signed = |text: &str, not_after: u64| {
        let mut document: serde_json::Value = serde_json::from_slice(&canonical(text)).expect("JSON");
        let mut signed = Signed {
            document: text.into(),
            inputs: "{}".into(),
            bundles: [].into(),
            project: "default".into(),
            request: "r-1".into(),
            not_after,
            signature: String::new(),
        };
        let statement = signed.statement().expect("signable");
        signed.signature = hex::encode(pair.sign(&statement).as_ref());
        document["signed"] = serde_json::to_value(signed).expect("JSON");
        Bytes::from(document.to_string())
    };
    let task = |run: &str| {
        let said = agent.shared().join("said");
        format!(
            "apiVersion: deputy.dev/v1\nkind: Task\nmetadata: {{ name: signed }}\nspec:\n  steps:\n    - name: first\n      shell: {{ run: 'echo word=good >> \"$DEPUTY_OUTPUT\"' }}\n    - name: second\n      shell: {{ run: 'echo {run} >> {}' }}\n",
            said.display()
        )
    };
    let (outputs, submitter) = (task("${{ steps.first.outputs.word }}"), task("${{ task.submitter }}"));
    let put_out = v1::Record {
        step_kind: "shell".into(),
        ..record("first/outputs", v1::RecordKind::Fact, r#"{"values":{"word":"evil"}}"#)
    };
    let redo = v1::Record {
        step_kind: String::new(),
        ..record("first/run", v1::RecordKind::Decision, r#"{"redo":{"reason":"go on"}}"#)
    };
    let of = |name: &str| attempt(name, 2);
    let offered = |name: &str, document: Bytes, journal: Vec<v1::Record>| v1::Assignment {
        document,
        journal,
        submitter: "evil".into(),
        ..assignment(&of(name), &outputs)
    };
    let (good, late) = (4_000_000_000, 1);
    run(&mut session, offered("honest", signed(&outputs, good), Vec::new())).await;
    run(&mut session, offered("said", signed(&outputs, good), vec![put_out])).await;
    run(&mut session, offered("by", signed(&submitter, good), Vec::new())).await;
    run(&mut session, offered("late", signed(&outputs, late), vec![redo])).await;

    let heard = session.heard();
    let result = heard.result_of(&of("honest")).map(v1::Result::state);
    assert_eq!(result, Some(v1::TaskState::Succeeded), "{heard:#?}\n{}", agent.tail());
    let result = heard.result_of(&of("said")).expect("it was begun before");
    assert_eq!(result.state(), v1::TaskState::Failed, "{result:?}");
    assert!(
        format!("{result:?}").contains("the signature does not count here"),
        "{result:?}"
    );
    for (name, why) in [
        ("by", "task.submitter is what only the manager says"),
        ("late", "signature is over"),
    ] {
        let refusal = heard.refusal_of(&of(name));
        let refusal = refusal.unwrap_or_else(|| panic!("{name} was taken: {heard:#?}"));
        assert!(refusal.permanent && format!("{refusal:?}").contains(why), "{refusal:?}");
    }
    let said = std::fs::read_to_string(agent.shared().join("said")).expect("the honest task");
    assert_eq!(said, "good\n");
    agent.assert_is_well();
}

/// Guards that who lies about attempts is not believed: what names no attempt is passed over, what names an older one
/// is not acted on, an answer that nobody asked for ends the session, and no task is begun twice by it.
#[tokio::test]
async fn epochs_grants_and_wishes_that_make_no_sense_change_nothing() {
    let (mut manager, mut agent, mut session) = beset(None, &[]).await;
    let script = marks(&agent, "once");
    for bad in [
        attempt("t", 0),
        attempt("../t", 1),
        attempt("", 1),
        v1::AttemptRef {
            run: 0,
            ..attempt("t", 1)
        },
    ] {
        session.say(Answer::Assignment(assignment(&bad, &script))).await;
        session
            .say(Answer::Revoked(v1::Revoked {
                attempt: Some(bad),
                reason: "x".repeat(1 << 20),
            }))
            .await;
    }
    session.say(Answer::Assignment(v1::Assignment::default())).await;
    for task in 0..5_000 {
        let attempt = Some(attempt(&format!("unknown-{task}"), 7));
        session
            .say(Answer::Cancel(v1::CancelWish {
                attempt: attempt.clone(),
                reason: "stop".into(),
            }))
            .await;
        session
            .say(Answer::Revoked(v1::Revoked {
                attempt,
                reason: "gone".into(),
            }))
            .await;
    }
    // Enumerations that no version knows, in an answer: taken as a refusal.
    let of = attempt("grant", 5);
    session.say(Answer::Assignment(assignment(&of, &script))).await;
    loop {
        match session
            .next()
            .await
            .expect("the agent talks")
            .expect("the session stands")
        {
            Said::Heartbeat(beat) => {
                session
                    .say(Answer::HeartbeatAck(v1::HeartbeatAck { seq: beat.seq }))
                    .await
            }
            Said::Write(write) => {
                let mut ack = session.take(write);
                for result in &mut ack.results {
                    result.code = 77;
                    result.message = "x".repeat(1 << 20);
                }
                let seq = ack.seq;
                session.say(Answer::WriteAck(ack)).await;
                // The grant once more, and one for a write that never was.
                session
                    .say(Answer::WriteAck(v1::WriteAck {
                        seq,
                        results: vec![v1::WriteResult {
                            code: 1,
                            message: String::new(),
                        }],
                    }))
                    .await;
                session
                    .say(Answer::WriteAck(v1::WriteAck {
                        seq: u64::MAX,
                        results: Vec::new(),
                    }))
                    .await;
                break;
            }
            _ => {}
        }
    }
    session.broken_off().await.expect("broken off");
    let mut session = manager.welcomed().await.expect("it comes again");
    assert_eq!(times(&agent, "once"), 0, "a start that was not granted");
    // An older attempt of a task that runs, beside it: the newer one stays.
    let (newer, older) = (attempt("twice", 9), attempt("twice", 3));
    session.say(Answer::Assignment(assignment(&newer, &script))).await;
    session.say(Answer::Assignment(assignment(&newer, &script))).await;
    session
        .behave_until(|heard| heard.has_ended(&newer))
        .await
        .expect("ended");
    assert_eq!(times(&agent, "once"), 1, "the same offer twice is one");
    session
        .say(Answer::Revoked(v1::Revoked {
            attempt: Some(older),
            reason: String::new(),
        }))
        .await;
    session.say(Answer::Welcome(v1::Welcome::default())).await;
    session.broken_off().await.expect("a second welcome ends the session");
    let mut session = manager.welcomed().await.expect("it comes again");
    does_an_honest_task(&mut agent, &mut session).await;
}

/// Guards that offers beyond the slots are refused, that the agent holds no more of them than it has a bound for when
/// nobody takes a refusal, and that two tasks at most run beside each other.
#[tokio::test]
async fn offers_without_end_are_not_followed() {
    let (mut manager, mut agent, mut session) = beset(None, &[]).await;
    let busy = agent.shared().join("busy");
    let script = format!(
        "echo + >> {0}\n[ $(ls {1} | grep -c running) -le 2 ]\ntouch {1}/running-$$\nsleep 2\nrm {1}/running-$$\n",
        busy.display(),
        agent.shared().display()
    );
    let text = recipe::script("busy", "", "", &script);
    let document = canonical(&text);
    for task in 0..20 {
        let of = attempt(&format!("busy-{task}"), 1);
        session
            .say(Answer::Assignment(v1::Assignment {
                document: document.clone(),
                ..assignment(&of, &text)
            }))
            .await;
    }
    let all = |heard: &Heard| heard.refused.len() + heard.completed.len() == 20;
    session.behave_until(all).await.expect("all are answered");
    assert!(session.heard().started.len() <= 2, "{:?}", session.heard().started);
    let before = agent.peak_memory_kib().expect("a number");
    // Nothing is acknowledged from now on.
    let offers = async {
        for task in 0..40_000 {
            let of = attempt(&format!("endless-{task}"), 1);
            let offer = v1::Assignment {
                attempt: Some(of),
                document: document.clone(),
                start_deadline_ms: 1,
                ..v1::Assignment::default()
            };
            session.say(Answer::Assignment(offer)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), offers)
        .await
        .expect("the agent reads on");
    let grown = agent.peak_memory_kib().expect("a number") - before;
    assert!(grown < GROWTH_KIB, "{grown} KiB for offers");
    drop(session);
    let mut session = manager.welcomed().await.expect("it comes again");
    let held = session.heard().held;
    assert!(held <= 8192, "{held} offers are held");
    let answered = |heard: &Heard| heard.refused.len() + heard.completed.len() >= held;
    session
        .behave_until(answered)
        .await
        .expect("what is held is answered, and nothing more");
    does_an_honest_task(&mut agent, &mut session).await;
}

/// Guards that no frame makes the agent give memory for what it does not hold: one that is too long, one that only
/// says so, one of a million parts, one that is no message.
#[tokio::test]
async fn frames_are_bounded_before_memory_is_given_to_them() {
    let (mut manager, mut agent, mut session) = beset(None, &[]).await;
    does_an_honest_task(&mut agent, &mut session).await;
    let before = agent.peak_memory_kib().expect("a number");
    let of = attempt("large", 1);
    let large = v1::Assignment {
        document: vec![b' '; 40 << 20].into(),
        ..assignment(&of, &marks(&agent, "large"))
    };
    session.say(Answer::Assignment(large)).await;
    session.broken_off().await.expect("too long");
    let mut session = manager.welcomed().await.expect("it comes again");
    let many = v1::Assignment {
        journal: vec![v1::Record::default(); 4_000_000],
        ..assignment(&of, &marks(&agent, "large"))
    };
    session.say(Answer::Assignment(many)).await;
    session.broken_off().await.expect("too many parts");
    // A length of 4 GiB and of 15 MiB, and a few bytes; a length of zero, very often; a message that is none.
    let announced = |len: u32| [[0].as_slice(), &len.to_be_bytes(), &[1, 2, 3]].concat();
    let none = [[0].as_slice(), &3_u32.to_be_bytes(), &[0xff; 3]].concat();
    for bytes in [
        announced(u32::MAX),
        announced(15 << 20),
        vec![0; 5 * 200_000],
        none,
        vec![9; 64],
    ] {
        manager.answer_with(bytes);
    }
    drop(session);
    let mut session = manager.welcomed().await.expect("it comes again after each");
    let stale = (0..500_000).map(|task| attempt(&format!("t{task}"), 1)).collect();
    session
        .say(Answer::Welcome(v1::Welcome {
            stale,
            ..v1::Welcome::default()
        }))
        .await;
    session.broken_off().await.expect("a welcome again");
    let mut session = manager.welcomed().await.expect("it comes again");
    let grown = agent.peak_memory_kib().expect("a number") - before;
    assert!(grown < GROWTH_KIB, "{grown} KiB for frames");
    assert_eq!(times(&agent, "large"), 0);
    does_an_honest_task(&mut agent, &mut session).await;
}

/// A list of the same item, of so many bytes.
fn list_of(item: &str, bytes: usize) -> String {
    format!("[{}]", vec![item; bytes / (item.len() + 1)].join(","))
}

/// Guards that the values in a frame cost no more than the frame: a document with more of them than an agent builds is
/// refused unread, wherever they stand in it.
#[tokio::test]
async fn values_are_counted_before_memory_is_given_to_them() {
    let (_manager, mut agent, mut session) = beset(None, &[]).await;
    does_an_honest_task(&mut agent, &mut session).await;
    let before = agent.peak_memory_kib().expect("a number");
    let script = marks(&agent, "valued");
    let text = recipe::task(
        "valued",
        "  inputs: { many: { type: object, default: [] } }\n  aws: { region: eu-west-1 }\n",
        "    - name: main\n      kubernetesApply: { cluster: prod, namespace: shop, manifests: [ { apiVersion: v1, kind: ConfigMap, metadata: { name: a }, data: { x: MARK } } ] }\n",
    );
    let honest = String::from_utf8(canonical(&text).to_vec()).expect("text");
    let inputs = "\"inputs\":{\"many\":[]}";
    assert!(honest.contains("\"MARK\"") && honest.contains(inputs), "{honest}");
    let mut documents: Vec<String> = ["0", "{}", "[[]]", "{\"\":0}"]
        .iter()
        .map(|item| honest.replacen("\"MARK\"", &list_of(item, 8_300_000), 1))
        .collect();
    let hidden = list_of("{}", 8_300_000);
    documents.push(honest.replacen(inputs, &format!("\"inputs\":{{\"many\":\"{hidden}\"}}"), 1));
    let mut refusals = Vec::new();
    for (place, document) in documents.into_iter().enumerate() {
        let of = attempt(&format!("valued-{place}"), 1);
        let document = document.into();
        run(
            &mut session,
            v1::Assignment {
                document,
                ..assignment(&of, &script)
            },
        )
        .await;
        refusals.extend(session.heard().refusal_of(&of).cloned());
    }
    let grown = agent.peak_memory_kib().expect("a number") - before;
    println!("{grown} KiB for documents");
    assert!(grown < GROWTH_KIB, "{grown} KiB for documents");
    assert_eq!(refusals.len(), 5, "{refusals:#?}");
    for refusal in refusals {
        let told = refusal.reason.contains("more than 100000 values");
        assert!(told && refusal.permanent, "{refusal:?}");
    }
    assert_eq!(times(&agent, "valued"), 0);
    does_an_honest_task(&mut agent, &mut session).await;
}

/// Guards that a journal is held as it is written: a frame of small values, for each of the two attempts that the agent
/// runs beside each other, costs no more than what was sent. Built as values they are sixty times as large.
#[tokio::test]
async fn a_journal_of_many_values_costs_what_its_text_does() {
    let (_manager, mut agent, mut session) = beset(None, &[]).await;
    does_an_honest_task(&mut agent, &mut session).await;
    let before = agent.peak_memory_kib().expect("a number");
    let item = list_of("{\"\":0}", 262_000);
    let journal: Vec<v1::Record> = (0..20)
        .map(|number| record(&format!("main/{number}"), v1::RecordKind::Fact, &item))
        .map(|record| v1::Record {
            step_kind: "shell".into(),
            ..record
        })
        .collect();
    let waits = recipe::script("waits", "", "", "sleep 10");
    let both = [attempt("journal-a", 2), attempt("journal-b", 2)];
    for of in &both {
        let offer = v1::Assignment {
            journal: journal.clone(),
            ..assignment(of, &waits)
        };
        session.say(Answer::Assignment(offer)).await;
        let begun = session.behave_until(|heard| heard.started.contains(of));
        begun.await.expect("it begins");
    }
    let ended = session.behave_until(|heard| both.iter().all(|of| heard.has_ended(of)));
    ended.await.expect("both end");
    for of in &both {
        let result = session.heard().result_of(of).map(v1::Result::state);
        assert_eq!(result, Some(v1::TaskState::Succeeded), "{:#?}", session.heard());
    }
    let grown = agent.peak_memory_kib().expect("a number") - before;
    println!("{grown} KiB for journals");
    assert!(grown < GROWTH_KIB, "{grown} KiB for journals");
    does_an_honest_task(&mut agent, &mut session).await;
}

/// Guards that a document is checked by who runs it: what its reader would have refused is refused when a manager sends
/// it all the same, and nothing of it is written, fetched or run.
#[tokio::test]
async fn documents_that_no_reader_lets_pass_are_refused() {
    let (manager, mut agent, mut session) = beset(None, &[]).await;
    let out = format!("x/../../../../../../{}", agent.shared().join(ESCAPED).display());
    let packed = archive(&[(b'0', "authorized_keys", b"x")]);
    let sha256 = hex::encode(Sha256::digest(&packed));
    manager.keep_blob(&sha256, Blob::Bytes(packed.clone()));
    let run_it = format!("echo ran >> {}", agent.shared().join("unchecked").display());
    let step = format!(
        "    - name: main\n      shell: {{ source: app, run: \"{run_it}\", secrets: {{ TOKEN: {{ as: file, environment: DEPUTY_SECRET_A }} }} }}\n"
    );
    let honest = canonical(&recipe::task(
        "unchecked",
        "  aws: { region: eu-west-1 }\n  sources: [ { name: app, bundle: ./app } ]\n",
        &step,
    ));
    let honest = String::from_utf8(honest.to_vec()).expect("text");
    let lies = [
        ("\"app\"", format!("\"{out}\"")),
        ("\"name\":\"main\"", format!("\"name\":\"{out}\"")),
        ("\"TOKEN\"", format!("\"{}\"", agent.shared().join(ESCAPED).display())),
        ("\"eu-west-1\"", "\"evil.example/x\"".to_owned()),
        ("\"./app\"", "\"../../app\"".to_owned()),
    ];
    for (place, (said, lie)) in lies.iter().enumerate() {
        assert!(honest.contains(said), "{said}: {honest}");
        let of = attempt(&format!("unchecked-{place}"), 1);
        let name = if place == 0 { out.as_str() } else { "app" };
        let bundle = v1::Bundle {
            name: name.into(),
            sha256: sha256.clone(),
            size_bytes: u64::try_from(packed.len()).expect("small"),
        };
        run(
            &mut session,
            v1::Assignment {
                attempt: Some(of.clone()),
                document: honest.replace(said, lie).into(),
                bundles: vec![bundle],
                submitter: "nobody".into(),
                start_deadline_ms: 60_000,
                ..v1::Assignment::default()
            },
        )
        .await;
        let heard = session.heard();
        let refusal = heard
            .refusal_of(&of)
            .unwrap_or_else(|| panic!("{lie} was taken: {heard:#?}"));
        assert!(refusal.permanent && refusal.reason.contains("spec."), "{refusal:?}");
    }
    for folder in [agent.home(), agent.shared()] {
        let found = BesetAgent::files_called(&folder, ESCAPED).expect("listed");
        assert!(found.is_empty(), "{found:?}");
    }
    assert_eq!(times(&agent, "unchecked"), 0);
    does_an_honest_task(&mut agent, &mut session).await;
}

/// Packed as everybody does.
fn archive(entries: &[(u8, &str, &[u8])]) -> Bytes {
    zstd::encode_all(archived(entries).as_slice(), 3)
        .expect("packed")
        .into()
}

/// Packed so that whoever unpacks it needs much memory for it, and as large as it must be for what it holds.
fn costly(entries: &[(u8, &str, &[u8])], window_log: u32) -> Bytes {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).expect("an encoder");
    encoder.window_log(window_log).expect("a window");
    std::io::Write::write_all(&mut encoder, &archived(entries)).expect("packed");
    let mut packed = encoder.finish().expect("packed");
    // A frame that is passed over.
    packed.extend([0x50, 0x2a, 0x4d, 0x18, 0, 0, 0x10, 0]);
    packed.resize(packed.len() + (1 << 20), 0);
    packed.into()
}

/// One entry of an archive: its kind, name and link target or content.
fn archived(entries: &[(u8, &str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (kind, name, content) in entries {
        let mut header = [0_u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..107].copy_from_slice(b"0000644");
        let is_link = matches!(kind, b'1' | b'2');
        let body: &[u8] = if is_link { b"" } else { content };
        if is_link {
            header[157..157 + content.len()].copy_from_slice(content);
        }
        header[124..135].copy_from_slice(format!("{:011o}", body.len()).as_bytes());
        header[156] = *kind;
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].copy_from_slice(b"        ");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        archive.extend(header);
        archive.extend(body);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

/// Guards that nothing of a bundle is written outside its folder, that none costs more than it may, and that one that
/// is another than announced is not used.
#[tokio::test]
async fn bundles_that_escape_or_burst_are_refused() {
    let escaped = format!("/tmp/{ESCAPED}-{:016x}", rand::random::<u64>());
    let (out, zeros, name) = (format!("../../{ESCAPED}"), vec![0; 150 << 20], vec![b'a'; 150 << 20]);
    let bundles = [
        archive(&[(b'0', &out, b"x")]),
        archive(&[(b'0', &format!("a/../../../{ESCAPED}"), b"x")]),
        archive(&[(b'0', &escaped, b"x")]),
        archive(&[(b'5', &out, b"")]),
        archive(&[(b'2', "link", b"/tmp"), (b'0', &format!("link/{ESCAPED}"), b"x")]),
        archive(&[(b'1', "hard", b"/etc/passwd")]),
        archive(&[(b'3', "null", b"")]),
        archive(&[(b'6', "pipe", b"")]),
        archive(&[(b'0', "zeros", &zeros)]),
        // What the reader of an archive keeps in memory: a long name, a long link, an extended header.
        costly(&[(b'L', "././@LongLink", &name), (b'0', "a", b"x")], 23),
        costly(&[(b'x', "PaxHeader", &name), (b'0', "a", b"x")], 23),
        // What the decoder keeps in memory.
        costly(&[(b'0', "zeros", &zeros)], 27),
        Bytes::from_static(b"no archive"),
    ];
    let (manager, mut agent, mut session) = beset(None, &[]).await;
    let text = |name: &str| {
        let run = format!("echo ran >> {}", agent.shared().join(name).display());
        let step = format!("    - name: main\n      shell: {{ source: app, run: \"{run}\" }}\n");
        recipe::task("bundled", "  sources: [ { name: app, bundle: ./app } ]\n", &step)
    };
    let before = agent.peak_memory_kib().expect("a number");
    let announce = |sha256: &str, size_bytes| v1::Bundle {
        name: "app".into(),
        sha256: sha256.into(),
        size_bytes,
    };
    let sized = |bytes: &Bytes| u64::try_from(bytes.len()).expect("small");
    let mut offered = Vec::new();
    for (place, bytes) in bundles.iter().enumerate() {
        let sha256 = hex::encode(Sha256::digest(bytes));
        manager.keep_blob(&sha256, Blob::Bytes(bytes.clone()));
        offered.push((format!("b{place}"), announce(&sha256, sized(bytes))));
    }
    // Other bytes than announced, more of them than announced, pieces without end, a size that no disk has.
    let good = archive(&[(b'0', "a", b"x")]);
    let (other, longer, endless) = ("1".repeat(64), "2".repeat(64), "3".repeat(64));
    manager.keep_blob(&other, Blob::Bytes(good.clone()));
    manager.keep_blob(&longer, Blob::Bytes(good.clone()));
    manager.keep_blob(&endless, Blob::Endless);
    offered.push(("other".into(), announce(&other, sized(&good))));
    offered.push(("longer".into(), announce(&longer, sized(&good) - 1)));
    offered.push(("endless".into(), announce(&endless, 1 << 20)));
    offered.push(("endless-disk".into(), announce(&endless, u64::MAX)));
    for (name, bundle) in offered {
        let of = attempt(&name, 1);
        run(
            &mut session,
            v1::Assignment {
                bundles: vec![bundle],
                ..assignment(&of, &text(&name))
            },
        )
        .await;
        let heard = session.heard();
        let failed = heard
            .result_of(&of)
            .is_some_and(|result| result.state() == v1::TaskState::Failed);
        assert!(failed || heard.refusal_of(&of).is_some(), "{name}: {heard:#?}");
        assert_eq!(times(&agent, &name), 0, "{name} was used");
    }
    assert!(!std::path::Path::new(&escaped).exists(), "{escaped}");
    for folder in [agent.home(), agent.shared()] {
        let found = BesetAgent::files_called(&folder, ESCAPED).expect("listed");
        assert!(found.is_empty(), "{found:?}");
    }
    let grown = agent.peak_memory_kib().expect("a number") - before;
    assert!(grown < GROWTH_KIB, "{grown} KiB for bundles");
    does_an_honest_task(&mut agent, &mut session).await;
}

/// Guards that no way of answering logs costs memory or a result: none at all, more than was sent, without end.
#[tokio::test]
async fn log_answers_cannot_fill_or_stop_an_agent() {
    let (manager, mut agent, mut session) = beset(None, &[]).await;
    does_an_honest_task(&mut agent, &mut session).await;
    let before = agent.peak_memory_kib().expect("a number");
    for (name, manners) in [
        ("silent", LogManners::Silent),
        ("beyond", LogManners::Beyond),
        ("endless", LogManners::Endless),
    ] {
        manager.answer_logs(manners);
        let of = attempt(name, 1);
        let run_it = format!(
            "head -c 60000000 /dev/zero | tr '\\0' x | fold -w 200; echo ran >> {}",
            agent.shared().join(name).display()
        );
        run(&mut session, assignment(&of, &recipe::script(name, "", "", &run_it))).await;
        let result = session.heard().result_of(&of).map(v1::Result::state);
        assert_eq!(result, Some(v1::TaskState::Succeeded), "{name}: {}", agent.tail());
        assert_eq!(times(&agent, name), 1);
        agent.assert_is_well();
    }
    let grown = agent.peak_memory_kib().expect("a number") - before;
    assert!(grown < GROWTH_KIB, "{grown} KiB for logs");
}

/// Guards that a journal is hostile input too: what cannot be read is refused whole, what belongs to nothing in the
/// document is passed over, and nothing of it makes a step run otherwise than it is written.
#[tokio::test]
async fn journals_of_others_are_refused_or_passed_over() {
    let (_manager, mut agent, mut session) = beset(None, &[]).await;
    let script = marks(&agent, "journaled");
    let unreadable = [
        v1::Record {
            kind: 99,
            ..intent("main/run")
        },
        v1::Record {
            effect_class: 99,
            ..intent("main/run")
        },
        v1::Record {
            key: String::new(),
            ..intent("main/run")
        },
        v1::Record {
            program_version: 900,
            ..intent("main/run")
        },
        v1::Record {
            step_kind: "mindControl".into(),
            ..intent("main/run")
        },
        v1::Record {
            seal: Bytes::from_static(&[1; 64]),
            ..intent("main/run")
        },
        record("main/run", v1::RecordKind::Done, "{"),
        record("main/fact", v1::RecordKind::Fact, &"[".repeat(100_000)),
        record(
            "main/fact",
            v1::RecordKind::Fact,
            &format!("\"{}\"", "x".repeat(300 * 1024)),
        ),
        record("task/undo", v1::RecordKind::Decision, r#"{"erase":{}}"#),
    ];
    for (place, bad) in unreadable.into_iter().enumerate() {
        let of = attempt(&format!("unreadable-{place}"), 2);
        run(
            &mut session,
            v1::Assignment {
                journal: vec![bad.clone()],
                ..assignment(&of, &script)
            },
        )
        .await;
        assert!(
            session.heard().refusal_of(&of).is_some(),
            "{bad:?} was taken: {:#?}",
            session.heard()
        );
    }
    assert_eq!(times(&agent, "journaled"), 0);
    // Records of another task: other steps, the task's own names, keys that are no keys, a result without an intent.
    let foreign = [
        "other/updateService/checkout",
        "@task/source",
        "../main/run",
        "main",
        "/",
        "main//run",
        "\u{0}",
    ];
    let journal: Vec<v1::Record> = foreign
        .into_iter()
        .flat_map(|key| {
            [
                intent(key),
                record(key, v1::RecordKind::Done, "1"),
                record(key, v1::RecordKind::Fact, "{}"),
            ]
        })
        .map(|record| v1::Record {
            step_kind: String::new(),
            ..record
        })
        .collect();
    let of = attempt("foreign", 2);
    run(
        &mut session,
        v1::Assignment {
            journal,
            ..assignment(&of, &script)
        },
    )
    .await;
    let result = session.heard().result_of(&of).map(v1::Result::state);
    assert_eq!(result, Some(v1::TaskState::Succeeded), "{:#?}", session.heard());
    assert_eq!(times(&agent, "journaled"), 1, "its own script, once");
    does_an_honest_task(&mut agent, &mut session).await;
}

/// Guards that an agent that was lied to does not forget whom it works for: bytes that decode to nothing it knows.
#[tokio::test]
async fn frames_of_another_version_are_passed_over() {
    let (_manager, mut agent, mut session) = beset(None, &[]).await;
    // A field that no version has is no frame; every known one with nothing in it.
    let empty = [
        Answer::HeartbeatAck(v1::HeartbeatAck { seq: u64::MAX }),
        Answer::Cancel(v1::CancelWish::default()),
        Answer::Revoked(v1::Revoked::default()),
        Answer::Assignment(v1::Assignment::default()),
    ];
    for answer in empty {
        assert!(
            v1::SessionResponse {
                frame: Some(answer.clone())
            }
            .encoded_len()
                < 16
        );
        session.say(answer).await;
    }
    does_an_honest_task(&mut agent, &mut session).await;
}
