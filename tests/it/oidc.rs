//! The manager vouches for a task, and a role trusts its word: tokens from a real manager, verified by their signature,
//! conditions on what they say.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use deputy_proto::v1;
use deputy_tests::agent_process::AgentOptions;
use deputy_tests::cloud::Cloud;
use deputy_tests::ports;
use deputy_tests::world::World;
use serde_json::{Value, json};

use crate::recipe;

const SOON: Duration = Duration::from_secs(60);

/// A world whose manager is the issuer of this name, trusted by the account of `deployer`.
struct Issuing {
    world: World,
    cloud: Arc<Cloud>,
    host: String,
}

impl Issuing {
    async fn start(host: &str, flags: &[&str]) -> Self {
        Self::start_with(host, flags, AgentOptions::default()).await
    }

    async fn start_with(host: &str, flags: &[&str], agent: AgentOptions) -> Self {
        let cloud = Cloud::shared().await.expect("a cloud");
        let (address, issuer) = (ports::free().expect("a port"), format!("https://{host}"));
        let mut all = vec![format!("--oidc-issuer={issuer}"), format!("--oidc-listen={address}")];
        all.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let world = World::builder().cloud(&cloud).manager(|manager| manager.flags = all);
        let mut world = world.start().await.expect("a world");
        let wish = json!({ "wish": "oidc_provider", "issuer": issuer, "address": address.to_string(),
            "audiences": ["sts.amazonaws.com"] });
        cloud.wish(wish).await.expect("a provider");
        world.agent(agent).await.expect("an agent");
        Self {
            world,
            cloud,
            host: host.to_owned(),
        }
    }

    /// A role that trusts tokens which fit.
    async fn role(&self, name: &str, fits: Value) -> String {
        let wish = json!({ "wish": "web_identity_role", "name": format!("{name}-{}", self.host),
            "issuer": format!("https://{}", self.host), "conditions": { "StringEquals": fits },
            "actions": ["ecs:*", "iam:PassRole", "sts:AssumeRole"] });
        let role = self.cloud.wish(wish).await.expect("a role");
        role["arn"].as_str().expect("its ARN").to_owned()
    }

