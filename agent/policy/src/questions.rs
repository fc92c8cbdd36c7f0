//! What a task, a step or a change asks: derived from their arguments, and from nothing else.

use deputy_task::document::origin::{GitAuth, GitRef};
use deputy_task::document::secret::SecretRef;
use deputy_task::document::step::{Manifests, Shell};
use deputy_task::document::{AwsSpec, Doubts, SourceKind, Spec, StepKind};
use deputy_task::expression::{Scope, evaluate_bool};
use deputy_task::record::Direction;
use deputy_task::touch::{Touch, images_of_definition, images_of_manifest, roles_of, service_accounts_of};
use serde_json::{Map, Value};

use crate::question::{BUNDLE, Question, SCRIPT, SecretPlace, Wish};

/// Kinds that start a program of their own, whose changes nobody can name.
const OPAQUE: [&str; 1] = ["shell"];

/// Where Kubernetes looks when no namespace is named.
const DEFAULT_NAMESPACE: &str = "default";

/// Does a step of this kind start a program of its own?
#[must_use]
pub fn is_opaque(kind: &str) -> bool {
    OPAQUE.contains(&kind)
}

/// What can be asked of a task before it is started.
#[derive(Debug, Default)]
pub struct Beforehand {
    /// In the order of the document.
    pub questions: Vec<Question>,
    /// Steps whose arguments are known only when they begin, with the reason.
    pub later: Vec<(String, String)>,
    /// Steps that will not run.
    pub skipped: Vec<String>,
}

/// Everything that can be asked before anything has run. `scope` has no outputs of steps; `doubts` are those of a
/// signed task.
#[must_use]
pub fn beforehand(spec: &Spec, scope: &Scope, doubts: &Doubts) -> Beforehand {
    let mut asked = Beforehand {
        questions: of_task(spec),
        ..Beforehand::default()
    };
    for step in &spec.steps {
        let wanted = step.when.as_deref().map(|when| evaluate_bool(when, scope));
        if matches!(wanted, Some(Ok(false))) {
            asked.skipped.push(step.name.clone());
            continue;
        }
        let mut questions = match step.kind.evaluated(scope) {
            Ok(kind) => of_step(&step.name, &kind, spec.aws.as_ref()),
            Err(error) => {
                asked.later.push((step.name.clone(), error.to_string()));
                of_kind(&step.name, &step.kind, spec.aws.as_ref())
            }
        };
        if let Some(why) = doubts.why(&step.name) {
            // Its roles and sources are at its hand, whoever says what it does with them.
            questions.extend(asked_at(&step.name, of_task(spec)));
            questions = doubted(questions, Some(why));
        }
        asked.questions.extend(questions);
    }
    asked
}

/// What the task as a whole asks: every role of its chain, and every source with what it takes to fetch it.
#[must_use]
pub fn of_task(spec: &Spec) -> Vec<Question> {
    let aws = spec.aws.as_ref();
    let first = aws.and_then(|aws| aws.oidc.as_ref()).map(|oidc| &oidc.role_arn);
    let chain = aws.into_iter().flat_map(|aws| &aws.assume_role);
    let roles = first.into_iter().chain(chain.map(|hop| &hop.role_arn));
    let mut wishes: Vec<Wish> = roles.map(|role| Wish::AssumeRole { role: role.clone() }).collect();
    for source in &spec.sources {
        wishes.extend(of_source(&source.name, &source.kind, aws));
    }
    asked("", wishes)
}

fn of_source(name: &str, source: &SourceKind, aws: Option<&AwsSpec>) -> Vec<Wish> {
    match source {
        // It came with the task, through the manager: what is in it, only a signature vouches for.
        SourceKind::Bundle(_) => vec![Wish::FetchSource {
            kind: BUNDLE,
            from: name.to_owned(),
            url: format!("{BUNDLE}:{name}"),
            key: None,
            reference: None,
        }],
        SourceKind::Git(git) => {
            let reference = match &git.reference {
                GitRef::Branch(name) => format!("branch/{name}"),
                GitRef::Tag(name) => format!("tag/{name}"),
                GitRef::Commit(hash) => format!("commit/{hash}"),
            };
            let mut wishes = vec![Wish::FetchSource {
                kind: "git",
                from: git.host(),
                url: git.url.clone(),
                key: None,
                reference: Some(reference),
            }];
            let secret = match &git.auth {
                None => None,
                Some(GitAuth::HttpsToken(auth)) => Some(&auth.token),
                Some(GitAuth::SshKey(auth)) => Some(&auth.key),
            };
            wishes.extend(
                secret
                    .into_iter()
                    .flat_map(|secret| of_secret(secret, &git.host(), aws)),
            );
            wishes
        }
        SourceKind::S3(object) => vec![Wish::FetchSource {
            kind: "s3",
            from: object.bucket.clone(),
            url: format!("s3://{}/{}", object.bucket, object.key),
            key: Some(object.key.clone()),
            reference: None,
        }],
    }
}

