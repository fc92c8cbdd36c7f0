//! References to secrets: every place they can be in, byte for byte, and nothing of them anywhere else.

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use aws_sdk_secretsmanager::primitives::Blob;
use deputy_tests::agent_process::AgentOptions;
use deputy_tests::cloud::Cloud;
use deputy_tests::leaks::canary::note;
use deputy_tests::programs::workspace;
use deputy_tests::world::World;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::PostParams;

use crate::recipe;
use crate::secrets_stay::has_none_of;

const SOON: Duration = Duration::from_secs(60);

/// Of several lines, with a carriage return, spaces at its ends and no newline at its end.
const PEM: &str = " -----BEGIN PRIVATE KEY-----\r\nMIIEvQIBADANBgkqhkiG9w0B/+x\nAQEFAASCBKcwggSjAgEAAoIB'\"$\\\n\n-----END PRIVATE KEY----- ";

/// A world whose agent has secrets of its own, with what AWS clients of the deployed account are made from.
async fn world() -> World {
    let cloud = Cloud::shared().await.expect("a cloud");
    let mut world = World::builder().cloud(&cloud).start().await.expect("a world");
    // Beside the folder that scripts share with the test: what is next to something hidden cannot be written to.
    note("a mounted secret", PEM);
    let folder = world.agent_folder("mounted");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("key"), PEM).expect("written");
    std::fs::write(folder.join("large"), "x".repeat(70_000)).expect("written");
    std::fs::write(folder.join("zero"), b"left\0right").expect("written");
    let options = AgentOptions::default()
        .env("DEPUTY_SECRET_TOKEN", "from-the-surroundings-Zq81")
        .env("DEPUTY_SECRET_SHORT", "abc")
        .env("DEPUTY_SECRET_WORD", "production")
        .flag("--secrets-folder", &folder.display().to_string());
    world.agent(options).await.expect("an agent");
    world
}

/// A role of the world's own that may read secrets.
async fn role(world: &World) -> String {
    let actions = ["secretsmanager:GetSecretValue", "ssm:GetParameter", "kms:Decrypt"];
    let role = world
        .cloud()
        .expect("a cloud")
        .role(&world.unique("vault"), &actions)
        .await;
    let role = role.expect("a role");
    format!("  aws:\n    region: eu-west-1\n    assumeRole: [ {{ roleArn: \"{role}\", externalId: deputy-demo }} ]\n")
}

fn vault(world: &World) -> aws_sdk_secretsmanager::Client {
    aws_sdk_secretsmanager::Client::new(&world.root().expect("a cloud"))
}

