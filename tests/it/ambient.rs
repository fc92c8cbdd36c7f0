//! Every source of the agent's own identity begins the same role chain.

use std::time::Duration;

use deputy_proto::v1;
use deputy_tests::agent_process::AgentOptions;
use deputy_tests::cloud::{Cloud, HOME};
use deputy_tests::instance_metadata::InstanceMetadata;
use deputy_tests::leaks::canary::note;
use deputy_tests::proxy::rule::{Canned, Handle, Matcher};
use deputy_tests::service_account::ServiceAccount;
use deputy_tests::world::World;
use serde_json::json;

use crate::recipe;

const SOON: Duration = Duration::from_secs(60);
/// For so long, whoever asks for an identity that could not be had is told the same.
const TOLD_FOR: Duration = Duration::from_millis(1_200);

async fn world() -> World {
    let cloud = Cloud::shared().await.expect("a cloud");
    World::builder().cloud(&cloud).start().await.expect("a world")
}

fn surroundings(environment: Vec<(String, String)>) -> AgentOptions {
    AgentOptions {
        environment,
        ..AgentOptions::default()
    }
}

/// Deploys across accounts with an external id; what the fleet says of the agent's identity.
async fn deploys(world: &World, stem: &str) -> String {
    let (service, _) = recipe::service(world, stem).await;
    let task = world.submit(&recipe::ecs_update(&service, "")).await.expect("queued");
    world.succeeded(&task, SOON).await.expect("succeeded");
    assert_eq!(recipe::updates(world, "UpdateService", &service), 1);
    let fleet = world
        .deputy(&["fleet", "list", "--output", "json"])
        .await
        .expect("listed");
    fleet.stdout
}

/// Guards IRSA: a refusal that names what the trust policy must accept, the rotated token, and the chain from there.
#[tokio::test]
async fn a_service_accounts_token_is_read_anew_and_begins_a_chain() {
    let mut world = world().await;
    let cloud = Cloud::shared().await.expect("a cloud");
    let account = ServiceAccount::new(world.folder(), cloud.scenery());
    let token = account.be("system:serviceaccount:other:pod").expect("written");
    world
        .agent(surroundings(account.environment()))
        .await
        .expect("an agent");

    let (service, _) = recipe::service(&world, "refused").await;
    let task = world.submit(&recipe::ecs_update(&service, "")).await.expect("queued");
    let (ended, failure) = recipe::failure(&world, &task, SOON).await;
    assert_eq!(
        (ended.state(), failure.class.as_str()),
        (v1::TaskState::Failed, "aws.webIdentity"),
        "{failure:#?}"
    );
    assert!(
        failure.summary.contains("system:serviceaccount:other:pod"),
        "{failure:#?}"
    );
    assert!(failure.hint.contains("trust policy"), "{failure:#?}");
    let said = format!("{ended:?}{}", world.agents[0].child.tail());
    assert!(!said.contains(&token), "the token is told to nobody");

    account.be(&cloud.scenery().service_account).expect("replaced");
    tokio::time::sleep(TOLD_FOR).await;
    let fleet = deploys(&world, "irsa").await;
    assert!(fleet.contains("web identity (IRSA) as"), "{fleet}");
    let exchanges = world
        .proxy()
        .expect("a proxy")
        .count("unsigned", "AssumeRoleWithWebIdentity");
    assert_eq!(exchanges, 2, "one refused, one good, then kept\n{}", world.report());
}

/// Guards EKS Pod Identity: the endpoint's token is in a file.
#[tokio::test]
async fn a_pods_identity_begins_a_chain() {
    let mut world = world().await;
    let environment = world.credentials().expect("an endpoint").pod_identity(world.folder());
    world
        .agent(surroundings(environment.expect("a token file")))
        .await
        .expect("an agent");
    let fleet = deploys(&world, "pod").await;
    assert!(fleet.contains("token from a file"), "{fleet}");
}

