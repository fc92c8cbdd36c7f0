//! Sources that the agent fetches itself.

use std::os::unix::fs::symlink;
use std::time::Duration;

use deputy_tests::agent_process::{AgentOptions, Policy};
use deputy_tests::cloud::{AWAY, Cloud};
use deputy_tests::git_server::GitServer;
use deputy_tests::proxy::rule::{Canned, Matcher};
use deputy_tests::skip::skips;
use deputy_tests::ssh_server::{SshServer, new_key};
use deputy_tests::world::World;

use crate::recipe;
use crate::secrets_stay::has_none_of;

const SOON: Duration = Duration::from_secs(60);
const TOKEN: &str = "glpat-Token/For+Tests-31";

/// A server with a repository in `private/` and one that is open to all, and an agent that knows the server's authority.
async fn world(failpoint: Option<&str>) -> (World, GitServer) {
    let mut world = World::builder().start().await.expect("a world");
    let server = GitServer::start(&world.folder().join("git"), TOKEN).expect("a server");
    for repository in ["private/app.git", "open/app.git"] {
        let files = |copy: &std::path::Path| {
            std::fs::create_dir_all(copy.join("deploy/bin"))?;
            std::fs::write(copy.join("deploy/bin/run.sh"), "#!/bin/sh\necho first\n")?;
            std::fs::write(copy.join("README"), "not deployed\n")?;
            std::fs::write(copy.join(".gitattributes"), "*.sh filter=evil\n")?;
            Ok(symlink("bin/run.sh", copy.join("deploy/run"))?)
        };
        server.commit(repository, files).expect("a commit");
    }
    let mut options = AgentOptions::default()
        .env("GIT_SSL_CAINFO", &server.authority())
        .env("DEPUTY_SECRET_GIT", TOKEN)
        .env("DEPUTY_SECRET_WRONG", "a-token-that-is-wrong");
    if let Some(failpoint) = failpoint {
        options = options.failpoint(failpoint);
    }
    world.agent(options).await.expect("an agent");
    (world, server)
}

fn source(url: &str, more: &str) -> String {
    format!("  sources:\n    - name: app\n      git:\n        url: {url}\n{more}")
}

const AUTH: &str = "        auth: { httpsToken: { token: { environment: DEPUTY_SECRET_GIT } } }\n";

/// Guards the main way: the files of the commit, the token nowhere but in the request.
#[tokio::test]
async fn a_private_repository_is_fetched_with_a_token_that_is_nowhere_else() {
    let (world, server) = world(None).await;
    let commit = server.git("private/app.git", &["rev-parse", "HEAD"]).expect("a commit");
    let seen = world.folder().join("seen");
    let run = format!(
        "ls -a > {seen}; cat run >> {seen}; test ! -x bin/run.sh\nenv\ngrep -r 'glp[a]t' .. && exit 3 || true",
        seen = seen.display()
    );
    let more = format!("        ref: {{ branch: main }}\n        subfolder: deploy\n{AUTH}");
    let document = recipe::script("git", &source(&server.url("private/app.git"), &more), "", &run);
    let task = world.submit(&document).await.expect("queued");
    world.succeeded(&task, SOON).await.expect("succeeded");
    let lines = recipe::lines(&seen);
    assert_eq!(
        lines,
        [".", "..", "bin", "run", "#!/bin/sh", "echo first"]
            .map(str::to_owned)
            .to_vec()
    );
    let logs = world.logs(&task).await.expect("logs");
    assert!(logs.contains(&format!("commit {}", commit.trim())), "{logs}");
    let journal = format!("{:?}", world.tasks.journal(&task).await.expect("the journal"));
    assert!(
        journal.contains("@task/source/app") && journal.contains(commit.trim()),
        "{journal}"
    );
    assert!(
        server.requests().contains(&format!("git:{TOKEN}")),
        "{}",
        server.requests()
    );
    for said in [&logs, &journal, &world.report()] {
        assert!(!said.contains("glpat"), "{said}");
    }
    let token = [TOKEN.to_owned()];
    has_none_of(&world.manager.data(), &token);
    has_none_of(&world.agents[0].work_folder(), &token);
}

