//! The agent's own policy: what it forbids is not run, whoever asks, and who is told what.

use std::path::{Path, PathBuf};
use std::time::Duration;

use deputy_proto::v1;
use deputy_tests::agent_process::{AgentOptions, Policy};
use deputy_tests::cloud::{AWAY, Cloud};
use deputy_tests::programs::{Binaries, workspace};
use deputy_tests::world::World;
use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::recipe;

const SOON: Duration = Duration::from_secs(30);

/// A world whose only agent has these rules.
async fn world(folder: &Path, rules: &str) -> World {
    let path = folder.join("agent.cedar");
    std::fs::write(&path, rules).expect("written");
    with_file(path).await
}

async fn with_file(path: PathBuf) -> World {
    let mut world = World::builder().start().await.expect("a world");
    let options = AgentOptions::named("guarded").policy(Policy::File(path));
    world.agent(options).await.expect("an agent");
    world
}

async fn rejected(world: &World, document: &str) -> v1::Failure {
    let task = world.submit(document).await.expect("queued");
    let ended = world.ended(&task, SOON).await.expect("ended");
    assert_eq!(ended.state(), v1::TaskState::Rejected, "{ended:#?}\n{}", world.report());
    let result = ended.result.expect("a result");
    assert_eq!(result.world(), v1::World::Unchanged);
    result.failure.expect("a failure")
}

/// Guards that each of the examples stops what it is for before anything is started, and names its rule.
#[tokio::test]
async fn what_an_example_forbids_ends_rejected_with_the_agent_and_the_rule() {
    let ecs = |role: &str, image: &str| {
        let aws = format!("  aws: {{ region: eu-west-1, assumeRole: [ {{ roleArn: \"{role}\" }} ] }}\n");
        let step = format!(
            "    - name: deploy\n      ecsRollingDeploy:\n        cluster: prod\n        service: checkout-api\n        taskDefinition: {{ family: checkout, containerDefinitions: [ {{ name: app, image: \"{image}\", memory: 64 }} ] }}\n"
        );
        recipe::task("forbidden", &aws, &step)
    };
    let namespaced = recipe::task(
        "forbidden",
        "  aws: { region: eu-west-1, assumeRole: [ { roleArn: \"arn:aws:iam::222222222222:role/deployer\" } ] }\n",
        "    - name: deploy\n      kubernetesApply:\n        cluster: production\n        namespace: kube-system\n        manifests: [ { apiVersion: v1, kind: ConfigMap, metadata: { name: x } } ]\n",
    );
    let deployer = "arn:aws:iam::222222222222:role/deployer";
    for (example, document, what, rule) in [
        (
            "roles",
            ecs("arn:aws:iam::222222222222:role/admin", "a:1"),
            "no rule that permits assuming the role arn:aws:iam::222222222222:role/admin",
            "",
        ),
        (
            "no-shell",
            recipe::script("forbidden", "", "", "echo never"),
            "forbids running a shell step (step main)",
            "no-shell (line 6)",
        ),
        (
            "namespaces",
            namespaced,
            "using namespace kube-system of the EKS cluster production (step deploy)",
            "",
        ),
        (
            "registries",
            ecs(deployer, "evil.example/api:1"),
            "running the image evil.example/api:1 (step deploy)",
            "",
        ),
        (
            "signers",
            recipe::script("forbidden", "", "", "echo never"),
            "no rule that permits running a shell step",
            "",
        ),
    ] {
        let world = with_file(workspace().join(format!("examples/policies/{example}.cedar"))).await;
        let failure = rejected(&world, &document).await;
        assert_eq!(failure.class, "policy.denied", "{failure:?}");
        assert!(
            failure.summary.contains("the policy of agent guarded"),
            "{example}: {failure:?}"
        );
        assert!(failure.summary.contains(what), "{example}: {failure:?}");
        assert!(failure.summary.contains(rule), "{example}: {failure:?}");
    }
}

