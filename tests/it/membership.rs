//! Agents as members of a fleet, with real processes over TLS: they join once, stay themselves over restarts, renew
//! while they work, come back after a sleep, and are put out at once.

use std::time::Duration;

use deputy_proto::v1;
use deputy_tests::agent_process::AgentOptions;
use deputy_tests::connect_proxy::{ConnectProxy, Rules};
use deputy_tests::tasks::Tasks;
use deputy_tests::wall_clock::WallClock;
use deputy_tests::world::World;

use crate::recipe;

const SOON: Duration = Duration::from_secs(30);

async fn agent_info(world: &World, id: &str) -> Option<v1::AgentInfo> {
    let request = v1::FleetListRequest { include_gone: true };
    let listed = world.tasks.fleet().list(request).await.ok()?.into_inner();
    listed.agents.into_iter().find(|agent| agent.agent_id == id)
}

/// A file with a join token that is good once.
async fn once(world: &World) -> String {
    let token = world.manager.access().expect("up").join_token(1).await.expect("made");
    let path = world.folder().join("token-once");
    std::fs::write(&path, token).expect("written");
    path.display().to_string()
}

async fn with_certificates_of(life: &str) -> World {
    let built = World::builder().manager(|manager| {
        manager.flags.extend(["--certificate-life".to_owned(), life.to_owned()]);
    });
    built.start().await.expect("a world")
}

/// The join token is good once: what is kept in the state folder is what lets the agent in the second time.
#[tokio::test]
async fn an_agent_that_has_joined_needs_its_token_no_more() {
    let mut world = World::builder().start().await.expect("a world");
    let token = once(&world).await;
    let options = AgentOptions::default().join_token_file(&token);
    world.agent(options).await.expect("joined");
    std::fs::remove_file(&token).expect("removed");
    let info = agent_info(&world, "agent-1").await.expect("listed");
    assert_eq!((&*info.pool, &*info.join_rule), ("test", "agents"));
    world.agents[0].start_again().expect("started");
    world.joined("agent-1").await.expect("joined again");
    let task = world
        .submit(&recipe::script("again", "", "", "true"))
        .await
        .expect("queued");
    world.succeeded(&task, SOON).await.expect("succeeded");
}

/// A second agent with the same token is told why it is not let in, and the first is not disturbed.
#[tokio::test]
async fn a_used_up_token_is_refused_with_the_reason_and_the_remedy() {
    let mut world = World::builder().start().await.expect("a world");
    let token = once(&world).await;
    world
        .agent(AgentOptions::default().join_token_file(&token))
        .await
        .expect("joined");
    let second = AgentOptions::named("agent-2").join_token_file(&token);
    world.launch(second).await.expect("started");
    let told = "is used up (1 of 1 uses)";
    world
        .eventually("the second is told", SOON, async || {
            world.agents[1].child.log().contains(told)
        })
        .await
        .expect("told");
    assert!(
        world.agents[1]
            .child
            .log()
            .contains("deputy fleet join-token create agents")
    );
    let task = world
        .submit(&recipe::script("first", "", "", "true"))
        .await
        .expect("queued");
    world.succeeded(&task, SOON).await.expect("the first goes on");
}

/// Certificates of a few seconds: several renewals go by while one task runs over one session.
#[tokio::test]
async fn certificates_are_renewed_while_a_task_runs_and_its_session_stays() {
    let mut world = recipe::world_that_renews().await;
    world.agent(AgentOptions::default()).await.expect("joined");
    let before = agent_info(&world, "agent-1").await.expect("listed").certificate_ends_ms;
    let waiting = |go: &str| format!("until test -e {go}; do echo waits; sleep 0.2; done; echo went");
    let log = recipe::ran_through_two_renewals(&world, waiting).await;
    let after = agent_info(&world, "agent-1").await.expect("listed").certificate_ends_ms;
    assert!(after >= before + 8_000, "{before} {after}");
    assert!(log.contains("went"));
}

/// An agent that was asleep while its certificate expired comes back by the key it has, without a token.
#[tokio::test]
async fn an_agent_that_slept_past_the_end_of_its_certificate_comes_back() {
    let mut world = with_certificates_of("3s").await;
    let token = once(&world).await;
    let options = AgentOptions::default().join_token_file(&token);
    world.agent(options).await.expect("joined");
    world.agents[0].child.pause().expect("asleep");
    tokio::time::sleep(Duration::from_secs(6)).await;
    world.agents[0].child.go_on().expect("awake");
    let renewed = "an expired certificate was renewed";
    world
        .eventually("the certificate is exchanged", SOON, async || {
            world.manager.log().contains(renewed)
        })
        .await
        .expect("exchanged");
    world.joined("agent-1").await.expect("back");
    let task = world
        .submit(&recipe::script("awake", "", "", "true"))
        .await
        .expect("queued");
    world.succeeded(&task, SOON).await.expect("succeeded");
}

