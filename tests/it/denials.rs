//! What AWS and Kubernetes refuse reaches the user in words: who, what, on what, and what to do.

use std::time::Duration;

use deputy_proto::v1;
use deputy_tests::world::World;

use crate::recipe;

const SOON: Duration = Duration::from_secs(60);

/// Where a document deviates from one that would be done.
#[derive(Clone)]
struct Where<'a> {
    region: &'a str,
    role: &'a str,
    external_id: &'a str,
    cluster: &'a str,
    namespace: &'a str,
}

const RIGHT: Where<'static> = Where {
    region: "eu-west-1",
    role: "arn:aws:iam::222222222222:role/deployer",
    external_id: "deputy-demo",
    cluster: "prod",
    namespace: "shop",
};

impl Where<'_> {
    fn aws(&self) -> String {
        format!(
            "  aws:\n    region: {}\n    assumeRole: [ {{ roleArn: \"{}\", externalId: {} }} ]\n  onFailure: rollback\n",
            self.region, self.role, self.external_id
        )
    }

    /// Without serviceDefinition: the service must be there.
    fn ecs(&self, service: &str) -> String {
        let step = format!(
            "    - name: deploy\n      ecsRollingDeploy:\n        cluster: {}\n        service: {service}\n        taskDefinition: {{ family: {service}, containerDefinitions: [ {{ name: app, image: \"a:2\", memory: 64 }} ] }}\n",
            self.cluster
        );
        recipe::task("denied", &self.aws(), &step)
    }

    fn eks(&self) -> String {
        let step = format!(
            "    - name: apply\n      kubernetesApply:\n        cluster: {}\n        namespace: {}\n        manifests: [ {{ apiVersion: v1, kind: ConfigMap, metadata: {{ name: denied }}, data: {{ a: b }} }} ]\n",
            self.cluster, self.namespace
        );
        recipe::task("denied", &self.aws(), &step)
    }
}

/// What a task must fail with.
struct Told {
    what: &'static str,
    document: String,
    class: &'static str,
    summary: Vec<String>,
    hint: &'static str,
}

fn told(what: &'static str, document: String, class: &'static str, summary: &[&str], hint: &'static str) -> Told {
    let summary = summary.iter().map(|&words| words.to_owned()).collect();
    Told {
        what,
        document,
        class,
        summary,
        hint,
    }
}

/// Every case: a document, and the words that its failure must have.
async fn cases(world: &World, service: &str) -> Vec<Told> {
    let looker = world.unique("looker");
    let actions = ["ecs:Describe*", "ecs:List*", "eks:DescribeCluster"];
    let role = world
        .cloud()
        .expect("a cloud")
        .role(&looker, &actions)
        .await
        .expect("a role");
    let bounded = world.unique("bounded");
    let within = world
        .cloud()
        .expect("a cloud")
        .role_within(&bounded, &["ecs:*", "iam:PassRole"], &["ecs:Describe*", "ecs:List*"])
        .await
        .expect("a role");
    let with = |change: &dyn Fn(&mut Where)| {
        let mut place = RIGHT;
        change(&mut place);
        place
    };
    let external_id = with(&|place| place.external_id = "guessed").ecs(service);
    let looking = Where { role: &role, ..RIGHT };
    let region = with(&|place| place.region = "eu-north-1").ecs(service);
    let cluster = with(&|place| place.cluster = "nowhere");
    let namespace = with(&|place| place.namespace = "not-there").eks();
    let forbidden = with(&|place| place.namespace = "kube-system").eks();
    let may_not = format!("assumed-role/{looker}/");
    let deployer = "role/deployer";
    vec![
        told(
            "the external id",
            external_id,
            "aws.assumeRoleDenied",
            &["role/deputy-agent", "may not assume", deployer],
            "externalId",
        ),
        told(
            "the permission",
            looking.ecs(service),
            "aws.accessDenied",
            &[&may_not, "may not ecs:RegisterTaskDefinition", service],
            "attach a policy",
        ),
        told(
            "the boundary",
            Where { role: &within, ..RIGHT }.ecs(service),
            "aws.accessDenied",
            &[
                &format!("assumed-role/{bounded}/"),
                "from the agent's own identity (",
                &format!("then {within} (session deputy-"),
                "may not ecs:RegisterTaskDefinition",
                // The emulator enforces the boundary and speaks of an identity policy; AWS's words are replayed in
                // `denials_replayed`.
                "no identity policy of the caller allows it",
            ],
            "attach a policy",
        ),
        told(
            "the access entry",
            looking.eks(),
            "kubernetes.unauthorized",
            &["prod", "does not know"],
            "access entry",
        ),
        told(
            "the region",
            region,
            "ecs.unknownCluster",
            &["no ECS cluster prod", "eu-north-1"],
            "spec.aws.region",
        ),
        told(
            "the ECS cluster",
            cluster.ecs(service),
            "ecs.unknownCluster",
            &["no ECS cluster nowhere", "eu-west-1"],
            "cluster's name",
        ),
        told(
            "the service",
            RIGHT.ecs("nobody"),
            "ecs.unknownService",
            &["no service nobody", "prod"],
            "serviceDefinition",
        ),
        told(
            "the EKS cluster",
            cluster.eks(),
            "eks.unknownCluster",
            &["nowhere", "eu-west-1"],
            "",
        ),
        told(
            "the namespace",
            namespace,
            "kubernetes.forbidden",
            &["not-there", "assumed-role/deployer", "may not"],
            "access entry",
        ),
        told(
            "its rights",
            forbidden,
            "kubernetes.forbidden",
            &["kube-system", "assumed-role/deployer", "may not"],
            "access entry",
        ),
    ]
}