/// Guards every other way to name a commit, and every reason for which there is none.
#[tokio::test]
async fn what_cannot_be_fetched_is_told_with_the_reason_and_what_to_do() {
    let (world, server) = world(None).await;
    let (open, private) = (server.url("open/app.git"), server.url("private/app.git"));
    let commit = server.git("open/app.git", &["rev-parse", "HEAD"]).expect("a commit");
    let commit = commit.trim();
    server.git("open/app.git", &["tag", "v1"]).expect("a tag");
    let bare = world.folder().join("git/open/app.git").display().to_string();
    server
        .git("open/app.git", &["push", "--quiet", &bare, "v1"])
        .expect("pushed");
    for reference in [
        format!("{{ commit: {commit} }}"),
        "{ tag: v1 }".into(),
        "{ branch: \"${{ 'main' }}\" }".into(),
    ] {
        let spec = source(&open, &format!("        ref: {reference}\n"));
        let document = recipe::script("git", &spec, "", "test -f README && test ! -e .git");
        let task = world.submit(&document).await.expect("queued");
        world
            .succeeded(&task, SOON)
            .await
            .unwrap_or_else(|error| panic!("{reference}: {error:#}"));
    }
    let escape = |copy: &std::path::Path| Ok(symlink("../../../../etc/hostname", copy.join("out"))?);
    server.commit("open/links.git", escape).expect("a commit");
    let main = "        ref: { branch: main }\n";
    let wrong = "        auth: { httpsToken: { token: { environment: DEPUTY_SECRET_WRONG } } }\n";
    for (url, more, class, words) in [
        (&private, main.to_owned(), "source.denied", "does not let this agent in"),
        (
            &private,
            format!("{main}{wrong}"),
            "source.denied",
            "does not let this agent in",
        ),
        (
            &open,
            "        ref: { branch: none }\n".into(),
            "source.notFound",
            "has no branch none",
        ),
        (
            &open,
            format!("        ref: {{ commit: {} }}\n", "0a".repeat(20)),
            "source.notFound",
            "has no commit 0a",
        ),
        (
            &server.url("open/none.git"),
            main.into(),
            "source.notFound",
            "there is no repository",
        ),
        (
            &open,
            format!("{main}        subfolder: none\n"),
            "source.refused",
            "there is nothing in \"none\"",
        ),
        (
            &server.url("open/links.git"),
            main.into(),
            "source.refused",
            "leads out of it",
        ),
        (
            &server.url("moved/open/app.git"),
            format!("{main}{AUTH}"),
            "source.redirected",
            "redirects are not followed",
        ),
        (
            &"https://localhost:1/app.git".to_owned(),
            main.into(),
            "source.unreachable",
            "could not be fetched from",
        ),
    ] {
        let document = recipe::script("git", &source(url, &more), "", "echo ran");
        let task = world.submit(&document).await.expect("queued");
        let (_, failure) = recipe::failure(&world, &task, SOON).await;
        let told = format!("{url} {more}: {failure:#?}");
        assert_eq!(failure.class, class, "{told}");
        assert!(failure.summary.contains(words) && !failure.hint.is_empty(), "{told}");
    }
    let elsewhere: Vec<String> = server
        .requests()
        .lines()
        .filter(|line| line.starts_with("second"))
        .map(str::to_owned)
        .collect();
    assert!(elsewhere.is_empty(), "another host was asked: {elsewhere:?}");
    assert!(
        !server.requests().contains("/moved/open/app.git/info/refs -"),
        "the header goes to the host it is for"
    );
}

