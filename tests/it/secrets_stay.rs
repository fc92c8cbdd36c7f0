//! Secrets stay where they belong: in memory, behind an endpoint that dies with its step.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use deputy_proto::v1;
use deputy_tests::leaks::canary::note;
use deputy_tests::programs::Tools;
use deputy_tests::world::World;
use serde_json::Value;

use crate::recipe::{self, AWS};

const SOON: Duration = Duration::from_secs(60);

fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Fails if any file below `folder`, or a name there, has one of the secrets.
pub(crate) fn has_none_of(folder: &Path, secrets: &[String]) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            has_none_of(&path, secrets);
            continue;
        }
        let bytes = std::fs::read(&path).unwrap_or_default();
        for secret in secrets {
            let hidden = |bytes: &[u8]| !bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(
                hidden(&bytes) && hidden(path.as_os_str().as_bytes()),
                "{} has a secret",
                path.display()
            );
        }
    }
}

/// What a step of a task with an identity looks at; everything goes into files beside the agent's folder.
fn looks(folder: &Path) -> String {
    let aws = Tools::load()
        .expect("tools")
        .get("aws")
        .expect("aws")
        .display()
        .to_string();
    let looks = r#"cd FOLDER
umask 077
env > env
echo "$KUBECONFIG" > path
stat -c %a "$KUBECONFIG" > mode
cp "$KUBECONFIG" kubeconfig
curl -s -o /dev/null -w '%{http_code}' "$AWS_CONTAINER_CREDENTIALS_FULL_URI" > without
curl -s -o /dev/null -w '%{http_code}' -H "Authorization: wrong" "$AWS_CONTAINER_CREDENTIALS_FULL_URI" > wrong
curl -s -H "Authorization: $AWS_CONTAINER_AUTHORIZATION_TOKEN" "$AWS_CONTAINER_CREDENTIALS_FULL_URI" > credentials
cat credentials
AWS_PROGRAM sts get-caller-identity --region eu-west-1 --output json > identity
kubectl get configmaps -n shop > configmaps"#;
    looks
        .replace("FOLDER", &folder.display().to_string())
        .replace("AWS_PROGRAM", &aws)
}

/// Guards what a child gets of its task's identity, and that none of it is anywhere else, or there when it is over.
#[tokio::test]
async fn a_step_has_its_roles_identity_and_nothing_of_it_is_kept() {
    let world = World::with_shared_cloud().await.expect("a world");
    world.kubernetes().await.expect("a cluster");
    let folder = world.folder().join("seen");
    std::fs::create_dir(&folder).expect("a folder");
    let document = recipe::script("looks", AWS, "cluster: prod", &looks(&folder));
    let task = world.submit(&document).await.expect("queued");
    world.succeeded(&task, SOON).await.expect("succeeded");
    let logs = world.logs(&task).await.expect("logs");

    let environment = read(&folder, "env");
    let value = |name: &str| {
        let mut lines = environment.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
    };
    for name in [
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    ] {
        assert_eq!(value(name), None, "{name}");
    }
    let endpoint = value("AWS_CONTAINER_CREDENTIALS_FULL_URI").expect("an endpoint");
    let of_agent = world.credentials().expect("credentials").environment();
    assert!(
        of_agent
            .iter()
            .all(|(_, theirs)| !environment.contains(theirs.as_str())),
        "{environment}"
    );
    assert!(
        ["401", "403"].contains(&read(&folder, "without").as_str()),
        "{}",
        read(&folder, "without")
    );
    assert!(
        ["401", "403"].contains(&read(&folder, "wrong").as_str()),
        "{}",
        read(&folder, "wrong")
    );
    assert!(read(&folder, "identity").contains(":222222222222:assumed-role/deployer/"));
    assert_eq!(read(&folder, "mode").trim(), "600");
    assert!(
        !Path::new(read(&folder, "path").trim()).exists(),
        "the kubeconfig outlived its step"
    );
    let address = endpoint
        .trim_start_matches("http://")
        .split('/')
        .next()
        .expect("an address");
    assert!(
        tokio::net::TcpStream::connect(address).await.is_err(),
        "{endpoint} is still open"
    );

    let given: Value = serde_json::from_str(&read(&folder, "credentials")).expect("credentials");
    let field = |name: &str| given[name].as_str().expect(name).to_owned();
    let mut secrets = vec![field("SecretAccessKey"), field("Token")];
    secrets.push(value("AWS_CONTAINER_AUTHORIZATION_TOKEN").expect("a token"));
    assert!(
        logs.contains("SecretAccessKey"),
        "the script prints what it got: {logs}"
    );
    for secret in &secrets {
        assert!(
            !read(&folder, "kubeconfig").contains(secret.as_str()),
            "in the kubeconfig"
        );
        assert!(!logs.contains(secret.as_str()), "in the log: {logs}");
    }
    assert!(
        !read(&folder, "kubeconfig").contains(&field("AccessKeyId")),
        "in the kubeconfig"
    );
    has_none_of(&world.manager.data(), &secrets);
    has_none_of(&world.agents[0].work_folder(), &secrets);
    assert!(
        secrets.iter().all(|secret| !world.report().contains(secret.as_str())),
        "in a log of ours"
    );
}

