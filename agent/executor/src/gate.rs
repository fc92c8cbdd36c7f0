//! Asks the agent's policy: about the whole task before it is started, about each step when its
//! arguments are known, about each change with what it touches. What the journal says is asked about
//! like everything else. Called by [`crate::life`], [`crate::forward`], [`crate::undo`] and [`crate::host`].

use deputy_policy::policy::{DENIED, Policy};
use deputy_policy::question::{Asking, Question, Said};
use deputy_policy::questions::{Change, beforehand, doubted, of_change, of_step, of_task};
use deputy_task::document::{Step, StepKind};
use deputy_task::expression::{AgentNames, Scope};
use deputy_task::outcome::Failure;

use crate::attempt::Attempt;
use crate::vouch::Problem;

/// The agent's label that names its pool.
const POOL: &str = "pool";

/// Why a task is not begun.
#[derive(Debug)]
pub(crate) enum NotAdmitted {
    /// The agent can ask no policy: another agent may take it.
    NoPolicy(String),
    /// The policy says no.
    Denied(Box<Failure>),
}

/// Asks about everything that can be known before the task is started.
pub(crate) fn admit(attempt: &Attempt) -> Result<(), NotAdmitted> {
    if let Err(unusable) = attempt.policy() {
        return Err(NotAdmitted::NoPolicy(unusable.to_string()));
    }
    let begun = attempt.replay().has_records();
    match &attempt.vouched.problem {
        None => {}
        Some(Problem::Agent(why)) => return Err(NotAdmitted::NoPolicy(why.clone())),
        Some(Problem::Task(failure)) if begun => return Err(NotAdmitted::NoPolicy(failure.summary.clone())),
        Some(Problem::Task(failure)) => return Err(NotAdmitted::Denied(failure.clone())),
    }
    // What an attempt before this one has changed cannot be refused any more: the run ends with the truth
    // about it, at the step that is denied.
    if begun {
        return Ok(());
    }
    let asked = beforehand(&attempt.document.spec, &scope(attempt), &attempt.doubts);
    ask(attempt, &asked.questions).map_err(NotAdmitted::Denied)
}

/// Asks about a step whose arguments are known, and about the task's roles: another agent may have begun it.
pub(crate) fn admit_step(attempt: &Attempt, step: &Step, kind: &StepKind) -> Result<(), Box<Failure>> {
    let spec = &attempt.document.spec;
    let mut questions = of_task(spec);
    questions.extend(of_step(&step.name, kind, spec.aws.as_ref()));
    let mut asked = ask(attempt, &doubted(questions, attempt.doubts.why(&step.name)));
    if let Err(failure) = &mut asked {
        step.name.clone_into(&mut failure.step);
    }
    asked
}

/// Asks about one change.
pub(crate) fn admit_change(attempt: &Attempt, change: Change<'_>) -> Result<(), Box<Failure>> {
    let aws = attempt.document.spec.aws.as_ref();
    let why = attempt.doubts.why(change.step);
    ask(attempt, &doubted(of_change(Change { aws, ..change }), why))
}

/// Is there anything that could be denied?
pub(crate) fn has_rules(attempt: &Attempt) -> bool {
    !matches!(attempt.policy().as_deref(), Ok(Policy::AllowAll))
}

fn ask(attempt: &Attempt, questions: &[Question]) -> Result<(), Box<Failure>> {
    let policy = attempt
        .policy()
        .map_err(|unusable| Box::new(Failure::new(DENIED, format!("the agent runs nothing: {unusable}"))))?;
    policy.admit(&asking(attempt), questions).map_err(|mut failure| {
        if let Some(note) = attempt.vouched.note {
            failure.hint = format!("{note}; {}", failure.hint);
        }
        failure
    })
}

fn asking(attempt: &Attempt) -> Asking {
    let agent = &attempt.shared.environment.agent;
    Asking {
        agent: agent.id.clone(),
        pool: agent.labels.get(POOL).cloned().unwrap_or_default(),
        signer: attempt.vouched.signer.clone(),
        said: Said {
            project: attempt.reference.project.to_string(),
            task: attempt.document.metadata.name.clone(),
            submitter: attempt.submitter.clone(),
        },
    }
}

/// What expressions can see before anything has run.
fn scope(attempt: &Attempt) -> Scope {
    let agent = &attempt.shared.environment.agent;
    Scope {
        agent: AgentNames {
            id: agent.id.clone(),
            labels: agent.labels.clone(),
        },
        ..attempt.names()
    }
}