/// A secret of a Kubernetes cluster is also a use of that cluster and of its namespace.
fn of_secret(secret: &SecretRef, shown_to: &str, aws: Option<&AwsSpec>) -> Vec<Wish> {
    let mut wishes = Vec::new();
    let (mut cluster, mut namespace) = (None, None);
    let (kind, name) = match secret {
        SecretRef::AwsSecretsManager(secret) => ("awsSecretsManager", secret.parts().id),
        SecretRef::AwsParameter(parameter) => ("awsParameter", without_version(&parameter.parts().name)),
        SecretRef::Environment(name) => ("environment", name.clone()),
        SecretRef::File(path) => ("file", plain_path(path)),
        SecretRef::KubernetesSecret(secret) => {
            let region = aws.map_or_else(String::new, |aws| aws.region.clone());
            let within = secret.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
            wishes.push(Wish::UseEksCluster {
                cluster: secret.cluster.clone(),
                region: region.clone(),
            });
            wishes.push(Wish::UseNamespace {
                cluster: secret.cluster.clone(),
                namespace: within.to_owned(),
                region,
            });
            cluster = Some(secret.cluster.clone());
            namespace = Some(within.to_owned());
            ("kubernetesSecret", secret.name.clone())
        }
    };
    let secret = SecretPlace {
        kind,
        name,
        cluster,
        namespace,
    };
    wishes.push(Wish::UseSecret {
        secret,
        shown_to: shown_to.to_owned(),
    });
    wishes
}

/// `name:3` and `name:label` are versions of one parameter; an ARN has five `:` before its name.
fn without_version(name: &str) -> String {
    let kept = if name.starts_with("arn:") { 6 } else { 1 };
    name.split(':').take(kept).collect::<Vec<_>>().join(":")
}

/// `a//./b` names the same file as `a/b`.
fn plain_path(path: &str) -> String {
    let parts = path.split('/').filter(|part| !matches!(*part, "" | "."));
    parts.collect::<Vec<_>>().join("/")
}

/// What is asked of a step before its expressions have values: its kind and its identity.
#[must_use]
pub fn of_kind(step: &str, kind: &StepKind, aws: Option<&AwsSpec>) -> Vec<Question> {
    let name = kind.name().to_owned();
    let mut wishes = vec![Wish::RunStep { kind: name.clone() }];
    let uses_aws = !matches!(kind, StepKind::NoopEffect(_));
    if uses_aws && aws.is_some_and(|aws| aws.assume_role.is_empty() && aws.oidc.is_none()) {
        wishes.push(Wish::UseAgentIdentity { kind: name });
    }
    asked(step, wishes)
}

/// What an evaluated step asks.
#[must_use]
pub fn of_step(step: &str, kind: &StepKind, aws: Option<&AwsSpec>) -> Vec<Question> {
    let region = || aws.map_or_else(String::new, |aws| aws.region.clone());
    let mut questions = of_kind(step, kind, aws);
    let mut wishes = Vec::new();
    match kind {
        StepKind::Shell(shell) => {
            wishes.push(run_command(shell));
            wishes.extend(variables(kind.name(), shell));
            for secret in shell.secrets.values() {
                wishes.extend(of_secret(&secret.from, SCRIPT, aws));
            }
            if let Some(cluster) = &shell.cluster {
                wishes.push(Wish::UseEksCluster {
                    cluster: cluster.clone(),
                    region: region(),
                });
            }
        }
        StepKind::EcsRollingDeploy(deploy) => {
            wishes.push(Wish::UseEcsCluster {
                cluster: deploy.cluster.clone(),
                region: region(),
            });
            wishes.extend(images(images_of_definition(&Value::Object(
                deploy.task_definition.clone(),
            ))));
            for document in [&deploy.task_definition, &deploy.service_definition] {
                let roles = roles_of(&Value::Object(document.clone())).into_iter();
                wishes.extend(roles.map(|role| Wish::PassRole { role }));
            }
        }
        StepKind::KubernetesApply(apply) => {
            let place = Place {
                cluster: &apply.cluster,
                namespace: apply.namespace.as_deref(),
                region: region(),
            };
            wishes.extend(place.of(&apply.manifests));
        }
        StepKind::KubernetesRollingDeploy(deploy) => {
            let place = Place {
                cluster: &deploy.cluster,
                namespace: deploy.namespace.as_deref(),
                region: region(),
            };
            wishes.extend(place.of(&deploy.manifests));
        }
        StepKind::NoopEffect(_) => {}
    }
    questions.extend(asked(step, wishes));
    questions
}

