//! Text to checked document: the one way in. Called by the manager for every submission and by the
//! command line; everything that is wrong is found in one run.

use serde_json::Value;

use super::aws::{self, Lenience};
use super::check::{Check, scope_before_queueing};
use super::checked::Checked;
use super::diagnostic::{Diagnostic, Diagnostics, Severity};
use super::inputs;
use super::model::{Document, Inputs};
use super::parse::parse;
use super::recheck::problems;
use super::shape::compare;
use super::source::{Finding, SourceText, Span};
use super::tree::{Data, Node};
use crate::expression::{Scope, evaluate_text};

/// Most problems that are told at once.
const MAX_TOLD: usize = 50;

/// A document that was read, and what somebody should look at.
#[derive(Debug, Clone)]
pub struct ReadDocument {
    /// The document and the values of its inputs.
    pub checked: Checked,
    /// Nothing that stops it.
    pub warnings: Vec<Diagnostic>,
}

/// Reads and checks a task document. `source_name` is shown in messages, `given` are the values of
/// `spec.inputs`; a text is taken for a number, boolean or object where one is declared. What can
/// be known before queueing (everything outside the steps) comes back resolved.
///
/// # Errors
/// Everything that is wrong with the document and its inputs, all at once, by position.
pub fn read(source_name: &str, bytes: &[u8], given: &Inputs) -> Result<ReadDocument, Diagnostics> {
    let Examined { root, inputs, warnings } = examine(source_name, bytes, Some(given))?;
    let internal = |message: String| Diagnostics {
        source: source_name.to_owned(),
        items: vec![SourceText::diagnostic_nowhere(
            Finding::nowhere(message).hint("this is a fault of Deputy; please report it with the document"),
        )],
    };
    let mut json = root.to_json();
    let scope = scope_before_queueing(&root, &inputs);
    resolve_frame(&mut json["spec"], &scope).map_err(|error| internal(error.to_string()))?;
    let document: Document = serde_json::from_value(json)
        .map_err(|error| internal(format!("the document passed every check and cannot be read: {error}")))?;
    let checked = Checked {
        document,
        inputs,
        signed: None,
    };
    // What a text has become by its expressions is checked as the agent will check it.
    let findings = problems(&checked);
    if findings.is_empty() {
        return Ok(ReadDocument { checked, warnings });
    }
    Err(Diagnostics {
        source: source_name.to_owned(),
        items: findings.into_iter().map(SourceText::diagnostic_nowhere).collect(),
    })
}

/// Checks a document without values for its inputs: what depends on them is not looked at.
///
/// # Errors
/// Everything that is wrong with the document, all at once, by position.
pub fn validate(source_name: &str, bytes: &[u8]) -> Result<Vec<Diagnostic>, Diagnostics> {
    examine(source_name, bytes, None).map(|examined| examined.warnings)
}

/// Reads a file of input values: a YAML or JSON mapping, within the limits of a document.
///
/// # Errors
/// Everything that is wrong with its text.
pub fn read_values(source_name: &str, bytes: &[u8]) -> Result<Inputs, Diagnostics> {
    let alone = |item: Diagnostic| Diagnostics {
        source: source_name.to_owned(),
        items: vec![item],
    };
    let source = SourceText::decode(bytes).map_err(|item| alone(*item))?;
    let (root, mut findings) = parse(&source);
    match root.as_ref().map(|root| (root.to_json(), root)) {
        Some((Value::Object(values), _)) if findings.is_empty() => return Ok(values),
        Some((Value::Object(_), _)) | None => {}
        Some((_, root)) => findings.push(Finding::error(
            root.span,
            format!("input values must be a mapping, not {}", root.kind()),
        )),
    }
    Err(told(source_name, &source, root.as_ref(), findings))
}

struct Examined {
    root: Node,
    inputs: Inputs,
    warnings: Vec<Diagnostic>,
}

