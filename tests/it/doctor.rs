//! `deputy-agent doctor`: what works is told with proof, what does not with what to do.

use base64::Engine as _;
use deputy_tests::agent_process::AgentOptions;
use deputy_tests::cloud::{AWAY, Cloud, HOME};
use deputy_tests::demo_world::{self, JOIN_RULE};
use deputy_tests::programs::workspace;
use deputy_tests::proxy::rule::{Canned, Matcher};
use deputy_tests::wall_clock::WallClock;
use deputy_tests::world::World;
use serde_json::{Value, json};

async fn world() -> World {
    let cloud = Cloud::shared().await.expect("a cloud");
    World::builder().cloud(&cloud).start().await.expect("a world")
}

/// The finding about `check`.
fn finding<'a>(report: &'a Value, check: &str) -> &'a Value {
    let findings = report["findings"].as_array().expect("findings");
    let found = findings.iter().find(|finding| finding["check"] == check);
    found.unwrap_or_else(|| panic!("no finding about {check} in {report:#}"))
}

/// Guards the whole examination of an agent that can work: identity, role with external id, cluster, exit code.
#[tokio::test]
async fn an_agent_that_can_work_is_told_so_with_proof() {
    let world = world().await;
    let cluster = world.kubernetes().await.expect("a cluster");
    let scenery = world.cloud().expect("a cloud").scenery();
    let role = format!("{}#{}", scenery.deployer_role, scenery.external_id);
    let seen = world
        .doctor(&["--role", &role, "--cluster", &cluster.name])
        .await
        .expect("run");
    assert_eq!(seen.code, Some(0), "{}{}", seen.stdout, seen.stderr);
    for part in [
        "its certificate is good; its trust domain is deputy",
        "0 s from the manager's",
        "joins with the join token",
        "and would be let into the pool test by the rule agents",
        "assumed-role/deputy-agent/ecs-task",
        "can be assumed: ",
        "assumed-role/deployer/deputy-doctor",
        "answers at 127.0.0.1:",
        "knows this identity as ",
        "aws-iam-authenticator",
        "this agent can work",
    ] {
        assert!(seen.stdout.contains(part), "{part} is not in\n{}", seen.stdout);
    }
    assert!(
        !seen.stdout.contains(&scenery.external_id),
        "an external id is told to nobody"
    );
    let left = std::fs::read_dir(world.folder()).expect("listed").flatten();
    let mut left = left.map(|entry| entry.file_name().to_string_lossy().into_owned());
    assert!(
        !left.any(|name| name.starts_with(".tmp")),
        "the kubeconfig's folder is gone"
    );
}

/// Guards the exit code, and that each refusal says whose it is and what to do.
#[tokio::test]
async fn what_stops_an_agent_is_told_with_what_to_do() {
    let world = world().await;
    let scenery = world.cloud().expect("a cloud").scenery();
    // Its trust policy asks for the external id.
    let arguments = [
        "--output",
        "json",
        "--role",
        &scenery.deployer_role,
        "--cluster",
        "nowhere",
    ];
    let seen = world.doctor(&arguments).await.expect("run");
    assert_eq!(seen.code, Some(1), "{}{}", seen.stdout, seen.stderr);
    let report: Value = serde_json::from_str(&seen.stdout).expect("JSON");
    assert_eq!(report["canWork"], false);
    assert_eq!(finding(&report, "caller")["verdict"], "good");
    let role = finding(&report, &scenery.deployer_role);
    assert_eq!(role["verdict"], "bad", "{role:#}");
    assert!(
        role["hint"].as_str().unwrap_or_default().contains("externalId"),
        "{role:#}"
    );
    assert_eq!(finding(&report, "nowhere")["verdict"], "bad");
}

