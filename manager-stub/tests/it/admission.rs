//! What a join gives (pool, projects, rule) is the certificate's, and counts where that is used: a join alone says
//! nothing of an agent that lives.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use deputy_proto::v1;
use deputy_proto::v1::agent_client::AgentClient;
use deputy_proto::v1::join_rule::Proof;
use deputy_proto::v1::tasks_client::TasksClient;
use tonic::transport::Channel;

use crate::agent::{Agent, SOON, submit_request};
use crate::secured::{Member, Secured};
use crate::takeover::{GONE, at_work, goes_on, minted, renewed, says_hello, started};

/// The pool of the token's subject.
async fn pool_of(client: &mut AgentClient<Channel>, attempt: &v1::AttemptRef) -> String {
    let token = minted(client, attempt).await.expect("minted");
    let claims = token.split('.').nth(1).expect("claims");
    let claims = URL_SAFE_NO_PAD.decode(claims).expect("base64");
    let claims: serde_json::Value = serde_json::from_slice(&claims).expect("JSON");
    let sub = claims["sub"].as_str().expect("a subject").to_owned();
    let pool = sub.split(':').nth(3).expect("a pool").to_owned();
    assert!(sub.starts_with("project:default:pool:"), "{sub}");
    pool
}

/// The rule is made again, for another pool and every project; answers a token of it.
async fn changed(secured: &Secured) -> String {
    secured.remove_rule("rule").await;
    secured
        .make_rule("rule", "us", &[], Proof::Token(v1::TokenRule {}))
        .await;
    secured.join_token("rule", 5).await
}

/// Is a task of this project and pool given to the agent within this time?
async fn is_given(secured: &Secured, agent: &mut Agent, (project, pool): (&str, &str), within: Duration) -> bool {
    let mut request = submit_request(project, &format!("  selector: \"pool == '{pool}'\"\n"));
    request.project = project.into();
    let queued = TasksClient::new(secured.channel(None).await)
        .submit(secured.admin(request))
        .await;
    queued.expect("queued");
    let given = tokio::time::timeout(within, agent.assignment()).await;
    given.is_ok_and(|given| given.attempt.is_some_and(|attempt| attempt.project == project))
}

async fn listed(secured: &Secured) -> (String, String) {
    let agent = secured.listed("a1").await;
    (agent.pool, agent.join_rule)
}

fn is_of(pool: &str) -> (String, String) {
    (pool.to_owned(), "rule".to_owned())
}

#[tokio::test]
async fn a_join_whose_certificate_is_not_used_changes_nothing_of_a_living_agent() {
    let secured = started().await;
    let token = secured.join_token_for("rule", 1, &["default"]).await;
    let (member, genuine, attempt) = at_work(&secured, &token).await;
    let other = changed(&secured).await;
    drop(genuine);
    tokio::time::sleep(GONE).await;
    let other = secured.join("a1", &other).await.expect("nobody is heard of");
    assert_eq!(other.certificate.pool, "us");

    let mut genuine = goes_on(&secured, &member, &attempt).await;
    assert_eq!(listed(&secured).await, is_of("eu"));
    assert_eq!(pool_of(&mut secured.agent(&member).await, &attempt).await, "eu");
    assert!(
        !is_given(&secured, &mut genuine, ("bank", "us"), Duration::from_secs(1)).await,
        "it joined for other projects"
    );
    genuine.heartbeat().await;
    let member = renewed(&secured, &member).await;
    assert_eq!(
        (&*member.certificate.pool, &*member.certificate.join_rule),
        ("eu", "rule")
    );
    let mut theirs = secured.agent(&member).await;
    assert_eq!(pool_of(&mut theirs, &attempt).await, "eu");
    let blob = v1::FetchBlobRequest {
        project: "bank".into(),
        sha256: "0".repeat(64),
        offset: 0,
    };
    let refused = theirs.fetch_blob(blob).await.map(drop).expect_err("not its project");
    assert!(refused.message().contains("is not for the project bank"), "{refused:?}");
    assert_eq!(listed(&secured).await, is_of("eu"));
}

#[tokio::test]
async fn what_a_join_gives_counts_from_the_first_use_of_its_certificate() {
    let secured = started().await;
    let token = secured.join_token_for("rule", 1, &["default"]).await;
    let (member, genuine, attempt) = at_work(&secured, &token).await;
    let mut before = secured.agent(&member).await;
    assert_eq!(pool_of(&mut before, &attempt).await, "eu");
    let token = changed(&secured).await;
    // The same key: the same agent, with what it runs.
    let leaf = member.certificate.chain[0].to_vec();
    let certificate = secured
        .join_after(leaf, &member.key, "a1", &token)
        .await
        .expect("joined");
    assert_eq!((certificate.pool.as_str(), listed(&secured).await), ("us", is_of("eu")));
    let member = Member { certificate, ..member };
    drop(genuine);
    tokio::time::sleep(GONE).await;
    let mut genuine = goes_on(&secured, &member, &attempt).await;
    assert_eq!(listed(&secured).await, is_of("us"));
    assert_eq!(pool_of(&mut secured.agent(&member).await, &attempt).await, "us");
    assert_eq!(
        pool_of(&mut before, &attempt).await,
        "eu",
        "the connection's certificate says so"
    );
    assert!(is_given(&secured, &mut genuine, ("bank", "us"), SOON).await);
    drop(genuine);

    // Another key, after both were silent.
    secured.remove_rule("rule").await;
    secured
        .make_rule("rule", "asia", &[], Proof::Token(v1::TokenRule {}))
        .await;
    let token = secured.join_token("rule", 1).await;
    tokio::time::sleep(GONE).await;
    let other = secured.join("a1", &token).await.expect("nobody is heard of");
    assert_eq!(listed(&secured).await, is_of("us"));
    let (_session, _) = says_hello(&secured, &other, "1111").await;
    assert_eq!(listed(&secured).await, is_of("asia"));
}