/// Guards profiles: read only because the operator named one, with a role by its `source_profile`, with a login of IAM
/// Identity Center, and what is said of one that has none.
#[tokio::test]
async fn a_profile_begins_a_chain_only_where_the_operator_names_it() {
    let mut world = world().await;
    let cloud = Cloud::shared().await.expect("a cloud");
    let config = world.folder().join("aws-config");
    let role = &cloud.scenery().agent_role;
    let text = format!(
        "[profile keys]\naws_access_key_id = {HOME}\naws_secret_access_key = test\n\
         [profile work]\nrole_arn = {role}\nsource_profile = keys\nrole_session_name = of-a-profile\n\
         [sso-session people]\nsso_region = eu-west-1\nsso_start_url = https://example.awsapps.com/start\n\
         [profile person]\nsso_session = people\nsso_account_id = {HOME}\nsso_role_name = deployer\n"
    );
    std::fs::write(&config, text).expect("written");
    let environment = |profile: &str| AgentOptions {
        flags: vec!["--aws-profile".into(), profile.into()],
        ..surroundings(vec![
            ("AWS_CONFIG_FILE".into(), config.display().to_string()),
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI".into(), String::new()),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN".into(), String::new()),
        ])
    };
    world.agent(environment("work")).await.expect("an agent");
    let fleet = deploys(&world, "profile").await;
    assert!(fleet.contains("profile work of the shared config files"), "{fleet}");

    world.agents[0].kill().expect("killed");
    world.agent(environment("person")).await.expect("another agent");
    let (service, _) = recipe::service(&world, "sso").await;
    let task = world.submit(&recipe::ecs_update(&service, "")).await.expect("queued");
    let (_, failure) = recipe::failure(&world, &task, SOON).await;
    assert_eq!(failure.class, "aws.profile", "{failure:#?}");
    assert!(failure.summary.contains("profile person"), "{failure:#?}");
    assert!(failure.hint.contains("aws sso login"), "{failure:#?}");

    let _portal = logged_in(&world).await;
    tokio::time::sleep(TOLD_FOR).await;
    let fleet = deploys(&world, "logged-in").await;
    assert!(fleet.contains("profile person of the shared config files"), "{fleet}");
}

/// Guards that a step can read nothing of what the profile in use names: a token, a program that gives keys, what that
/// program reads. And that the agent can.
#[tokio::test]
async fn what_a_profile_names_is_hidden_from_steps() {
    let mut world = world().await;
    let config = world.folder().join("aws-config");
    let own = world.folder().join("own");
    std::fs::create_dir(&own).expect("a folder");
    let file = |name: &str| own.join(name).display().to_string();
    let write = |name: &str, text: &str| std::fs::write(own.join(name), text).expect("written");
    let keys = json!({ "Version": 1, "AccessKeyId": HOME, "SecretAccessKey": "test" });
    write("keys.json", &keys.to_string());
    write("give", "cat \"$1\"\n");
    write("token", "a token");
    write("beside", "nobody's");
    let cloud = Cloud::shared().await.expect("a cloud");
    let role = &cloud.scenery().agent_role;
    let text = format!(
        "[profile work]\nrole_arn = {role}\nsource_profile = helper\n\
         [profile helper]\ncredential_process = sh {} {}\nsource_profile = old\n\
         [profile old]\nweb_identity_token_file = {}\n",
        file("give"),
        file("keys.json"),
        file("token")
    );
    std::fs::write(&config, text).expect("written");
    let options = AgentOptions {
        flags: ["--aws-profile", "work", "--confinement", "required"]
            .map(str::to_owned)
            .to_vec(),
        ..surroundings(vec![
            ("AWS_CONFIG_FILE".into(), config.display().to_string()),
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI".into(), String::new()),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN".into(), String::new()),
        ])
    };
    world.agent(options).await.expect("an agent");
    let run = format!(
        "cd {}\nfor file in give keys.json token beside; do cat $file > /dev/null 2>&1 && echo \"GOT $file\" || echo \"refused $file\"; done\n\
         curl -sf -H \"Authorization: $AWS_CONTAINER_AUTHORIZATION_TOKEN\" $AWS_CONTAINER_CREDENTIALS_FULL_URI > /dev/null && echo \"a session\"",
        own.display()
    );
    let task = world
        .submit(&recipe::script("reads", recipe::AWS, "", &run))
        .await
        .expect("queued");
    world.succeeded(&task, SOON).await.expect("succeeded");
    let log = world.logs(&task).await.expect("a log");
    for line in [
        "refused give",
        "refused keys.json",
        "refused token",
        "GOT beside",
        "a session",
    ] {
        assert!(log.lines().any(|said| said.ends_with(line)), "{line}: {log}");
    }
}