async fn secret(world: &World, stem: &str, value: &str) -> String {
    let name = world.unique(stem);
    let made = vault(world)
        .create_secret()
        .name(&name)
        .secret_string(value)
        .send()
        .await;
    made.expect("a secret");
    name
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Guards that a script gets every byte of a secret, and that the manager, the journal, the log and the disk get none.
#[tokio::test]
async fn secrets_of_every_place_reach_the_script_byte_for_byte_and_nothing_else() {
    let world = world().await;
    let binary: Vec<u8> = (0..=255).cycle().take(3000).collect();
    let pem = secret(&world, "pem", PEM).await;
    let json = r#"{"user": "app", "db": {"password": "deep-Secret/7+x"}}"#;
    let object = secret(&world, "json", json).await;
    let blob = world.unique("binary");
    let made = vault(&world).create_secret().name(&blob);
    made.secret_binary(Blob::new(binary.clone()))
        .send()
        .await
        .expect("a secret");
    let parameter = format!("/{}/key", world.unique("app"));
    let ssm = aws_sdk_ssm::Client::new(&world.root().expect("a cloud"));
    let put = ssm.put_parameter().name(&parameter).value("secure-string-Wx52");
    put.r#type(aws_sdk_ssm::types::ParameterType::SecureString)
        .send()
        .await
        .expect("a parameter");
    let large: String = (0..65_536_u32)
        .map(|n| char::from(b'!' + u8::try_from(n.wrapping_mul(2_654_435_761) >> 26).unwrap_or(0)))
        .collect();
    let full = secret(&world, "large", &large).await;

    let seen = world.folder().join("seen");
    std::fs::create_dir(&seen).expect("a folder");
    let steps = format!(
        r#"    - name: main
      shell:
        secrets:
          PEM: {{ awsSecretsManager: {pem} }}
          PEM_FILE: {{ as: file, awsSecretsManager: {{ id: {pem} }} }}
          DEEP: {{ awsSecretsManager: {{ id: {object}, jsonKey: /db/password }} }}
          BINARY: {{ as: file, awsSecretsManager: {blob} }}
          PARAMETER: {{ awsParameter: "{parameter}" }}
          LARGE: {{ awsSecretsManager: {full} }}
          LARGE_FILE: {{ as: file, awsSecretsManager: {full} }}
          TOKEN: {{ environment: DEPUTY_SECRET_TOKEN }}
          MOUNTED: {{ file: key }}
        run: |
          cd {seen}
          umask 077
          for name in PEM DEEP PARAMETER LARGE TOKEN MOUNTED; do printf %s "${{!name}}" > $name; done
          for name in PEM_FILE BINARY LARGE_FILE; do
            cp "${{!name}}" $name; stat -c %a "${{!name}}" >> modes; echo "${{!name}}" >> paths
          done
          for name in PEM DEEP PARAMETER TOKEN MOUNTED; do
            value=${{!name}}
            echo "$value"; printf '%q\n' "$value"; printf 'user:%s' "$value" | base64 -w0; echo
            printf %s "$value" | base64; printf %s "$value" | od -An -v -tx1 | tr -d ' \n'; echo
            printf 'a %s and' "$value" | tr '\n' '|'; echo
          done
          base64 -w0 < "$BINARY"; echo; cat "$LARGE_FILE"; echo "$LARGE" >&2
"#,
        seen = seen.display()
    );
    let task = world
        .submit(&recipe::task("secrets", &role(&world).await, &steps))
        .await
        .expect("queued");
    world.succeeded(&task, SOON).await.expect("succeeded");

    for (name, value) in [
        ("PEM", PEM.as_bytes()),
        ("PEM_FILE", PEM.as_bytes()),
        ("DEEP", b"deep-Secret/7+x"),
        ("BINARY", &binary),
        ("PARAMETER", b"secure-string-Wx52"),
        ("LARGE", large.as_bytes()),
        ("LARGE_FILE", large.as_bytes()),
        ("TOKEN", b"from-the-surroundings-Zq81"),
        ("MOUNTED", PEM.as_bytes()),
    ] {
        assert!(read(&seen.join(name)) == value, "{name} is another value");
    }
    assert_eq!(recipe::lines(&seen.join("modes")), ["600", "600", "600"]);
    for path in recipe::lines(&seen.join("paths")) {
        assert!(!Path::new(&path).exists(), "{path} outlived its step");
    }

    let mut pieces: Vec<String> = ["deep-Secret/7+x", "secure-string-Wx52", "from-the-surroundings-Zq81"]
        .map(str::to_owned)
        .into();
    pieces.push(large[..40].to_owned());
    // Its first and last line are in every key, the manager's own too.
    pieces.extend(
        PEM.lines()
            .map(|line| line.trim().to_owned())
            .filter(|line| line.len() >= 20 && !line.starts_with("-----")),
    );
    let logs = world.logs(&task).await.expect("logs");
    assert!(logs.contains("***"), "{logs}");
    let journal = format!("{:?}", world.tasks.journal(&task).await.expect("the journal"));
    assert!(
        journal.contains("secret/PEM"),
        "which version was read is on record: {journal}"
    );
    for piece in &pieces {
        for (what, said) in [
            ("the log", &logs),
            ("the journal", &journal),
            ("a log of ours", &world.report()),
        ] {
            assert!(!said.contains(piece.as_str()), "{piece} is in {what}: {said}");
        }
    }
    has_none_of(&world.manager.data(), &pieces);
    has_none_of(&world.agents[0].work_folder(), &pieces);
}

/// Guards that a Secret of a cluster is read with the task's identity, and that the rest of it stays there.
#[tokio::test]
async fn a_secret_of_a_cluster_is_read_with_the_identity_of_the_task() {
    let world = world().await;
    let namespace = world.namespace("vault").await.expect("a namespace");
    let admin = world.cluster_admin().await.expect("a client");
    note("a value of a live Secret", "in-the-Cluster-88");
    note("a value of a live Secret", "another-Value-99");
    let secret: Secret = serde_json::from_value(serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "app" },
        "stringData": { "password": "in-the-Cluster-88\n", "other": "another-Value-99" },
    }))
    .expect("a Secret");
    let api: Api<Secret> = Api::namespaced(admin, &namespace);
    api.create(&PostParams::default(), &secret).await.expect("created");
    let seen = world.folder().join("seen");
    let run = format!("cp \"$PASSWORD\" {}; cat \"$PASSWORD\"", seen.display());
    let document = |key: &str| {
        let secrets = format!(
            "secrets: {{ PASSWORD: {{ as: file, kubernetesSecret: {{ cluster: prod, namespace: {namespace}, name: app, key: {key} }} }} }}"
        );
        recipe::script("cluster", recipe::AWS, &secrets, &run)
    };
    let task = world.submit(&document("password")).await.expect("queued");
    world.succeeded(&task, SOON).await.expect("succeeded");
    assert_eq!(read(&seen), b"in-the-Cluster-88\n");
    let task = world.submit(&document("pass")).await.expect("queued");
    let (_, failure) = recipe::failure(&world, &task, SOON).await;
    assert_eq!(failure.class, "secret.noKey", "{failure:#?}");
    assert!(
        failure.summary.contains("its keys are: other, password"),
        "{failure:#?}"
    );
    let values = ["in-the-Cluster-88", "another-Value-99"].map(str::to_owned);
    has_none_of(&world.manager.data(), &values);
    has_none_of(&world.agents[0].work_folder(), &values);
}