/// What a revoked agent runs is treated like what any lost agent ran: it is lost, and waits or goes elsewhere.
#[tokio::test]
async fn a_revoked_agent_is_out_at_once_and_its_task_is_lost_like_any_other() {
    let mut world = World::builder().start().await.expect("a world");
    let token = once(&world).await;
    let options = AgentOptions::default().join_token_file(&token);
    world.agent(options).await.expect("joined");
    let task = world
        .submit(&recipe::script("held", "", "", "echo begun; sleep 60"))
        .await
        .expect("queued");
    world
        .wait_state(&task, v1::TaskState::Running, SOON)
        .await
        .expect("running");
    let run = world
        .deputy(&["fleet", "revoke", "agent-1", "--reason", "laptop lost"])
        .await
        .expect("run");
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(
        run.stdout.contains("agent-1 is revoked; 1 certificate ended"),
        "{run:?}"
    );
    let told = "revoked: laptop lost";
    world
        .eventually("the agent is told", Duration::from_secs(5), async || {
            world.agents[0].child.log().contains(told)
        })
        .await
        .expect("told");
    world.wait_state(&task, v1::TaskState::Lost, SOON).await.expect("lost");
    // It tries to join again, and its token is used up.
    world
        .eventually("it is not let in again", SOON, async || {
            world.agents[0].child.log().contains("is used up")
        })
        .await
        .expect("refused");
}

/// A proxy with a password, which cuts what is silent for a moment: heartbeats are rarer than that.
#[tokio::test]
async fn a_session_through_a_proxy_that_cuts_idle_connections_loses_no_lease() {
    let built = World::builder().manager(|manager| manager.heartbeat = Duration::from_secs(1));
    let mut world = built.start().await.expect("a world");
    let rules = Rules {
        login: Some("me:p@ss".into()),
        cut_idle: Some(Duration::from_millis(700)),
    };
    let proxy = ConnectProxy::start(rules).await.expect("a proxy");
    let refused = AgentOptions::named("refused").env("HTTPS_PROXY", &proxy.url("me:wrong"));
    world.launch(refused).await.expect("started");
    let told = "wants a user name and password (407)";
    world
        .eventually("the wrong password is told", SOON, async || {
            world.agents[0].child.log().contains(told)
        })
        .await
        .expect("told");
    assert!(
        !world.agents[0].child.log().contains("wrong"),
        "the password stays out of the log"
    );
    world.agents[0].child.kill().expect("killed");

    let options = AgentOptions::named("behind").env("HTTPS_PROXY", &proxy.url("me:p%40ss"));
    world.agent(options).await.expect("joined");
    let task = world
        .submit(&recipe::script(
            "cut",
            "",
            "",
            "for i in 1 2 3 4 5 6; do echo $i; sleep 1; done",
        ))
        .await
        .expect("queued");
    let done = world
        .succeeded(&task, Duration::from_secs(60))
        .await
        .expect("succeeded");
    assert_eq!((done.run, done.epoch), (1, 1), "nobody else was given it");
    assert!(proxy.cut() > 0, "connections were cut");
    assert!(proxy.made() > proxy.cut().min(2));
    assert!(!world.manager.log().contains("LOST"), "{}", world.report());
    assert!(world.logs(&task).await.expect("logged").contains('6'));
}

/// NO_PROXY wins over HTTPS_PROXY.
#[tokio::test]
async fn what_no_proxy_names_is_reached_directly() {
    let mut world = World::builder().start().await.expect("a world");
    let proxy = ConnectProxy::start(Rules::default()).await.expect("a proxy");
    let options = AgentOptions::default()
        .env("HTTPS_PROXY", &proxy.url(""))
        .env("NO_PROXY", "127.0.0.0/8");
    world.agent(options).await.expect("joined");
    assert_eq!((proxy.made(), proxy.refused()), (0, 0));
}

/// People and pipelines: without a token nothing, with a small one little, and the words say which.
#[tokio::test]
async fn the_command_says_what_is_missing() {
    let world = World::with_one_agent().await.expect("a world");
    let made = world
        .deputy(&["fleet", "token", "create", "ci", "--scope", "read"])
        .await
        .expect("run");
    assert_eq!(made.code, Some(0), "{made:?}");
    let reads = world.folder().join("ci-token");
    std::fs::write(&reads, &made.stdout).expect("written");
    let run = async |token: Option<&str>, arguments: &[&str]| {
        let mut command = world.deputy_command().expect("built");
        command.env_remove("DEPUTY_TOKEN").args(arguments);
        if let Some(path) = token {
            command.env("DEPUTY_TOKEN_FILE", path);
        }
        let output = tokio::task::spawn_blocking(move || command.output())
            .await
            .expect("joined")
            .expect("run");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    let (code, said) = run(None, &["list"]).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("credentials are needed") && said.contains("DEPUTY_TOKEN"),
        "{said}"
    );
    let reads = reads.display().to_string();
    let (code, said) = run(Some(&reads), &["list"]).await;
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = run(Some(&reads), &["fleet", "list"]).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("does not have the scope administer"), "{said}");
    let other = World::builder().start().await.expect("another world");
    let ca = other.manager.access().expect("up").ca_file.display().to_string();
    let (code, said) = run(Some(&reads), &["list", "--ca-file", &ca]).await;
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("not from the authority that was configured"), "{said}");
}