/// Guards the proof that would be shown: what cannot be made, or would not be taken, stops the agent.
#[tokio::test]
async fn an_agent_that_cannot_join_or_judge_signatures_is_told_so() {
    let world = World::builder().start().await.expect("a world");
    let file = |name: &str, text: &str| {
        let path = world.folder().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let empty = file("empty", "");
    let wrong = file("broken.pem", "no key");
    let part = |json: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json);
    let claims = part(r#"{"aud": ["sts.amazonaws.com"], "exp": 4102444800}"#);
    let elsewhere = file("elsewhere", &format!("{}.{claims}.{}", part("{}"), part("x")));
    for (arguments, check, words) in [
        (
            vec!["--join", "aws"],
            "join",
            "cannot join with the agent's own AWS identity",
        ),
        (
            vec!["--join", "kubernetes", "--join-token-file", &empty],
            "join",
            "cannot join with the service-account token",
        ),
        (
            vec!["--join", "kubernetes", "--join-token-file", &elsewhere],
            "join",
            "is for the audience",
        ),
        (
            vec!["--trusted-signers", &wrong],
            "signers",
            "signed tasks are not taken",
        ),
    ] {
        let seen = world.doctor(&[&["-o", "json"], &arguments[..]].concat()).await;
        let seen = seen.expect("run");
        assert_eq!(seen.code, Some(1), "{arguments:?}: {}{}", seen.stdout, seen.stderr);
        let report: Value = serde_json::from_str(&seen.stdout).expect("JSON");
        let finding = finding(&report, check);
        let summary = finding["summary"].as_str().unwrap_or_default();
        assert_eq!(finding["verdict"], "bad", "{finding:#}");
        assert!(summary.contains(words), "{finding:#}");
    }
}

/// Guards an agent without a cloud: no AWS identity is a warning, since scripts run without one.
#[tokio::test]
async fn an_agent_without_aws_can_work_and_is_warned() {
    let world = World::builder().start().await.expect("a world");
    let seen = world.doctor(&["-o", "json"]).await.expect("run");
    assert_eq!(seen.code, Some(0), "{}{}", seen.stdout, seen.stderr);
    let report: Value = serde_json::from_str(&seen.stdout).expect("JSON");
    assert_eq!(finding(&report, "source")["verdict"], "warning");
    assert_eq!(finding(&report, "answer")["verdict"], "good");
    let arguments = ["-o", "json", "--trust-domain", "elsewhere"];
    let seen = world.doctor(&arguments).await.expect("run");
    assert_eq!(seen.code, Some(1), "{}{}", seen.stdout, seen.stderr);
    let report: Value = serde_json::from_str(&seen.stdout).expect("JSON");
    let answer = finding(&report, "answer");
    let summary = answer["summary"].as_str().unwrap_or_default();
    assert!(summary.contains("trust domain is deputy"), "{answer:#}");
    let bad = world.doctor(&["--slots", "0"]).await.expect("run");
    assert_eq!(bad.code, Some(2), "{}{}", bad.stdout, bad.stderr);
}

/// Guards the text of the README, which is what doctor says in the world of the demonstration.
#[tokio::test]
async fn the_readme_shows_what_doctor_says_in_the_world_of_the_demonstration() {
    let cloud = Cloud::shared().await.expect("a cloud");
    let built = World::builder()
        .cloud(&cloud)
        .manager(|options| demo_world::manager(&cloud, options));
    let mut world = built.start().await.expect("a world");
    world.kubernetes().await.expect("a cluster");
    let made = world.deputy(&JOIN_RULE).await.expect("run");
    assert_eq!(made.code, Some(0), "{made:?}");
    world.agent(demo_world::agent("agent-1")).await.expect("an agent");
    let seen = demo_world::doctor(&world).await.expect("examined");
    assert_eq!(seen.code, Some(0), "{}{}", seen.stdout, seen.stderr);

    let readme = std::fs::read_to_string(workspace().join("README.md")).expect("the README");
    let (_, shown) = readme.split_once("$ deputy-agent doctor ").expect("doctor in it");
    let (command, shown) = shown.split_once('\n').expect("more than a line");
    assert!(
        !command.contains("--join-token") && !command.contains("--allow-all"),
        "{command}"
    );
    let (shown, _) = shown.split_once("```").expect("an end");
    assert_eq!(
        shape(shown),
        shape(&seen.stdout),
        "the README is not what doctor says:\n{}",
        seen.stdout
    );
}

/// What is the same on every machine: of the machine itself what is looked at, of the rest every word but numbers and
/// places.
fn shape(text: &str) -> Vec<String> {
    let mut area = "";
    let mut lines = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if !line.starts_with(' ') {
            area = line;
        }
        let is_finding = line.starts_with("  ") && !line.starts_with("    ");
        match area {
            "machine" if is_finding => lines.push(line.chars().skip(4).take(22).collect()),
            // How many depends on the machine.
            _ if line.starts_with("this agent can work") => lines.push("this agent can work".to_owned()),
            "machine" | "tools" if line != area => {}
            _ => lines.push(line.split(' ').map(word).collect::<Vec<_>>().join(" ")),
        }
    }
    lines
}

fn word(word: &str) -> &str {
    match word {
        place if place.starts_with('/') => "PLACE",
        number if number.contains(|one: char| one.is_ascii_digit()) && !number.starts_with("arn:") => "NUMBER",
        other => other,
    }
}