/// Guards that each refusal ends its task soon, unchanged, with words that name the parties and a next step.
#[tokio::test]
async fn whatever_is_refused_or_unknown_fails_soon_in_words_and_changes_nothing() {
    let world = recipe::world_with_slots(12).await;
    world.kubernetes().await.expect("a cluster");
    let (service, before) = recipe::service(&world, "denied").await;
    let mut submitted = Vec::new();
    for case in cases(&world, &service).await {
        submitted.push((world.submit(&case.document).await.expect(case.what), case));
    }
    let mut wrong = String::new();
    for (task, case) in &submitted {
        let ended = world.ended(task, SOON).await.expect(case.what);
        let result = ended.result.clone().expect("a result");
        let failure = result.failure.clone().unwrap_or_default();
        let said = case.summary.iter().all(|words| failure.summary.contains(words)) && failure.hint.contains(case.hint);
        let found = (ended.state(), result.world(), failure.class.as_str());
        if !said || found != (v1::TaskState::Failed, v1::World::Unchanged, case.class) {
            wrong.push_str(&format!("{}: {found:?} {failure:#?}\n", case.what));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert_eq!(recipe::runs(&world, &service).await, (before, 2));
    let proxy = world.proxy().expect("a proxy");
    let done = proxy.mutations().iter().filter(|call| call.succeeded()).count();
    assert_eq!(done, 0, "{}", proxy.transcript());
}

/// Guards what a person at the command line sees of it, and what CI goes by.
#[tokio::test]
async fn submit_shows_a_denial_with_its_hint_and_ends_with_1() {
    let world = World::with_shared_cloud().await.expect("a world");
    let document = Where {
        external_id: "guessed",
        ..RIGHT
    }
    .ecs("checkout");
    std::fs::write(world.folder().join("task.yaml"), document).expect("written");
    let run = world.deputy(&["submit", "task.yaml", "--wait"]).await.expect("run");
    let said = format!("{}{}", run.stdout, run.stderr);
    assert_eq!(run.code, Some(1), "{said}\n{}", world.report());
    for words in [
        "may not assume arn:aws:iam::222222222222:role/deployer",
        "\n  hint ",
        "externalId",
    ] {
        assert!(said.contains(words), "{words:?} is missing: {said}");
    }
    for secret in ["guessed", "X-Amz-Security-Token"] {
        assert!(!said.contains(secret), "{said}");
    }
}

/// Guards that a rollback that brought the service back says so, also where its role may not tidy up after it.
#[tokio::test]
async fn a_rollback_whose_role_may_not_deregister_has_rolled_back_and_says_what_stays() {
    let world = World::with_shared_cloud().await.expect("a world");
    let (service, _) = recipe::service(&world, "untidy").await;
    let before = recipe::runs(&world, &service).await;
    let actions = [
        "ecs:Describe*",
        "ecs:List*",
        "ecs:RegisterTaskDefinition",
        "ecs:TagResource",
        "ecs:UpdateService",
        "iam:PassRole",
    ];
    let role = world
        .cloud()
        .expect("a cloud")
        .role(&world.unique("untidy"), &actions)
        .await
        .expect("a role");
    let more = Where { role: &role, ..RIGHT }.aws();
    let steps = format!(
        "    - name: deploy\n      ecsRollingDeploy:\n        cluster: prod\n        service: {service}\n        taskDefinition: {{ family: {service}, containerDefinitions: [ {{ name: app, image: \"a:2\", memory: 64 }} ] }}\n    - name: check\n      shell: {{ run: \"exit 1\" }}\n"
    );
    let task = world
        .submit(&recipe::task("untidy", &more, &steps))
        .await
        .expect("queued");
    let ended = world.ended(&task, SOON).await.expect("ended");
    let result = ended.result.clone().expect("a result");
    assert_eq!(result.world(), v1::World::RolledBack, "{ended:#?}\n{}", world.report());
    let remains = result.remains.join("\n");
    assert!(
        remains.contains("stays registered") && remains.contains("ecs:DeregisterTaskDefinition"),
        "{remains}"
    );
    assert_eq!(recipe::runs(&world, &service).await, before);
}
