//! What an agent that has joined may have to do with: tasks of its pool and its projects, its own attempts, the files of
//! its own tasks.

use std::time::Duration;

use deputy_proto::v1;
use deputy_proto::v1::agent_client::AgentClient;
use deputy_proto::v1::session_request::Frame as Request;
use deputy_proto::v1::session_response::Frame;
use futures::StreamExt;
use sha2::Digest;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use crate::secured::Secured;

const SOON: Duration = Duration::from_secs(10);

/// An agent that has joined and has a session.
struct Joined {
    client: AgentClient<Channel>,
    frames: tokio::sync::mpsc::Sender<v1::SessionRequest>,
    answers: Streaming<v1::SessionResponse>,
}

impl Joined {
    /// Joins by a rule for these projects, and says of itself that it is in this pool.
    async fn with(secured: &Secured, agent: &str, projects: &[&str], says: &str) -> Self {
        let token = secured.join_token_for(&format!("rule-{agent}"), 1, projects).await;
        let member = secured.join(agent, &token).await.expect("joined");
        let mut client = secured.agent(&member).await;
        let (frames, outbound) = tokio::sync::mpsc::channel(16);
        let mut hello = crate::agent::hello(agent, &format!("i-{agent}"), 2);
        let offered = hello.capabilities.get_or_insert_default();
        offered.labels.insert("pool".into(), says.into());
        let frame = Some(Request::Hello(hello));
        frames.send(v1::SessionRequest { frame }).await.expect("sent");
        let answers = client.session(ReceiverStream::new(outbound)).await.expect("a session");
        let mut joined = Self {
            client,
            frames,
            answers: answers.into_inner(),
        };
        assert!(matches!(joined.next().await, Frame::Welcome(_)));
        joined
    }

    async fn next(&mut self) -> Frame {
        let next = tokio::time::timeout(SOON, self.answers.message())
            .await
            .expect("in time");
        next.expect("a frame").and_then(|answer| answer.frame).expect("a frame")
    }

    /// The next attempt that it is offered, started.
    async fn started(&mut self) -> v1::AttemptRef {
        let attempt = loop {
            if let Frame::Assignment(assignment) = self.next().await {
                break assignment.attempt.expect("an attempt");
            }
        };
        self.write(&attempt, crate::agent::start()).await;
        attempt
    }

    async fn write(&mut self, attempt: &v1::AttemptRef, op: v1::write_op::Op) {
        let op = v1::WriteOp {
            attempt: Some(attempt.clone()),
            op: Some(op),
        };
        let frame = Some(Request::Write(v1::Write { seq: 1, ops: vec![op] }));
        self.frames.send(v1::SessionRequest { frame }).await.expect("sent");
        while !matches!(self.next().await, Frame::WriteAck(_)) {}
    }
}

/// Pushes one piece of an attempt's log; why it is refused, or nothing.
async fn pushed(client: &mut AgentClient<Channel>, attempt: &v1::AttemptRef, offset: u64) -> String {
    let data = bytes::Bytes::from_static(b"x");
    let frame = v1::PushLogsRequest {
        attempt: Some(attempt.clone()),
        offset,
        crc32: crc32fast::hash(&data),
        data,
        ..v1::PushLogsRequest::default()
    };
    let frames = futures::stream::iter([frame]).chain(futures::stream::pending());
    let mut answers = client.push_logs(frames).await.expect("a stream").into_inner();
    let answer = tokio::time::timeout(SOON, answers.message()).await.expect("in time");
    answer.expect("an answer").expect("an answer").refused
}

async fn submit(secured: &Secured, project: &str, spec: &str) -> String {
    let mut tasks = v1::tasks_client::TasksClient::new(secured.channel(None).await);
    let request = v1::SubmitRequest {
        project: project.into(),
        ..crate::agent::submit_request(&format!("{project} {spec}"), spec)
    };
    let submitted = tasks.submit(secured.admin(request)).await;
    submitted.expect("submitted").into_inner().task_id
}

/// The reasons why each agent does not take a task.
async fn refusals(secured: &Secured, project: &str, task: &str) -> Vec<String> {
    let mut tasks = v1::tasks_client::TasksClient::new(secured.channel(None).await);
    let request = v1::ExplainRequest {
        project: project.into(),
        task_id: task.into(),
    };
    let explained = tasks
        .explain(secured.admin(request))
        .await
        .expect("explained")
        .into_inner();
    explained.agents.into_iter().flat_map(|agent| agent.reasons).collect()
}

#[tokio::test]
async fn an_agent_gets_tasks_of_the_pool_that_it_joined_and_of_no_other() {
    let secured = Secured::start().await;
    let mut agent = Joined::with(&secured, "a1", &[], "prod").await;
    let elsewhere = submit(&secured, "default", "  selector: \"pool == 'prod'\"\n").await;
    let here = submit(&secured, "default", "  selector: \"pool == 'eu'\"\n").await;
    assert_eq!(agent.started().await.task_id, here);
    let why = refusals(&secured, "default", &elsewhere).await;
    assert!(
        why[0].contains("do not match the selector pool == 'prod': it has pool=eu"),
        "{why:?}"
    );
    // What it offers later is read in the same way.
    let mut later = crate::agent::offers(2);
    later.labels.insert("pool".into(), "prod".into());
    let frame = Some(Request::Capabilities(later));
    agent.frames.send(v1::SessionRequest { frame }).await.expect("sent");
    let warned = async {
        let mut warned = String::new();
        while !warned.contains("it says of itself that its pool is prod") {
            tokio::time::sleep(Duration::from_millis(20)).await;
            warned = secured
                .listed("a1")
                .await
                .capabilities
                .expect("offered")
                .warnings
                .join("");
        }
    };
    tokio::time::timeout(SOON, warned).await.expect("a warning");
    let why = refusals(&secured, "default", &elsewhere).await;
    assert!(why[0].contains("it has pool=eu"), "{why:?}");
}