/// The finding about `check` of an examination with these arguments, and its exit code.
async fn examined(
    world: &World,
    environment: &[(&str, &str)],
    arguments: &[&str],
    check: &str,
) -> (Option<i32>, Value) {
    let arguments = [&["-o", "json"], arguments].concat();
    let seen = world.doctor_with(environment, &arguments).await.expect("run");
    let report: Value = serde_json::from_str(&seen.stdout).unwrap_or_else(|error| panic!("{error}: {seen:?}"));
    (seen.code, finding(&report, check).clone())
}

fn says(finding: &Value, verdict: &str, words: &str) {
    let summary = finding["summary"].as_str().unwrap_or_default();
    assert_eq!(finding["verdict"], verdict, "{finding:#}");
    assert!(summary.contains(words), "{words} is not in {finding:#}");
}

/// Guards what only the manager knows: a certificate that is good by its dates and was revoked, a token that is used
/// up. Asking takes nothing: what is good is good afterwards.
#[tokio::test]
async fn a_certificate_or_token_that_the_manager_does_not_take_is_not_called_good() {
    let mut world = World::builder().start().await.expect("a world");
    let token = world.manager.access().expect("up").join_token(1).await.expect("made");
    let file = world.folder().join("token-once");
    std::fs::write(&file, token).expect("written");
    let file = file.display().to_string();
    let joins = ["--join-token-file", &*file];
    for _ in 0..2 {
        let (code, join) = examined(&world, &[], &joins, "join").await;
        assert_eq!(code, Some(0), "{join:#}");
        says(&join, "good", "would be let into the pool test by the rule agents");
    }
    let options = AgentOptions::named("a1").join_token_file(&file);
    world.agent(options).await.expect("the token was not used up by asking");
    // For another agent.
    let (code, join) = examined(&world, &[], &joins, "join").await;
    assert_eq!(code, Some(1), "{join:#}");
    says(&join, "bad", "is used up (1 of 1 uses)");

    let state = world.agents[0].state_folder().display().to_string();
    let kept = [&joins[..], &["--state-folder", &state]].concat();
    let (code, certificate) = examined(&world, &[], &kept, "certificate").await;
    assert_eq!(code, Some(0), "{certificate:#}");
    says(&certificate, "good", "taken by the manager");
    let revoked = world
        .deputy(&["fleet", "revoke", "a1", "--reason", "lost"])
        .await
        .expect("run");
    assert_eq!(revoked.code, Some(0), "{revoked:?}");
    let (code, certificate) = examined(&world, &[], &kept, "certificate").await;
    assert_eq!(code, Some(1), "{certificate:#}");
    says(
        &certificate,
        "warning",
        "the manager does not take it: the agent a1 was revoked: lost",
    );
    let (_, join) = examined(&world, &[], &kept, "join").await;
    says(&join, "bad", "is used up");
}

fn hint_of(finding: &Value) -> &str {
    finding["hint"].as_str().unwrap_or_default()
}

/// Guards an agent that keeps nothing: beside itself it is not told that it cannot work, nor to end itself; what its
/// next start needs is told.
#[tokio::test]
async fn an_agent_that_keeps_nothing_is_examined_beside_itself() {
    let mut world = World::builder().start().await.expect("a world");
    let token = world.manager.access().expect("up").join_token(1).await.expect("made");
    let file = world.folder().join("token-once");
    std::fs::write(&file, token).expect("written");
    let file = file.display().to_string();
    let keeping_nothing = |id: &str| AgentOptions {
        keeps_nothing: true,
        ..AgentOptions::named(id)
    };
    world.agent(keeping_nothing("a1")).await.expect("an agent");
    let once = keeping_nothing("a2").join_token_file(&file);
    world.agent(once).await.expect("an agent");
    for (id, words, hint) in [
        ("a1", "most likely this one", "an id of its own (--agent-id)"),
        ("a2", "its token lets nobody in any more", "is used up (1 of 1 uses)"),
    ] {
        let seen = world.doctor_of(id, &["-o", "json"]).await.expect("run");
        assert_eq!(seen.code, Some(0), "{}{}", seen.stdout, seen.stderr);
        let report: Value = serde_json::from_str(&seen.stdout).expect("JSON");
        let join = finding(&report, "join");
        says(join, "warning", words);
        assert!(hint_of(join).contains(hint), "{join:#}");
        assert!(!seen.stdout.contains("fleet revoke"), "{join:#}");
    }
    // Whose id was made up by the agent, and is known from where it works.
    let work = world.agents[1].work_folder().display().to_string();
    let beside = ["--join-token-file", &*file, "--work-folder", &work];
    let (code, join) = examined(&world, &[], &beside, "join").await;
    assert_eq!(code, Some(0), "{join:#}");
    says(&join, "warning", "its token lets nobody in any more");
    world.agents[1].kill().expect("killed");
    let (code, join) = examined(&world, &[], &beside, "join").await;
    assert_eq!(code, Some(1), "{join:#}");
    says(&join, "bad", "is used up");
}

