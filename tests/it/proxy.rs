//! The recording proxy counts, holds, withholds and answers.

use std::fmt::Debug;
use std::time::Duration;

use deputy_tests::cloud::{AWAY, Cloud};
use deputy_tests::container_credentials::{config, keys};
use deputy_tests::proxy::relay::Proxy;
use deputy_tests::proxy::rule::{Canned, Handle, Matcher};

async fn ecs(proxy: &Proxy, cloud: &Cloud) -> aws_sdk_ecs::Client {
    let root = keys(AWAY, "test", None);
    aws_sdk_ecs::Client::new(&config(cloud, &proxy.url(), root))
}

#[tokio::test]
async fn requests_are_counted_by_operation_and_throttling_is_retried_by_the_sdk() {
    let cloud = Cloud::shared().await.expect("a cloud");
    let proxy = Proxy::before_aws(cloud.address().expect("address"))
        .await
        .expect("a proxy");
    let ecs = ecs(&proxy, &cloud).await;
    let throttled = proxy.answer(Matcher::on("ecs", "CreateCluster"), Canned::throttled());
    ecs.create_cluster()
        .cluster_name("counted")
        .send()
        .await
        .expect("a cluster, at the second try");
    assert_eq!(throttled.count(), 1);
    assert_eq!(proxy.count("ecs", "CreateCluster"), 2, "{}", proxy.transcript());
    assert_eq!(proxy.successes("ecs", "CreateCluster"), 1, "{}", proxy.transcript());
    assert_eq!(proxy.mutations().len(), 1, "{}", proxy.transcript());
}

#[tokio::test]
async fn a_held_request_reaches_the_server_only_when_it_is_released() {
    let cloud = Cloud::shared().await.expect("a cloud");
    let proxy = Proxy::before_aws(cloud.address().expect("address"))
        .await
        .expect("a proxy");
    let ecs = ecs(&proxy, &cloud).await;
    let held = proxy.hold(Matcher::on("ecs", "CreateCluster"));
    let test = async {
        held.reached().await.expect("reached");
        assert_eq!(proxy.successes("ecs", "CreateCluster"), 0);
        held.release();
    };
    let (created, ()) = tokio::join!(ecs.create_cluster().cluster_name("held").send(), test);
    created.expect("created");
    assert_eq!(proxy.successes("ecs", "CreateCluster"), 1);
}

/// A caller that goes away once its request has come to the point of the rule, and is not answered before.
async fn gives_up(request: impl Future<Output: Debug>, rule: &Handle) {
    let mut request = std::pin::pin!(request);
    tokio::select! {
        answered = &mut request => panic!("answered: {answered:?}"),
        reached = rule.reached() => reached.expect("reached"),
    }
    tokio::time::timeout(Duration::from_millis(300), request)
        .await
        .expect_err("nothing answers it");
}

#[tokio::test]
async fn an_abandoned_request_is_never_carried_out_but_one_with_a_withheld_reply_is() {
    let cloud = Cloud::shared().await.expect("a cloud");
    let proxy = Proxy::before_aws(cloud.address().expect("address"))
        .await
        .expect("a proxy");
    let ecs = ecs(&proxy, &cloud).await;
    let held = proxy.hold(Matcher::on("ecs", "CreateCluster").body_contains("never"));
    gives_up(ecs.create_cluster().cluster_name("never").send(), &held).await;
    assert_eq!(held.count(), 1);
    held.abandon();
    let withheld = proxy.withhold_reply(Matcher::on("ecs", "CreateCluster").body_contains("done"));
    gives_up(ecs.create_cluster().cluster_name("done").send(), &withheld).await;
    drop(ecs);
    let calls = proxy.calls_of("ecs", "CreateCluster");
    let outcomes: Vec<_> = calls
        .iter()
        .map(|call| (call.body_text().contains("done"), call.status))
        .collect();
    assert_eq!(outcomes, [(false, None), (true, Some(200))], "{}", proxy.transcript());
}

#[tokio::test]
async fn reads_lag_behind_a_change_when_the_test_wants_it() {
    let cloud = Cloud::shared().await.expect("a cloud");
    let proxy = Proxy::before_aws(cloud.address().expect("address"))
        .await
        .expect("a proxy");
    let ecs = ecs(&proxy, &cloud).await;
    proxy.lag("ecs", Duration::from_secs(600));
    let found = || async {
        let described = ecs
            .describe_clusters()
            .clusters("lagging")
            .send()
            .await
            .expect("described");
        described.clusters().len()
    };
    assert_eq!(found().await, 0);
    ecs.create_cluster()
        .cluster_name("lagging")
        .send()
        .await
        .expect("created");
    assert_eq!(found().await, 0, "{}", proxy.transcript());
    // The same change is seen once it is as long ago as reads lag behind.
    proxy.lag("ecs", Duration::from_millis(500));
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(found().await, 1, "{}", proxy.transcript());
}

#[tokio::test]
async fn a_proxy_before_kubernetes_names_what_was_done_and_holds_it() {
    use k8s_openapi::api::core::v1::ConfigMap;
    let cloud = Cloud::shared().await.expect("a cloud");
    let cluster = cloud.kubernetes().await.expect("a cluster");
    let upstream = ([127, 0, 0, 1], cluster.port().expect("port")).into();
    let proxy = Proxy::before_kubernetes(upstream, &cluster.folder)
        .await
        .expect("a proxy");
    let token = std::fs::read_to_string(cluster.folder.join("admin.kubeconfig")).expect("kubeconfig");
    let token = token.replace(
        &cluster.endpoint,
        &format!("https://localhost:{}", proxy.address().port()),
    );
    let kubeconfig = kube::config::Kubeconfig::from_yaml(&token).expect("kubeconfig");
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default())
        .await
        .expect("config");
    let client = kube::Client::try_from(config).expect("a client");
    let maps: kube::Api<ConfigMap> = kube::Api::namespaced(client, "shop");
    // The administrator is known by a client certificate, which ends at the proxy: everything is refused, and recorded.
    let listed = maps.list(&Default::default()).await;
    assert!(
        matches!(&listed, Err(kube::Error::Api(status)) if status.code == 403),
        "{listed:?}"
    );
    assert_eq!(
        proxy.count("kubernetes", "list configmaps"),
        1,
        "{}",
        proxy.transcript()
    );
}