/// Guards that no link leads the agent, which nothing confines, out of the repository: neither is what is outside told,
/// nor does a step work there.
#[tokio::test]
async fn a_subfolder_behind_links_is_a_folder_of_the_repository_or_refused() {
    let (world, server) = world(None).await;
    let files = |copy: &std::path::Path| {
        for folder in ["real/bin", "deep"] {
            std::fs::create_dir_all(copy.join(folder))?;
        }
        std::fs::write(copy.join("real/bin/run.sh"), "echo ran\n")?;
        for (link, target) in [
            ("in", "real"),
            ("deep/in", "../deep/../in/./bin"),
            ("out", "/etc"),
            ("fds", "/proc/self/fd"),
            ("deep/up", "../../../.."),
            ("deep/out", "../out"),
            ("loop", "loop"),
            ("file", "real/bin/run.sh"),
            ("nowhere", "none"),
        ] {
            symlink(target, copy.join(link))?;
        }
        Ok(())
    };
    server.commit("open/ways.git", files).expect("a commit");
    let url = server.url("open/ways.git");
    let of = |subfolder: &str| {
        let more = format!("        ref: {{ branch: main }}\n        subfolder: {subfolder}\n");
        let run = "case \"$(pwd -P)\" in */source-app) ;; *) exit 3 ;; esac; test -f run.sh || test -f bin/run.sh";
        recipe::script("git", &source(&url, &more), "", run)
    };
    for within in ["real", "./real//bin/", "in", "in/bin", "deep/in"] {
        let task = world.submit(&of(within)).await.expect("queued");
        let done = world.succeeded(&task, SOON).await;
        done.unwrap_or_else(|error| panic!("{within}: {error:#}"));
    }
    for (outside, words) in [
        (
            "out",
            "its subfolder \"out\" leads out of it: \"out\" is a link to \"/etc\"",
        ),
        (
            "out/ssh",
            "its subfolder \"out/ssh\" leads out of it: \"out\" is a link to \"/etc\"",
        ),
        (
            "fds",
            "its subfolder \"fds\" leads out of it: \"fds\" is a link to \"/proc/self/fd\"",
        ),
        (
            "deep/up",
            "its subfolder \"deep/up\" leads out of it: \"deep/up\" is a link to \"../../../..\"",
        ),
        (
            "deep/out",
            "its subfolder \"deep/out\" leads out of it: \"out\" is a link to \"/etc\"",
        ),
        ("loop", "its subfolder \"loop\" is behind too many links"),
        ("file", "its subfolder \"file\" is no folder"),
        ("nowhere", "there is nothing in \"nowhere\""),
        ("in/none", "there is nothing in \"in/none\""),
    ] {
        let task = world.submit(&of(outside)).await.expect("queued");
        let (_, failure) = recipe::failure(&world, &task, SOON).await;
        assert_eq!(failure.class, "source.refused", "{outside}: {failure:#?}");
        assert_eq!(failure.summary, format!("source app: {words}"), "{outside}");
    }
}

