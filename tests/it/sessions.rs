//! Steps that outlive the sessions they began with: nothing ever answers that a token has expired.
//!
//! Sessions, and EKS tokens, last [`session_seconds`]: 60 s; `DEPUTY_SESSION_SECONDS=20 cargo xtask test sessions` is the
//! short way.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use deputy_credentials::Identities;
use deputy_credentials::eks_token::token_for;
use deputy_credentials::env::Env;
use deputy_task::document::RoleHop;
use deputy_tests::agent_process::AgentOptions;
use deputy_tests::cloud::{Cloud, Cluster, HOME};
use deputy_tests::programs::Tools;
use deputy_tests::world::World;
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::json;

use crate::recipe;

fn session_seconds() -> u32 {
    let told = std::env::var("DEPUTY_SESSION_SECONDS").ok();
    told.and_then(|text| text.parse().ok()).unwrap_or(60)
}

/// Three sessions.
fn long() -> Duration {
    Duration::from_secs(u64::from(session_seconds()) * 3)
}

/// What is left for everything else.
const REST: Duration = Duration::from_secs(90);

fn tool(name: &str) -> std::path::PathBuf {
    let tools = Tools::load().expect("the tools");
    tools.get(name).map(Path::to_owned).expect("the tool")
}

/// A loop of the AWS CLI, which asks the endpoint anew each time; and one SDK client that lives as long.
fn script() -> String {
    let until = long().as_secs();
    let run = format!(
        "end=$((SECONDS + {until}))\n\
         {python} - {until} <<'CODE' &\n\
         import sys, time, botocore.session\n\
         ecs = botocore.session.Session().create_client('ecs')\n\
         end, calls = time.monotonic() + int(sys.argv[1]), 0\n\
         while time.monotonic() < end:\n\
         \x20   ecs.list_clusters()\n\
         \x20   calls += 1\n\
         \x20   time.sleep(1)\n\
         print('one client made', calls > 10)\n\
         CODE\n\
         sdk=$!\n\
         while (( SECONDS < end )); do {aws} ecs list-clusters > /dev/null; sleep 2; done\n\
         wait $sdk\n\
         echo finished",
        python = tool("python").display(),
        aws = tool("aws").display(),
    );
    recipe::script("script", &format!("{}  timeout: 30m\n", recipe::AWS), "", &run)
}

/// A Deployment whose pods are ready after three sessions.
fn deployment(namespace: &str) -> String {
    let step = format!(
        r#"    - name: deploy
      kubernetesRollingDeploy:
        cluster: prod
        namespace: {namespace}
        manifests:
          - apiVersion: apps/v1
            kind: Deployment
            metadata: {{ name: web }}
            spec:
              replicas: 1
              selector: {{ matchLabels: {{ app: web }} }}
              template:
                metadata: {{ labels: {{ app: web, deputy.test/behaviour: late }}, annotations: {{ deputy.test/ready-after: "{}s" }} }}
                spec: {{ containers: [ {{ name: app, image: "web:1" }} ] }}
"#,
        long().as_secs()
    );
    recipe::task(namespace, &format!("{}  timeout: 30m\n", recipe::AWS), &step)
}

async fn world() -> (Arc<Cloud>, World) {
    let cloud = Cloud::with_sessions_of(session_seconds()).await.expect("a cloud");
    let mut world = World::builder().cloud(&cloud).start().await.expect("a world");
    world.agent(AgentOptions::default().slots(4)).await.expect("an agent");
    (cloud, world)
}

/// No call was told that its token has expired, and sessions really ended: the role was assumed again and again.
fn nothing_expired(world: &World) {
    let proxy = world.proxy().expect("a proxy");
    let refused: Vec<String> = proxy
        .calls()
        .iter()
        .filter(|call| matches!(call.status, Some(400..=403)))
        .map(ToString::to_string)
        .collect();
    assert!(refused.is_empty(), "{refused:#?}\n{}", world.report());
    let assumed = proxy.count("sts", "AssumeRole");
    assert!(
        (3..=40).contains(&assumed),
        "assumed {assumed} times\n{}",
        world.report()
    );
}