#[tokio::test]
async fn an_agent_brings_logs_of_its_own_attempts_only() {
    let secured = Secured::start().await;
    let mut other = Joined::with(&secured, "a2", &["other"], "eu").await;
    let mut agent = Joined::with(&secured, "a1", &[], "eu").await;
    submit(&secured, "shop", "").await;
    let attempt = agent.started().await;
    let refused = pushed(&mut other.client, &attempt, 0).await;
    assert!(refused.contains("was not given to the agent a2"), "{refused}");
    assert_eq!(pushed(&mut agent.client, &attempt, 0).await, "");
    let never = v1::AttemptRef {
        epoch: attempt.epoch + 1,
        ..attempt.clone()
    };
    let refused = pushed(&mut agent.client, &never, 0).await;
    assert!(refused.contains("was not given to the agent a1"), "{refused}");
    // Its last bytes may come after its end.
    agent
        .write(&attempt, crate::agent::complete(v1::TaskState::Succeeded))
        .await;
    assert_eq!(pushed(&mut agent.client, &attempt, 1).await, "");
    let refused = pushed(&mut other.client, &attempt, 2).await;
    assert!(refused.contains("was not given to the agent a2"), "{refused}");
}

#[tokio::test]
async fn an_agent_gets_the_files_of_the_tasks_that_it_has_only() {
    let secured = Secured::start().await;
    let mut other = Joined::with(&secured, "a2", &["other"], "eu").await;
    let mut agent = Joined::with(&secured, "a1", &[], "eu").await;
    let mut tasks = v1::tasks_client::TasksClient::new(secured.channel(None).await);
    let sha256 = hex::encode(sha2::Sha256::digest(b"packed"));
    let piece = v1::PutBundleRequest {
        project: "shop".into(),
        sha256: sha256.clone(),
        data: "packed".into(),
    };
    let put = secured.admin(futures::stream::iter([piece]));
    tasks.put_bundle(put).await.expect("stored");
    let spec = "  sources: [{ name: app, bundle: ./app }]\n";
    let request = v1::SubmitRequest {
        project: "shop".into(),
        bundles: vec![v1::Bundle {
            name: "app".into(),
            sha256: sha256.clone(),
            size_bytes: 6,
        }],
        ..crate::agent::submit_request("r1", spec)
    };
    let fetch = v1::FetchBlobRequest {
        project: "shop".into(),
        sha256: sha256.clone(),
        offset: 0,
    };
    let early = agent
        .client
        .fetch_blob(fetch.clone())
        .await
        .expect_err("not its task yet");
    assert_eq!(early.code(), Code::PermissionDenied);
    tasks.submit(secured.admin(request)).await.expect("submitted");
    let attempt = agent.started().await;
    let mut fetched = agent
        .client
        .fetch_blob(fetch.clone())
        .await
        .expect("its own")
        .into_inner();
    let data = fetched.message().await.expect("a piece").expect("a piece").data;
    assert_eq!(data.as_ref(), b"packed");
    let refused = other
        .client
        .fetch_blob(fetch.clone())
        .await
        .expect_err("another agent's");
    assert_eq!(refused.code(), Code::PermissionDenied);
    let unnamed = v1::FetchBlobRequest {
        sha256: "0".repeat(64),
        ..fetch.clone()
    };
    let refused = agent.client.fetch_blob(unnamed).await.expect_err("no file of its task");
    assert!(refused.message().contains("that needs this file"), "{refused:?}");
    let put = |project: &str| {
        let piece = v1::PutBlobRequest {
            project: project.into(),
            sha256: sha256.clone(),
            data: "packed".into(),
        };
        futures::stream::iter([piece])
    };
    agent.client.put_blob(put("shop")).await.expect("it has a task there");
    let refused = agent.client.put_blob(put("bank")).await.expect_err("no task there");
    assert!(
        refused.message().contains("has no task of the project bank"),
        "{refused:?}"
    );
    agent
        .write(&attempt, crate::agent::complete(v1::TaskState::Succeeded))
        .await;
    agent.client.fetch_blob(fetch).await.expect_err("not its task any more");
}

#[tokio::test]
async fn an_agent_of_a_rule_for_projects_gets_their_tasks_tokens_and_files_only() {
    let secured = Secured::with(|settings| settings.oidc = Some(crate::oidc::issuing())).await;
    let mut agent = Joined::with(&secured, "a1", &["shop"], "eu").await;
    let elsewhere = submit(&secured, "bank", "").await;
    let here = submit(&secured, "shop", "").await;
    assert_eq!(agent.started().await.task_id, here);
    let why = refusals(&secured, "bank", &elsewhere).await;
    assert_eq!(why, ["its join rule is for the projects shop, and not for bank"]);
    let request = v1::FetchBlobRequest {
        project: "bank".into(),
        ..v1::FetchBlobRequest::default()
    };
    let refused = agent.client.fetch_blob(request).await.expect_err("another project");
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("is not for the project bank"), "{refused:?}");
    let request = v1::MintTokenRequest {
        attempt: Some(v1::AttemptRef {
            project: "bank".into(),
            task_id: elsewhere,
            run: 1,
            epoch: 1,
        }),
        ..v1::MintTokenRequest::default()
    };
    let refused = agent.client.mint_token(request).await.expect_err("another project");
    assert!(refused.message().contains("is not for the project bank"), "{refused:?}");
}