/// Guards that a repository cannot keep an agent busy: with endless files, and with endless folders that have none.
#[tokio::test]
async fn a_small_repository_with_endless_files_is_refused_soon_and_for_what_it_is() {
    let (world, server) = world(None).await;
    let file = format!("100644 blob {}\tf\n", "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
    for (repository, leaf, words) in [
        ("open/bomb.git", file.as_str(), "it has more than 50000 files"),
        ("open/hollow.git", "", "to list its files took git longer than"),
    ] {
        tree_bomb(&server, repository, leaf.as_bytes());
        let spec = source(&server.url(repository), "        ref: { branch: main }\n");
        let task = world
            .submit(&recipe::script("git", &spec, "", "echo ran"))
            .await
            .expect("queued");
        let (_, failure) = recipe::failure(&world, &task, SOON).await;
        let told = format!("{repository}: {failure:#?}");
        assert_eq!(failure.class, "source.refused", "{told}");
        assert!(
            failure.summary.contains(words) && failure.hint.contains("subfolder"),
            "{told}"
        );
    }
}

/// A commit of a few KiB with ten milliard paths: ten levels of ten equal folders over what is at the end of each.
fn tree_bomb(server: &GitServer, repository: &str, leaf: &[u8]) {
    server.commit(repository, |_| Ok(())).expect("a commit");
    let tree = |entries: &[u8]| server.git_with(repository, &["mktree"], entries).expect("a tree");
    server
        .git_with(repository, &["hash-object", "-w", "--stdin"], b"")
        .expect("an empty file");
    let mut inner = tree(leaf).trim().to_owned();
    for _ in 0..10 {
        let entries: String = (0..10).map(|name| format!("040000 tree {inner}\t{name}\n")).collect();
        inner = tree(entries.as_bytes()).trim().to_owned();
    }
    let commit = server
        .git(repository, &["commit-tree", &inner, "-m", "a bomb"])
        .expect("a commit");
    let bare = server.bare(repository);
    let to_main = format!("{}:refs/heads/main", commit.trim());
    server
        .git(repository, &["push", "--quiet", "--force", &bare, &to_main])
        .expect("pushed");
}

/// Guards that an attempt which goes on has the files of the first, whatever was pushed meanwhile.
#[tokio::test]
async fn an_attempt_that_goes_on_has_the_commit_of_the_first() {
    let (mut world, server) = world(Some("after-intent@main/run:kill")).await;
    let first = server.git("open/app.git", &["rev-parse", "HEAD"]).expect("a commit");
    let seen = world.folder().join("seen");
    let keys = "retrySafe: true";
    let run = format!("cat deploy/run > {}", seen.display());
    let spec = source(&server.url("open/app.git"), "        ref: { branch: main }\n");
    let task = world
        .submit(&recipe::script("git", &spec, keys, &run))
        .await
        .expect("queued");
    world.agents[0]
        .child
        .ended(SOON)
        .await
        .expect("killed after the intent");
    let change = |copy: &std::path::Path| {
        Ok(std::fs::write(
            copy.join("deploy/bin/run.sh"),
            "#!/bin/sh\necho second\n",
        )?)
    };
    let second = server.commit("open/app.git", change).expect("pushed");
    assert_ne!(first.trim(), second);
    world.agents[0].start_again().expect("started");
    world.succeeded(&task, 2 * SOON).await.expect("succeeded");
    assert_eq!(recipe::lines(&seen), ["#!/bin/sh", "echo first"], "{}", world.report());
}

/// A packed folder, as `tar --zstd` makes it.
fn packed(folder: &std::path::Path, name: &str) -> Vec<u8> {
    let file = folder.join(name);
    let made = std::process::Command::new("tar")
        .args(["-C", &folder.join("content").display().to_string()])
        .args(["-cf", &file.display().to_string(), "."])
        .status();
    assert!(made.expect("tar").success());
    std::fs::read(&file).expect("packed")
}

/// Guards sources from S3 with the task's own identity: versions, refusals, and hostile archives.
#[tokio::test]
async fn a_source_from_s3_is_fetched_with_the_identity_of_the_task_in_the_version_on_record() {
    let cloud = Cloud::shared().await.expect("a cloud");
    let mut world = World::builder().cloud(&cloud).start().await.expect("a world");
    world
        .agent(AgentOptions::default().failpoint("after-intent@main/run:kill"))
        .await
        .expect("an agent");
    let bucket = world.unique("releases");
    let root = world.folder().to_owned();
    let content = root.join("content");
    std::fs::create_dir_all(content.join("bin")).expect("made");
    let s3 = S3::of(&world).await;
    s3.make_bucket(&bucket).await;
    let put = async |text: &str| {
        std::fs::write(content.join("bin/run.sh"), text).expect("written");
        s3.put(&bucket, "app.tar", packed(&root, "app.tar")).await;
    };
    put("echo first\n").await;
    let role = world
        .cloud()
        .expect("a cloud")
        .role(&world.unique("fetcher"), &["s3:GetObject", "s3:GetObjectVersion"])
        .await;
    let aws = |role: &str| {
        format!(
            "  aws:\n    region: eu-west-1\n    assumeRole: [ {{ roleArn: \"{role}\", externalId: deputy-demo }} ]\n"
        )
    };
    let role = aws(&role.expect("a role"));
    let source = |key: &str| format!("  sources: [ {{ name: app, s3: {{ bucket: {bucket}, key: {key} }} }} ]\n");
    let seen = world.folder().join("seen");
    let run = format!("sh bin/run.sh > {}", seen.display());
    let document = recipe::script("s3", &format!("{role}{}", source("app.tar")), "retrySafe: true", &run);

    let task = world.submit(&document).await.expect("queued");
    world.agents[0]
        .child
        .ended(SOON)
        .await
        .expect("killed after the intent");
    put("echo second\n").await;
    let busy = Matcher::on("s3", &format!("GET /{bucket}/app.tar")).times(2);
    let slow_down = "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";
    let busy = world
        .proxy()
        .expect("a proxy")
        .answer(busy, Canned::xml(503, slow_down.into()));
    world.agents[0].start_again().expect("started");
    world.succeeded(&task, 2 * SOON).await.expect("succeeded");
    assert_eq!(recipe::lines(&seen), ["first"], "{}", world.report());
    assert_eq!(busy.count(), 2, "throttled, and asked again");
    // The first agent took the end of its log with it, so the log is never complete.
    let told = async || {
        let logs = world.tasks.logs(&task).await.expect("logs");
        logs.contains("AWS throttles s3:GetObject; waiting")
    };
    world
        .eventually("the throttling is told", SOON, told)
        .await
        .expect("told");

    s3.put(&bucket, "link.tar", {
        symlink("/etc/hostname", content.join("out")).expect("a link");
        packed(&root, "link.tar")
    })
    .await;
    s3.put(&bucket, "text.tar.zst", b"no archive at all".to_vec()).await;
    let onlooker = recipe::AWS.to_owned();
    for (aws, key, class, words) in [
        (&role, "none.tar", "source.notFound", "does not exist"),
        (&onlooker, "app.tar", "aws.accessDenied", "may not s3:GetObject"),
        (&role, "link.tar", "source.unpack", "neither a file nor a folder"),
        (&role, "text.tar.zst", "source.unpack", "cannot be unpacked"),
    ] {
        let document = recipe::script("s3", &format!("{aws}{}", source(key)), "", "echo ran");
        let task = world.submit(&document).await.expect("queued");
        let (_, failure) = recipe::failure(&world, &task, SOON).await;
        let told = format!("{key}: {failure:#?}");
        assert_eq!(failure.class, class, "{told}");
        assert!(failure.summary.contains(words) && !failure.hint.is_empty(), "{told}");
    }
}

/// The deployed account's S3, by the AWS CLI: what the test puts there is not signed by the code under test.
struct S3 {
    aws: std::path::PathBuf,
    endpoint: String,
}

impl S3 {
    async fn of(world: &World) -> Self {
        let tools = deputy_tests::programs::Tools::load().expect("tools");
        Self {
            aws: tools.get("aws").expect("aws").to_owned(),
            endpoint: world.cloud().expect("a cloud").scenery().endpoint.clone(),
        }
    }

    async fn run(&self, arguments: &[&str]) {
        let mut command = std::process::Command::new(&self.aws);
        command
            .arg("s3api")
            .args(arguments)
            .args(["--endpoint-url", &self.endpoint, "--region", "eu-west-1"]);
        command
            .env("AWS_ACCESS_KEY_ID", AWAY)
            .env("AWS_SECRET_ACCESS_KEY", "test");
        let output = tokio::task::spawn_blocking(move || command.output())
            .await
            .expect("joined")
            .expect("run");
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    async fn make_bucket(&self, bucket: &str) {
        self.run(&[
            "create-bucket",
            "--bucket",
            bucket,
            "--create-bucket-configuration",
            "LocationConstraint=eu-west-1",
        ])
        .await;
        self.run(&[
            "put-bucket-versioning",
            "--bucket",
            bucket,
            "--versioning-configuration",
            "Status=Enabled",
        ])
        .await;
    }

    async fn put(&self, bucket: &str, key: &str, bytes: Vec<u8>) {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), bytes).expect("written");
        self.run(&[
            "put-object",
            "--bucket",
            bucket,
            "--key",
            key,
            "--body",
            &file.path().display().to_string(),
        ])
        .await;
    }
}

