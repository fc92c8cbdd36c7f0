//! The chart `helm/deputy-agent`: its values, what it renders, and a real API server that takes it where pods are
//! restricted.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use deputy_tests::child::Child;
use deputy_tests::child::Output::ToLog;
use deputy_tests::cloud::Cloud;
use deputy_tests::programs::{Binaries, Tools, workspace};
use deputy_tests::world::World;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::recipe;

const SOON: Duration = Duration::from_secs(60);

/// A certificate as far as a chart looks.
const PEM: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";

/// Helm with folders of its own.
struct Helm {
    folder: tempfile::TempDir,
}

impl Helm {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    /// Helm with folders of its own, whatever the machine's are.
    fn command(&self, arguments: &[&str]) -> Command {
        let helm = Tools::load()
            .and_then(|tools| tools.get("helm").map(Path::to_owned))
            .expect("helm");
        let mut command = Command::new(helm);
        for (name, folder) in [
            ("HELM_CACHE_HOME", "cache"),
            ("HELM_CONFIG_HOME", "config"),
            ("HELM_DATA_HOME", "data"),
        ] {
            command.env(name, self.folder.path().join(folder));
        }
        command.args(arguments);
        command
    }

    fn run(&self, arguments: &[&str], values: &Value) -> Output {
        let file = self.folder.path().join("values.json");
        std::fs::write(&file, values.to_string()).expect("written");
        self.command(arguments)
            .arg("--values")
            .arg(file)
            .output()
            .expect("helm starts")
    }