/// A task that says where its kubeconfig is, and stays.
async fn staying(world: &World, name: &str) -> (String, PathBuf) {
    let file = world.folder().join(name);
    let run = format!(
        "echo \"$KUBECONFIG\" > {file}.new; mv {file}.new {file}; sleep 300",
        file = file.display()
    );
    let task = world
        .submit(&recipe::script(name, AWS, "cluster: prod", &run))
        .await
        .expect("queued");
    world
        .eventually(name, SOON, async || file.exists())
        .await
        .expect("runs");
    let kubeconfig = PathBuf::from(recipe::lines(&file).remove(0));
    assert!(kubeconfig.exists(), "{}", kubeconfig.display());
    (task, kubeconfig)
}

/// Guards the ends that are not a success.
#[tokio::test]
async fn a_kubeconfig_is_gone_after_a_cancel_and_after_a_killed_agent_came_back() {
    let mut world = World::with_shared_cloud().await.expect("a world");
    world.kubernetes().await.expect("a cluster");
    let (cancelled, kubeconfig) = staying(&world, "cancelled").await;
    world.tasks.cancel(&cancelled, "enough").await.expect("cancelled");
    world.ended(&cancelled, SOON).await.expect("ended");
    assert!(!kubeconfig.exists(), "{} outlived the cancel", kubeconfig.display());

    let (_, kubeconfig) = staying(&world, "killed").await;
    world.agents[0].kill().expect("killed");
    assert!(kubeconfig.exists(), "nobody has had the time");
    world.agents[0].start_again().expect("started");
    let gone = async || !kubeconfig.exists();
    world.eventually("the start sweeps", SOON, gone).await.expect("swept");
}

