//! From what a user sends to what the store keeps: the document is read and checked, its needs are
//! collected, its bundles must exist. The last few documents are kept as they were checked, since
//! the same one is often submitted many times.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use deputy_proto::v1;
use deputy_task::document::step::ShellProgram;
use deputy_task::document::{
    CANONICAL_BOUND, Inputs, OnAgentLoss, Paint, StepKind, decode_canonical, duration, fits, read, to_canonical,
};
use deputy_task::id::TaskId;
use deputy_task::json::Unread;
use deputy_task::signed::Signed;
use sha2::{Digest, Sha256};
use tonic::Status;

use super::context::{Context, project_of};
use crate::auth::caller;
use crate::dispatcher::inbound::Submission;
use crate::scheduler::{Entry, Requirement};
use crate::store::clock::StoreTime;
use crate::store::task::{Needs, TaskBundle, TaskKey, TaskSpec};

/// Documents above this size are read on a thread that may block.
const SMALL_DOCUMENT_BYTES: usize = 64 * 1024;
/// Documents above this size are not kept in memory while they wait.
const KEPT_DOCUMENT_BYTES: usize = 16 * 1024;
/// Checked documents that are kept.
const CHECKED_DOCUMENTS: usize = 64;
const MAX_REQUEST_ID_BYTES: usize = 256;
/// ECDSA P-256 takes at most 72, Ed25519 takes 64.
const MAX_SIGNATURE_BYTES: usize = 128;
const MAX_SUBMITTER_BYTES: usize = 256;

/// Checked documents by the digest of their text and inputs.
#[derive(Debug, Clone, Default)]
pub(super) struct CheckedDocuments {
    known: Arc<Mutex<HashMap<[u8; 32], Arc<CheckedDocument>>>>,
}

/// What a document says, as far as the manager must know.
#[derive(Debug)]
struct CheckedDocument {
    name: String,
    labels: BTreeMap<String, String>,
    exclusive_key: String,
    on_agent_loss: OnAgentLoss,
    queue_timeout: Option<Duration>,
    needs: Needs,
    sources: Vec<String>,
    canonical: Bytes,
    warnings: Vec<String>,
}

/// A submission, and what its document's reader warns about.
pub(super) struct Prepared {
    pub(super) submission: Submission,
    pub(super) warnings: Vec<String>,
}

impl CheckedDocuments {
    /// Checks a submission.
    pub(super) async fn prepare(&self, context: &Context, request: v1::SubmitRequest) -> Result<Prepared, Status> {
        let project = project_of(&request.project)?;
        if request.client_request_id.is_empty() || request.client_request_id.len() > MAX_REQUEST_ID_BYTES {
            return Err(Status::invalid_argument(format!(
                "a client_request_id of 1 to {MAX_REQUEST_ID_BYTES} bytes is needed"
            )));
        }
        if request.submitter.len() > MAX_SUBMITTER_BYTES {
            return Err(Status::invalid_argument(format!(
                "a submitter has at most {MAX_SUBMITTER_BYTES} bytes"
            )));
        }
        let signed = signed(&project, &request)?;
        let text = digest(&[&request.document, &request.inputs]);
        let document = self.checked(text, request.document, request.inputs).await?;
        let bundles = bundles(context, &project, &document, request.bundles).await?;
        let described: Vec<u8> = serde_json::to_vec(&bundles).unwrap_or_default();
        let content = digest(&[&text, &described]);
        let canonical = match signed {
            None => document.canonical.clone(),
            Some(signed) => with_signature(&document.canonical, signed)?,
        };
        // A task that no agent takes would be handed out again and again.
        fits(&canonical).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let requirement = Requirement::new(project.clone(), document.needs.clone(), &[]);
        let submitter = caller::current().name(&request.submitter);
        let mut entry = Entry::new(requirement, &submitter, &document.exclusive_key);
        if canonical.len() <= KEPT_DOCUMENT_BYTES {
            entry.document = canonical.clone();
        }
        entry.bundles = bundles.clone().into();
        let spec = TaskSpec {
            key: TaskKey {
                project,
                task: TaskId::generate(),
            },
            name: document.name.clone(),
            labels: document.labels.clone(),
            submitter,
            submitted_at: StoreTime::ZERO,
            exclusive_key: document.exclusive_key.clone(),
            on_agent_loss: document.on_agent_loss,
            queue_timeout: document.queue_timeout,
            needs: document.needs.clone(),
            bundles,
            document: canonical,
        };
        let submission = Submission {
            request: request.client_request_id,
            content,
            spec,
            entry,
        };
        Ok(Prepared {
            submission,
            warnings: document.warnings.clone(),
        })
    }

    async fn checked(&self, text: [u8; 32], document: Bytes, inputs: Bytes) -> Result<Arc<CheckedDocument>, Status> {
        let known = self
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&text)
            .cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let checked = if document.len() <= SMALL_DOCUMENT_BYTES {
            check(&document, &inputs)?
        } else {
            let done = tokio::task::spawn_blocking(move || check(&document, &inputs)).await;
            done.map_err(|_| Status::internal("reading the document panicked; please report it with the document"))??
        };
        let checked = Arc::new(checked);
        if checked.canonical.len() <= KEPT_DOCUMENT_BYTES {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= CHECKED_DOCUMENTS {
                known.clear();
            }
            known.insert(text, checked.clone());
        }
        Ok(checked)
    }
}

