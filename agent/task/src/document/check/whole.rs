//! The check as a whole: what it looks at, in which order, and what it found.

use super::super::model::Inputs;
use super::super::source::{Finding, SourceText};
use super::super::tree::Node;
use super::expressions::contains_expression;
use crate::expression::Scope;

/// So many problems are more than anybody is told of at once.
const ENOUGH: usize = 100;

/// What the checks look at, and what they found.
pub(crate) struct Check<'a> {
    pub(super) source: &'a SourceText<'a>,
    pub(super) root: &'a Node,
    /// What is known before queueing; nothing if the inputs were not given or are wrong.
    pub(super) scope: Option<Scope>,
    /// What is outside the steps is resolved already: a text there is used as it stands, whatever it looks like.
    is_resolved: bool,
    /// Whether what is looked at now is used as it stands.
    pub(super) is_literal: bool,
    /// Where so much is wrong, no more expressions are looked at.
    pub(super) enough: usize,
    pub(crate) findings: Vec<Finding>,
}

impl<'a> Check<'a> {
    /// `inputs` are the values if they are known: then what is resolved before queueing is checked too.
    pub(crate) fn new(source: &'a SourceText<'a>, root: &'a Node, inputs: Option<&Inputs>) -> Self {
        let scope = inputs.map(|inputs| scope_before_queueing(root, inputs));
        Self {
            source,
            root,
            scope,
            is_resolved: false,
            is_literal: false,
            enough: ENOUGH,
            findings: Vec::new(),
        }
    }

    /// Of a canonical document, in which everything outside the steps is resolved.
    pub(crate) fn resolved(source: &'a SourceText<'a>, root: &'a Node) -> Self {
        Self {
            is_resolved: true,
            enough: 1,
            ..Self::new(source, root, None)
        }
    }

    /// Runs every check.
    pub(crate) fn run(&mut self) {
        self.is_literal = self.is_resolved;
        self.frame();
        self.is_literal = false;
        self.steps();
        self.static_keys();
    }

    /// Whether a text will be evaluated before it is used.
    pub(super) fn is_evaluated(&self, text: &str) -> bool {
        !self.is_literal && contains_expression(text)
    }

    pub(super) fn spec(&self) -> Option<&'a Node> {
        self.root.get("spec")
    }
}

/// What can be known of a task before it is queued.
pub(crate) fn scope_before_queueing(root: &Node, inputs: &Inputs) -> Scope {
    let mut scope = Scope {
        inputs: inputs.clone(),
        ..Scope::default()
    };
    if let Some(metadata) = root.get("metadata") {
        scope.task.name = metadata.get("name").and_then(Node::text).unwrap_or_default().to_owned();
        let labels = metadata.get("labels").map(Node::entries).unwrap_or_default();
        scope.task.labels = labels
            .iter()
            .filter_map(|entry| Some((entry.key.clone(), entry.value.text()?.to_owned())))
            .collect();
    }
    scope
}