    fn good(&self, arguments: &[&str], values: &Value) -> String {
        let output = self.run(arguments, values);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "helm {arguments:?}: {said}{}",
            String::from_utf8_lossy(&output.stdout)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What it renders, by kind.
    fn template(&self, values: &Value) -> Vec<Value> {
        let text = self.good(
            &[
                "template",
                "edge",
                &chart(),
                "--namespace",
                "deputy",
                "--kube-version",
                "1.37",
            ],
            values,
        );
        let documents = serde_norway::Deserializer::from_str(&text);
        let read = documents.map(|one| serde::Deserialize::deserialize(one).expect("YAML"));
        read.filter(|one: &Value| !one.is_null()).collect()
    }
}

fn chart() -> String {
    workspace().join("helm/deputy-agent").display().to_string()
}

/// An agent that joins by its service account's token.
fn joins_by_account() -> Value {
    json!({
        "manager": { "url": "https://manager.example.com:7443", "trustDomain": "prod.example.com", "ca": { "pem": PEM } },
        "policy": { "cedar": "permit(principal, action, resource);\n" },
        "agent": { "labels": { "env": "prod", "pool": "eu \"1\"" }, "drainTimeoutSeconds": 1200, "config": { "reconnect_max": "30s" } },
        "serviceAccount": { "annotations": { "eks.amazonaws.com/role-arn": "arn:aws:iam::111122223333:role/deputy-agent" } },
    })
}

/// One with everything that can be chosen otherwise.
fn chosen_otherwise() -> Value {
    json!({
        "manager": { "url": "https://10.0.0.7:7443", "transport": "exchange", "ca": { "sha256": "ab".repeat(32) } },
        "join": { "with": "token", "token": { "existingSecret": "deputy-join", "key": "t" } },
        "policy": { "allowAll": true },
        "poolKey": { "existingSecret": "deputy-pool", "key": "ring" },
        "agent": { "confinement": "required", "writableFolders": ["/cache", "/more"], "logFormat": "text", "healthAddress": "::" },
        "replicas": 2,
        "image": { "repository": "registry.example.com/deputy-agent", "tag": "7", "digest": format!("sha256:{}", "0a".repeat(32)) },
        "imagePullSecrets": [{ "name": "registry" }],
        "serviceAccount": { "create": false, "name": "existing" },
        "rbac": { "rules": [{ "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["app"], "verbs": ["get"] }] },
        "networkPolicy": { "enabled": true },
        "podAnnotations": { "a": "b" }, "podLabels": { "team": "platform" },
        "nodeSelector": { "kubernetes.io/os": "linux" },
        "tolerations": [{ "key": "dedicated", "operator": "Exists" }],
        "priorityClassName": "system-cluster-critical",
        "extraEnv": [{ "name": "HTTPS_PROXY", "value": "http://proxy:3128" }],
        "extraVolumes": [{ "name": "cache", "emptyDir": {} }],
        "extraVolumeMounts": [{ "name": "cache", "mountPath": "/cache" }],
    })
}

fn of_kind<'a>(all: &'a [Value], kind: &str) -> Option<&'a Value> {
    all.iter().find(|one| one["kind"] == kind)
}

/// Changes one value, by its path with dots.
fn with(mut values: Value, path: &str, value: Value) -> Value {
    let mut at = &mut values;
    for part in path.split('.') {
        at = &mut at[part];
    }
    *at = value;
    values
}

/// Guards what operators rely on without looking: grace, token, hardening, and a config the agent can read.
#[test]
fn the_chart_renders_a_restricted_pod_that_has_time_to_leave() {
    let helm = Helm::new();
    let at_the_edges = with(
        joins_by_account(),
        "agent.config",
        json!({
            "connect_timeout": "1m5ms", "reconnect_base": "010s", "reconnect_max": "366d",
            "spool_limit": "256MiB", "spool_task_limit": "262144KiB",
        }),
    );
    for values in [joins_by_account(), chosen_otherwise(), at_the_edges] {
        helm.good(&["lint", "--strict", &chart()], &values);
    }
    let all = helm.template(&joins_by_account());
    let pod = &of_kind(&all, "Deployment").expect("a Deployment")["spec"]["template"]["spec"];
    assert_eq!(pod["terminationGracePeriodSeconds"], 1210);
    assert_eq!(pod["automountServiceAccountToken"], false);
    let token = &pod["volumes"]
        .as_array()
        .expect("volumes")
        .iter()
        .find(|one| one["name"] == "join")
        .expect("a token");
    let token = &token["projected"]["sources"][0]["serviceAccountToken"];
    assert_eq!(token["audience"], "deputy/prod.example.com");
    let account = of_kind(&all, "ServiceAccount").expect("a ServiceAccount");
    assert!(
        account["metadata"]["annotations"]["eks.amazonaws.com/role-arn"].is_string(),
        "{account}"
    );
    for absent in ["Role", "RoleBinding", "ClusterRole", "NetworkPolicy"] {
        assert!(of_kind(&all, absent).is_none(), "{absent} by default");
    }
    let config = &of_kind(&all, "ConfigMap").expect("a ConfigMap")["data"];
    assert_eq!(config["ca.pem"], PEM);
    let agent: toml::Table = config["agent.toml"].as_str().expect("text").parse().expect("TOML");
    let read = |key: &str| agent.get(key).and_then(toml::Value::as_str).unwrap_or_default();
    assert_eq!(
        (read("drain_timeout"), read("grace"), read("reconnect_max")),
        ("1200s", "30s", "30s")
    );
    assert_eq!(read("transport"), "auto");
    assert_eq!(agent["labels"]["pool"].as_str(), Some("eu \"1\""));
    assert_eq!(read("policy_file"), "/etc/deputy/policy.cedar");
    assert_eq!(
        (read("join"), read("join_token_file")),
        ("kubernetes", "/var/run/secrets/deputy/token")
    );

    let all = helm.template(&chosen_otherwise());
    assert!(of_kind(&all, "ServiceAccount").is_none() && of_kind(&all, "NetworkPolicy").is_some());
    assert_eq!(
        of_kind(&all, "RoleBinding").expect("a RoleBinding")["subjects"][0]["name"],
        "existing"
    );
    let agent: toml::Table = of_kind(&all, "ConfigMap").expect("a ConfigMap")["data"]["agent.toml"]
        .as_str()
        .expect("text")
        .parse()
        .expect("TOML");
    assert_eq!(agent["join_token_file"].as_str(), Some("/var/run/secrets/deputy/token"));
    assert_eq!(agent["allow_all"].as_bool(), Some(true));
    assert_eq!(agent["transport"].as_str(), Some("exchange"));
    assert_eq!(agent["health_listen"].as_str(), Some("[::]:8080"));
    assert_eq!(agent["writable_folders"].as_str(), Some("/cache,/more"));
    assert!(!agent.contains_key("policy_file"), "{agent}");
    let ring = agent["pool_key_file"].as_str().expect("a file");
    let pod = &of_kind(&all, "Deployment").expect("a Deployment")["spec"]["template"]["spec"];
    assert_eq!(
        pod["containers"][0]["image"],
        format!("registry.example.com/deputy-agent:7@sha256:{}", "0a".repeat(32))
    );
    let mounts = pod["containers"][0]["volumeMounts"].as_array().expect("mounts");
    let mount = mounts.iter().find(|one| one["name"] == "pool-key").expect("a mount");
    assert!(ring.starts_with(mount["mountPath"].as_str().expect("a path")), "{ring}");
    let volumes = pod["volumes"].as_array().expect("volumes");
    let secret = &volumes.iter().find(|one| one["name"] == "pool-key").expect("a volume")["secret"];
    // 0440: the agent refuses a key that others can read.
    assert_eq!(
        (&secret["defaultMode"], &secret["items"][0]["key"]),
        (&json!(0o440), &json!("ring"))
    );
}

/// Guards that a value that would only fail in the pod fails at once, and says which it is.
#[test]
fn values_that_cannot_work_are_refused_with_their_names() {
    let helm = Helm::new();
    let good = joins_by_account;
    let bad = [
        (json!({}), "manager.url"),
        (with(good(), "manager.url", json!("manager:7443")), "url"),
        (
            with(good(), "manager.ca", json!({})),
            "manager.ca.pem or manager.ca.sha256 is needed",
        ),
        (with(good(), "manager.ca.sha256", json!("abc")), "sha256"),
        (
            with(good(), "manager.trustDomain", json!("")),
            "manager.trustDomain is needed",
        ),
        (
            with(good(), "manager.trustDomain", json!("Prod Example")),
            "trustDomain",
        ),
        (
            with(good(), "join.token", json!({ "existingSecret": "x" })),
            "leave one of them away",
        ),
        (
            with(good(), "join", json!({ "with": "token" })),
            "join.token.existingSecret is needed",
        ),
        (
            with(good(), "join.kubernetes", json!({ "expirationSeconds": 60 })),
            "expirationSeconds",
        ),
        (with(good(), "policy", json!({})), "without a policy nothing runs"),
        (
            with(good(), "policy.allowAll", json!(true)),
            "policy.cedar and policy.allowAll are both set",
        ),
        (with(good(), "join", json!({ "with": "iam" })), "join.with"),
        (with(good(), "manager.transport", json!("poll")), "transport"),
        (
            with(good(), "agent.graceSeconds", json!(1200)),
            "agent.graceSeconds must be less",
        ),
        (
            with(good(), "agent.drainTimeoutSeconds", json!("10m")),
            "drainTimeoutSeconds",
        ),
        (with(good(), "agent.confinement", json!("none")), "confinement"),
        (
            with(good(), "agent.writableFolders", json!(["cache"])),
            "writableFolders",
        ),
        (with(good(), "agent.config", json!({ "slots": 3 })), "slots"),
        (with(good(), "agent.config", json!({ "no_such_key": 1 })), "no_such_key"),
        // Two pods of a rolling update would be one agent.
        (with(good(), "agent.config", json!({ "agent_id": "a" })), "agent_id"),
        (
            with(good(), "agent.config", json!({ "connect_timeout": "xx" })),
            "connect_timeout",
        ),
        (
            with(good(), "agent.config", json!({ "spool_limit": "1GB" })),
            "spool_limit",
        ),
        (
            with(good(), "agent.config", json!({ "connect_timeout": "1s1h" })),
            "connect_timeout",
        ),
        (
            with(good(), "agent.config", json!({ "connect_timeout": "1ms1s" })),
            "connect_timeout",
        ),
        (
            with(good(), "agent.config", json!({ "connect_timeout": "0s" })),
            "connect_timeout",
        ),
        (
            with(good(), "agent.config", json!({ "connect_timeout": "" })),
            "connect_timeout",
        ),
        (
            with(good(), "agent.config", json!({ "connect_timeout": "366d1s" })),
            "longer than 366 days",
        ),
        (
            with(good(), "agent.config", json!({ "reconnect_max": "0ms" })),
            "reconnect_max",
        ),
        (
            with(good(), "agent.config", json!({ "reconnect_max": "999ms" })),
            "reconnect_base (1s) must not be longer",
        ),
        (
            with(good(), "agent.config", json!({ "reconnect_base": "1m1s" })),
            "reconnect_max (60s)",
        ),
        (
            with(
                good(),
                "agent.config",
                json!({ "reconnect_base": "2m", "reconnect_max": "1m59s999ms" }),
            ),
            "reconnect_base (2m) must not be longer",
        ),
        (
            with(good(), "agent.config", json!({ "spool_limit": "99999999999TiB" })),
            "spool_limit",
        ),
        (
            with(good(), "agent.config", json!({ "spool_limit": "0GiB" })),
            "spool_limit",
        ),
        (
            with(good(), "agent.config", json!({ "spool_limit": "255MiB" })),
            "must not be more than",
        ),
        (
            with(good(), "agent.config", json!({ "spool_task_limit": "2GiB" })),
            "must not be more than",
        ),
        (
            with(good(), "agent.config", json!({ "transport": "stream" })),
            "transport",
        ),
        (
            with(good(), "agent.config", json!({ "trusted_signers": "keys" })),
            "trusted_signers",
        ),
        (
            with(good(), "manager.url", json!("http://manager.example.com:7443")),
            "url",
        ),
        (
            with(good(), "manager.url", json!("http://localhost.example.com:7443")),
            "url",
        ),
        (with(good(), "agent.labels", json!({ "a b": "x" })), "labels"),
        (with(good(), "agent.labels", json!({ "a": "x,y=z" })), "labels"),
        (with(good(), "agent.logLevel", json!("nonsense,=,")), "logLevel"),
        (
            with(good(), "image", json!({ "repository": "agent", "tag": "a b" })),
            "tag",
        ),
        (
            with(good(), "image", json!({ "repository": "agent", "digest": "sha256:7" })),
            "digest",
        ),
        (with(good(), "agent.slot", json!(3)), "slot"),
        (with(good(), "work", json!({ "sizeLimit": "a lot" })), "sizeLimit"),
        (
            with(good(), "serviceAccount.create", json!(false)),
            "serviceAccount.name is needed",
        ),
    ];
    for (values, told) in bad {
        let output = helm.run(&["template", "edge", &chart(), "--kube-version", "1.37"], &values);
        let said = String::from_utf8_lossy(&output.stderr).replace('/', ".");
        assert!(
            !output.status.success() && said.contains(told),
            "{told:?} is not told:\n{said}\n{values}"
        );
    }
}

/// Guards that what the chart renders is no address that the agent refuses at its start, and that none is kept from it.
#[test]
fn the_chart_takes_the_addresses_of_a_manager_that_the_agent_takes() {
    let helm = Helm::new();
    for url in [
        "https://manager.example.com",
        "https://manager_1.example.com:7443/",
        "https://[2001:db8::1]:443",
        "https://[::ffff:1]",
        "https://[::ffff:192.0.2.1]:7443",
        "https://[64:ff9b::192.0.2.33]",
        "https://[1:2:3:4:5:6:192.0.2.33]",
        "https://[1:2:3:4:5:6:7:8]",
        "https://[1:2:3:4:5:6:7::]",
        "https://[1:2:3:4:5::192.0.2.33]",
        "https://[::2:3:4:5:6:7:8]:1",
        "https://[::]",
        "https://192.0.2.7:65535",
        "http://localhost:7443",
        "http://127.8.8.8:1/",
        "http://[::1]:7443",
        "http://[0:0:0:0:0:0:0:1]:1",
        "http://[0::0001]:1",
        "http://[::0.0.0.1]:1",
        "https://user@manager:7443",
        "https://manager:7443?x",
        "https://manager:7443/path",
        "https://manager:port",
        "https://manager:0",
        "https://manager:65536",
        "https://manager:",
        "https://:7443",
        "https://[zz]:1",
        "https://[1::2::3]:1",
        "https://[1:2:3:4:5:6:7]",
        "https://[1:2:3:4:5:6:7:8:9]",
        "https://[1:2:3:4::5:6:7:8]",
        "https://[1:2:3:4:5:6::192.0.2.33]",
        "https://[1:2:3:4:5:6:7:192.0.2.33]",
        "https://[::192.0.2.33:1]",
        "https://[::192.0.2.256]",
        "https://[::192.0.02.33]",
        "https://[192.0.2.33]",
        "https://[1:::2]",
        "https://[:1::2]",
        "https://[1::2:]",
        "https://[::12345]",
        "https://[fe80::1%eth0]",
        "https://[::1",
        "https://[::1]x",
        "https://2001:db8::1",
        "https://mänager:1",
        "HTTPS://manager:1",
        "http://localhost",
        "http://127.0.0.1",
        "http://127.0.0.256:1",
        "http://[::1]",
        "http://[::2]:1",
        "http://[0:1]:1",
        "http://[::ffff:127.0.0.1]:1",
        "http://10.0.0.7:7443",
    ] {
        let taken = url.parse::<deputy_dial::url::ManagerUrl>().is_ok();
        let values = with(joins_by_account(), "manager.url", json!(url));
        let output = helm.run(&["template", "edge", &chart(), "--kube-version", "1.37"], &values);
        let said = String::from_utf8_lossy(&output.stderr).replace('/', ".");
        assert_eq!(output.status.success(), taken, "{url}: {said}");
        assert!(taken || said.contains("manager.url"), "{url}: {said}");
    }
}

/// Files and arguments of a rendered pod, with its folders somewhere else; the agent's command.
fn start_as_the_pod(all: &[Value], folder: &Path, token: &str) -> Command {
    let place = |text: &str| {
        let places = [
            ("/etc/deputy", "etc"),
            ("/var/run/secrets/deputy", "secrets"),
            ("/var/lib/deputy", "lib"),
        ];
        let moved = places.into_iter().fold(text.to_owned(), |text, (from, to)| {
            text.replace(from, &folder.join(to).display().to_string())
        });
        // Whoever tests must not be reachable from elsewhere.
        moved.replace("0.0.0.0:8080", "127.0.0.1:0")
    };
    for name in ["etc", "secrets", "lib"] {
        std::fs::create_dir(folder.join(name)).expect("a folder");
    }
    let config = of_kind(all, "ConfigMap").expect("a ConfigMap")["data"]
        .as_object()
        .expect("files")
        .clone();
    for (name, text) in config {
        std::fs::write(folder.join("etc").join(name), place(text.as_str().expect("text"))).expect("written");
    }
    std::fs::write(folder.join("secrets/token"), token).expect("written");
    let container = &of_kind(all, "Deployment").expect("a Deployment")["spec"]["template"]["spec"]["containers"][0];
    let mut agent = Command::new(Binaries::beside_this().expect("built").agent);
    agent
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .current_dir(folder);
    for variable in container["env"].as_array().into_iter().flatten() {
        agent.env(
            variable["name"].as_str().expect("a name"),
            variable["value"].as_str().expect("a value"),
        );
    }
    agent.args(
        container["args"]
            .as_array()
            .expect("args")
            .iter()
            .map(|arg| place(arg.as_str().expect("text"))),
    );
    agent
}

/// The token that the kubelet would project for the rendered pod, from the real API server.
async fn projected_token(client: &Client, namespace: &str, all: &[Value]) -> String {
    let pod = &of_kind(all, "Deployment").expect("a Deployment")["spec"]["template"]["spec"];
    let volumes = pod["volumes"].as_array().expect("volumes");
    let source = volumes.iter().find(|one| one["name"] == "join").expect("a token");
    let source = &source["projected"]["sources"][0]["serviceAccountToken"];
    let wish =
        json!({ "spec": { "audiences": [source["audience"]], "expirationSeconds": source["expirationSeconds"] } });
    let wish: TokenRequest = serde_json::from_value(wish).expect("a request");
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let account = pod["serviceAccountName"].as_str().expect("an account");
    let made = accounts
        .create_token_request(account, &PostParams::default(), &wish)
        .await;
    let made = made.expect("made");
    made.status.and_then(|status| status.token).expect("a token")
}

/// Guards that what the chart renders is what the agent and the manager read: with the pod's files, arguments and
/// projected token the agent joins, and runs a task under its policy.
#[tokio::test]
async fn the_agent_joins_with_the_files_arguments_and_token_of_the_rendered_pod() {
    let flags = ["--trust-domain", "deputy"].map(str::to_owned);
    let built = World::builder().manager(|manager| manager.flags.extend(flags));
    let world = built.start().await.expect("a world");
    let access = world.manager.access().expect("access");
    let values = json!({
        "manager": { "url": access.url(), "trustDomain": "deputy",
            "ca": { "pem": std::fs::read_to_string(&access.ca_file).expect("PEM") } },
        "policy": { "cedar": "permit(principal, action, resource);\n" },
        "agent": { "labels": { "from": "chart" }, "drainTimeoutSeconds": 20, "graceSeconds": 2 },
        "extraEnv": [{ "name": "DEPUTY_SLOTS", "value": "2" }],
    });
    let cloud = Cloud::shared().await.expect("a cloud");
    let cluster = cloud.kubernetes().await.expect("a cluster");
    let client = cluster.admin().await.expect("a client");
    let name = format!("joins-{:08x}", rand::random::<u32>());
    restricted_namespace(&client, &name).await;
    let kubeconfig = cluster.folder.join("admin.kubeconfig").display().to_string();
    let helm = Helm::new();
    let install = [
        "install",
        "edge",
        &chart(),
        "--namespace",
        &name,
        "--kubeconfig",
        &kubeconfig,
    ];
    helm.good(&install, &values);
    let all = helm.template(&values);
    let keys = http::Request::get("/openid/v1/jwks")
        .body(Vec::new())
        .expect("a request");
    let keys_file = world.folder().join("jwks.json");
    std::fs::write(&keys_file, client.request_text(keys).await.expect("the cluster's keys")).expect("written");
    let keys_file = keys_file.display().to_string();
    let rule = [
        &[
            "fleet",
            "join-rule",
            "create",
            "chart",
            "--pool",
            "eks",
            "--jwks",
            &keys_file,
        ][..],
        &[
            "--issuer",
            "https://kubernetes.default.svc",
            "--namespace",
            &name,
            "--service-account",
            "edge-deputy-agent",
        ],
    ];
    let made = world.deputy(&rule.concat()).await.expect("asked");
    assert_eq!(made.code, Some(0), "{made:?}");

    let folder = tempfile::tempdir().expect("a folder");
    let token = projected_token(&client, &name, &all).await;
    let agent = start_as_the_pod(&all, folder.path(), &token);
    let agent = Child::spawn("pod", agent, &folder.path().join("pod.log"), ToLog).expect("started");
    let document = recipe::script("there", "  selector: \"from == 'chart'\"\n", "", "echo from the pod");
    let task = world.submit(&document).await.expect("queued");
    let ended = world.succeeded(&task, SOON).await;
    ended.unwrap_or_else(|error| panic!("{error:#}\n{}", agent.tail()));
    assert!(world.logs(&task).await.expect("its log").contains("from the pod"));
}

async fn restricted_namespace(client: &Client, name: &str) {
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": name, "labels": { "pod-security.kubernetes.io/enforce": "restricted" } },
    });
    let namespace: Namespace = serde_json::from_value(namespace).expect("a namespace");
    Api::all(client.clone())
        .create(&PostParams::default(), &namespace)
        .await
        .expect("created");
}