/// Guards an agent that has slept too long: a certificate that has ended is good only while the manager exchanges it.
#[tokio::test]
async fn a_certificate_that_has_ended_is_bad_when_nothing_leads_back() {
    let built = World::builder().manager(|manager| {
        let life = ["--certificate-life", "3s"].map(str::to_owned);
        manager.flags.extend(life);
    });
    let mut world = built.start().await.expect("a world");
    let token = world.manager.access().expect("up").join_token(1).await.expect("made");
    let file = world.folder().join("token-once");
    std::fs::write(&file, token).expect("written");
    let options = AgentOptions::named("a1").join_token_file(&file.display().to_string());
    world.agent(options).await.expect("joined");
    world.agents[0].kill().expect("killed");
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    let looked = async || {
        let seen = world.doctor_of("a1", &["-o", "json"]).await.expect("run");
        let report: Value = serde_json::from_str(&seen.stdout).unwrap_or_else(|error| panic!("{error}: {seen:?}"));
        (seen.code, report)
    };
    for _ in 0..2 {
        let (code, report) = looked().await;
        says(
            finding(&report, "certificate"),
            "good",
            "it has ended, and is exchanged at the start",
        );
        assert_eq!(code, Some(0), "{report:#}");
    }
    let banned = world.deputy(&["fleet", "ban", "a1", "--reason", "lost"]).await;
    assert_eq!(
        banned.as_ref().ok().and_then(|banned| banned.code),
        Some(0),
        "{banned:?}"
    );
    let (code, report) = looked().await;
    says(
        finding(&report, "certificate"),
        "warning",
        "the manager does not exchange it: ",
    );
    says(finding(&report, "join"), "bad", "would not be let in");
    assert_eq!(code, Some(1), "{report:#}");
}

/// Guards the clock: what is tolerated is told with its figure from one minute on.
#[tokio::test]
async fn a_clock_that_is_off_is_told_with_its_figure() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = World::builder().start().await.expect("a world");
    for (id, step, verdict, words) in [
        ("right", 0, "good", "s from the manager's"),
        ("ahead", 280, "warning", "ahead of the manager's"),
        ("behind", -90, "warning", "behind the manager's"),
    ] {
        let wall = WallClock::new(folder.path(), id).expect("a clock");
        wall.step(step).expect("set");
        let environment = wall.environment();
        let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (&**name, &**value)).collect();
        let (code, clock) = examined(&world, &environment, &[], "clock").await;
        assert_eq!(code, Some(0), "{clock:#}");
        says(&clock, verdict, words);
    }
}

/// Guards the roles of the policy: what it leaves out is not tried; one that says no is no failure by itself, for it may
/// ask for an external id, which only tasks give; all of them are.
#[tokio::test]
async fn roles_of_the_policy_are_tried_as_far_as_that_says_something() {
    let world = world().await;
    let scenery = world.cloud().expect("a cloud").scenery();
    let (deployer, left_out) = (&scenery.deployer_role, "arn:aws:iam::222222222222:role/left-out");
    let policy = format!(
        "@id(\"all\") permit (principal, action, resource) unless {{ resource == Role::\"{left_out}\" }};\n\
         @id(\"one\") permit (principal, action == Action::\"assumeRole\", resource == Role::\"{deployer}\");\n"
    );
    let file = world.folder().join("policy.cedar");
    std::fs::write(&file, policy).expect("written");
    let seen = world
        .doctor(&["-o", "json", "--policy-file", &file.display().to_string()])
        .await;
    let seen = seen.expect("run");
    let report: Value = serde_json::from_str(&seen.stdout).unwrap_or_else(|error| panic!("{error}: {seen:?}"));
    let denied = finding(&report, deployer);
    says(denied, "warning", "not tried with an external id");
    assert!(
        hint_of(denied).contains(&format!("give --role {deployer}#EXTERNAL-ID; if it asks for none: "))
            && !seen.stdout.contains("as it should be"),
        "what is not known is not called right: {denied:#}"
    );
    assert!(!seen.stdout.contains("role/left-out"), "{report:#}");
    says(
        finding(&report, "of the policy"),
        "warning",
        "none is known to be assumable",
    );
    assert_eq!(
        seen.code,
        Some(0),
        "what is not known is no reason not to work: {report:#}"
    );
    // With its external id one of them is: the agent can do something.
    let role = format!("{deployer}#{}", scenery.external_id);
    let policy_file = file.display().to_string();
    let arguments = ["--policy-file", &*policy_file, "--role", &role];
    let (code, assumed) = examined(&world, &[], &arguments, deployer).await;
    says(&assumed, "good", "can be assumed");
    assert_eq!(code, Some(0), "{assumed:#}");
}

