//! Who vouches for a task: its signature, judged by the agent's own list. What was signed is what is
//! run: the document is read anew from the signed original, and the manager's reading of it is not used.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use deputy_policy::signers::{Signature, TrustedSigners};
use deputy_seal::Subject;
use deputy_task::document::{CANONICAL_BOUND, Document, Inputs, duration, read};
use deputy_task::expression::evaluate_selector;
use deputy_task::message::Assignment;
use deputy_task::outcome::Failure;
use deputy_task::signed::Signed;

/// The class of a failure for which a signature is the reason.
const REFUSED: &str = "signature.refused";

/// By how much clocks may differ: that of the signer, and those of the agents of a pool.
const CLOCKS: Duration = Duration::from_secs(5 * 60);

/// Why the signature of a run that has begun does not count any more.
const OVER: &str = "the time of the task's signature is over, and so is what a run that it began may take; submit it again, signed anew";

/// A task, and who vouches for it.
#[derive(Debug)]
pub(crate) struct Vouched {
    /// The signer; none if nobody whom this agent knows has signed.
    pub(crate) signer: Option<String>,
    /// From the signed original, or as the manager sent it.
    pub(crate) document: Arc<Document>,
    pub(crate) inputs: Arc<Inputs>,
    /// Why it must not be run.
    pub(crate) problem: Option<Problem>,
    /// Why a signature does not count, for whoever wonders.
    pub(crate) note: Option<&'static str>,
}

/// Why a task must not be run.
#[derive(Debug, Clone)]
pub(crate) enum Problem {
    /// This agent cannot judge signatures, or is none that it was signed for.
    Agent(String),
    /// The signature is good for something else.
    Task(Box<Failure>),
}

/// A task with its signature judged, its time left aside.
#[derive(Debug)]
pub(crate) struct Judged {
    vouched: Vouched,
    not_after: u64,
    subject: Subject,
    others: Vec<Subject>,
}

/// Has the run begun, as what was signed? Only records of an agent of the pool that found the signature good say
/// so: the manager could make them up, or take them from another task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begun {
    Proven,
    Unproven,
}

/// Judges the signature of a task, for an agent with these labels of its own.
pub(crate) fn vouch(signers: &TrustedSigners, labels: &BTreeMap<String, String>, assignment: &Assignment) -> Judged {
    let mut vouched = judge(signers, assignment);
    if let Some(why) = elsewhere(&vouched, labels) {
        vouched.problem = Some(Problem::Agent(why));
    }
    let sent = Subject::Sent {
        document: assignment.digest.clone(),
        bundles: sent(assignment)
            .map(|(name, sha256)| (name.clone(), sha256.clone()))
            .collect(),
    };
    let signed = assignment.signed.as_deref();
    let statement = signed.and_then(|signed| signed.statement().ok()).map(Subject::Signed);
    let (subject, others) = match statement {
        Some(signed) if vouched.signer.is_some() => (signed, vec![sent]),
        statement => (sent, statement.into_iter().collect()),
    };
    Judged {
        vouched,
        not_after: signed.map_or(0, |signed| signed.not_after),
        subject,
        others,
    }
}

impl Judged {
    /// What is run; and what else the run may have been begun as, by agents with other trusted signers.
    pub(crate) fn subjects(&self) -> (&Subject, &[Subject]) {
        (&self.subject, &self.others)
    }

    /// With the time of the signature. A run that has begun may be finished within its own timeout, with `undo` for
    /// putting back; then it is one that nobody has signed, for the record that proves it can be kept and shown again.
    pub(crate) fn at(self, begun: Begun, undo: Duration) -> Vouched {
        let mut vouched = self.vouched;
        let late = Duration::from_secs(now().saturating_sub(self.not_after));
        if vouched.signer.is_none() || late.is_zero() {
            return vouched;
        }
        match begun {
            Begun::Unproven => {
                let failure = Failure::new(REFUSED, "the time of the task's signature is over");
                vouched.signer = None;
                vouched.problem = Some(Problem::Task(Box::new(
                    failure.hint("submit it again; `--sign-for` makes a signature good for longer"),
                )));
            }
            Begun::Proven => {
                // The document is the signed one, and was checked when it was read.
                let timeout = duration::parse(&vouched.document.spec.timeout).unwrap_or_default();
                if late > timeout.saturating_add(undo).saturating_add(CLOCKS) {
                    vouched.signer = None;
                    vouched.note = Some(OVER);
                }
            }
        }
        vouched
    }
}

fn judge(signers: &TrustedSigners, assignment: &Assignment) -> Vouched {
    let mut vouched = Vouched {
        signer: None,
        document: Arc::clone(&assignment.document),
        inputs: Arc::clone(&assignment.inputs),
        problem: None,
        note: None,
    };
    let Some(signed) = assignment.signed.as_deref().filter(|_| !signers.is_empty()) else {
        return vouched;
    };
    match signers.verify(signed) {
        Err(bad) => vouched.problem = Some(Problem::Agent(bad.to_string())),
        Ok(Signature::Unknown) => {
            vouched.note = Some(
                "the task's signature is by nobody whom this agent trusts, or the task was changed after it was signed",
            );
        }
        Ok(Signature::By(name)) => match original(signed, assignment) {
            Ok((document, inputs)) => {
                vouched.signer = Some(name);
                vouched.document = Arc::new(document);
                vouched.inputs = Arc::new(inputs);
            }
            Err(why) => {
                let summary = format!("what {name} signed is not what the manager sent: {why}");
                vouched.problem = Some(Problem::Task(Box::new(Failure::new(REFUSED, summary))));
            }
        },
    }
    vouched
}

/// Why a signed task is for other agents. The manager's reading of the selector, and the labels that it knows an
/// agent by, are its own word.
fn elsewhere(vouched: &Vouched, labels: &BTreeMap<String, String>) -> Option<String> {
    let signer = vouched.signer.as_ref()?;
    let selector = &vouched.document.spec.selector;
    let why = match evaluate_selector(selector, labels) {
        Ok(true) => return None,
        Ok(false) => "and this agent's own do not: see `labels` in its configuration".to_owned(),
        Err(error) => format!("which cannot be asked: {error}"),
    };
    Some(format!(
        "what {signer} signed is for agents whose labels match {selector:?}, {why}"
    ))
}

/// The document that was signed, if it belongs to this assignment.
fn original(signed: &Signed, assignment: &Assignment) -> Result<(Document, Inputs), String> {
    let project = assignment.attempt.project.to_string();
    if signed.project != project {
        return Err(format!("it was signed for project {}, not {project}", signed.project));
    }
    if !sent(assignment).eq(signed.bundles.iter()) {
        return Err("the bundles are others".into());
    }
    let given: Inputs = CANONICAL_BOUND
        .read(signed.inputs.as_bytes())
        .map_err(|error| format!("its inputs cannot be read: {error}"))?;
    let read = read("the signed task", signed.document.as_bytes(), &given)
        .map_err(|wrong| format!("it cannot be read: {wrong}"))?;
    Ok((read.checked.document, read.checked.inputs))
}

/// SHA-256 of each bundle by the name of its source.
fn sent(assignment: &Assignment) -> impl Iterator<Item = (&String, &String)> {
    assignment.bundles.iter().map(|(name, blob)| (name, &blob.sha256))
}

fn now() -> u64 {
    // A clock before 1970 is no clock; nothing signed is good then.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(u64::MAX, |since| since.as_secs())
}