/// What `aws sso login` leaves for the second agent, and the portal's answer to it, with a session of the emulator's: no
/// emulator has a portal. As in
/// <https://docs.aws.amazon.com/singlesignon/latest/PortalAPIReference/API_GetRoleCredentials.html>.
async fn logged_in(world: &World) -> Handle {
    let token = "the-access-token-of-a-login";
    note("the token of a login", token);
    let name = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, b"people");
    let cache = world.agent_folder("agent-2").join(".aws/sso/cache");
    std::fs::create_dir_all(&cache).expect("a folder");
    let login = json!({ "accessToken": token, "expiresAt": "2099-01-01T00:00:00Z", "region": "eu-west-1" });
    let file = cache.join(format!("{}.json", hex::encode(name)));
    std::fs::write(file, login.to_string()).expect("written");
    let session = world
        .credentials()
        .expect("sessions")
        .exported()
        .await
        .expect("a session");
    let of = |variable: &str| {
        let value = session.iter().find(|(name, _)| name == variable);
        value.map(|(_, value)| value.clone()).expect("a value")
    };
    let answer = json!({ "roleCredentials": { "accessKeyId": of("AWS_ACCESS_KEY_ID"), "expiration": 4_070_908_800_000_u64,
        "secretAccessKey": of("AWS_SECRET_ACCESS_KEY"), "sessionToken": of("AWS_SESSION_TOKEN") } });
    let asked = Matcher::on("unsigned", "GET /federation/credentials")
        .target_contains("role_name=deployer")
        .always();
    world.proxy().expect("a proxy").answer(asked, Canned::json(&answer))
}

/// Guards the instance profile, and what is said where the metadata service gives nothing.
#[tokio::test]
async fn an_instances_profile_begins_a_chain_and_its_absence_is_explained() {
    let mut world = world().await;
    let metadata = InstanceMetadata::start(world.credentials().expect("sessions"))
        .await
        .expect("metadata");
    world
        .agent(surroundings(metadata.environment()))
        .await
        .expect("an agent");
    let fleet = deploys(&world, "instance").await;
    assert!(fleet.contains("EC2 instance profile (IMDSv2)"), "{fleet}");
    // Steps reach it as well, and nothing here can keep them from it.
    let warned = "steps can take the agent's own role from the instance's metadata service";
    assert!(fleet.contains(warned), "{fleet}");

    world.agents[0].kill().expect("killed");
    drop(metadata);
    let mut environment = InstanceMetadata::start(world.credentials().expect("sessions"))
        .await
        .expect("metadata")
        .environment();
    // As behind a hop limit of 1: the connection stands, and the answer to the PUT never comes.
    let silent = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .expect("a listener");
    environment[0].1 = format!("http://{}", silent.local_addr().expect("an address"));
    world.agent(surroundings(environment)).await.expect("another agent");
    let (service, _) = recipe::service(&world, "nothing").await;
    let task = world.submit(&recipe::ecs_update(&service, "")).await.expect("queued");
    let (_, failure) = recipe::failure(&world, &task, SOON).await;
    assert_eq!(failure.class, "aws.instanceIdentity", "{failure:#?}");
    assert!(failure.hint.contains("HttpPutResponseHopLimit"), "{failure:#?}");
}