/// One change, as its step says it.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// The step.
    pub step: &'a str,
    /// Its kind.
    pub kind: &'a str,
    /// `<verb>/<natural id>`; none while it is only known what will be touched.
    pub effect: Option<&'a str>,
    /// By which program.
    pub direction: Direction,
    /// Whether an attempt before this one began it.
    pub adopted: bool,
    /// What it touches.
    pub touches: &'a [Touch],
    /// The task's identity, for its region.
    pub aws: Option<&'a AwsSpec>,
}

/// What a change asks, with its concrete arguments.
#[must_use]
pub fn of_change(change: Change<'_>) -> Vec<Question> {
    let region = || change.aws.map_or_else(String::new, |aws| aws.region.clone());
    let mut wishes = Vec::new();
    let mut task_definition = None;
    for touch in change.touches {
        match touch {
            Touch::EcsCluster(cluster) => wishes.push(Wish::UseEcsCluster {
                cluster: cluster.clone(),
                region: region(),
            }),
            Touch::TaskDefinition(arn) => task_definition = Some(arn.clone()),
            Touch::Namespace { cluster, namespace } => wishes.push(Wish::UseNamespace {
                cluster: cluster.clone(),
                namespace: namespace.clone(),
                region: region(),
            }),
            Touch::ClusterScope { cluster } => wishes.push(Wish::UseClusterScope {
                cluster: cluster.clone(),
                region: region(),
            }),
            Touch::Image(image) => wishes.push(Wish::PullImage { image: image.clone() }),
            Touch::Role(role) => wishes.push(Wish::PassRole { role: role.clone() }),
            Touch::ServiceAccount {
                cluster,
                namespace,
                name,
            } => wishes.push(Wish::UseServiceAccount {
                cluster: cluster.clone(),
                namespace: namespace.clone(),
                name: name.clone(),
                region: region(),
            }),
        }
    }
    if let Some(effect) = change.effect {
        let (verb, target) = effect.split_once('/').unwrap_or((effect, ""));
        wishes.push(Wish::Effect {
            kind: change.kind.to_owned(),
            verb: verb.to_owned(),
            target: target.to_owned(),
            undo: change.direction == Direction::Undo,
            adopted: change.adopted,
            task_definition,
        });
    }
    asked(change.step, wishes)
}

fn images(found: Vec<String>) -> impl Iterator<Item = Wish> {
    found.into_iter().map(|image| Wish::PullImage { image })
}

fn run_command(shell: &Shell) -> Wish {
    let program = match shell.shell {
        deputy_task::document::step::ShellProgram::Bash => "bash",
        deputy_task::document::step::ShellProgram::Sh => "sh",
    };
    Wish::RunCommand {
        program: program.to_owned(),
        script: shell.run.clone(),
    }
}

/// Of a script, and those that have its secrets, or the paths of their files. What Deputy sets is none of the task's.
fn variables(kind: &str, shell: &Shell) -> impl Iterator<Item = Wish> {
    let plain = shell.env.iter().map(|(name, value)| (name, Some(value)));
    let secret = shell.secrets.keys().map(|name| (name, None));
    plain.chain(secret).map(move |(name, value)| Wish::SetVariable {
        name: name.clone(),
        kind: kind.to_owned(),
        value: value.cloned(),
    })
}

/// Where manifests go.
struct Place<'a> {
    cluster: &'a str,
    namespace: Option<&'a str>,
    region: String,
}

impl Place<'_> {
    /// Of inline manifests; those in files are asked about when they are read, object by object. Whether
    /// a kind has namespaces, only the cluster knows: an object without one is asked about then, too.
    fn of(&self, manifests: &Manifests) -> Vec<Wish> {
        let mut wishes = vec![Wish::UseEksCluster {
            cluster: self.cluster.to_owned(),
            region: self.region.clone(),
        }];
        let mut namespaces: Vec<&str> = self.namespace.into_iter().collect();
        let mut objects = Vec::new();
        for manifest in &manifests.manifests {
            collect_objects(manifest, &mut objects);
        }
        namespaces.extend(objects.iter().filter_map(|object| namespace_of(object)));
        namespaces.sort_unstable();
        namespaces.dedup();
        wishes.extend(namespaces.into_iter().map(|namespace| Wish::UseNamespace {
            cluster: self.cluster.to_owned(),
            namespace: namespace.to_owned(),
            region: self.region.clone(),
        }));
        for manifest in objects {
            let document = Value::Object(manifest.clone());
            wishes.extend(images(images_of_manifest(&document)));
            let namespace = namespace_of(manifest).or(self.namespace).unwrap_or(DEFAULT_NAMESPACE);
            let accounts = service_accounts_of(&document).into_iter();
            wishes.extend(accounts.map(|name| Wish::UseServiceAccount {
                cluster: self.cluster.to_owned(),
                namespace: namespace.to_owned(),
                name,
                region: self.region.clone(),
            }));
        }
        wishes
    }
}