/// Guards that an agent without a policy that it can use takes nothing, says why wherever it is shown, and goes on
/// by itself when the file is mended.
#[tokio::test]
async fn without_a_good_policy_nothing_runs_until_there_is_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("agent.cedar");
    let world = with_file(path.clone()).await;
    // Not beside the policy: scripts cannot write there.
    let ran = world.folder().join("ran");
    let document = recipe::script("waits", "", "", &format!("echo ran >> {}", ran.display()));
    let task = world.submit(&document).await.expect("queued");
    let listed = world.deputy(&["fleet", "list"]).await.expect("run").stdout;
    assert!(
        listed.contains("it runs nothing: its policy") && listed.contains("cannot be read"),
        "{listed}"
    );
    let explained = world.deputy(&["explain", &task]).await.expect("run").stdout;
    assert!(explained.contains("it takes no tasks: its policy"), "{explained}");
    std::fs::write(&path, "permit (principal, action, resorce);").expect("written");
    world
        .eventually("the mistake is told", SOON, async || {
            let listed = world.deputy(&["fleet", "list"]).await.expect("run").stdout;
            listed.contains("is not valid")
        })
        .await
        .expect("told");
    assert!(!ran.exists(), "nothing has run");
    std::fs::write(&path, "permit (principal, action, resource);").expect("written");
    world.succeeded(&task, SOON).await.expect("mended");
    assert_eq!(recipe::lines(&ran).len(), 1);
    std::fs::write(&path, "@id(\"no\") forbid (principal, action, resource);").expect("written");
    let failure = rejected(&world, &document).await;
    assert!(failure.summary.contains("no (line 1)"), "{failure:?}");
    assert_eq!(
        recipe::lines(&ran).len(),
        1,
        "the next task is judged by the file as it is now"
    );
}

/// Guards that `--allow-all` and no policy at all are seen in the fleet list.
#[tokio::test]
async fn allowing_all_and_having_no_policy_are_warned_about() {
    let mut world = World::builder().start().await.expect("a world");
    let signers = world.folder().join("trusted");
    std::fs::create_dir(&signers).expect("a folder");
    let open = AgentOptions::named("open").flag("--trusted-signers", signers.to_str().expect("a path"));
    world.agent(open).await.expect("an agent");
    let none = AgentOptions::named("closed").policy(Policy::Missing);
    world.agent(none).await.expect("an agent");
    let listed = world.deputy(&["fleet", "list"]).await.expect("run").stdout;
    assert!(listed.contains("open: it was started with --allow-all"), "{listed}");
    assert!(
        listed.contains("open: it has trusted signers and no pool key"),
        "{listed}"
    );
    assert!(!listed.contains("closed: it has trusted signers"), "{listed}");
    assert!(listed.contains("closed: it runs nothing: it has no policy"), "{listed}");
    let task = world
        .submit(&recipe::script("runs", "", "", "true"))
        .await
        .expect("queued");
    let done = world.succeeded(&task, SOON).await.expect("by the open one");
    assert!(done.agent_id.is_empty() || done.agent_id == "open", "{done:?}");
}

/// Guards that what is known only in the middle is asked about in the middle, and that the end tells the truth.
#[tokio::test]
async fn a_denial_in_the_middle_fails_the_task_and_says_what_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let rules = "permit (principal, action, resource);\n@id(\"no-rm\") forbid (principal, action == Action::\"runCommand\", resource) when { context.script like \"*rm -rf*\" };";
    let world = world(folder.path(), rules).await;
    // Not beside the policy: scripts cannot write there.
    let ran = world.folder().join("ran");
    let steps = format!(
        "    - name: first\n      shell: {{ run: \"echo first >> {ran}; printf 'what=rm -%s /nowhere' rf >> $DEPUTY_OUTPUT\" }}\n    - name: second\n      shell: {{ run: \"echo second >> {ran}; ${{{{ steps.first.outputs.what }}}}\" }}\n",
        ran = ran.display()
    );
    let task = world.submit(&recipe::task("middle", "", &steps)).await.expect("queued");
    let ended = world.ended(&task, SOON).await.expect("ended");
    assert_eq!(ended.state(), v1::TaskState::Failed, "{ended:#?}\n{}", world.report());
    let result = ended.result.expect("a result");
    let failure = result.failure.clone().expect("a failure");
    assert_eq!(
        (failure.class.as_str(), failure.step.as_str()),
        ("policy.denied", "second"),
        "{failure:?}"
    );
    assert!(failure.summary.contains("no-rm (line 2)"), "{failure:?}");
    assert!(
        !failure.summary.contains("rm -rf"),
        "a script is not quoted: {failure:?}"
    );
    assert_eq!(result.world(), v1::World::Changed);
    assert_eq!(recipe::lines(&ran), ["first"]);
}

fn agent(arguments: &[&str]) -> std::process::Output {
    std::process::Command::new(Binaries::beside_this().expect("built").agent)
        .args(arguments)
        .current_dir(workspace())
        .output()
        .expect("run")
}