/// Stands before `ssh`: what it was called with goes beside it.
const SSH: &str = r#"#!/bin/bash
folder=$(dirname "$0")
printf '%s\n' "$@" > "$folder/arguments"
while [ $# -gt 1 ]; do
  case "$1" in
    -i) stat -c %a "$2" > "$folder/mode"; echo "$2" > "$folder/path";;
  esac
  shift
done
mapfile -t arguments < "$folder/arguments"
exec /usr/bin/ssh "${arguments[@]}"
"#;

/// A world, and beside it the repository `git/app.git` with one file.
async fn world_with_repository() -> (World, GitServer) {
    let world = World::builder().start().await.expect("a world");
    let server = GitServer::start(&world.folder().join("git"), TOKEN).expect("a server");
    let file = |copy: &std::path::Path| Ok(std::fs::write(copy.join("file"), "over ssh\n")?);
    server.commit("app.git", file).expect("a commit");
    (world, server)
}

/// Guards the other way in, to a server of OpenSSH: the key is in one private file while git runs, and in no argument;
/// a host that shows another key gets nothing.
#[tokio::test]
async fn a_repository_is_fetched_over_ssh_with_a_key_that_is_in_one_private_file() {
    let name = "a_repository_is_fetched_over_ssh_with_a_key_that_is_in_one_private_file";
    if skips(name, SshServer::missing()) {
        return;
    }
    let (mut world, _server) = world_with_repository().await;
    let mounted = world.agent_folder("mounted");
    let ssh = SshServer::start(&mounted).expect("an ssh server");
    let stranger = new_key(&mounted.join("stranger")).expect("a key");
    let tools = world.folder().join("tools");
    std::fs::create_dir(&tools).expect("a folder");
    std::fs::write(tools.join("ssh"), SSH).expect("written");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(tools.join("ssh"), executable).expect("executable");
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").expect("a path"));
    let key = ssh.key().expect("a key");
    let other = std::fs::read_to_string(mounted.join("stranger")).expect("a key");
    let options = AgentOptions::default()
        // OpenSSH wants the end of the last line, which secrets often lack.
        .env("DEPUTY_SECRET_KEY", key.trim_end())
        .env("DEPUTY_SECRET_STRANGER", &other)
        .flag("--tools-path", &path);
    world.agent(options).await.expect("an agent");
    let url = ssh.url(&world.folder().join("git/app.git"));
    let fetch = async |key: &str, host: &str| {
        let auth = format!(
            "        ref: {{ branch: main }}\n        auth: {{ sshKey: {{ key: {{ environment: {key} }}, knownHosts: \"{host}\" }} }}\n"
        );
        let document = recipe::script("ssh", &source(&url, &auth), "", "grep 'over ssh' file");
        world.submit(&document).await.expect("queued")
    };
    let task = fetch("DEPUTY_SECRET_KEY", &ssh.known_host()).await;
    world.succeeded(&task, SOON).await.expect("succeeded");
    let read = |name: &str| std::fs::read_to_string(tools.join(name)).expect("recorded");
    assert_eq!(read("mode").trim(), "600");
    let arguments = read("arguments");
    assert!(
        arguments.contains("StrictHostKeyChecking=yes") && arguments.contains("BatchMode=yes"),
        "{arguments}"
    );
    let lines: Vec<String> = key
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .map(str::to_owned)
        .collect();
    assert!(!lines.iter().any(|line| arguments.contains(line)), "{arguments}");
    assert!(
        !std::path::Path::new(read("path").trim()).exists(),
        "the key outlived the fetch"
    );
    for (key, host, class) in [
        ("DEPUTY_SECRET_KEY", ssh.known_host_with(&stranger), "source.notTrusted"),
        ("DEPUTY_SECRET_STRANGER", ssh.known_host(), "source.denied"),
    ] {
        let task = fetch(key, &host).await;
        let (_, failure) = recipe::failure(&world, &task, SOON).await;
        assert_eq!(failure.class, class, "{failure:#?}");
        assert!(!failure.hint.is_empty(), "{failure:#?}");
    }
    has_none_of(&world.manager.data(), &lines);
    has_none_of(&world.agents[0].work_folder(), &lines);
}

