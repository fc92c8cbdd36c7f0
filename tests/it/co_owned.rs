//! Objects that others own with us: what they changed in the meantime is neither overwritten nor deleted.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use deputy_proto::v1;
use deputy_tests::agent_process::AgentOptions;
use deputy_tests::cloud::Cloud;
use deputy_tests::git_server::GitServer;
use deputy_tests::leaks::canary::note;
use deputy_tests::proxy::rule::{Canned, Matcher};
use deputy_tests::refused::refused;
use deputy_tests::world::World;
use futures::StreamExt;
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::recipe;

const SOON: Duration = Duration::from_secs(60);

/// The identity, and an undo of what fails.
fn more() -> String {
    format!("{}  onFailure: rollback\n", recipe::AWS)
}

/// The settings of a namespace, as their other owner sees them.
struct Settings {
    maps: Api<ConfigMap>,
}

impl Settings {
    async fn of(world: &World, namespace: &str) -> Self {
        let cluster = world.kubernetes().await.expect("a cluster");
        let admin = cluster.admin().await.expect("a client");
        Self {
            maps: Api::namespaced(admin, namespace),
        }
    }

    /// Helm, as one who applies fields of its own.
    async fn helm_applies(&self, x: &str) {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"x": x}});
        let applied = self
            .maps
            .patch("settings", &PatchParams::apply("helm"), &Patch::Apply(&map))
            .await;
        applied.expect("applied");
    }

    async fn data(&self) -> Value {
        let map = self.maps.get_opt("settings").await.expect("read");
        map.map_or(Value::Null, |map| json!(map.data))
    }
}

/// Applies `y`, and fails once `go` exists.
fn failing(namespace: &str, go: &std::path::Path) -> String {
    let steps = format!(
        r#"    - name: deploy
      kubernetesApply:
        cluster: prod
        namespace: {namespace}
        manifests: [ {{ apiVersion: v1, kind: ConfigMap, metadata: {{ name: settings }}, data: {{ y: ours }} }} ]
    - name: check
      shell:
        retrySafe: true
        run: |
          until test -e {}; do sleep 0.1; done
          exit 1
"#,
        go.display()
    );
    recipe::task(namespace, &more(), &steps)
}

async fn world() -> World {
    let cloud = Cloud::shared().await.expect("a cloud");
    let builder = World::builder().cloud(&cloud).proxy_before_kubernetes();
    let mut world = builder.start().await.expect("a world");
    world.agent(AgentOptions::default()).await.expect("an agent");
    world
}

async fn checking(world: &World, task: &str) {
    let running = |task: &v1::Task| {
        let check = task.steps.iter().find(|step| step.name == "check");
        Ok(check.is_some_and(|step| step.status() == v1::StepStatus::Running))
    };
    let reached = world.tasks.wait_until(task, SOON, "its check", running).await;
    reached.unwrap_or_else(|error| panic!("{error:#}\n{}", world.report()));
}

/// The task failed, and says of the settings what `words` say.
async fn left_alone(world: &World, task: &str, words: &str) {
    let ended = world.ended(task, SOON).await.expect("ended");
    let result = ended.result.clone().expect("a result");
    assert_eq!(
        (ended.state(), result.world()),
        (v1::TaskState::Failed, v1::World::RollbackFailed),
        "{ended:#?}"
    );
    let remains = result.remains.join("\n");
    assert!(remains.contains(words), "{remains}\n{}", world.report());
}

/// Guards the values of a co-owner against a rollback: who owns which field is the same as before.
#[tokio::test]
async fn what_a_co_owner_changed_since_is_kept_by_a_rollback() {
    let world = world().await;
    let namespace = world.namespace("coowned").await.expect("a namespace");
    let settings = Settings::of(&world, &namespace).await;
    settings.helm_applies("helm-1").await;
    let go = world.folder().join("go");
    let task = world.submit(&failing(&namespace, &go)).await.expect("queued");
    checking(&world, &task).await;
    settings.helm_applies("helm-2").await;
    std::fs::write(&go, "").expect("written");
    left_alone(&world, &task, "it was changed since by helm (data.x)").await;
    assert_eq!(settings.data().await, json!({"x": "helm-2", "y": "ours"}));
}

