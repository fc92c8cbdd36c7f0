//! The check as a whole: what it looks at, in which order, and what it found.

use super::super::model::Inputs;
use super::super::source::{Finding, SourceText};
use super::super::tree::Node;
use crate::expression::Scope;

/// What the checks look at, and what they found.
pub(crate) struct Check<'a> {
    pub(super) source: &'a SourceText<'a>,
    pub(super) root: &'a Node,
    /// What is known before queueing; nothing if the inputs were not given or are wrong.
    pub(super) scope: Option<Scope>,
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
            findings: Vec::new(),
        }
    }

    /// Runs every check.
    pub(crate) fn run(&mut self) {
        self.frame();
        self.steps();
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
