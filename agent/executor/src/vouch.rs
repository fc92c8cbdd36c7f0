//! Who vouches for a task: its signature, judged by the agent's own list. What was signed is what is
//! run: the document is read anew from the signed original, and the manager's reading of it is not used.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use deputy_policy::signers::{Signature, TrustedSigners};
use deputy_task::document::{Document, Inputs, read};
use deputy_task::message::Assignment;
use deputy_task::outcome::Failure;
use deputy_task::signed::Signed;

/// The class of a failure for which a signature is the reason.
const REFUSED: &str = "signature.refused";

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
    /// The agent cannot judge signatures.
    Agent(String),
    /// The signature is good for something else.
    Task(Box<Failure>),
}

/// Has the run begun? Only a journal with the pool's own proof says so: the manager could make one up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begun {
    Proven,
    Unproven,
}

/// Judges the signature of a task.
pub(crate) fn vouch(signers: &TrustedSigners, assignment: &Assignment, begun: Begun) -> Vouched {
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
    // A run that has begun is finished, however long it takes.
    let now = match begun {
        Begun::Proven => 0,
        Begun::Unproven => now(),
    };
    match signers.verify(signed, now) {
        Err(bad) => vouched.problem = Some(Problem::Agent(bad.to_string())),
        Ok(Signature::Unknown) => {
            vouched.note = Some(
                "the task's signature is by nobody whom this agent trusts, or the task was changed after it was signed",
            );
        }
        Ok(Signature::Expired) => {
            let failure = Failure::new(REFUSED, "the time of the task's signature is over");
            vouched.problem = Some(Problem::Task(Box::new(
                failure.hint("submit it again; `--sign-for` makes a signature good for longer"),
            )));
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

/// The document that was signed, if it belongs to this assignment.
fn original(signed: &Signed, assignment: &Assignment) -> Result<(Document, Inputs), String> {
    let project = assignment.attempt.project.to_string();
    if signed.project != project {
        return Err(format!("it was signed for project {}, not {project}", signed.project));
    }
    let sent = assignment.bundles.iter().map(|(name, blob)| (name, &blob.sha256));
    if !sent.eq(signed.bundles.iter()) {
        return Err("the bundles are others".into());
    }
    let given: Inputs =
        serde_json::from_str(&signed.inputs).map_err(|error| format!("its inputs cannot be read: {error}"))?;
    let read = read("the signed task", signed.document.as_bytes(), &given)
        .map_err(|wrong| format!("it cannot be read: {wrong}"))?;
    Ok((read.checked.document, read.checked.inputs))
}

fn now() -> u64 {
    // A clock before 1970 is no clock; nothing signed is good then.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(u64::MAX, |since| since.as_secs())
}
