//! What users see: submission, watching, listing, retrying, explaining.

use std::time::Duration;

use deputy_manager::dispatcher::timing::Timing;
use deputy_proto::v1;
use deputy_proto::v1::write_op::Op;
use tonic::Code;

use crate::agent::{Agent, World, submit_request};

#[tokio::test]
async fn a_submission_is_idempotent_by_its_request_id() {
    let world = World::start(Timing::default()).await;
    let mut tasks = world.tasks().await;
    let first = tasks
        .submit(submit_request("same", ""))
        .await
        .expect("submitted")
        .into_inner();
    let again = tasks
        .submit(submit_request("same", ""))
        .await
        .expect("submitted")
        .into_inner();
    assert_eq!(
        (again.task_id.as_str(), first.existed, again.existed),
        (first.task_id.as_str(), false, true)
    );
    let other = tasks
        .submit(submit_request("same", "  timeout: 5m\n"))
        .await
        .expect_err("other content");
    assert_eq!(other.code(), Code::AlreadyExists);
    let listed = tasks
        .list(v1::ListRequest::default())
        .await
        .expect("listed")
        .into_inner()
        .tasks;
    assert_eq!(listed.len(), 1);
}

#[tokio::test]
async fn what_is_wrong_with_a_document_is_said_in_words() {
    let world = World::start(Timing::default()).await;
    let wrong = world
        .tasks()
        .await
        .submit(submit_request("r", "  tiemout: 5m\n"))
        .await
        .expect_err("refused");
    assert_eq!(wrong.code(), Code::InvalidArgument);
    assert!(
        wrong.message().contains("tiemout") && wrong.message().contains("timeout"),
        "{}",
        wrong.message()
    );
}

#[tokio::test]
async fn a_watcher_sees_every_event_once_and_goes_on_from_its_cursor() {
    let mut world = World::start(Timing::default()).await;
    let mut agent = Agent::connect(&world, "a1", "i1").await;
    let id = world.submit("").await;
    let attempt = agent.assignment().await.attempt.expect("an attempt");
    let request = v1::WatchRequest {
        task_id: id.clone(),
        ..v1::WatchRequest::default()
    };
    let mut watch = world
        .tasks()
        .await
        .watch(request.clone())
        .await
        .expect("a stream")
        .into_inner();
    agent.start(&attempt).await;
    let end = v1::Result {
        state: v1::TaskState::Succeeded.into(),
        world: v1::World::Changed.into(),
        steps: vec![v1::StepProgress::default()],
        ..v1::Result::default()
    };
    agent.write(&attempt, vec![Op::Complete(end)]).await;
    let mut seen = Vec::new();
    while seen.len() < 4 {
        seen.push(watch.message().await.expect("an event").expect("an event"));
    }
    let kinds: Vec<&str> = seen.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["submitted", "assigned", "started", "succeeded"]);
    assert_eq!(seen[1].task.as_ref().expect("a task").state(), v1::TaskState::Assigned);
    drop((watch, agent));
    world.restart().await;
    let mut watch = world
        .tasks()
        .await
        .watch(request.clone())
        .await
        .expect("a stream")
        .into_inner();
    let mut known = Vec::new();
    while known.len() < 4 {
        let task = watch.message().await.expect("an event").expect("an event").task;
        let task = task.expect("a task");
        known.push((task.started_at_ms > 0, task.steps.len(), task.result.is_some()));
    }
    let nothing = (false, 0, false);
    assert_eq!(
        known,
        [nothing, nothing, nothing, (true, 1, true)],
        "an event shows nothing that came later"
    );
    drop(watch);
    let request = v1::WatchRequest {
        cursor: seen[1].cursor.clone(),
        ..request
    };
    let mut watch = world.tasks().await.watch(request).await.expect("a stream").into_inner();
    assert_eq!(
        watch.message().await.expect("an event").expect("an event").kind,
        "started"
    );
    assert_eq!(
        watch.message().await.expect("an event").expect("an event").kind,
        "succeeded"
    );
}