/// Guards that a rollback is not refused because somebody or something scaled what was deployed.
#[tokio::test]
async fn a_deployment_that_was_scaled_meanwhile_is_rolled_back_with_its_new_size() {
    use k8s_openapi::api::apps::v1::Deployment;
    let world = world().await;
    let namespace = world.namespace("scaled").await.expect("a namespace");
    let go = world.folder().join("go");
    let document = |image: &str, check: &str| {
        let steps = format!(
            r#"    - name: deploy
      kubernetesRollingDeploy:
        cluster: prod
        namespace: {namespace}
        manifests:
          - apiVersion: apps/v1
            kind: Deployment
            metadata: {{ name: web }}
            spec:
              replicas: 2
              selector: {{ matchLabels: {{ app: web }} }}
              template:
                metadata: {{ labels: {{ app: web }} }}
                spec: {{ containers: [ {{ name: app, image: "{image}" }} ] }}
{check}"#
        );
        recipe::task(&namespace, &more(), &steps)
    };
    let first = world.submit(&document("web:1", "")).await.expect("queued");
    world.succeeded(&first, SOON).await.expect("the first revision");
    let check = format!(
        "    - name: check\n      shell:\n        retrySafe: true\n        run: |\n          until test -e {}; do sleep 0.1; done\n          exit 1\n",
        go.display()
    );
    let task = world.submit(&document("web:2", &check)).await.expect("queued");
    checking(&world, &task).await;
    let admin = world.cluster_admin().await.expect("a client");
    let deployments: Api<Deployment> = Api::namespaced(admin, &namespace);
    let four = Patch::Merge(json!({"spec": {"replicas": 4}}));
    deployments
        .patch_scale("web", &PatchParams::default(), &four)
        .await
        .expect("scaled");
    std::fs::write(&go, "").expect("written");
    let ended = world.ended(&task, SOON).await.expect("ended");
    let result = ended.result.clone().expect("a result");
    assert_eq!(result.world(), v1::World::RolledBack, "{ended:#?}\n{}", world.report());
    let spec = deployments.get("web").await.expect("read").spec;
    let image = spec.template.spec.expect("pods").containers.remove(0).image;
    assert_eq!((image.as_deref(), spec.replicas), (Some("web:1"), Some(4)));
}

/// Guards that the loss of an agent can be answered by a rollback where a failure is not.
#[tokio::test]
async fn what_a_lost_agent_applied_is_put_back_where_only_its_loss_asks_for_that() {
    let mut world = world().await;
    let namespace = world.namespace("lost").await.expect("a namespace");
    let settings = Settings::of(&world, &namespace).await;
    settings.helm_applies("helm-1").await;
    let go = world.folder().join("go");
    let document = failing(&namespace, &go).replace("  onFailure: rollback\n", "  onAgentLoss: rollback\n");
    let task = world.submit(&document).await.expect("queued");
    checking(&world, &task).await;
    assert_eq!(settings.data().await, json!({"x": "helm-1", "y": "ours"}));
    world.agents[0].kill().expect("killed");
    world.agent(AgentOptions::named("other")).await.expect("another agent");
    let ended = world.ended(&task, SOON).await.expect("ended");
    assert_eq!(
        settings.data().await,
        json!({"x": "helm-1"}),
        "{ended:#?}\n{}",
        world.report()
    );
}

