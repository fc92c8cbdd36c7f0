//! `deputy-agent policy`: checks a policy file, and explains what it says of a task. Nothing is
//! run, nobody is asked, and no credential is needed.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use deputy_policy::policy::{Policy, UNCOUNTED, Verdict};
use deputy_policy::question::{Asking, Question, Said};
use deputy_policy::questions::beforehand;
use deputy_policy::rule::RuleEffect;
use deputy_policy::source::PolicySource;
use deputy_task::document::{Checked, Doubts, Unsealed};
use deputy_task::expression::{AgentNames, Scope, TaskNames};
use serde_json::{Value, json};

use crate::exit::{Exit, StartupError};
use crate::form::Form;

/// What `policy explain` was asked for.
#[derive(Debug)]
pub(crate) struct Explain {
    pub(crate) policy: PathBuf,
    pub(crate) task: Checked,
    pub(crate) asking: Asking,
    pub(crate) form: Form,
}

/// Says whether the file is a policy, and what its author should know.
pub(crate) fn check(path: &Path, form: Form) -> Result<Exit, StartupError> {
    let policy = match load(path) {
        Ok(policy) => policy,
        Err(StartupError::Policy(why)) if form == Form::Json => {
            print(&json!({"file": path.display().to_string(), "valid": false, "problem": why}).to_string());
            return Ok(Exit::BadInput);
        }
        Err(error) => return Err(error),
    };
    let (rules, notes) = (policy.rules(), policy.notes());
    if form == Form::Json {
        let answer = json!({"file": path.display().to_string(), "valid": true, "rules": rules, "notes": notes});
        print(&answer.to_string());
        return Ok(Exit::Success);
    }
    let mut text = format!("{} is a valid policy\n", path.display());
    for rule in rules {
        let effect = match rule.effect {
            RuleEffect::Permit => "permit",
            RuleEffect::Forbid => "forbid",
        };
        let _ = writeln!(text, "  line {:<4} {effect}  {}", rule.line, rule.id);
    }
    for note in notes {
        let _ = writeln!(text, "note: {note}");
    }
    print(text.trim_end());
    Ok(Exit::Success)
}

/// Prints each question of the task with its answer and the rules that gave it.
pub(crate) fn explain(asked: &Explain) -> Result<Exit, StartupError> {
    let policy = load(&asked.policy)?;
    let document = &asked.task.document;
    let doubts = match &asked.asking.signer {
        Some(_) => Doubts::of(&document.spec, &Unsealed::default()),
        None => Doubts::default(),
    };
    let beforehand = beforehand(&document.spec, &scope(asked), &doubts);
    let answers: Vec<(&Question, Verdict)> = beforehand
        .questions
        .iter()
        .map(|question| (question, policy.decide(&asked.asking, question)))
        .collect();
    let denied = answers
        .iter()
        .filter(|(_, verdict)| matches!(verdict, Verdict::Denied(_)))
        .count();
    let later: Vec<String> = beforehand
        .later
        .iter()
        .map(|(step, why)| format!("step {step} is asked about again when it begins: {why}"))
        .chain(
            beforehand
                .skipped
                .iter()
                .map(|step| format!("step {step} is skipped by its `when`")),
        )
        .collect();
    match asked.form {
        Form::Json => print(&as_json(asked, &answers, &later).to_string()),
        Form::Text => print(&as_text(&answers, denied, &later)),
    }
    Ok(if denied == 0 { Exit::Success } else { Exit::Rejected })
}

fn load(path: &Path) -> Result<std::sync::Arc<Policy>, StartupError> {
    let source = PolicySource::file_by_hand(path.to_owned());
    source.current().map_err(|why| StartupError::Policy(why.to_string()))
}

fn scope(asked: &Explain) -> Scope {
    let Asking { agent, pool, said, .. } = &asked.asking;
    let metadata = &asked.task.document.metadata;
    let labels = Some(pool).filter(|pool| !pool.is_empty());
    Scope {
        task: TaskNames {
            id: "explained".into(),
            name: metadata.name.clone(),
            labels: metadata.labels.clone(),
            project: said.project.clone(),
            run: 1,
            submitter: said.submitter.clone(),
        },
        inputs: asked.task.inputs.clone(),
        agent: AgentNames {
            id: agent.clone(),
            labels: labels
                .map(|pool| ("pool".to_owned(), pool.clone()))
                .into_iter()
                .collect(),
        },
        ..Scope::default()
    }
}

fn as_text(answers: &[(&Question, Verdict)], denied: usize, later: &[String]) -> String {
    let mut text = String::new();
    for (question, verdict) in answers {
        let (mark, by, why) = match verdict {
            Verdict::Permitted { by } => ("permitted", by, String::new()),
            Verdict::Denied(denial) => ("DENIED   ", &denial.by, format!(" {}", denial.reason)),
        };
        let by: Vec<String> = by
            .iter()
            .map(|rule| format!("{} (line {})", rule.id, rule.line))
            .collect();
        let _ = writeln!(text, "{mark}  {question}");
        if !by.is_empty() || !why.is_empty() {
            let by = by.join(", ");
            let _ = writeln!(
                text,
                "           {}",
                [why.trim(), &by]
                    .iter()
                    .filter(|part| !part.is_empty())
                    .copied()
                    .collect::<Vec<_>>()
                    .join(": ")
            );
        }
    }
    let doubts: BTreeSet<(&str, &str)> = answers
        .iter()
        .filter_map(|(question, _)| Some((question.step.as_str(), question.doubt.as_deref()?)))
        .collect();
    for (step, why) in doubts {
        let _ = writeln!(text, "note: step {step}: {UNCOUNTED}: {why}");
    }
    for line in later {
        let _ = writeln!(text, "note: {line}");
    }
    let _ = write!(
        text,
        "{}; what each change touches is asked about again when it is made",
        if denied == 0 {
            "the task would be taken".to_owned()
        } else {
            format!(
                "the task would be REJECTED: {denied} of {} questions denied",
                answers.len()
            )
        }
    );
    text
}

fn as_json(asked: &Explain, answers: &[(&Question, Verdict)], later: &[String]) -> Value {
    let answers: Vec<Value> = answers
        .iter()
        .map(|(question, verdict)| json!({"question": question, "what": question.to_string(), "answer": verdict}))
        .collect();
    json!({"asking": asked.asking, "answers": answers, "notes": later})
}

/// Who would ask, in words that a person gave.
pub(crate) fn asking(task: &Checked, given: &Given) -> Asking {
    Asking {
        agent: given.agent.clone(),
        pool: given.pool.clone(),
        signer: given.signer.clone(),
        said: Said {
            project: given.project.clone(),
            task: task.document.metadata.name.clone(),
            submitter: given.submitter.clone(),
        },
    }
}

/// What of the circumstances is given on the command line.
#[derive(Debug, Clone, Default)]
pub(crate) struct Given {
    pub(crate) agent: String,
    pub(crate) pool: String,
    pub(crate) signer: Option<String>,
    pub(crate) project: String,
    pub(crate) submitter: String,
}

fn print(text: &str) {
    // Whoever closed standard output does not want it.
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}
