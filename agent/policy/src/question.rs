//! What a policy is asked, and by whom: values only, in the agent's words.

use std::fmt;

use serde::Serialize;

/// To whom a secret is shown that a script gets.
pub const SCRIPT: &str = "script";

/// A source that came with the task.
pub const BUNDLE: &str = "bundle";

/// Who asks, and what is known of the task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Asking {
    /// The agent's id.
    pub agent: String,
    /// The agent's label `pool`; empty if it has none.
    pub pool: String,
    /// Who signed the task, by the name in the agent's own list; the signature has been verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signer: Option<String>,
    /// What the manager says of the task. Never enough for a permit.
    pub said: Said,
}

/// What is said of a task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Said {
    /// Its project. Signed with the task.
    pub project: String,
    /// Its name. Signed with the task.
    pub task: String,
    /// Who submitted it: nobody but the manager says so.
    pub submitter: String,
}

impl Asking {
    /// Who vouches for the task as far as this question is concerned.
    #[must_use]
    pub fn signer_for(&self, question: &Question) -> Option<&str> {
        self.signer.as_deref().filter(|_| question.doubt.is_none())
    }
}

/// One thing that a task wants to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Question {
    /// The step it belongs to; empty if to the whole task.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub step: String,
    /// Why the task's signature does not count for it: then it is asked as if nobody had signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doubt: Option<String>,
    /// What it is.
    #[serde(flatten)]
    pub wish: Wish,
}

/// What a task may wish for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "action", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Wish {
    /// To run a step of this kind, or its undo.
    RunStep {
        /// As in the document.
        kind: String,
    },
    /// To assume a role.
    AssumeRole {
        /// Its ARN.
        role: String,
    },
    /// To work with the agent's own AWS identity.
    UseAgentIdentity {
        /// The kind of the step that does.
        kind: String,
    },
    /// To work in an ECS cluster.
    UseEcsCluster {
        /// Name or ARN.
        cluster: String,
        /// The task's region.
        region: String,
    },
    /// To connect to an EKS cluster.
    UseEksCluster {
        /// Its name.
        cluster: String,
        /// The task's region.
        region: String,
    },
    /// To change what is in a namespace, or to read a Secret of it.
    UseNamespace {
        /// The EKS cluster's name.
        cluster: String,
        /// The namespace.
        namespace: String,
        /// The task's region.
        region: String,
    },
    /// To change objects that belong to no namespace.
    UseClusterScope {
        /// The EKS cluster's name.
        cluster: String,
        /// The task's region.
        region: String,
    },
    /// To run a program that changes what it likes.
    RunCommand {
        /// For example `bash`.
        program: String,
        /// What it is told. Not shown: it may hold secrets.
        #[serde(skip)]
        script: String,
    },
    /// To give a variable to what a step starts.
    SetVariable {
        /// Its name.
        name: String,
        /// The kind of the step.
        kind: String,
        /// Its value; none of a secret. Not shown: an output that is secret may be in it.
        #[serde(skip)]
        value: Option<String>,
    },
    /// To have an image pulled and run.
    PullImage {
        /// As written.
        image: String,
    },
    /// To give a role to AWS or to containers.
    PassRole {
        /// ARN, or the name alone as written.
        role: String,
    },
    /// To have pods run as a service account.
    UseServiceAccount {
        /// The EKS cluster's name.
        cluster: String,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The task's region.
        region: String,
    },
    /// To have a secret read, and shown to somebody.
    UseSecret {
        /// Where it is.
        #[serde(flatten)]
        secret: SecretPlace,
        /// `script`, or the host that it is shown to.
        shown_to: String,
    },
    /// To have a source fetched.
    FetchSource {
        /// `git`, `s3` or `bundle`.
        kind: &'static str,
        /// Host, with its port if the address has one; bucket; name of the source that is a bundle.
        from: String,
        /// The whole address.
        url: String,
        /// The object.
        #[serde(skip_serializing_if = "Option::is_none")]
        key: Option<String>,
        /// `branch/main`, `tag/v1` or `commit/` with its hash.
        #[serde(skip_serializing_if = "Option::is_none")]
        reference: Option<String>,
    },
    /// To make one change.
    Effect {
        /// The kind of its step.
        kind: String,
        /// For example `updateService`.
        verb: String,
        /// For example `checkout-api`.
        target: String,
        /// By the step's undo program.
        undo: bool,
        /// It was begun by an attempt before this one.
        adopted: bool,
        /// The task definition that a service is to run.
        #[serde(skip_serializing_if = "Option::is_none")]
        task_definition: Option<String>,
    },
}

/// Where a secret is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretPlace {
    /// As in the document: `awsSecretsManager`, `awsParameter`, `kubernetesSecret`, `environment` or `file`.
    pub kind: &'static str,
    /// Name, ARN, variable or path; without the version.
    pub name: String,
    /// The EKS cluster of a Kubernetes Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Its namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

impl fmt::Display for SecretPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            name,
            cluster,
            namespace,
        } = self;
        write!(f, "{kind}:")?;
        for part in [cluster, namespace].into_iter().flatten() {
            write!(f, "{part}/")?;
        }
        f.write_str(name)
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.wish.fmt(f)?;
        if self.step.is_empty() {
            Ok(())
        } else {
            write!(f, " (step {})", self.step)
        }
    }
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RunStep { kind } => write!(f, "running a {kind} step"),
            Self::AssumeRole { role } => write!(f, "assuming the role {role}"),
            Self::UseAgentIdentity { kind } => write!(f, "using the agent's own AWS identity in a {kind} step"),
            Self::UseEcsCluster { cluster, .. } => write!(f, "using the ECS cluster {cluster}"),
            Self::UseEksCluster { cluster, .. } => write!(f, "using the EKS cluster {cluster}"),
            Self::UseNamespace { cluster, namespace, .. } => {
                write!(f, "using namespace {namespace} of the EKS cluster {cluster}")
            }
            Self::UseClusterScope { cluster, .. } => {
                write!(
                    f,
                    "changing objects of the EKS cluster {cluster} that are in no namespace"
                )
            }
            Self::RunCommand { program, .. } => write!(f, "running a {program} script"),
            Self::SetVariable { name, kind, .. } => write!(f, "setting the variable {name} of a {kind} step"),
            Self::PullImage { image } => write!(f, "running the image {image}"),
            Self::PassRole { role } => write!(f, "passing the role {role} to ECS"),
            Self::UseServiceAccount {
                cluster,
                namespace,
                name,
                ..
            } => {
                write!(
                    f,
                    "running pods as {name} in namespace {namespace} of the EKS cluster {cluster}"
                )
            }
            Self::UseSecret { secret, shown_to } if shown_to == SCRIPT => {
                write!(f, "giving the secret {secret} to a script")
            }
            Self::UseSecret { secret, shown_to } => write!(f, "showing the secret {secret} to {shown_to}"),
            Self::FetchSource { kind: BUNDLE, from, .. } => write!(f, "unpacking the bundle {from} of the task"),
            Self::FetchSource { url, .. } => write!(f, "fetching a source from {url}"),
            Self::Effect {
                verb,
                target,
                undo,
                task_definition,
                ..
            } => {
                let how = if *undo { " to undo the task" } else { "" };
                match task_definition {
                    Some(definition) => write!(f, "the change {verb} {target} to {definition}{how}"),
                    None => write!(f, "the change {verb} {target}{how}"),
                }
            }
        }
    }
}