/// Guards that a real API server takes the chart where pods are restricted, through an upgrade, and gives all of it back.
#[tokio::test]
async fn a_real_api_server_runs_the_chart_in_a_restricted_namespace() {
    let cloud = Cloud::shared().await.expect("a cloud");
    let cluster = cloud.kubernetes().await.expect("a cluster");
    let client = cluster.admin().await.expect("a client");
    let name = format!("chart-{:08x}", rand::random::<u32>());
    restricted_namespace(&client, &name).await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), &name);
    let careless = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "careless" },
        "spec": { "containers": [{ "name": "a", "image": "a" }] } });
    let careless: Pod = serde_json::from_value(careless).expect("a pod");
    let refused = pods
        .create(&PostParams::default(), &careless)
        .await
        .expect_err("restricted");
    assert!(refused.to_string().contains("PodSecurity"), "{refused}");

    let kubeconfig: PathBuf = cluster.folder.join("admin.kubeconfig");
    let kubeconfig = kubeconfig.display().to_string();
    let install = |values: Value| {
        let (kubeconfig, name) = (kubeconfig.clone(), name.clone());
        tokio::task::spawn_blocking(move || {
            let chart = chart();
            let upgrade = [
                "upgrade",
                "edge",
                &chart,
                "--install",
                "--namespace",
                &name,
                "--kubeconfig",
                &kubeconfig,
            ];
            Helm::new().good(&[&upgrade[..], &["--wait", "--timeout", "60s"]].concat(), &values)
        })
    };
    let notes = install(joins_by_account()).await.expect("installed");
    let subject = format!("system:serviceaccount:{name}:edge-deputy-agent");
    assert!(notes.contains(&subject), "{notes}");
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &name);
    let first = deployments.get("edge-deputy-agent").await.expect("there");
    assert_eq!(first.status.and_then(|status| status.ready_replicas), Some(1));

    // Another configuration is another pod: the agent reads its file once.
    let slots = with(joins_by_account(), "agent.slots", json!(9));
    install(slots).await.expect("upgraded");
    let pod = || async {
        let listed = pods.list(&ListParams::default()).await.expect("listed").items;
        let live: Vec<_> = listed
            .into_iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none())
            .collect();
        (live.len() == 1).then(|| live[0].clone())
    };
    let deadline = tokio::time::Instant::now() + SOON;
    let pod = loop {
        if let Some(pod) = pod().await {
            break pod;
        }
        assert!(tokio::time::Instant::now() < deadline, "the old pod stays");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let spec = pod.spec.expect("a spec");
    assert_eq!(spec.termination_grace_period_seconds, Some(1210));
    assert_eq!(spec.service_account_name.as_deref(), Some("edge-deputy-agent"));

    let (kubeconfig, namespace) = (kubeconfig.clone(), name.clone());
    let gone = tokio::task::spawn_blocking(move || {
        let arguments = [
            "uninstall",
            "edge",
            "--namespace",
            &namespace,
            "--kubeconfig",
            &kubeconfig,
        ];
        Helm::new().command(&arguments).output()
    });
    let gone = gone.await.expect("joined").expect("helm starts");
    assert!(gone.status.success(), "{}", String::from_utf8_lossy(&gone.stderr));
    assert_eq!(
        deployments
            .list(&ListParams::default())
            .await
            .expect("listed")
            .items
            .len(),
        0
    );
}
