//! What a task, a step or a change asks: derived from their arguments, and from nothing else.

use deputy_task::document::step::{Manifests, Shell};
use deputy_task::document::{AwsSpec, Spec, StepKind};
use deputy_task::expression::{Scope, evaluate_bool};
use deputy_task::record::Direction;
use deputy_task::touch::{Touch, images_of};
use serde_json::{Map, Value};

use crate::question::{Question, Wish};

/// Kinds that start a program of their own, whose changes nobody can name.
const OPAQUE: [&str; 1] = ["shell"];

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

/// Everything that can be asked before anything has run. `scope` has no outputs of steps.
#[must_use]
pub fn beforehand(spec: &Spec, scope: &Scope) -> Beforehand {
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
        asked.questions.extend(match step.kind.evaluated(scope) {
            Ok(kind) => of_step(&step.name, &kind, spec.aws.as_ref()),
            Err(error) => {
                asked.later.push((step.name.clone(), error.to_string()));
                of_kind(&step.name, &step.kind, spec.aws.as_ref())
            }
        });
    }
    asked
}

/// What the task as a whole asks: every role of its chain.
#[must_use]
pub fn of_task(spec: &Spec) -> Vec<Question> {
    let Some(aws) = &spec.aws else { return Vec::new() };
    let first = aws.oidc.iter().map(|oidc| &oidc.role_arn);
    let wishes = first.chain(aws.assume_role.iter().map(|hop| &hop.role_arn));
    let wishes = wishes.map(|role| Wish::AssumeRole { role: role.clone() }).collect();
    asked("", wishes)
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
            wishes.extend(images(&Value::Object(deploy.task_definition.clone())));
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

fn images(document: &Value) -> impl Iterator<Item = Wish> {
    images_of(document).into_iter().map(|image| Wish::PullImage { image })
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
        namespaces.extend(manifests.manifests.iter().filter_map(namespace_of));
        namespaces.sort_unstable();
        namespaces.dedup();
        wishes.extend(namespaces.into_iter().map(|namespace| Wish::UseNamespace {
            cluster: self.cluster.to_owned(),
            namespace: namespace.to_owned(),
            region: self.region.clone(),
        }));
        for manifest in &manifests.manifests {
            wishes.extend(images(&Value::Object(manifest.clone())));
        }
        wishes
    }
}

fn namespace_of(manifest: &Map<String, Value>) -> Option<&str> {
    manifest.get("metadata")?.get("namespace")?.as_str()
}

fn asked(step: &str, wishes: Vec<Wish>) -> Vec<Question> {
    let question = |wish| Question {
        step: step.to_owned(),
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
}