/// Guards what a co-owner writes while our request is under way: the API server is told what we have seen.
#[tokio::test]
async fn what_a_co_owner_changes_before_an_apply_arrives_fails_it_and_nothing_is_overwritten() {
    let world = world().await;
    let namespace = world.namespace("raced").await.expect("a namespace");
    let settings = Settings::of(&world, &namespace).await;
    settings.helm_applies("helm-1").await;
    let proxy = world.kubernetes_proxy().expect("a proxy");
    let held = proxy.hold(Matcher::on("kubernetes", "apply configmaps").target_contains(&namespace));
    let go = world.folder().join("go");
    let task = world.submit(&failing(&namespace, &go)).await.expect("queued");
    held.reached().await.expect("an apply");
    settings.helm_applies("helm-2").await;
    held.release();
    let (_, failure) = recipe::failure(&world, &task, SOON).await;
    assert!(
        failure.summary.contains("was changed by somebody else"),
        "{failure:#?}\n{}",
        world.report()
    );
    assert_eq!(settings.data().await, json!({"x": "helm-2"}));
}

/// Guards what a co-owner puts into an object that is about to be deleted, because this task had created it.
#[tokio::test]
async fn what_a_co_owner_adds_before_a_deletion_arrives_is_not_deleted() {
    let world = world().await;
    let namespace = world.namespace("adopted").await.expect("a namespace");
    let settings = Settings::of(&world, &namespace).await;
    let proxy = world.kubernetes_proxy().expect("a proxy");
    let held = proxy.hold(Matcher::on("kubernetes", "delete configmaps").target_contains(&namespace));
    let go = world.folder().join("go");
    std::fs::write(&go, "").expect("written");
    let task = world.submit(&failing(&namespace, &go)).await.expect("queued");
    held.reached().await.expect("a deletion");
    settings.helm_applies("helm-1").await;
    held.release();
    left_alone(&world, &task, "it was changed since by helm (data.x)").await;
    assert_eq!(settings.data().await, json!({"x": "helm-1", "y": "ours"}));
}

/// What others wrote into an object goes nowhere by the API server's refusal of it, which quotes the merged object.
#[tokio::test]
async fn a_refusal_does_not_tell_what_others_wrote_into_an_object() {
    let world = world().await;
    let namespace = world.namespace("refused").await.expect("a namespace");
    let client = world.kubernetes().await.expect("a cluster").admin().await;
    let secret = |name: &str| {
        let value = format!("live-{:032x}", rand::random::<u128>());
        note(name, &value);
        value
    };
    let all = refused(&client.expect("a client"), &namespace, secret).await;
    for (at, case) in all.expect("refused").into_iter().enumerate() {
        let steps = format!(
            "    - name: deploy\n      kubernetesApply:\n        cluster: prod\n        namespace: {namespace}\n        forceConflicts: true\n        manifests: [ {} ]\n",
            case.manifest
        );
        let document = recipe::task(&format!("{namespace}-{at}"), &more(), &steps);
        let task = world.submit(&document).await.expect("queued");
        let ended = world.ended(&task, SOON).await.expect("ended");
        let failure = ended
            .result
            .clone()
            .and_then(|result| result.failure)
            .expect("a failure");
        assert!(
            failure.summary.contains(case.words),
            "{failure:#?}\nfrom {}",
            case.answer
        );
        let told = format!("{ended:?}{:?}", world.logs(&task).await);
        assert!(!told.contains("live-"), "{failure:#?}");
    }
}

/// Makes a rule for one verb on one resource of a namespace, which says `words` (of CEL) when `allows` does not hold.
async fn rule(client: &Client, namespace: &str, (verb, resource): (&str, &str), (allows, words): (&str, &str)) {
    let name = format!("rule-{namespace}");
    let policy: ValidatingAdmissionPolicy = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "operations": [verb], "resources": [resource],
            }]},
            "validations": [{ "expression": allows, "messageExpression": words }],
        },
    }))
    .expect("a policy");
    let binding: ValidatingAdmissionPolicyBinding = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "policyName": name, "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}},
        },
    }))
    .expect("a binding");
    let made = PostParams::default();
    Api::all(client.clone()).create(&made, &policy).await.expect("a rule");
    Api::all(client.clone()).create(&made, &binding).await.expect("in use");
}