    async fn submit(&self, aws: &str) -> (String, String) {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let stem = format!("oidc-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let (service, _) = recipe::service(&self.world, &stem).await;
        let document = recipe::ecs_update(&service, "");
        let document = document.replace(recipe::AWS, &format!("  aws:\n    region: eu-west-1\n    {aws}\n"));
        (self.world.submit(&document).await.expect("queued"), service)
    }

    async fn refused(&self, aws: &str) -> v1::Failure {
        let (task, _) = self.submit(aws).await;
        let (ended, failure) = recipe::failure(&self.world, &task, SOON).await;
        assert_eq!(
            (ended.state(), failure.class.as_str()),
            (v1::TaskState::Failed, "aws.webIdentity"),
            "{failure:#?}"
        );
        failure
    }
}

/// Guards the way of the token where HTTP/2 does not pass.
#[tokio::test]
async fn a_token_is_made_for_an_agent_that_speaks_by_long_polls() {
    let polling = AgentOptions::default().flag("--transport", "exchange");
    let issuing = Issuing::start_with("polled.deputy.example.com", &[], polling).await;
    let fits = json!({ format!("{}:aud", issuing.host): "sts.amazonaws.com" });
    let role = issuing.role("trusts", fits).await;
    let (task, service) = issuing.submit(&format!("oidc: {{ roleArn: '{role}' }}")).await;
    issuing.world.succeeded(&task, SOON).await.expect("succeeded");
    assert_eq!(recipe::updates(&issuing.world, "UpdateService", &service), 1);
}

/// Guards OIDC from the document to the change: the task's role trusts the manager's word about this project, and the
/// agent's own identity is not asked.
#[tokio::test]
async fn a_role_that_trusts_the_managers_word_deploys_and_begins_a_chain() {
    let issuing = Issuing::start("vouches.deputy.example.com", &[]).await;
    let host = &issuing.host;
    let fits = json!({ format!("{host}:aud"): "sts.amazonaws.com", format!("{host}:sub"): "project:default:pool:test:submitter:admin",
        "aws:RequestTag/deputy:project": "default" });
    let role = issuing.role("trusts", fits).await;
    let (task, service) = issuing.submit(&format!("oidc: {{ roleArn: '{role}' }}")).await;
    issuing.world.succeeded(&task, SOON).await.expect("succeeded");
    assert_eq!(recipe::updates(&issuing.world, "UpdateService", &service), 1);
    let proxy = issuing.world.proxy().expect("a proxy");
    assert_eq!(
        proxy.count("unsigned", "AssumeRoleWithWebIdentity"),
        1,
        "{}",
        issuing.world.report()
    );
    assert_eq!(
        proxy.count("sts", "AssumeRole"),
        0,
        "the agent's own identity begins nothing"
    );
    let told = format!(
        "{:?}{}",
        issuing.world.logs(&task).await.expect("a log"),
        issuing.world.agents[0].child.tail()
    );
    assert!(!told.contains("eyJ"), "the token is told to nobody: {told}");

    let wish = json!({ "wish": "role", "account": "222222222222", "name": "second-oidc", "trusts": role,
        "actions": ["ecs:*", "iam:PassRole"], "external_id": "deputy-demo" });
    let second = issuing.cloud.wish(wish).await.expect("a role")["arn"]
        .as_str()
        .expect("its ARN")
        .to_owned();
    let chain = format!(
        "oidc: {{ roleArn: '{role}' }}\n    assumeRole: [ {{ roleArn: '{second}', externalId: deputy-demo }} ]"
    );
    let (task, _) = issuing.submit(&chain).await;
    issuing
        .world
        .succeeded(&task, SOON)
        .await
        .expect("succeeded over two roles");
}

/// Guards the other side of trust: a subject, a tag or an audience that does not fit is refused and explained.
#[tokio::test]
async fn a_token_that_does_not_fit_a_roles_conditions_is_refused_and_explained() {
    let issuing = Issuing::start(
        "refuses.deputy.example.com",
        &["--oidc-audience=sts.amazonaws.com,other"],
    )
    .await;
    let host = &issuing.host;
    let of_another = json!({ format!("{host}:sub"): "project:payments:pool::submitter:" });
    let role = issuing.role("other-subject", of_another).await;
    let failure = issuing.refused(&format!("oidc: {{ roleArn: '{role}' }}")).await;
    assert!(
        failure
            .summary
            .contains("does not accept the token of project:default:pool:test:submitter:admin"),
        "{failure:#?}"
    );
    assert!(
        failure
            .hint
            .contains(&format!("{host}:sub = project:default:pool:test:submitter:admin")),
        "{failure:#?}"
    );

    let tagged = json!({ "aws:RequestTag/deputy:name": "somebody-elses-task" });
    let role = issuing.role("other-tag", tagged).await;
    let failure = issuing.refused(&format!("oidc: {{ roleArn: '{role}' }}")).await;
    assert!(failure.summary.contains("trust policy does not accept"), "{failure:#?}");

    let anybody = json!({ "aws:RequestTag/deputy:project": "default" });
    let role = issuing.role("anybody", anybody).await;
    let failure = issuing
        .refused(&format!("oidc: {{ roleArn: '{role}', audience: other }}"))
        .await;
    assert!(failure.summary.contains("AWS cannot verify the token"), "{failure:#?}");
    assert!(failure.hint.contains("with the audience other"), "{failure:#?}");
    let failure = issuing
        .refused(&format!("oidc: {{ roleArn: '{role}', audience: vault }}"))
        .await;
    assert!(
        failure.summary.contains("this manager makes no tokens for \"vault\""),
        "{failure:#?}"
    );
}

/// Guards the words where nobody vouches.
#[tokio::test]
async fn a_task_that_wants_a_token_of_a_manager_that_is_no_issuer_is_told_so() {
    let cloud = Cloud::shared().await.expect("a cloud");
    let mut world = World::builder().cloud(&cloud).start().await.expect("a world");
    world.agent(AgentOptions::default()).await.expect("an agent");
    let (service, _) = recipe::service(&world, "nobody").await;
    let document = recipe::ecs_update(&service, "");
    let oidc = "  aws:\n    region: eu-west-1\n    oidc: { roleArn: 'arn:aws:iam::222222222222:role/deployer' }\n";
    let task = world
        .submit(&document.replace(recipe::AWS, oidc))
        .await
        .expect("queued");
    let (_, failure) = recipe::failure(&world, &task, SOON).await;
    assert_eq!(failure.class, "aws.webIdentity", "{failure:#?}");
    assert!(
        failure.summary.contains("this manager is no OIDC issuer"),
        "{failure:#?}"
    );
    assert!(failure.hint.contains("spec.aws.oidc"), "{failure:#?}");
}