/// Guards that a program which an earlier step left behind, without mark and session, does not find the key that git is
/// given for a later step's source, nor that step's secret files.
#[tokio::test]
async fn what_a_step_left_running_finds_neither_the_key_of_a_source_nor_a_later_steps_secrets() {
    let name = "what_a_step_left_running_finds_neither_the_key_of_a_source_nor_a_later_steps_secrets";
    if skips(name, SshServer::missing()) {
        return;
    }
    let (mut world, _server) = world_with_repository().await;
    let ssh = SshServer::start(&world.agent_folder("mounted")).expect("an ssh server");
    let options = AgentOptions::default()
        .env("DEPUTY_SECRET_KEY", &ssh.key().expect("a key"))
        .env("DEPUTY_SECRET_FILE", "canary-of-a-secret-file")
        .flag("--confinement", "required");
    world.agent(options).await.expect("an agent");
    let url = ssh.url(&world.folder().join("git/app.git"));
    let auth = format!(
        "        ref: {{ branch: main }}\n        auth: {{ sshKey: {{ key: {{ environment: DEPUTY_SECRET_KEY }}, knownHosts: \"{}\" }} }}\n",
        ssh.known_host()
    );
    let shared = world.folder().display().to_string();
    let thief = r#"cd @SHARED@
while [ ! -e stop ]; do
  cat "$1"/git-*/key "$1.aside"/git-*/key "$1"/step-*/secrets/TOKEN "$1.aside"/step-*/secrets/TOKEN >> stolen 2> /dev/null
  echo >> looks
done"#;
    std::fs::write(world.folder().join("thief"), thief.replace("@SHARED@", &shared)).expect("written");
    let steps = format!(
        r#"    - name: first
      shell:
        run: |
          env -i PATH="$PATH" setsid bash {shared}/thief "$HOME" < /dev/null > /dev/null 2>&1 &
          until [ -e {shared}/looks ]; do sleep 0.05; done
    - name: second
      shell:
        source: app
        secrets: {{ TOKEN: {{ environment: DEPUTY_SECRET_FILE, as: file }} }}
        run: |
          grep 'over ssh' file
          [ "$(wc -c < "$TOKEN")" -eq 23 ]
          : > {shared}/looks
          until [ -s {shared}/looks ]; do sleep 0.05; done
"#
    );
    // With two sources a step that names none has none.
    let none = "    - { name: none, git: { url: 'https://127.0.0.1:9/none', ref: { branch: main } } }\n";
    let sources = format!("{}{none}", source(&url, &auth));
    let task = recipe::task("thief", &sources, &steps);
    let task = world.submit(&task).await.expect("queued");
    let ended = world.succeeded(&task, SOON).await;
    std::fs::write(world.folder().join("stop"), "").expect("written");
    ended.expect("succeeded");
    let stolen = std::fs::read_to_string(world.folder().join("stolen")).expect("it tried");
    assert_eq!(stolen, "");
}