/// A certificate of the operator's own, replaced while the manager runs: new connections see the new one, and an agent
/// whose file of authorities is replaced too believes it without a restart.
#[tokio::test]
async fn a_replaced_certificate_is_shown_without_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let (chain, key) = (folder.path().join("tls.pem"), folder.path().join("tls-key.pem"));
    let signer = |name: &str| {
        let data = folder.path().join(name);
        std::fs::create_dir_all(&data).expect("made");
        deputy_manager::trust::authority::Authority::open(&data, Some("operator")).expect("an authority")
    };
    let write = |authority: &deputy_manager::trust::authority::Authority| {
        use base64::Engine;
        let (leaf, made) = authority.server(&["127.0.0.1".into()]).expect("made");
        let body = base64::engine::general_purpose::STANDARD.encode(&leaf);
        let pem = format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
        std::fs::write(&key, made.serialize_pem()).expect("written");
        std::fs::write(&chain, pem).expect("written");
    };
    let (first, second) = (signer("first"), signer("second"));
    write(&first);
    let flags = [
        "--tls-cert",
        &chain.display().to_string(),
        "--tls-key",
        &key.display().to_string(),
    ]
    .map(str::to_owned);
    let built = World::builder()
        .manager(|manager| manager.flags.extend(flags))
        .ca_file(first.path());
    let mut world = built.start().await.expect("a world");
    world.agent(AgentOptions::default()).await.expect("joined");
    let answers = async |ca: &std::path::Path| {
        let ca = ca.display().to_string();
        world.deputy(&["list", "--ca-file", &ca]).await.expect("run").code == Some(0)
    };
    assert!(answers(first.path()).await && !answers(second.path()).await);
    write(&second);
    world
        .eventually("the new one is shown", SOON, async || answers(second.path()).await)
        .await
        .expect("shown");
    assert!(!answers(first.path()).await);
    let info = agent_info(&world, "agent-1").await;
    assert!(
        info.is_some_and(|info| info.status() == v1::AgentStatus::Online),
        "the session stays"
    );
    // What the agent believes is read anew for its next connection.
    std::fs::copy(second.path(), first.path()).expect("replaced");
    world.manager.kill_and_start_again().await.expect("started again");
    world.tasks = Tasks::of(&world.manager.access().expect("up")).expect("a client");
    world
        .eventually("the agent is back", SOON, async || {
            let info = agent_info(&world, "agent-1").await;
            info.is_some_and(|info| info.status() == v1::AgentStatus::Online)
        })
        .await
        .expect("it believes the new authority");
}

/// What is signed with a wrong clock is refused by everybody in other words: the join stops before, and names the clock.
#[tokio::test]
async fn a_clock_that_is_ten_minutes_off_stops_the_join_with_its_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut world = World::builder().start().await.expect("a world");
    for (id, step, way) in [
        ("ahead", 600, "ahead of the manager's"),
        ("behind", -600, "behind the manager's"),
    ] {
        let clock = WallClock::new(folder.path(), id).expect("a clock");
        clock.step(step).expect("set");
        let options = AgentOptions {
            environment: clock.environment(),
            ..AgentOptions::named(id)
        };
        let place = world.launch(options).await.expect("started");
        world
            .eventually("the clock is named", SOON, async || {
                let log = world.agents[place].child.log();
                log.contains("this machine's clock is") && log.contains(way) && log.contains("set the clock (NTP)")
            })
            .await
            .expect("named");
        assert!(agent_info(&world, id).await.is_none());
        // Set right, it joins without a restart.
        clock.step(0).expect("set");
        world.joined(id).await.expect("joined");
    }
}

/// The agent's other way out: clusters are reached through the same proxy, and NO_PROXY counts for them too.
#[tokio::test]
async fn a_cluster_is_reached_through_the_proxy_too() {
    let cloud = deputy_tests::cloud::Cloud::shared().await.expect("a cloud");
    let mut world = World::builder().cloud(&cloud).start().await.expect("a world");
    let proxy = ConnectProxy::start(Rules {
        login: Some("deputy:let-me-out".into()),
        ..Rules::default()
    });
    let proxy = proxy.await.expect("a proxy");
    // The manager is at 127.0.0.1, and the cluster at localhost.
    let options = AgentOptions::default()
        .env("HTTPS_PROXY", &proxy.url("deputy:let-me-out"))
        .env("NO_PROXY", "127.0.0.1");
    world.agent(options).await.expect("joined");
    let namespace = world.namespace("proxied").await.expect("a namespace");
    let step = format!(
        "    - name: apply\n      kubernetesApply:\n        cluster: prod\n        namespace: {namespace}\n        manifests: [ {{ apiVersion: v1, kind: ConfigMap, metadata: {{ name: settings }}, data: {{ x: y }} }} ]\n"
    );
    let task = world.submit(&recipe::task("proxied", recipe::AWS, &step)).await;
    let ended = world.succeeded(&task.expect("queued"), SOON * 2).await;
    ended.expect("succeeded");
    assert!(proxy.made() >= 1, "nothing went through the proxy");
    assert_eq!(proxy.refused(), 0);
}
