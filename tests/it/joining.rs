//! Agents join by what their surroundings say of them, with nothing secret configured anywhere: a signed AWS identity,
//! a pod's service-account token.

use std::path::Path;
use std::time::Duration;

use deputy_proto::v1;
use deputy_tests::agent_process::AgentOptions;
use deputy_tests::cloud::{Cloud, HOME};
use deputy_tests::link::Wire;
use deputy_tests::world::World;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;

use crate::recipe;

const SOON: Duration = Duration::from_secs(60);

fn by(join: &'static str) -> AgentOptions {
    AgentOptions {
        join: Some(join),
        ..AgentOptions::default()
    }
}

/// A world whose manager asks this endpoint who signed.
async fn asking(endpoint: &str) -> World {
    let cloud = Cloud::shared().await.expect("a cloud");
    let flags = vec![format!("--sts-endpoint={endpoint}")];
    let built = World::builder().cloud(&cloud).manager(|manager| manager.flags = flags);
    built.start().await.expect("a world")
}

async fn rule(world: &World, arguments: &[&str]) {
    let mut all = vec!["fleet", "join-rule", "create"];
    all.extend(arguments);
    let made = world.deputy(&all).await.expect("asked");
    assert_eq!(made.code, Some(0), "{made:?}");
}

/// Lets this role of the agents' account into the pool `eu`.
async fn role_rule(world: &World, name: &str, role: &str) {
    rule(
        world,
        &[name, "--pool", "eu", "--aws-account", HOME, "--aws-role", role],
    )
    .await;
}

async fn agent_info(world: &World) -> v1::AgentInfo {
    let listed = world.tasks.fleet().list(v1::FleetListRequest::default()).await;
    let listed = listed.expect("listed").into_inner().agents;
    listed
        .into_iter()
        .find(|agent| agent.agent_id == "agent-1")
        .expect("the agent")
}

async fn says(world: &World, what: &str) {
    let said = async || world.agents[0].child.log().contains(what);
    world.eventually(what, SOON, said).await.expect("said");
}

/// Guards joining by AWS identity with real processes: the task role lets the agent in, into the pool of the rule, and
/// again after a start without anything kept, as on Fargate: the new key is let in when the old one is silent.
#[tokio::test]
async fn an_agent_joins_by_its_aws_identity_and_works() {
    let cloud = Cloud::shared().await.expect("a cloud");
    let mut world = asking(&cloud.scenery().endpoint).await;
    role_rule(&world, "home", "deputy-agent").await;
    let options = AgentOptions {
        keeps_nothing: true,
        ..by("aws")
    };
    world.agent(options).await.expect("joined");
    let info = agent_info(&world).await;
    assert_eq!((info.pool.as_str(), info.join_rule.as_str()), ("eu", "home"));
    let task = world
        .submit(&recipe::script("works", "", "", "true"))
        .await
        .expect("queued");
    world.succeeded(&task, SOON).await.expect("succeeded");
    assert!(!world.agents[0].state_folder().exists(), "nothing is kept");

    world.agents[0].start_again().expect("killed and started");
    let task = world
        .submit(&recipe::script("again", "", "", "true"))
        .await
        .expect("queued");
    world.succeeded(&task, SOON).await.expect("the new process is let in");
    assert_eq!(
        world.manager.log().matches("an agent joined").count(),
        2,
        "{}",
        world.report()
    );
}

/// A world like that, whose certificates last three seconds.
async fn with_short_certificates(flags: &[&str]) -> World {
    let mut all: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
    all.extend(["--certificate-life".to_owned(), "3s".to_owned()]);
    let cloud = Cloud::shared().await.expect("a cloud");
    let built = World::builder().cloud(&cloud).manager(|manager| manager.flags = all);
    built.start().await.expect("a world")
}

/// The manager cannot be reached until the certificate has ended, while a script runs; then the agent joins again by
/// its proof, with its old key, and the same process ends the script.
async fn comes_back_by_its_proof(world: &mut World) {
    // Beside what is the agent's: a step makes no files where something is hidden from it.
    let folder = world.folder().join("script");
    std::fs::create_dir(&folder).expect("a folder");
    let (go, said) = (folder.join("go"), folder.join("said"));
    let run = format!(
        "echo begun >> {said}\nwhile [ ! -e {go} ]; do sleep 0.05; done\necho ended >> {said}",
        go = go.display(),
        said = said.display(),
    );
    let task = world.submit(&recipe::script("held", "", "", &run)).await;
    let task = task.expect("queued");
    let begun = async || recipe::lines(&said) == ["begun"];
    if let Err(error) = world.eventually("it runs", SOON, begun).await {
        panic!(
            "{error:#}\n{:#?}\n{:?}",
            world.tasks.get(&task).await,
            world.logs(&task).await
        );
    }
    world.agents[0].link.set(Wire::Cut);
    tokio::time::sleep(Duration::from_secs(6)).await;
    world.agents[0].link.set(Wire::Open);
    let joined = async || world.manager.log().matches("an agent joined").count() == 2;
    world.eventually("it joins again", SOON, joined).await.expect("joined");
    std::fs::write(&go, "").expect("go");
    world.succeeded(&task, SOON).await.expect("succeeded");
    assert_eq!(recipe::lines(&said), ["begun", "ended"], "{}", world.report());
    let log = world.manager.log();
    assert!(!log.contains("an expired certificate was renewed"), "{log}");
}