/// Guards that a server which the task names is shown nothing of the agent's user, unless the task names a secret too.
#[tokio::test]
async fn ssh_without_auth_uses_no_key_configuration_or_agent_of_the_agents_user() {
    let name = "ssh_without_auth_uses_no_key_configuration_or_agent_of_the_agents_user";
    if skips(name, SshServer::missing()) {
        return;
    }
    let mut world = World::builder().start().await.expect("a world");
    let tools = world.folder().join("tools");
    std::fs::create_dir(&tools).expect("a folder");
    // What OpenSSH would do, without a server: it prints its settings instead.
    let ssh = "#!/bin/bash\nexec /usr/bin/ssh -G \"${@:1:$#-1}\" > \"$(dirname \"$0\")/settings\"\n";
    std::fs::write(tools.join("ssh"), ssh).expect("written");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(tools.join("ssh"), executable).expect("executable");
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").expect("a path"));
    let options = AgentOptions::default().flag("--tools-path", &path);
    world.agent(options).await.expect("an agent");
    let plain = source("ssh://git@localhost:9/app.git", "        ref: { branch: main }\n");
    let task = world
        .submit(&recipe::script("ssh", &plain, "", "true"))
        .await
        .expect("queued");
    world.ended(&task, SOON).await.expect("ended");
    let settings = std::fs::read_to_string(tools.join("settings")).expect("ssh was asked");
    for setting in [
        "batchmode yes",
        "pubkeyauthentication false",
        "identityfile none",
        "identityagent none",
        "gssapiauthentication no",
        "passwordauthentication no",
    ] {
        assert!(settings.lines().any(|line| line == setting), "{setting}: {settings}");
    }
}