/// Guards the commands with which a policy is written: every mistake with its line, every question with its answer.
#[test]
fn policies_are_checked_and_explained_on_the_command_line() {
    let text = |output: &std::process::Output| {
        let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        out + &err
    };
    for entry in std::fs::read_dir(workspace().join("examples/policies")).expect("examples") {
        let path = entry.expect("an entry").path();
        let checked = agent(&["policy", "check", path.to_str().expect("a path")]);
        assert_eq!(checked.status.code(), Some(0), "{}", text(&checked));
    }
    let folder = tempfile::tempdir().expect("a folder");
    let bad = folder.path().join("bad.cedar");
    std::fs::write(
        &bad,
        "permit (principal, action, resource);\npermit (principal, action == Action::\"runShell\", resource);",
    )
    .expect("written");
    let checked = agent(&["policy", "check", bad.to_str().expect("a path")]);
    assert_eq!(checked.status.code(), Some(2), "{}", text(&checked));
    assert!(
        text(&checked).contains("line 2: unrecognized action"),
        "{}",
        text(&checked)
    );
    let explain = |policy: &str, more: &[&str]| {
        let mut arguments = vec!["policy", "explain", policy, "examples/shell.yaml"];
        arguments.extend(more);
        agent(&arguments)
    };
    let denied = explain("examples/policies/no-shell.cedar", &[]);
    assert_eq!(denied.status.code(), Some(5), "{}", text(&denied));
    assert!(
        text(&denied).contains("forbidden: no-shell (line 6)"),
        "{}",
        text(&denied)
    );
    let signed = explain(
        "examples/policies/signers.cedar",
        &["--signer", "release-pipeline", "--project", "shop", "-o", "json"],
    );
    assert_eq!(signed.status.code(), Some(0), "{}", text(&signed));
    let answers: serde_json::Value = serde_json::from_slice(&signed.stdout).expect("JSON");
    assert_eq!(
        answers["answers"][0]["answer"]["by"][0]["id"], "released",
        "{answers:#}"
    );
}

/// Guards that a local run asks a policy only when it is given one, and then as an agent does.
#[test]
fn a_local_run_asks_a_policy_only_if_it_is_given_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let work = folder.path().to_str().expect("a path").to_owned();
    let free = agent(&["task", "examples/shell.yaml", "--work-folder", &work]);
    assert_eq!(free.status.code(), Some(0), "{free:?}");
    let denied = agent(&[
        "task",
        "examples/shell.yaml",
        "--work-folder",
        &work,
        "--policy",
        "examples/policies/no-shell.cedar",
    ]);
    assert_eq!(denied.status.code(), Some(5), "{denied:?}");
    let said = String::from_utf8_lossy(&denied.stdout).into_owned() + &String::from_utf8_lossy(&denied.stderr);
    assert!(said.contains("no-shell (line 6)"), "{said}");
}

/// Guards that a script that is permitted cannot be made another one by the variables it is given, nor by a bundle that
/// nobody signed: neither runs anything.
#[test]
fn a_permitted_script_is_not_made_another_by_what_it_is_given() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).display().to_string();
    for name in ["work", "evil"] {
        std::fs::create_dir(at(name)).expect("a folder");
    }
    let program = at("evil/uname");
    std::fs::write(&program, "#!/bin/sh\necho PWNED\n").expect("written");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, executable).expect("executable");
    std::fs::write(
        at("agent.cedar"),
        "permit (principal, action == Action::\"runStep\", resource);\n\
        permit (principal, action == Action::\"effect\", resource);\n\
        permit (principal, action == Action::\"runCommand\", resource) when { context.script == \"uname\" };\n\
        permit (principal, action == Action::\"setVariable\", resource) when { resource.name like \"APP_*\" };\n",
    )
    .expect("written");
    let run = |more: &str, keys: &str| {
        let document = recipe::task(
            "given",
            more,
            &format!("    - name: main\n      shell: {{ run: uname{keys} }}\n"),
        );
        std::fs::write(at("task.yaml"), document).expect("written");
        let (task, policy, work) = (at("task.yaml"), at("agent.cedar"), at("work"));
        let ran = agent(&["task", &task, "--work-folder", &work, "--policy", &policy]);
        let said = String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
        let explained = agent(&["policy", "explain", &policy, &task]).status.code();
        assert_eq!(
            explained,
            ran.status.code(),
            "the questions are those of the run: {said}"
        );
        (ran.status.code(), said)
    };
    let (code, said) = run("", ", env: { APP_COLOUR: blue }");
    assert_eq!(code, Some(0), "{said}");
    for (more, keys, expected, words) in [
        (
            "",
            "BASH_ENV: \"$(echo PW''NED >&2)\"".into(),
            2,
            "a step cannot set `BASH_ENV`",
        ),
        (
            "",
            format!("PATH: \"{}:/usr/bin:/bin\"", at("evil")),
            5,
            "setting the variable PATH of a shell step",
        ),
        (
            "  sources: [ { name: code, bundle: ./evil } ]\n",
            "APP_A: b".into(),
            5,
            "unpacking the bundle code",
        ),
    ] {
        let (code, said) = run(more, &format!(", env: {{ {keys} }}"));
        assert_eq!(code, Some(expected), "{keys}: {said}");
        assert!(said.contains(words), "{keys}: {said}");
        assert!(!said.contains("PWNED"), "{keys}: {said}");
    }
}