/// Guards every way in which a secret cannot be used: a clear reason, and no value in it.
#[tokio::test]
async fn a_secret_that_cannot_be_used_is_told_with_the_reason_and_without_the_value() {
    let world = world().await;
    let json = secret(&world, "json", r#"{"user": "hidden-User-1", "pass": "hidden-Pass-1"}"#).await;
    let text = secret(&world, "text", "hidden-Text-1").await;
    let short = secret(&world, "short", "x").await;
    let reader = role(&world).await;
    let cases = [
        (
            &reader,
            "awsSecretsManager: no-such-secret",
            "secret.notFound",
            "no-such-secret does not exist",
        ),
        (
            &reader,
            "awsParameter: /no/such/parameter",
            "secret.notFound",
            "/no/such/parameter does not exist",
        ),
        (
            &reader,
            &*format!("awsSecretsManager: {{ id: {text}, versionStage: NEVER }}"),
            "secret.notFound",
            "does not exist",
        ),
        (
            &recipe::AWS.to_owned(),
            &format!("awsSecretsManager: {text}"),
            "aws.accessDenied",
            "may not secretsmanager:GetSecretValue",
        ),
        (
            &reader,
            &format!("awsSecretsManager: \"{json}#password\""),
            "secret.noKey",
            "its keys are: pass, user",
        ),
        (
            &reader,
            &format!("awsSecretsManager: \"{text}#password\""),
            "secret.noKey",
            "it is not JSON",
        ),
        (
            &reader,
            &format!("awsSecretsManager: {short}"),
            "secret.tooShort",
            "1 characters is too short",
        ),
        (
            &reader,
            "environment: DEPUTY_SECRET_SHORT",
            "secret.tooShort",
            "3 characters is too short",
        ),
        (
            &reader,
            "environment: DEPUTY_SECRET_NONE",
            "secret.notFound",
            "has no variable DEPUTY_SECRET_NONE",
        ),
        (
            &reader,
            "environment: \"${{ 'AWS_CONTAINER_CREDENTIALS_FULL_URI' }}\"",
            "secret.notForTasks",
            "is not given to tasks",
        ),
        (&reader, "file: none", "secret.notFound", "cannot be read"),
        (
            &reader,
            "file: \"${{ '../agent-1' }}\"",
            "secret.notForTasks",
            "leads out of",
        ),
        (&reader, "file: large", "secret.tooLong", "too long to be hidden"),
        (&reader, "file: zero", "secret.notText", "NUL byte"),
    ];
    let ran = world.folder().join("ran");
    let run = format!("touch {}", ran.display());
    for (aws, reference, class, words) in cases {
        let secrets = format!("secrets: {{ TOKEN: {{ {reference} }} }}");
        let task = world.submit(&recipe::script("refused", aws, &secrets, &run)).await;
        let task = task.unwrap_or_else(|error| panic!("{reference}: {error:#}"));
        let (ended, failure) = recipe::failure(&world, &task, SOON).await;
        let told = format!("{reference}: {failure:#?}");
        assert_eq!(failure.class, class, "{told}");
        assert!(
            failure.summary.contains(words) && failure.summary.contains("TOKEN"),
            "{told}"
        );
        assert!(!failure.hint.is_empty(), "{told}");
        assert!(!told.contains("hidden-"), "{told}");
        assert!(!format!("{ended:?}").contains("hidden-"), "{ended:?}");
        assert!(!ran.exists(), "the script must not begin");
    }
    // What is no text fits into a file.
    let secrets = "secrets: { TOKEN: { as: file, file: zero } }";
    let run = "test \"$(wc -c < \"$TOKEN\")\" = 10";
    let task = world
        .submit(&recipe::script("zero", "", secrets, run))
        .await
        .expect("queued");
    world.succeeded(&task, SOON).await.expect("succeeded");
}

/// Guards that a secret which is an ordinary word is hidden all the same, and that people are told what that does.
#[tokio::test]
async fn a_secret_that_is_an_ordinary_word_is_hidden_and_warned_about() {
    let world = world().await;
    let secrets = "secrets: { WORD: { environment: DEPUTY_SECRET_WORD } }";
    let run = "echo we are in $WORD, and so is the production line";
    let task = world
        .submit(&recipe::script("word", "", secrets, run))
        .await
        .expect("queued");
    world.succeeded(&task, SOON).await.expect("succeeded");
    let logs = world.logs(&task).await.expect("logs");
    assert!(logs.contains("we are in ***, and so is the *** line"), "{logs}");
    assert!(
        logs.contains("the value of secret WORD also stands in ordinary output"),
        "{logs}"
    );
    assert!(world.report().contains("it is easily guessed"), "{}", world.report());
}

/// Guards that an attempt which goes on reads what the first one had read, whatever has become of the secret since.
#[tokio::test]
async fn an_attempt_that_goes_on_reads_the_version_of_the_first_or_says_that_it_is_gone() {
    let cloud = Cloud::shared().await.expect("a cloud");
    let mut world = World::builder().cloud(&cloud).start().await.expect("a world");
    let options = AgentOptions::default().failpoint("after-intent@main/run:kill");
    world.agent(options).await.expect("an agent");
    let name = secret(&world, "rotated", "first-Value-11").await;
    let seen = world.folder().join("seen");
    let keys = format!("secrets: {{ TOKEN: {{ awsSecretsManager: {name} }} }}\n        retrySafe: true");
    let run = format!("printf %s \"$TOKEN\" > {}", seen.display());
    let document = recipe::script("rotated", &role(&world).await, &keys, &run);
    let task = world.submit(&document).await.expect("queued");
    world.agents[0]
        .child
        .ended(SOON)
        .await
        .expect("killed after the intent");
    let put = vault(&world).put_secret_value().secret_id(&name);
    put.secret_string("second-Value-22").send().await.expect("rotated");
    world.agents[0].start_again().expect("started");
    world.succeeded(&task, 2 * SOON).await.expect("succeeded");
    assert_eq!(read(&seen), b"first-Value-11", "{}", world.report());

    let options = AgentOptions::named("second")
        .failpoint("after-intent@main/run:kill")
        .label("second=yes");
    let second = world.agent(options).await.expect("an agent");
    let selected = document.replace("  steps:", "  selector: second == 'yes'\n  steps:");
    let task = world.submit(&selected).await.expect("queued");
    world.agents[second]
        .child
        .ended(SOON)
        .await
        .expect("killed after the intent");
    let gone = vault(&world).delete_secret().secret_id(&name);
    gone.force_delete_without_recovery(true).send().await.expect("deleted");
    world.agents[second].start_again().expect("started");
    let (_, failure) = recipe::failure(&world, &task, 2 * SOON).await;
    assert_eq!(failure.class, "secret.gone", "{failure:#?}");
    assert!(failure.hint.contains("deputy retry"), "{failure:#?}");
}

/// Guards the file of a secret against the end that is none.
#[tokio::test]
async fn the_file_of_a_secret_is_gone_after_a_cancel_and_after_a_killed_agent_came_back() {
    let mut world = world().await;
    for end in ["cancelled", "killed"] {
        let told = world.folder().join(end);
        let run = format!("echo \"$TOKEN\" > {0}.new; mv {0}.new {0}; sleep 300", told.display());
        let secrets = "secrets: { TOKEN: { as: file, environment: DEPUTY_SECRET_TOKEN } }";
        let task = world
            .submit(&recipe::script(end, "", secrets, &run))
            .await
            .expect("queued");
        let runs = async || told.exists();
        world.eventually(end, SOON, runs).await.expect("runs");
        let file = std::path::PathBuf::from(recipe::lines(&told).remove(0));
        let mode = file.metadata().expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        if end == "cancelled" {
            world.tasks.cancel(&task, "enough").await.expect("cancelled");
            world.ended(&task, SOON).await.expect("ended");
            assert!(!file.exists(), "{} outlived the cancel", file.display());
        } else {
            world.agents[0].kill().expect("killed");
            assert!(file.exists(), "nobody has had the time");
            // A sweep that is under way has the file under another name.
            let is_agents = |folder: &&Path| {
                folder
                    .file_name()
                    .is_some_and(|name| name.as_bytes().starts_with(b"agent-"))
            };
            let left = file
                .ancestors()
                .find(is_agents)
                .expect("the work folder of the killed one");
            world.agents[0].start_again().expect("started");
            let gone = async || !left.exists();
            world.eventually("the start sweeps", SOON, gone).await.expect("swept");
        }
    }
}

/// Guards the example of the documentation.
#[tokio::test]
async fn the_example_runs_and_its_password_is_not_in_its_log() {
    let world = world().await;
    let put = async |name: &str, value: &str| {
        let made = vault(&world)
            .create_secret()
            .name(name)
            .secret_string(value)
            .send()
            .await;
        made.expect("a secret");
    };
    put(
        "prod/checkout/database",
        r#"{"user": "app", "password": "example-Password-5"}"#,
    )
    .await;
    put("prod/checkout/ca", PEM).await;
    let ssm = aws_sdk_ssm::Client::new(&world.root().expect("a cloud"));
    let parameter = ssm
        .put_parameter()
        .name("/prod/checkout/api-key")
        .value("example-Key-6");
    let secure = aws_sdk_ssm::types::ParameterType::SecureString;
    parameter.r#type(secure).send().await.expect("a parameter");
    let example = std::fs::read_to_string(workspace().join("examples/secrets.yaml")).expect("the example");
    let actions = ["secretsmanager:GetSecretValue", "ssm:GetParameter", "kms:Decrypt"];
    let role = world
        .cloud()
        .expect("a cloud")
        .role(&world.unique("example"), &actions)
        .await;
    let deployer = "arn:aws:iam::222222222222:role/deployer";
    assert!(example.contains(deployer), "{example}");
    let document = example.replace(deployer, &role.expect("a role"));
    let task = world.submit(&document).await.expect("queued");
    world.succeeded(&task, SOON).await.expect("succeeded");
    let logs = world.logs(&task).await.expect("logs");
    assert!(logs.contains("the password is ***"), "{logs}");
}