/// Guards that the emulator's sessions really end, with AWS's own code: without this the other tests show nothing.
#[tokio::test]
async fn a_session_of_the_test_cloud_ends_when_it_says() {
    let cloud = Cloud::with_sessions_of(5).await.expect("a cloud");
    let sts = aws_sdk_sts::Client::new(&deputy_tests::container_credentials::root_config(&cloud, HOME));
    let answer = sts
        .assume_role()
        .role_arn(&cloud.scenery().agent_role)
        .role_session_name("short")
        .duration_seconds(3600)
        .send()
        .await
        .expect("assumed");
    let got = answer.credentials().expect("credentials");
    let left = || got.expiration().secs() - aws_smithy_types::DateTime::from(std::time::SystemTime::now()).secs();
    assert!((1..=5).contains(&left()), "{} s", left());
    let keys = deputy_tests::container_credentials::keys(
        got.access_key_id(),
        got.secret_access_key(),
        Some(got.session_token().to_owned()),
    );
    let config = deputy_tests::container_credentials::config(&cloud, &cloud.scenery().endpoint, keys);
    let (sts, ecs) = (aws_sdk_sts::Client::new(&config), aws_sdk_ecs::Client::new(&config));
    sts.get_caller_identity().send().await.expect("still good");
    let over = u64::try_from(left() + 2).unwrap_or_default();
    tokio::time::sleep(Duration::from_secs(over)).await;
    let over = sts.get_caller_identity().send().await.expect_err("over");
    assert_eq!(
        aws_sdk_sts::error::ProvideErrorMetadata::code(&over),
        Some("ExpiredToken")
    );
    let over = ecs.list_clusters().send().await.expect_err("over");
    assert_eq!(
        aws_sdk_ecs::error::ProvideErrorMetadata::code(&over),
        Some("ExpiredTokenException")
    );
}

/// Guards that the cluster really turns away a token of the past, and takes a new one of the same identity: without this
/// the wait below shows nothing.
#[tokio::test]
async fn a_token_of_the_test_cloud_ends_when_it_says() {
    let cloud = Cloud::with_sessions_of(10).await.expect("a cloud");
    let cluster = cloud.kubernetes().await.expect("a cluster");
    let scenery = cloud.scenery();
    let env: Env = [
        ("AWS_ACCESS_KEY_ID", HOME),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_ENDPOINT_URL", scenery.endpoint.as_str()),
    ]
    .into_iter()
    .collect();
    let chain = [
        hop(json!({ "roleArn": scenery.agent_role })),
        hop(json!({ "roleArn": scenery.deployer_role, "externalId": scenery.external_id })),
    ];
    let identity = Identities::new(env)
        .for_task(&scenery.region, &chain, "tokens")
        .expect("an identity");
    let token = || async {
        let made = token_for(&identity, &cluster.name).await.expect("a token");
        made.status.token
    };
    let old = token().await;
    assert_eq!(answer(cluster, &old).await, 200, "a young one is good");
    let begun = tokio::time::Instant::now();
    let over = loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        match answer(cluster, &old).await {
            200 if begun.elapsed() < Duration::from_secs(30) => {}
            other => break other,
        }
    };
    assert_eq!(over, 401, "after {:?}", begun.elapsed());
    assert!(begun.elapsed() > Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(answer(cluster, &token().await).await, 200, "a new one is good");
    assert_eq!(answer(cluster, &old).await, 401, "and the old one is not");
}

fn hop(hop: serde_json::Value) -> RoleHop {
    serde_json::from_value(hop).expect("a role")
}

/// The status with which the cluster answers whoever has this token.
async fn answer(cluster: &Cluster, token: &str) -> u16 {
    let client = cluster.client_with(token).await.expect("a client");
    let deployments: kube::Api<Deployment> = kube::Api::namespaced(client, "shop");
    match deployments.list(&kube::api::ListParams::default()).await {
        Ok(_) => 200,
        Err(kube::Error::Api(status)) => status.code,
        Err(other) => panic!("{other}"),
    }
}