/// A key pair in PEM files; the path of the private one.
fn key(folder: &Path, trusted: &Path, name: &str) -> String {
    use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
    let pair = Ed25519KeyPair::generate().expect("a key");
    let secret: Pkcs8V1Der<'_> = pair.as_der().expect("der");
    let private = folder.join(format!("{name}-key.pem"));
    std::fs::write(&private, pem("PRIVATE KEY", secret.as_ref())).expect("written");
    let public = pair.public_key().as_der().expect("der");
    trust(trusted, name, public.as_ref());
    private.display().to_string()
}

/// Puts a public key among the trusted ones.
pub(crate) fn trust(trusted: &Path, name: &str, public: &[u8]) {
    std::fs::create_dir_all(trusted).expect("a folder");
    std::fs::write(trusted.join(format!("{name}.pem")), pem("PUBLIC KEY", public)).expect("written");
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

/// Adds an agent that runs what `principal` signed for the project, and no more; the file of a task to sign.
async fn runs_what_is_signed(world: &mut World, folder: &Path, principal: &str, trusted: &Path) -> String {
    let rules = folder.join("agent.cedar");
    let text = format!(
        "@id(\"signed\") permit ({principal}, action, resource) when {{ context has signed && context.signed.project == \"default\" }};"
    );
    std::fs::write(&rules, text).expect("written");
    let options = AgentOptions::named("guarded").policy(Policy::File(rules));
    let options = options.flag("--trusted-signers", trusted.to_str().expect("a path"));
    world.agent(options).await.expect("an agent");
    let file = folder.join("task.yaml");
    std::fs::write(&file, recipe::script("signed", "", "", "echo signed and run")).expect("written");
    file.display().to_string()
}

/// Guards that a task that was signed on the command line runs where a signature is needed, and one that was not, or
/// by a stranger, does not.
#[tokio::test]
async fn only_what_a_trusted_signer_signed_runs_where_a_signature_is_needed() {
    let folder = tempfile::tempdir().expect("a folder");
    let (trusted, strangers) = (folder.path().join("trusted"), folder.path().join("strangers"));
    let good = key(folder.path(), &trusted, "pipeline");
    let stranger = key(folder.path(), &strangers, "stranger");
    let mut world = World::builder().start().await.expect("a world");
    let file = runs_what_is_signed(&mut world, folder.path(), "principal == Signer::\"pipeline\"", &trusted).await;
    let submit = async |more: &[&str]| {
        let mut arguments = vec!["submit", &file, "--wait"];
        arguments.extend(more);
        world.deputy(&arguments).await.expect("run")
    };
    let ran = submit(&["--sign", &good]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}\n{}", world.report());
    let unsigned = submit(&[]).await;
    assert_eq!(unsigned.code, Some(5), "{unsigned:?}");
    let strange = submit(&["--sign", &stranger]).await;
    assert_eq!(strange.code, Some(5), "{strange:?}");
    let said = strange.stdout + &strange.stderr;
    assert!(said.contains("by nobody whom this agent trusts"), "{said}");
    let public = trusted.join("pipeline.pem");
    let no_key = submit(&["--sign", public.to_str().expect("a path")]).await;
    assert_eq!(no_key.code, Some(2), "{no_key:?}");
    assert!(
        no_key.stderr.contains("holds no private key in PKCS#8 PEM"),
        "{no_key:?}"
    );
}

/// Guards both kinds of KMS keys that agents verify, and the words for those that cannot sign.
#[tokio::test]
async fn a_key_of_kms_signs_what_runs_where_a_signature_is_needed() {
    use aws_sdk_kms::types::{KeySpec, KeyUsageType};
    let folder = tempfile::tempdir().expect("a folder");
    let cloud = Cloud::shared().await.expect("a cloud");
    let mut world = World::builder().cloud(&cloud).start().await.expect("a world");
    let kms = aws_sdk_kms::Client::new(&world.root().expect("a cloud"));
    let trusted = folder.path().join("trusted");
    let make = async |name: &str, spec: KeySpec, usage: KeyUsageType| {
        let made = kms.create_key().key_spec(spec).key_usage(usage).send().await;
        let arn = made
            .expect("made")
            .key_metadata
            .and_then(|key| key.arn)
            .expect("an ARN");
        if let Ok(public) = kms.get_public_key().key_id(&arn).send().await {
            let der = public.public_key.expect("a key").into_inner();
            trust(&trusted, name, &der);
        }
        arn
    };
    let p256 = make("p256", KeySpec::EccNistP256, KeyUsageType::SignVerify).await;
    let ed25519 = make("ed25519", KeySpec::EccNistEdwards25519, KeyUsageType::SignVerify).await;
    let rsa = make("rsa", KeySpec::Rsa2048, KeyUsageType::SignVerify).await;
    std::fs::remove_file(trusted.join("rsa.pem")).expect("a key that no agent takes");
    let file = runs_what_is_signed(&mut world, folder.path(), "principal", &trusted).await;
    let endpoint = cloud.scenery().endpoint.clone();
    let submit = async |key: &str| {
        let mut command = world.deputy_command().expect("a command");
        command.args(["submit", &file, "--wait", "--sign", key]).envs([
            ("AWS_ACCESS_KEY_ID", AWAY),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_ENDPOINT_URL", &endpoint),
        ]);
        let output = tokio::task::spawn_blocking(move || command.output()).await;
        output.expect("waited").expect("run")
    };
    for key in [&p256, &ed25519] {
        let ran = submit(key).await;
        assert_eq!(ran.status.code(), Some(0), "{ran:?}\n{}", world.report());
    }
    let missing = "arn:aws:kms:eu-west-1:222222222222:key/00000000-0000-0000-0000-000000000000";
    for (key, words) in [
        (rsa.as_str(), "is of kind RSA_2048"),
        (missing, "cannot be signed with the KMS key"),
    ] {
        let refused = submit(key).await;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2), "{said}");
        assert!(said.contains(words) && said.contains("hint:"), "{said}");
    }
}