/// Until a rule is in force: what it forbids is done for a trial.
async fn in_force<T, F: Future<Output = kube::Result<T>>>(trial: impl Fn() -> F) {
    let until = tokio::time::Instant::now() + SOON;
    while trial().await.is_ok() {
        assert!(tokio::time::Instant::now() < until, "the rule is not in force");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// What others wrote into what this agent keeps goes nowhere by a refusal to delete it.
#[tokio::test]
async fn a_refused_deletion_does_not_tell_what_others_wrote_into_what_is_deleted() {
    let world = world().await;
    let namespace = world.namespace("notes").await.expect("a namespace");
    let settings = Settings::of(&world, &namespace).await;
    settings.helm_applies("helm-1").await;
    let apply = |name: &str, y: &str| {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"y": y}});
        let steps = format!(
            "    - name: deploy\n      kubernetesApply:\n        cluster: prod\n        namespace: {namespace}\n        manifests: [ {map} ]\n"
        );
        recipe::task(&format!("{namespace}-{name}"), &more(), &steps)
    };
    let task = world.submit(&apply("first", "one")).await.expect("queued");
    world.ended(&task, SOON).await.expect("ended");
    let client = world.cluster_admin().await.expect("a client");
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let kept = secrets
        .list(&ListParams::default().labels("deputy.dev/object"))
        .await
        .expect("read");
    let kept = kept
        .items
        .first()
        .and_then(|secret| secret.metadata.name.clone())
        .expect("what is kept");
    let value = format!("live-{:032x}", rand::random::<u128>());
    note("a note on what is kept", &value);
    let noted = json!({"metadata": {"annotations": {"note": value}}});
    let by = PatchParams::default();
    secrets.patch(&kept, &by, &Patch::Merge(noted)).await.expect("noted");
    let allows = "!has(oldObject.metadata.annotations) || !('note' in oldObject.metadata.annotations)";
    let words = "'it has the note ' + oldObject.metadata.annotations['note']";
    rule(&client, &namespace, ("DELETE", "secrets"), (allows, words)).await;
    let trial = DeleteParams::default().dry_run();
    in_force(|| secrets.delete(&kept, &trial)).await;
    let task = world.submit(&apply("second", "two")).await.expect("queued");
    let ended = world.ended(&task, SOON).await.expect("ended");
    assert_eq!(ended.state(), v1::TaskState::Succeeded, "{ended:#?}");
    let logs = format!("{:?}", world.logs(&task).await.expect("logs"));
    assert!(logs.contains("could not be removed and is left"), "{logs}");
    assert!(logs.contains("it has the note ***"), "{logs}");
    assert!(!format!("{ended:?}{logs}").contains("live-"), "{logs}");
}

/// A rule that quotes a pod's environment says it to the controller that makes the pod, which passes it on.
#[tokio::test]
async fn what_a_rule_says_of_pods_is_told_without_what_others_wrote_into_their_template() {
    let world = world().await;
    let namespace = world.namespace("plain").await.expect("a namespace");
    let client = world.cluster_admin().await.expect("a client");
    let value = format!("live-{:032x}", rand::random::<u128>());
    note("the environment of a Deployment whose pods are refused", &value);
    let web = |replicas: i32, image: &str, more: Value| {
        let mut container = json!({"name": "app", "image": image});
        container
            .as_object_mut()
            .expect("a container")
            .extend(more.as_object().expect("fields").clone());
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container]}}}})
    };
    let allows = "!has(object.spec.containers[0].env)";
    let words = "'env PASSWORD=' + object.spec.containers[0].env[0].value + ' of ' + object.spec.containers[0].image + ' is plain text'";
    rule(&client, &namespace, ("CREATE", "pods"), (allows, words)).await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "trial"}, "spec": {"containers": [
        {"name": "app", "image": "app:1", "env": [{"name": "A", "value": "b"}]}]}}))
    .expect("a pod");
    let trial = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    in_force(|| pods.create(&trial, &pod)).await;
    let deployments: Api<Deployment> = Api::namespaced(client, &namespace);
    let env = json!({"env": [{"name": "PASSWORD", "value": value}]});
    let by_helm = Patch::Apply(web(0, "app:1", env));
    deployments
        .patch("web", &PatchParams::apply("helm"), &by_helm)
        .await
        .expect("applied");
    let steps = format!(
        "    - name: deploy\n      kubernetesApply:\n        cluster: prod\n        namespace: {namespace}\n        forceConflicts: true\n        manifests: [ {} ]\n",
        web(1, "app:2", json!({}))
    );
    let (failure, told) = refused_by_rule(&world, &recipe::task(&namespace, recipe::AWS, &steps)).await;
    assert!(failure.summary.contains("=*** of app:2 is plain text"), "{failure:#?}");
    assert!(!told.contains("live-"), "{told}");
}