/// Guards an agent whose policy names roles that tasks reach through one another, and those that are for other agents: what
/// cannot be assumed from here is no reason not to work where other roles can. AWS's reason is replayed: the emulator gives
/// none (<https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html>).
#[tokio::test]
async fn a_role_that_tasks_reach_through_another_is_tried_through_it() {
    let world = world().await;
    let cloud = world.cloud().expect("a cloud");
    let role = async |name: &str, trusts: &str| {
        let name = world.unique(name);
        let wish =
            json!({ "wish": "role", "account": AWAY, "name": name, "trusts": trusts, "actions": ["sts:AssumeRole"] });
        let made = cloud.wish(wish).await.expect("a role");
        made["arn"].as_str().expect("an ARN").to_owned()
    };
    let hub = role("hub", &cloud.scenery().agent_role).await;
    let spoke = role("spoke", &hub).await;
    let elsewhere = format!("arn:aws:iam::{AWAY}:role/{}", world.unique("elsewhere"));
    let why = "because no identity-based policy allows the sts:AssumeRole action";
    let denied = format!(
        "<ErrorResponse><Error><Code>AccessDenied</Code><Message>User: arn:aws:sts::{HOME}:assumed-role/deputy-agent/ecs-task \
         is not authorized to perform: sts:AssumeRole on resource: {elsewhere} {why}</Message></Error></ErrorResponse>"
    );
    let name = elsewhere.rsplit('/').next().expect("a name");
    let asked = Matcher::on("sts", "AssumeRole").body_contains(name).always();
    let _answering = world.proxy().expect("a proxy").answer(asked, Canned::xml(403, denied));
    let policy = |roles: &[&String]| {
        let rules = roles.iter().enumerate().map(|(number, role)| {
            format!("@id(\"{number}\") permit (principal, action == Action::\"assumeRole\", resource == Role::\"{role}\");\n")
        });
        let file = world.folder().join(format!("policy-of-{}.cedar", roles.len()));
        std::fs::write(&file, rules.collect::<String>()).expect("written");
        file.display().to_string()
    };

    let of_all = policy(&[&spoke, &hub, &elsewhere]);
    let seen = world
        .doctor(&["-o", "json", "--policy-file", &of_all])
        .await
        .expect("run");
    let report: Value = serde_json::from_str(&seen.stdout).unwrap_or_else(|error| panic!("{error}: {seen:?}"));
    says(finding(&report, &hub), "good", "can be assumed: ");
    says(
        finding(&report, &spoke),
        "good",
        &format!("through {hub}: can be assumed: "),
    );
    let denied = finding(&report, &elsewhere);
    says(denied, "warning", "identity");
    assert!(
        hint_of(denied).contains(&format!("if tasks come to it by other roles: --role ROLE,{elsewhere}")),
        "{denied:#}"
    );
    assert_eq!(seen.code, Some(0), "{report:#}");

    let (code, denied) = examined(&world, &[], &["--policy-file", &policy(&[&elsewhere])], &elsewhere).await;
    assert_eq!((code, &denied["verdict"]), (Some(1), &json!("bad")), "{denied:#}");
}

/// Guards that doctor looks for the authenticator where the agent will: `PATH` has one here, the agent's tools have none.
#[tokio::test]
async fn the_authenticator_is_looked_for_among_the_agents_tools() {
    let world = world().await;
    let cluster = world.kubernetes().await.expect("a cluster");
    let folder = world.folder().join("no-tools");
    std::fs::create_dir(&folder).expect("a folder");
    let of_cluster = ["--cluster", &*cluster.name];
    let (_, found) = examined(&world, &[], &of_cluster, "tokens").await;
    says(&found, "good", "aws-iam-authenticator");
    let tools = folder.display().to_string();
    let elsewhere = [&of_cluster[..], &["--tools-path", &*tools]].concat();
    let (_, found) = examined(&world, &[], &elsewhere, "tokens").await;
    says(
        &found,
        "good",
        "by the agent itself: there is no aws-iam-authenticator in PATH",
    );
}