fn examine(source_name: &str, bytes: &[u8], given: Option<&Inputs>) -> Result<Examined, Diagnostics> {
    let source = SourceText::decode(bytes).map_err(|item| Diagnostics {
        source: source_name.to_owned(),
        items: vec![*item],
    })?;
    let (root, mut findings) = parse(&source);
    let Some(mut root) = root else {
        return Err(told(source_name, &source, None, findings));
    };
    compare(&root, &mut findings);
    compare_aws_documents(&mut root, &mut findings);
    let before = findings.len();
    let declared = root.get("spec").and_then(|spec| spec.get("inputs"));
    let inputs = given.map(|given| inputs::resolve(declared, given, &mut findings));
    let known = inputs.as_ref().filter(|_| findings.len() == before);
    let mut check = Check::new(&source, &root, known);
    check.run();
    findings.append(&mut check.findings);
    let failed = findings.iter().any(|finding| finding.severity == Severity::Error);
    let diagnostics = told(source_name, &source, Some(&root), findings);
    if failed {
        return Err(diagnostics);
    }
    Ok(Examined {
        root,
        inputs: inputs.unwrap_or_default(),
        warnings: diagnostics.items,
    })
}

fn told(source_name: &str, source: &SourceText<'_>, root: Option<&Node>, mut findings: Vec<Finding>) -> Diagnostics {
    findings.sort_by_key(|finding| (finding.span, finding.severity == Severity::Warning));
    findings.dedup_by(|b, a| a.span == b.span && a.message == b.message);
    let left_out = findings.len().saturating_sub(MAX_TOLD);
    findings.truncate(MAX_TOLD);
    let with_path = |finding: Finding| {
        let found = finding
            .span
            .zip(root)
            .map(|(Span { start, .. }, root)| root.path_to(start));
        let path = finding.path.clone().or(found);
        Diagnostic {
            path: path.unwrap_or_default(),
            ..source.diagnostic(finding)
        }
    };
    let mut items: Vec<Diagnostic> = findings.into_iter().map(with_path).collect();
    if left_out > 0 {
        items.push(SourceText::diagnostic_nowhere(Finding::nowhere(format!(
            "{left_out} more problems are not shown"
        ))));
    }
    Diagnostics {
        source: source_name.to_owned(),
        items,
    }
}

/// The AWS documents inside the steps.
fn compare_aws_documents(root: &mut Node, findings: &mut Vec<Finding>) {
    let Some(steps) = child(root, "spec").and_then(|spec| child(spec, "steps")) else {
        return;
    };
    let Data::List(steps) = &mut steps.data else { return };
    for step in steps {
        let Some(deploy) = child(step, "ecsRollingDeploy") else {
            continue;
        };
        let allows = deploy
            .get("allowUnknownFields")
            .is_some_and(|node| matches!(node.data, Data::Truth(true)));
        let lenience = if allows {
            Lenience::AllowUnknown
        } else {
            Lenience::Strict
        };
        for (key, shape) in [
            ("taskDefinition", "RegisterTaskDefinitionRequest"),
            ("serviceDefinition", "ServiceRequest"),
        ] {
            let Some(label) = deploy.entry(key).map(|entry| entry.key_span) else {
                continue;
            };
            let Some(document) = child(deploy, key).filter(|node| matches!(node.data, Data::Map(_))) else {
                continue;
            };
            aws::compare(document, shape, label, lenience, findings);
        }
    }
}

fn child<'a>(node: &'a mut Node, key: &str) -> Option<&'a mut Node> {
    match &mut node.data {
        Data::Map(entries) => entries
            .iter_mut()
            .find(|entry| entry.key == key)
            .map(|entry| &mut entry.value),
        _ => None,
    }
}

/// Everything outside the steps whose expressions can be evaluated now; a text stays a text.
fn resolve_frame(spec: &mut Value, scope: &Scope) -> Result<(), crate::expression::ExpressionError> {
    for key in ["exclusiveKey", "timeout", "queueTimeout", "aws", "sources"] {
        if let Some(value) = spec.get_mut(key) {
            resolve(value, scope)?;
        }
    }
    Ok(())
}

fn resolve(value: &mut Value, scope: &Scope) -> Result<(), crate::expression::ExpressionError> {
    match value {
        Value::String(text) => *text = evaluate_text(text, scope)?,
        Value::Array(items) => items.iter_mut().try_for_each(|item| resolve(item, scope))?,
        Value::Object(entries) => entries.values_mut().try_for_each(|value| resolve(value, scope))?,
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
    Ok(())
}