/// Guards that a secret goes to no server, and nothing is fetched, that the agent's policy does not name: the server hears
/// nothing, and where the secret is nobody looks.
#[tokio::test]
async fn what_the_policy_does_not_name_is_neither_asked_nor_shown_a_secret() {
    let mut world = World::builder().start().await.expect("a world");
    let server = GitServer::start(&world.folder().join("git"), TOKEN).expect("a server");
    let readme = |copy: &std::path::Path| Ok(std::fs::write(copy.join("README"), "x\n")?);
    server.commit("private/app.git", readme).expect("a commit");
    let url = server.url("private/app.git");
    let host = url.trim_start_matches("https://").split('/').next().expect("a host");
    let rules = |more: &str| {
        format!(
            r#"@id("else") permit (principal, action, resource)
            unless {{ [Action::"useSecret", Action::"fetchSource"].contains(action) }};
            @id("place") permit (principal, action == Action::"fetchSource", resource == Origin::"git:{host}");
            {more}"#
        )
    };
    let file = world.folder().join("agent.cedar");
    let token = r#"Secret::"environment:DEPUTY_SECRET_GIT""#;
    std::fs::write(&file, rules("")).expect("written");
    let options = AgentOptions::default()
        .policy(Policy::File(file.clone()))
        .env("GIT_SSL_CAINFO", &server.authority())
        .env("DEPUTY_SECRET_GIT", TOKEN);
    world.agent(options).await.expect("an agent");
    let document = recipe::script(
        "git",
        &source(&url, &format!("        ref: {{ branch: main }}\n{AUTH}")),
        "",
        "test -f README",
    );
    let refused = async |words: &str| {
        let task = world.submit(&document).await.expect("queued");
        let task = world.ended(&task, SOON).await.expect("an end");
        let told = format!("{task:?}");
        assert!(told.contains("policy.denied") && told.contains(words), "{told}");
        assert_eq!(server.requests(), "", "the server was asked");
    };
    refused("showing the secret environment:DEPUTY_SECRET_GIT to").await;
    let elsewhere = format!(
        r#"@id("elsewhere") permit (principal, action == Action::"useSecret", resource == {token})
        when {{ context.shownTo == "git.example.com" }};"#
    );
    std::fs::write(&file, rules(&elsewhere)).expect("written");
    refused("showing the secret environment:DEPUTY_SECRET_GIT to").await;
    std::fs::write(&file, rules("").replace(host, "git.example.com")).expect("written");
    refused("fetching a source from").await;
    let here = format!(
        r#"@id("here") permit (principal, action == Action::"useSecret", resource == {token})
        when {{ context.shownTo == "{host}" }};"#
    );
    std::fs::write(&file, rules(&here)).expect("written");
    let task = world.submit(&document).await.expect("queued");
    world.succeeded(&task, SOON).await.expect("succeeded");
    assert!(
        server.requests().contains(&format!("git:{TOKEN}")),
        "{}",
        server.requests()
    );
}