/// The object, or every item of a list, as the step takes them apart.
fn collect_objects<'a>(manifest: &'a Map<String, Value>, objects: &mut Vec<&'a Map<String, Value>>) {
    let is_list = manifest
        .get("kind")
        .and_then(Value::as_str)
        .is_some_and(|kind| kind.ends_with("List"));
    match manifest.get("items").and_then(Value::as_array).filter(|_| is_list) {
        Some(items) => {
            for item in items.iter().filter_map(Value::as_object) {
                collect_objects(item, objects);
            }
        }
        None => objects.push(manifest),
    }
}

fn namespace_of(manifest: &Map<String, Value>) -> Option<&str> {
    manifest.get("metadata")?.get("namespace")?.as_str()
}

/// The same questions, for which the task's signature does not count if there is a reason.
#[must_use]
pub fn doubted(mut questions: Vec<Question>, why: Option<&str>) -> Vec<Question> {
    for question in &mut questions {
        question.doubt = why.map(str::to_owned);
    }
    questions
}

fn asked_at(step: &str, questions: Vec<Question>) -> Vec<Question> {
    asked(step, questions.into_iter().map(|question| question.wish).collect())
}

fn asked(step: &str, wishes: Vec<Wish>) -> Vec<Question> {
    let question = |wish| Question {
        step: step.to_owned(),
        doubt: None,
        wish,
    };
    wishes.into_iter().map(question).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Guards that the role which a token of the manager is exchanged for is asked about like any other.
    #[test]
    fn every_role_of_a_chain_is_asked_about_however_it_begins() {
        let spec = json!({"steps": [], "aws": {"region": "eu-west-1", "oidc": {"roleArn": "arn:aws:iam::2:role/first"},
            "assumeRole": [{"roleArn": "arn:aws:iam::2:role/second"}]}});
        let spec: Spec = serde_json::from_value(spec).expect("a spec");
        let asked: Vec<String> = of_task(&spec).iter().map(ToString::to_string).collect();
        assert_eq!(
            asked,
            [
                "assuming the role arn:aws:iam::2:role/first",
                "assuming the role arn:aws:iam::2:role/second"
            ]
        );
        let kind = StepKind::Shell(serde_json::from_value(json!({"run": "true"})).expect("a step"));
        let own = |assume: serde_json::Value| {
            let aws: AwsSpec = serde_json::from_value(assume).expect("an identity");
            of_kind("a", &kind, Some(&aws)).len()
        };
        assert_eq!(
            own(json!({"region": "eu-west-1"})),
            2,
            "the agent's own identity is a question"
        );
        assert_eq!(own(json!({"region": "eu-west-1", "oidc": {"roleArn": "x"}})), 1);
    }
    /// Guards that no secret is read and nothing is fetched that the policy was not asked about, and under its real name.
    #[test]
    fn every_secret_and_every_source_is_asked_about() {
        let spec = json!({"steps": [], "aws": {"region": "eu-west-1"}, "sources": [
            {"name": "a", "git": {"url": "https://Evil.example:8443/x.git", "ref": {"branch": "main"},
                "auth": {"httpsToken": {"token": {"file": "db//./password"}}}}},
            {"name": "b", "git": {"url": "ssh://git@host/x", "ref": {"branch": "main"},
                "auth": {"sshKey": {"key": {"environment": "DEPUTY_SECRET_KEY"}, "knownHosts": "x"}}}},
            {"name": "c", "s3": {"bucket": "releases", "key": "app.tar"}},
            {"name": "d", "bundle": "./app"},
        ]});
        let spec: Spec = serde_json::from_value(spec).expect("a spec");
        let told = |questions: &[Question]| questions.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            told(&of_task(&spec)),
            [
                "fetching a source from https://Evil.example:8443/x.git",
                "showing the secret file:db/password to evil.example:8443",
                "fetching a source from ssh://git@host/x",
                "showing the secret environment:DEPUTY_SECRET_KEY to host",
                "fetching a source from s3://releases/app.tar",
                "unpacking the bundle d of the task",
            ]
        );
        let step = json!({"run": "true", "secrets": {
            "A": {"awsSecretsManager": "prod/db#password"},
            "B": {"awsParameter": "/db/password:3#key"},
            "C": {"awsParameter": "arn:aws:ssm:eu-west-1:2:parameter/db:label"},
            "D": {"kubernetesSecret": {"cluster": "prod", "name": "db", "key": "password"}},
        }});
        let step = StepKind::Shell(serde_json::from_value(step).expect("a step"));
        assert_eq!(
            told(&of_step("a", &step, spec.aws.as_ref()))[7..],
            [
                "giving the secret awsSecretsManager:prod/db to a script (step a)",
                "giving the secret awsParameter:/db/password to a script (step a)",
                "giving the secret awsParameter:arn:aws:ssm:eu-west-1:2:parameter/db to a script (step a)",
                "using the EKS cluster prod (step a)",
                "using namespace default of the EKS cluster prod (step a)",
                "giving the secret kubernetesSecret:prod/default/db to a script (step a)",
            ]
        );
    }
    /// Guards that a role or a service account is asked about also where it stands inside of what is deployed.
    #[test]
    fn what_deployed_things_run_as_is_asked_about() {
        let told = |kind: &StepKind| {
            of_step("a", kind, None)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        let deploy = json!({"cluster": "prod", "service": "s",
            "taskDefinition": {"kind": "ConfigMap", "containerDefinitions": [{"image": "app:1"}], "family": "f", "taskRoleArn": "arn:aws:iam::2:role/admin", "executionRoleArn": "exec"},
            "serviceDefinition": {"volumeConfigurations": [{"managedEBSVolume": {"roleArn": "arn:aws:iam::2:role/ebs"}}]}});
        let deploy = StepKind::EcsRollingDeploy(serde_json::from_value(deploy).expect("a step"));
        assert_eq!(
            told(&deploy)[2..],
            [
                "running the image app:1 (step a)",
                "passing the role arn:aws:iam::2:role/admin to ECS (step a)",
                "passing the role exec to ECS (step a)",
                "passing the role arn:aws:iam::2:role/ebs to ECS (step a)",
            ]
        );
        let pod = |namespace: serde_json::Value| json!({"kind": "Pod", "metadata": {"namespace": namespace}, "spec": {"serviceAccountName": "admin"}});
        let apply =
            json!({"cluster": "prod", "namespace": "shop", "manifests": [pod(json!("kube-system")), pod(json!(null))]});
        let apply = StepKind::KubernetesApply(serde_json::from_value(apply).expect("a step"));
        assert_eq!(
            told(&apply)[4..],
            [
                "running pods as admin in namespace kube-system of the EKS cluster prod (step a)",
                "running pods as admin in namespace shop of the EKS cluster prod (step a)",
            ]
        );
        let map =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"image": "logo.png"}});
        let inner = json!({"apiVersion": "v1", "kind": "List", "items": [pod(json!("kube-system")), map]});
        let list = json!({"cluster": "prod", "namespace": "shop", "manifests": [
            {"apiVersion": "v1", "kind": "List", "metadata": {"name": "x"}, "items": [inner]}]});
        let list = StepKind::KubernetesApply(serde_json::from_value(list).expect("a step"));
        assert_eq!(
            told(&list)[2..],
            [
                "using namespace kube-system of the EKS cluster prod (step a)",
                "using namespace shop of the EKS cluster prod (step a)",
                "running pods as admin in namespace kube-system of the EKS cluster prod (step a)",
            ]
        );
        let nobody = json!({"cluster": "prod", "namespace": "shop", "manifests": [
            {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"template": {"spec": {"containers": []}}}}]});
        let nobody = StepKind::KubernetesRollingDeploy(serde_json::from_value(nobody).expect("a step"));
        assert_eq!(
            told(&nobody)[3..],
            ["running pods as default in namespace shop of the EKS cluster prod (step a)"]
        );
        let touches = [Touch::ServiceAccount {
            cluster: "prod".into(),
            namespace: "shop".into(),
            name: "admin".into(),
        }];
        let change = Change {
            step: "a",
            kind: "kubernetesApply",
            effect: None,
            direction: Direction::Undo,
            adopted: true,
            touches: &touches,
            aws: None,
        };
        assert_eq!(of_change(change)[0].to_string(), told(&apply)[5]);
    }
}