/// The task as its signer signed it. Whether the signature is good, only agents can say.
fn signed(project: &deputy_task::id::Project, request: &v1::SubmitRequest) -> Result<Option<Signed>, Status> {
    let Some(signature) = &request.signature else {
        return Ok(None);
    };
    let text = |what: &str, bytes: &Bytes| {
        let text = String::from_utf8(bytes.to_vec());
        text.map_err(|_| Status::invalid_argument(format!("{what} of a signed task must be UTF-8")))
    };
    if signature.signature.is_empty() || signature.signature.len() > MAX_SIGNATURE_BYTES {
        return Err(Status::invalid_argument(format!(
            "a signature has 1 to {MAX_SIGNATURE_BYTES} bytes"
        )));
    }
    let bundles = request
        .bundles
        .iter()
        .map(|bundle| (bundle.name.clone(), bundle.sha256.clone()));
    let signed = Signed {
        document: text("the document", &request.document)?,
        inputs: text("the inputs", &request.inputs)?,
        bundles: bundles.collect(),
        project: project.to_string(),
        request: request.client_request_id.clone(),
        not_after: signature.not_after,
        signature: hex::encode(&signature.signature),
    };
    match signed.statement() {
        Ok(_) => Ok(Some(signed)),
        Err(error) => Err(Status::invalid_argument(error.to_string())),
    }
}

/// The checked document with what its signer signed, for the agents.
fn with_signature(canonical: &[u8], signed: Signed) -> Result<Bytes, Status> {
    let internal = |error: deputy_task::document::NotCanonical| Status::internal(error.to_string());
    let mut checked = decode_canonical(canonical).map_err(internal)?;
    checked.signed = Some(Box::new(signed));
    to_canonical(&checked).map(Bytes::from).map_err(internal)
}

fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

fn check(document: &[u8], inputs: &[u8]) -> Result<CheckedDocument, Status> {
    let inputs: Inputs = if inputs.is_empty() {
        Inputs::default()
    } else {
        CANONICAL_BOUND.read(inputs).map_err(|error| match error {
            Unread::Json(error) => Status::invalid_argument(format!("the inputs are not a JSON object: {error}")),
            error => Status::invalid_argument(format!(
                "the inputs cannot be taken: {error}; give what is large as a source"
            )),
        })?
    };
    let known =
        read("task", document, &inputs).map_err(|wrong| Status::invalid_argument(wrong.rendered(Paint::Plain)))?;
    let canonical = to_canonical(&known.checked).map_err(|error| Status::internal(error.to_string()))?;
    let document = known.checked.document;
    let queue_timeout = document.spec.queue_timeout.as_deref().map(duration::parse).transpose();
    Ok(CheckedDocument {
        needs: needs(
            &document.spec.selector,
            document.spec.steps.iter().map(|step| &step.kind),
        ),
        name: document.metadata.name,
        labels: document.metadata.labels,
        exclusive_key: document.spec.exclusive_key,
        on_agent_loss: document.spec.on_agent_loss,
        queue_timeout: queue_timeout
            .map_err(|error| Status::invalid_argument(format!("spec.queueTimeout: {error}")))?,
        sources: document
            .spec
            .sources
            .into_iter()
            .filter(|source| source.bundle().is_some())
            .map(|source| source.name)
            .collect(),
        canonical: canonical.into(),
        warnings: known.warnings.iter().map(|warning| warning.one_line("task")).collect(),
    })
}

fn needs<'a>(selector: &str, steps: impl Iterator<Item = &'a StepKind>) -> Needs {
    let mut needs = Needs {
        selector: selector.trim().into(),
        ..Needs::default()
    };
    for kind in steps {
        needs.steps.push(kind.name().into());
        needs.tools.extend(tool(kind).map(str::to_owned));
    }
    needs.steps.sort();
    needs.steps.dedup();
    needs.tools.sort();
    needs.tools.dedup();
    needs
}

/// The program a step cannot do without. Kubernetes steps can: where `aws-iam-authenticator` is
/// missing, the agent makes tokens itself.
fn tool(kind: &StepKind) -> Option<&'static str> {
    match kind {
        StepKind::Shell(shell) => match shell.shell {
            ShellProgram::Bash => Some("bash"),
            ShellProgram::Sh => None,
        },
        StepKind::EcsRollingDeploy(_)
        | StepKind::KubernetesApply(_)
        | StepKind::KubernetesRollingDeploy(_)
        | StepKind::NoopEffect(_) => None,
    }
}

/// Every source of the document has its bundle, and every bundle is stored.
async fn bundles(
    context: &Context,
    project: &deputy_task::id::Project,
    document: &CheckedDocument,
    given: Vec<v1::Bundle>,
) -> Result<Vec<TaskBundle>, Status> {
    if let Some(missing) = document
        .sources
        .iter()
        .find(|name| !given.iter().any(|bundle| bundle.name == **name))
    {
        return Err(Status::invalid_argument(format!(
            "the source {missing} has no bundle; `deputy submit` packs and sends it"
        )));
    }
    if let Some(other) = given.iter().find(|bundle| !document.sources.contains(&bundle.name)) {
        return Err(Status::invalid_argument(format!(
            "the bundle {} belongs to no source of the document",
            other.name
        )));
    }
    let mut bundles = Vec::with_capacity(given.len());
    for v1::Bundle { name, sha256, .. } in given {
        let (of, wanted) = (project.clone(), sha256.clone());
        let stored = context.read(move |reads| reads.blob(&of, &wanted)).await?;
        let size_bytes = stored.ok_or_else(|| {
            Status::failed_precondition(format!(
                "the bundle {name} ({sha256}) is not stored; send it with PutBundle first"
            ))
        })?;
        bundles.push(TaskBundle {
            name,
            sha256,
            size_bytes,
        });
    }
    bundles.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(bundles)
}