/// Guards that a secret output can be used and never be seen.
#[tokio::test]
async fn a_secret_output_is_used_by_the_next_step_and_shown_to_nobody() {
    let world = World::with_one_agent().await.expect("a world");
    let secret = world.unique("swordfish");
    note("a secret output", &secret);
    let length = world.folder().join("length");
    let steps = format!(
        "    - name: make\n      shell:\n        secretOutputs: [password]\n        run: |\n          echo \"password=swordfish$TAIL\" >> \"$DEPUTY_OUTPUT\"\n        env: {{ TAIL: \"{tail}\" }}\n    - name: use\n      shell:\n        run: |\n          echo \"it is <$PASSWORD>\"\n          printf %s \"$PASSWORD\" > {length}\n        env: {{ PASSWORD: \"${{{{ steps.make.outputs.password }}}}\" }}\n",
        tail = secret.trim_start_matches("swordfish"),
        length = length.display(),
    );
    let task = world.submit(&recipe::task("secret", "", &steps)).await.expect("queued");
    world.succeeded(&task, SOON).await.expect("succeeded");
    assert_eq!(
        std::fs::read_to_string(&length).expect("written"),
        secret,
        "the script has it"
    );
    let logs = world.logs(&task).await.expect("logs");
    assert!(logs.contains("it is <") && !logs.contains(&secret), "{logs}");
    let journal = world.tasks.journal(&task).await.expect("the journal");
    let bodies = journal.iter().map(|record| format!("{record:?}")).collect::<String>();
    assert!(!bodies.contains(&secret), "{bodies}");
    let shown = world.deputy(&["get", &task]).await.expect("run");
    assert!(!format!("{shown:?}").contains(&secret), "{shown:?}");
    let got: v1::Task = world.tasks.get(&task).await.expect("got");
    assert!(!format!("{got:?}").contains(&secret), "{got:?}");
    has_none_of(&world.manager.data(), std::slice::from_ref(&secret));
    has_none_of(&world.agents[0].work_folder(), std::slice::from_ref(&secret));
}

/// Guards every place that cuts a text: no piece of a secret that lies across the cut is anywhere, and a plain output
/// that holds one is kept as a secret too.
#[tokio::test]
async fn no_piece_of_a_secret_output_is_anywhere_wherever_a_text_is_cut() {
    let world = World::with_one_agent().await.expect("a world");
    // Every eight characters of it are found nowhere else.
    let secret: String = (0..120).map(|_| char::from(b'a' + rand::random::<u8>() % 26)).collect();
    note("a secret output", &secret);
    let source = world.folder().join("source");
    std::fs::write(&source, &secret).expect("written");
    let used = world.folder().join("used");
    let steps = format!(
        r#"    - name: make
      shell:
        secretOutputs: [token]
        run: |
          echo "token=$(cat {source})" >> "$DEPUTY_OUTPUT"
    - name: pass
      shell:
        run: |
          : 'Authorization: Bearer ${{{{ steps.make.outputs.token }}}}'
          echo 'url=https://example.invalid/?token=${{{{ steps.make.outputs.token }}}}' >> "$DEPUTY_OUTPUT"
    - name: use
      shell:
        run: |
          printf %s '${{{{ steps.pass.outputs.url }}}}' > {used}
    - name: wrong
      shell:
        run: |
          echo '${{{{ steps.make.outputs.token }}}} is no output' >> "$DEPUTY_OUTPUT"
"#,
        source = source.display(),
        used = used.display(),
    );
    let task = world.submit(&recipe::task("cut", "", &steps)).await.expect("queued");
    let (_, failure) = recipe::failure(&world, &task, SOON).await;
    assert_eq!(
        (failure.step.as_str(), failure.class.as_str()),
        ("wrong", "shell.outputs"),
        "{failure:#?}"
    );
    let url = std::fs::read_to_string(&used).expect("used");
    assert!(url.ends_with(&secret), "the next step has it whole: {url}");
    let pieces: Vec<String> = secret
        .as_bytes()
        .windows(8)
        .map(|piece| String::from_utf8_lossy(piece).into_owned())
        .collect();
    let mut said = world.logs(&task).await.expect("logs");
    for arguments in [
        &["get", &task, "--journal"][..],
        &["explain", &task],
        &["watch", &task, "--output", "json"],
    ] {
        said.push_str(&format!("{:?}", world.deputy(arguments).await.expect("run")));
    }
    said.push_str(&format!("{:?}", world.tasks.journal(&task).await.expect("the journal")));
    said.push_str(&world.report());
    let shown: Vec<&String> = pieces.iter().filter(|piece| said.contains(piece.as_str())).collect();
    assert!(shown.is_empty(), "{shown:?} in {said}");
    has_none_of(&world.manager.data(), &pieces);
    has_none_of(&world.agents[0].work_folder(), &pieces);
}