/// Guards what cluster rules quote of the task's own: a Secret out of a file of a source, and a secret of the task with
/// characters at which sentences are cut.
#[tokio::test]
async fn what_rules_quote_of_the_tasks_secrets_is_told_by_nobody() {
    let cloud = Cloud::shared().await.expect("a cloud");
    let builder = World::builder().cloud(&cloud).proxy_before_kubernetes();
    let mut world = builder.start().await.expect("a world");
    let password = format!("7Yx2mQ9v{{q-{:032x}", rand::random::<u128>());
    note("a secret of the task in the environment of a pod", &password);
    let server = GitServer::start(&world.folder().join("git"), "no-token").expect("a server");
    let options = AgentOptions::default()
        .env("DEPUTY_SECRET_PW", &password)
        .env("GIT_SSL_CAINFO", &server.authority());
    world.agent(options).await.expect("an agent");
    let client = world.cluster_admin().await.expect("a client");
    let trial = PostParams {
        dry_run: true,
        ..PostParams::default()
    };

    let namespace = world.namespace("quoted-file").await.expect("a namespace");
    let of_file = format!("of-the-file-{:032x}", rand::random::<u128>());
    note("a Secret in a file of a source", &of_file);
    let words = "'password ' + string(object.data.password) + ' is in no vault'";
    rule(
        &client,
        &namespace,
        ("CREATE", "secrets"),
        ("!has(object.data.password)", words),
    )
    .await;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let secret: Secret =
        serde_json::from_value(json!({"metadata": {"name": "trial"}, "stringData": {"password": "trial"}}))
            .expect("a secret");
    in_force(|| secrets.create(&trial, &secret)).await;
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db"}, "stringData": {"password": of_file}});
    let container = json!({"name": "app", "image": "app:1", "env": [{"name": "PASSWORD", "value": password}]});
    let web = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container]}}}});
    let files = |copy: &std::path::Path| {
        std::fs::write(copy.join("db.yaml"), secret.to_string())?;
        Ok(std::fs::write(copy.join("web.yaml"), web.to_string())?)
    };
    server.commit("open/app.git", files).expect("a commit");
    let source = format!(
        "{}  sources:\n    - name: app\n      git:\n        url: {}\n        ref: {{ branch: main }}\n",
        recipe::AWS,
        server.url("open/app.git")
    );
    let apply = |namespace: &str, file: &str| {
        format!(
            "    - name: deploy\n      kubernetesApply: {{ cluster: prod, namespace: {namespace}, source: app, files: [ {file} ] }}\n"
        )
    };
    let document = recipe::task(&namespace, &source, &apply(&namespace, "db.yaml"));
    let (_, told) = refused_by_rule(&world, &document).await;
    assert!(told.contains("denied request: password ***"), "{told}");
    let encoded = BASE64.encode(&of_file);
    assert!(!told.contains("of-the-file-") && !told.contains(&encoded), "{told}");

    let namespace = world.namespace("quoted-env").await.expect("a namespace");
    let words = "'env PASSWORD=' + object.spec.containers[0].env[0].value + ' is plain text'";
    let allows = "!has(object.spec.containers[0].env)";
    rule(&client, &namespace, ("CREATE", "pods"), (allows, words)).await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let container = json!({"name": "app", "image": "app:1", "env": [{"name": "PASSWORD", "value": "b"}]});
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "trial"}, "spec": {"containers": [container]}}))
        .expect("a pod");
    in_force(|| pods.create(&trial, &pod)).await;
    let learns = "    - name: learn\n      shell: { secrets: { PW: { environment: DEPUTY_SECRET_PW } }, run: 'true', retrySafe: true }\n";
    let steps = format!("{learns}{}", apply(&namespace, "web.yaml"));
    let (_, told) = refused_by_rule(&world, &recipe::task(&namespace, &source, &steps)).await;
    assert!(told.contains("env PASSWORD=*** is plain text"), "{told}");
    assert!(!told.contains("7Yx2mQ9v"), "{told}");
}