#[tokio::test]
async fn a_project_is_watched_from_now_on() {
    let world = World::start(Timing::default()).await;
    world.submit("").await;
    let mut watch = world
        .tasks()
        .await
        .watch(v1::WatchRequest::default())
        .await
        .expect("a stream")
        .into_inner();
    let second = world.submit("").await;
    let event = watch.message().await.expect("an event").expect("an event");
    assert_eq!(
        (event.kind.as_str(), event.task.expect("a task").task_id),
        ("submitted", second)
    );
}

#[tokio::test]
async fn tasks_are_listed_page_by_page_newest_first() {
    let world = World::start(Timing::default()).await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(world.submit("").await);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    ids.reverse();
    let mut tasks = world.tasks().await;
    let mut listed = Vec::new();
    let mut page_token = String::new();
    loop {
        let page = tasks
            .list(v1::ListRequest {
                page_size: 2,
                page_token,
                ..v1::ListRequest::default()
            })
            .await
            .expect("listed")
            .into_inner();
        listed.extend(page.tasks.into_iter().map(|task| task.task_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, ids);
}

#[tokio::test]
async fn a_task_waits_in_the_queue_only_as_long_as_it_may_and_can_be_retried() {
    let world = World::start(Timing::default()).await;
    let id = world.submit("  queueTimeout: 100ms\n").await;
    let task = world.until(&id, v1::TaskState::Expired).await;
    assert_eq!(task.result.expect("a result").world(), v1::World::Unchanged);
    let request = v1::RetryRequest {
        task_id: id.clone(),
        seen_run: 1,
        ..v1::RetryRequest::default()
    };
    let task = world
        .tasks()
        .await
        .retry(request.clone())
        .await
        .expect("retried")
        .into_inner()
        .task
        .expect("a task");
    assert_eq!((task.state(), task.run), (v1::TaskState::Queued, 2));
    assert_eq!(
        world.tasks().await.retry(request).await.expect_err("seen").code(),
        Code::FailedPrecondition
    );
    let mut agent = Agent::connect(&world, "a1", "i1").await;
    let attempt = agent.assignment().await.attempt.expect("an attempt");
    assert_eq!((attempt.run, attempt.epoch), (2, 1));
}

#[tokio::test]
async fn a_waiting_task_is_explained_agent_by_agent() {
    let world = World::start(Timing::default()).await;
    let _agent = Agent::connect(&world, "a1", "i1").await;
    let id = world.submit("  selector: \"env == 'prod'\"\n").await;
    let why = world.explain(&id).await;
    assert_eq!(
        why.summary,
        "it waits: 1 agent is known, and for each: its labels do not match the selector env == 'prod': it has none"
    );
}

#[tokio::test]
async fn bundles_are_stored_by_digest_and_required_by_their_sources() {
    use sha2::Digest;
    let world = World::start(Timing::default()).await;
    let mut tasks = world.tasks().await;
    let spec = "  sources: [{ name: app, bundle: ./app }]\n";
    let missing = tasks.submit(submit_request("r1", spec)).await.expect_err("no bundle");
    assert!(
        missing.message().contains("the source app has no bundle"),
        "{}",
        missing.message()
    );
    let sha256 = hex::encode(sha2::Sha256::digest(b"packed"));
    let piece = v1::PutBundleRequest {
        sha256: sha256.clone(),
        data: "packed".into(),
        ..v1::PutBundleRequest::default()
    };
    let stored = tasks
        .put_bundle(futures::stream::iter([piece]))
        .await
        .expect("stored")
        .into_inner();
    assert_eq!(stored.size_bytes, 6);
    let mut request = submit_request("r2", spec);
    request.bundles = vec![v1::Bundle {
        name: "app".into(),
        sha256: sha256.clone(),
        size_bytes: 6,
    }];
    tasks.submit(request).await.expect("submitted");
    let mut agent = deputy_proto::v1::agent_client::AgentClient::new(world.channel().await);
    let request = v1::FetchBlobRequest {
        project: "default".into(),
        sha256,
        offset: 2,
    };
    let mut blob = agent.fetch_blob(request).await.expect("found").into_inner();
    assert_eq!(
        blob.message().await.expect("a piece").expect("a piece").data.as_ref(),
        b"cked"
    );
}