/// Guards that a script and an ECS wait go through three sessions.
#[tokio::test]
async fn a_script_and_a_wait_for_ecs_outlive_three_sessions() {
    let (_cloud, world) = world().await;
    let (service, _) = recipe::service(&world, "slow").await;
    // The emulator calls a deployment complete at once; here ECS calls it so after three sessions.
    let proxy = world.proxy().expect("a proxy");
    proxy.replace_in_replies("\"COMPLETED\"", "\"IN_PROGRESS\"");
    let script = world.submit(&script()).await.expect("queued");
    let ecs = world
        .submit(&recipe::ecs_update(&service, "  timeout: 30m\n"))
        .await
        .expect("queued");
    tokio::time::sleep(long()).await;
    proxy.replace_no_more();
    let ended = world.ended(&ecs, REST).await.expect("ended");
    assert_eq!(
        ended.state(),
        deputy_proto::v1::TaskState::Succeeded,
        "{ended:#?}\n{}",
        world.report()
    );
    world.succeeded(&script, REST).await.expect("succeeded");
    let log = world.logs(&script).await.expect("a log");
    assert!(
        log.contains("finished") && log.contains("one client made True"),
        "{log}"
    );
    assert!(!log.contains("Expired"), "{log}");
    nothing_expired(&world);
}

/// Guards that a wait for Kubernetes outlives the tokens it is made with.
#[tokio::test]
async fn a_wait_for_kubernetes_outlives_three_tokens() {
    let cloud = Cloud::with_sessions_of(session_seconds()).await.expect("a cloud");
    cloud.kubernetes().await.expect("a cluster");
    let mut world = World::builder()
        .cloud(&cloud)
        .proxy_before_kubernetes()
        .start()
        .await
        .expect("a world");
    world.agent(AgentOptions::default()).await.expect("an agent");
    let namespace = world.namespace("late").await.expect("a namespace");
    let task = world.submit(&deployment(&namespace)).await.expect("queued");
    world.succeeded(&task, long() + REST).await.expect("succeeded");
    let calls = world.kubernetes_proxy().expect("a proxy").calls();
    let (first, last) = (calls.first().expect("a call"), calls.last().expect("a call"));
    assert!(
        last.at - first.at > long() - Duration::from_secs(5),
        "it asked all the time\n{}",
        world.report()
    );
    let refused = calls.iter().filter(|call| call.status == Some(401)).count();
    assert_eq!(refused, 0, "no token was over when it was used\n{}", world.report());
    nothing_expired(&world);
}

/// Guards that many who need a session at once make one call for it.
#[tokio::test]
async fn fifty_who_ask_at_once_make_one_call() {
    let (_cloud, world) = world().await;
    let run = format!(
        "cat > ask.py <<'CODE'\n\
         import concurrent.futures, json, os, urllib.request\n\
         def ask(_):\n\
         \x20   request = urllib.request.Request(os.environ['AWS_CONTAINER_CREDENTIALS_FULL_URI'])\n\
         \x20   request.add_header('Authorization', os.environ['AWS_CONTAINER_AUTHORIZATION_TOKEN'])\n\
         \x20   return json.load(urllib.request.urlopen(request, timeout=30))['AccessKeyId']\n\
         with concurrent.futures.ThreadPoolExecutor(50) as pool:\n\
         \x20   print('keys', len(set(pool.map(ask, range(50)))))\n\
         CODE\n\
         {python} ask.py\n\
         sleep {session}\n\
         {python} ask.py",
        python = tool("python").display(),
        session = session_seconds() + 2,
    );
    let task = world
        .submit(&recipe::script("many", recipe::AWS, "", &run))
        .await
        .expect("queued");
    world.succeeded(&task, long() + REST).await.expect("succeeded");
    let log = world.logs(&task).await.expect("a log");
    assert_eq!(log.matches("keys 1").count(), 2, "{log}\n{}", world.report());
    let assumed = world.proxy().expect("a proxy").count("sts", "AssumeRole");
    assert_eq!(assumed, 2, "one for each burst\n{}", world.report());
}