/// The failure of a task that a rule refuses, and all that is told of it.
async fn refused_by_rule(world: &World, document: &str) -> (v1::Failure, String) {
    let task = world.submit(document).await.expect("queued");
    let ended = world.ended(&task, SOON).await.expect("ended");
    let failure = ended
        .result
        .clone()
        .and_then(|result| result.failure)
        .expect("a failure");
    assert_eq!(failure.class, "kubernetes.admission", "{failure:#?}");
    let told = format!("{ended:?}{:?}", world.logs(&task).await.expect("logs"));
    (failure, told)
}

/// Guards the bounds of an answer: a workload of thousands of pods is read in parts, from the beginning where the rest has gone.
#[tokio::test]
async fn many_pods_are_read_page_by_page_and_anew_when_a_page_has_gone() {
    let world = world().await;
    let namespace = world.namespace("pages").await.expect("a namespace");
    let client = world.cluster_admin().await.expect("a client");
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
    let map: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "owner"}})).expect("a map");
    let owner = maps.create(&PostParams::default(), &map).await.expect("an owner");
    let pods: Api<Pod> = Api::namespaced(client, &namespace);
    let of_others = |at: usize| -> Pod {
        let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.metadata.uid, "controller": true});
        serde_json::from_value(json!({
            "metadata": {"name": format!("web-{at}"), "labels": {"app": "web"}, "ownerReferences": [owner]},
            "spec": {"containers": [{"name": "app", "image": "app:1"}]}}))
        .expect("a pod")
    };
    let made = futures::stream::iter(0..501).for_each_concurrent(20, |at| {
        let (pods, pod) = (&pods, of_others(at));
        async move { drop(pods.create(&PostParams::default(), &pod).await.expect("a pod")) }
    });
    made.await;
    let proxy = world.kubernetes_proxy().expect("a proxy");
    let rest = Matcher::on("kubernetes", "list pods").target_contains("continue=");
    let gone = proxy.answer(rest, Canned::json_error(410, "Expired", "the list has gone"));
    let web = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "app", "image": "app:1"}]}}}});
    let steps = format!(
        "    - name: deploy\n      kubernetesApply:\n        cluster: prod\n        namespace: {namespace}\n        manifests: [ {web} ]\n"
    );
    let task = world
        .submit(&recipe::task(&namespace, recipe::AWS, &steps))
        .await
        .expect("queued");
    let until = tokio::time::Instant::now() + SOON;
    loop {
        let asked = proxy.calls_of("kubernetes", "list pods");
        let rest = asked.iter().filter(|call| call.target.contains("continue="));
        if gone.count() == 1 && rest.filter(|call| call.succeeded()).count() > 0 {
            break;
        }
        assert!(tokio::time::Instant::now() < until, "{}", world.report());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let state = world.tasks.get(&task).await.expect("read");
    assert!(!matches!(state.state(), v1::TaskState::Failed), "{state:?}");
}