/// Guards that an undo, too, runs no image that the policy does not permit: here one that was live before the task.
#[tokio::test]
async fn an_undo_does_not_bring_back_an_image_that_the_policy_forbids() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("agent.cedar");
    let rules = "permit (principal, action, resource);\n@id(\"only-ours\") forbid (principal, action == Action::\"pullImage\", resource) unless { resource in Registry::\"ours.example.com\" };";
    std::fs::write(&path, rules).expect("written");
    let cloud = Cloud::shared().await.expect("a cloud");
    let mut world = World::builder().cloud(&cloud).start().await.expect("a world");
    let options = AgentOptions::named("guarded").policy(Policy::File(path));
    world.agent(options).await.expect("an agent");
    let namespace = world.namespace("undoes").await.expect("a namespace");

    let deployment = |image: &str| {
        json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" }, "spec": {
            "selector": { "matchLabels": { "app": "web" } },
            "template": { "metadata": { "labels": { "app": "web" } },
                "spec": { "containers": [{ "name": "web", "image": image }] } } } })
    };
    let admin = world.kubernetes().await.expect("a cluster").admin().await;
    let live: Api<Deployment> = Api::namespaced(admin.expect("a client"), &namespace);
    let before = Patch::Apply(deployment("theirs.example.com/web:1"));
    live.patch("web", &PatchParams::apply("deputy"), &before)
        .await
        .expect("applied");

    let steps = format!(
        "    - name: deploy\n      kubernetesApply: {{ cluster: prod, namespace: {namespace}, manifests: [ {} ] }}\n    - name: check\n      shell: {{ run: exit 1, retrySafe: true }}\n",
        deployment("ours.example.com/web:2")
    );
    let more = format!("{}  onFailure: rollback\n", recipe::AWS);
    let task = world.submit(&recipe::task("undoes", &more, &steps)).await;
    let ended = world.ended(&task.expect("queued"), SOON).await.expect("ended");
    let result = ended.result.expect("a result");
    assert_eq!(
        (ended.state, result.world()),
        (v1::TaskState::Failed.into(), v1::World::RollbackFailed),
        "{result:#?}\n{}",
        world.report()
    );
    let remains = result.remains.join("\n");
    assert!(
        remains.contains("theirs.example.com/web:1") && remains.contains("only-ours"),
        "{remains}"
    );
    let now = serde_json::to_value(live.get("web").await.expect("read")).expect("JSON");
    let image = now.pointer("/spec/template/spec/containers/0/image");
    assert_eq!(image, Some(&json!("ours.example.com/web:2")));
}