/// Guards coming back after the end of a certificate without a token: AWS says again who it is.
#[tokio::test]
async fn an_agent_whose_certificate_ended_joins_again_by_its_aws_identity() {
    let cloud = Cloud::shared().await.expect("a cloud");
    let mut world = with_short_certificates(&[&format!("--sts-endpoint={}", cloud.scenery().endpoint)]).await;
    role_rule(&world, "home", "deputy-agent").await;
    world.agent(by("aws")).await.expect("joined");
    comes_back_by_its_proof(&mut world).await;
}

/// Guards the same for the token of a pod.
#[tokio::test]
async fn an_agent_whose_certificate_ended_joins_again_by_its_pods_token() {
    let mut world = with_short_certificates(&["--trust-domain", "deputy"]).await;
    let (token, keys) = token_and_keys(world.folder(), "comes-back").await;
    pod_rule(&world, &keys, "comes-back").await;
    // A step has no business in the folder of the token.
    let folder = world.folder().join("pod");
    std::fs::create_dir(&folder).expect("a folder");
    let file = folder.join("token");
    std::fs::write(&file, &token).expect("written");
    let options = by("kubernetes").join_token_file(&file.display().to_string());
    world.agent(options).await.expect("joined");
    comes_back_by_its_proof(&mut world).await;
}

/// Guards the words: a role that no rule names, and then a rule that is made while the agent waits.
#[tokio::test]
async fn an_agent_whose_role_no_rule_names_is_told_and_gets_in_when_one_does() {
    let cloud = Cloud::shared().await.expect("a cloud");
    let mut world = asking(&cloud.scenery().endpoint).await;
    role_rule(&world, "other", "deputy-agent-2").await;
    world.launch(by("aws")).await.expect("started");
    says(&world, "no join rule lets in role deputy-agent of account 000000000000").await;
    role_rule(&world, "right", "deputy-agent").await;
    world.joined("agent-1").await.expect("joined");
}

/// Guards a region without STS: no verdict, and the agent goes on trying.
#[tokio::test]
async fn an_agent_waits_while_sts_cannot_be_asked() {
    let mut world = asking("http://127.0.0.1:1").await;
    role_rule(&world, "home", "deputy-agent").await;
    world.launch(by("aws")).await.expect("started");
    says(
        &world,
        "sts.eu-west-1.amazonaws.com did not say who signed the identity",
    )
    .await;
    assert!(world.agents[0].child.is_running(), "it tries again");
}

/// Lets this account of the cluster into the pool `eks`.
async fn pod_rule(world: &World, keys: &str, account: &str) {
    let issuer = "https://kubernetes.default.svc";
    rule(
        world,
        &[
            "eks",
            "--pool",
            "eks",
            "--issuer",
            issuer,
            "--jwks",
            keys,
            "--namespace",
            "shop",
            "--service-account",
            account,
        ],
    )
    .await;
}

/// A token of a new account for a manager of the trust domain `deputy`, and the cluster's keys in a file.
async fn token_and_keys(folder: &Path, name: &str) -> (String, String) {
    let cloud = Cloud::shared().await.expect("a cloud");
    let client = cloud
        .kubernetes()
        .await
        .expect("a cluster")
        .admin()
        .await
        .expect("its administrator");
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "shop");
    let account = serde_json::from_value(json!({"metadata": {"name": name}})).expect("an account");
    accounts.create(&PostParams::default(), &account).await.expect("made");
    let wish = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: Some(vec!["deputy/deputy".into()]),
            expiration_seconds: Some(600),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let made = accounts.create_token_request(name, &PostParams::default(), &wish).await;
    let token = made
        .expect("made")
        .status
        .and_then(|status| status.token)
        .expect("a token");
    let keys = http::Request::get("/openid/v1/jwks")
        .body(Vec::new())
        .expect("a request");
    let keys = client.request_text(keys).await.expect("the cluster's keys");
    let file = folder.join("jwks.json");
    std::fs::write(&file, keys).expect("written");
    (token, file.display().to_string())
}

/// Guards joining by service account with real processes: a file that is not whole yet is told, a whole one lets in.
#[tokio::test]
async fn an_agent_joins_by_its_pods_token_once_the_file_is_whole() {
    let flags = ["--trust-domain", "deputy"].map(str::to_owned);
    let built = World::builder().manager(|manager| manager.flags.extend(flags));
    let mut world = built.start().await.expect("a world");
    let (token, keys) = token_and_keys(world.folder(), "joins-by-token").await;
    pod_rule(&world, &keys, "joins-by-token").await;
    let file = world.folder().join("pod-token");
    let options = by("kubernetes").join_token_file(&file.display().to_string());
    world.launch(options).await.expect("started");
    says(&world, "pod-token cannot be read").await;
    std::fs::write(&file, &token[..20]).expect("written");
    says(&world, "it is perhaps written at this moment").await;
    let next = file.with_extension("next");
    std::fs::write(&next, &token).expect("written");
    std::fs::rename(next, &file).expect("replaced");
    world.joined("agent-1").await.expect("joined");
    let info = agent_info(&world).await;
    assert_eq!((info.pool.as_str(), info.join_rule.as_str()), ("eks", "eks"));
    assert!(
        !world.agents[0].child.log().contains(&token),
        "the token is told to nobody"
    );
}
