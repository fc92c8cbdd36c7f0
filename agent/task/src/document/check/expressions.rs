//! Checks of expressions: can they be read, do they name only what there is, and may they stand here.

use super::super::diagnostic::meant;
use super::super::source::{Finding, Span};
use super::super::tree::{Data, Node};
use super::whole::Check;
use crate::expression::engine::{FILTERS, check};
use crate::expression::evaluate::bare;
use crate::expression::reference::{Reference, mentions};
use crate::expression::segment::{OPEN, Segment, split};
use crate::expression::{AgentNames, TaskNames};

/// How a name is written behind a dot, or in brackets if it is no identifier.
fn member(name: &str) -> String {
    if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        format!(".{name}")
    } else {
        format!("['{name}']")
    }
}

/// A `=` that is not part of `==`, `!=`, `<=` or `>=`.
fn has_lone_equals(source: &str) -> bool {
    let bytes = source.as_bytes();
    let at = |index: usize| bytes.get(index).copied().unwrap_or(b' ');
    (0..bytes.len()).any(|index| {
        at(index) == b'='
            && at(index + 1) != b'='
            && !matches!(index.checked_sub(1).map(at), Some(b'=' | b'!' | b'<' | b'>'))
    })
}

/// Which names an expression can see where it stands.
#[derive(Debug, Clone, Copy)]
pub(super) enum Visible<'a> {
    /// Outside the steps: what is known before queueing.
    BeforeQueueing,
    /// In a step: everything, and the steps before it of all.
    InStep { earlier: &'a [&'a str], all: &'a [&'a str] },
    /// In a selector: the labels of agents, whatever they are called.
    Labels,
}

pub(super) fn contains_expression(text: &str) -> bool {
    text.contains(OPEN)
}

impl Check<'_> {
    /// Every expression in the texts of a tree.
    pub(super) fn expressions(&mut self, node: &Node, visible: Visible<'_>) {
        // Each unknown name is compared with every known one.
        if self.findings.len() >= self.enough {
            return;
        }
        match &node.data {
            Data::Text(text) if contains_expression(text) => self.text(node, text, visible),
            Data::List(items) => items.iter().for_each(|item| self.expressions(item, visible)),
            Data::Map(entries) => {
                for entry in entries {
                    if contains_expression(&entry.key) {
                        self.findings
                            .push(Finding::error(entry.key_span, "a key cannot be an expression"));
                    }
                    self.expressions(&entry.value, visible);
                }
            }
            Data::Null | Data::Truth(_) | Data::Number(_) | Data::Text(_) => {}
        }
    }

    /// A tree in which expressions would not be evaluated.
    pub(super) fn no_expressions(&mut self, node: &Node) {
        match &node.data {
            Data::Text(text) if contains_expression(text) => {
                self.findings
                    .push(Finding::error(node.span, "expressions are not evaluated here"));
            }
            Data::List(items) => items.iter().for_each(|item| self.no_expressions(item)),
            Data::Map(entries) => entries.iter().for_each(|entry| self.no_expressions(&entry.value)),
            Data::Null | Data::Truth(_) | Data::Number(_) | Data::Text(_) => {}
        }
    }

    /// A field that is an expression by itself: `when`.
    pub(super) fn condition(&mut self, node: &Node, visible: Visible<'_>) {
        if let Some(text) = node.text() {
            let source = bare(text);
            let base = self.find(node.span, source, node.span.start);
            self.expression(source, base, node.span, visible);
        }
    }

    /// An expression over labels.
    pub(super) fn selector(&mut self, node: &Node) {
        if node.text().is_some_and(|text| !text.trim().is_empty()) {
            self.condition(node, Visible::Labels);
        }
    }

    fn text(&mut self, node: &Node, text: &str, visible: Visible<'_>) {
        let segments = match split(text) {
            Ok(segments) => segments,
            Err(unclosed) => {
                let rest = text[unclosed.0..].lines().next().unwrap_or_default().trim_end();
                let span = self
                    .find(node.span, rest, node.span.start)
                    .map_or(node.span, |start| Span {
                        start,
                        end: start + rest.len(),
                    });
                self.findings
                    .push(Finding::error(span, "this expression has no closing `}}`"));
                return;
            }
        };
        let mut from = node.span.start;
        for segment in segments {
            let Segment::Expression { source, .. } = segment else {
                continue;
            };
            let base = self.find(node.span, source, from);
            if let Some(base) = base {
                from = base + source.len();
            }
            self.expression(source, base, node.span, visible);
        }
    }

    /// Where `needle` stands in the source text of a value: quoting and folding can hide it.
    pub(super) fn find(&self, within: Span, needle: &str, from: usize) -> Option<usize> {
        let text = self.source.slice(Span {
            start: from.max(within.start),
            end: within.end,
        });
        text.find(needle).map(|at| from.max(within.start) + at)
    }

    fn expression(&mut self, source: &str, base: Option<usize>, whole: Span, visible: Visible<'_>) {
        let span = |offset: usize, length: usize| {
            base.map_or(whole, |base| Span {
                start: base + offset,
                end: base + offset + length,
            })
        };
        if let Err(error) = check(source) {
            let blank = source.len() - source.trim_start().len();
            let at = span(blank, source.trim().len());
            let hint = if has_lone_equals(source) {
                "values are compared with `==`"
            } else {
                ""
            };
            let message = format!("the expression `{}` {}", error.expression, error.reason);
            self.findings.push(Finding::error(at, message).hint(hint));
            return;
        }
        let mentioned = mentions(source);
        for filter in mentioned
            .filters
            .iter()
            .filter(|filter| !FILTERS.contains(&filter.name.as_str()))
        {
            let finding = Finding::error(
                span(filter.offset, filter.name.len()),
                format!("there is no filter `{}`", filter.name),
            );
            self.findings.push(finding.meant(meant(&filter.name, FILTERS), || {
                format!("filters: {}", FILTERS.join(", "))
            }));
        }
        for call in &mentioned.calls {
            self.findings.push(
                Finding::error(
                    span(call.offset, call.name.len()),
                    format!("there is no function `{}`", call.name),
                )
                .hint("expressions have filters (`inputs.name | lower`) and no functions"),
            );
        }
        for reference in &mentioned.variables {
            if let Some(finding) = self.reference(reference, span(reference.offset, reference.length), visible) {
                self.findings.push(finding);
            }
        }
    }

    fn reference(&self, reference: &Reference, span: Span, visible: Visible<'_>) -> Option<Finding> {
        let path: Vec<&str> = reference.path.iter().map(String::as_str).collect();
        let written = path.join(".");
        let unknown = |finding: Finding, name: &str, known: &[&str]| {
            Some(finding.meant(meant(name, known.iter().copied()), || {
                if known.is_empty() {
                    "there are none".into()
                } else {
                    format!("there are: {}", known.join(", "))
                }
            }))
        };
        let one_of = |name: &str, known: &[&str]| {
            if known.contains(&name) {
                None
            } else {
                unknown(Finding::error(span, format!("there is no `{written}`")), name, known)
            }
        };
        let early = matches!(visible, Visible::BeforeQueueing);
        match (path.as_slice(), visible) {
            (_, Visible::Labels) => None,
            (["task" | "steps" | "agent" | "inputs"], _) => None,
            (["task", name, ..], _)
                if early && TaskNames::ALL.contains(name) && !TaskNames::BEFORE_QUEUEING.contains(name) =>
            {
                Some(
                    Finding::error(span, format!("`{written}` is not known before the task is queued"))
                        .hint("here, expressions see `inputs`, `task.name` and `task.labels`"),
                )
            }
            (["task", name, ..], _) => one_of(name, &TaskNames::ALL),
            (["agent" | "steps", ..], Visible::BeforeQueueing) => Some(
                Finding::error(span, format!("`{written}` is not known before the task is queued"))
                    .hint("here, expressions see `inputs`, `task.name` and `task.labels`"),
            ),
            (["agent", name, ..], _) => one_of(name, &AgentNames::ALL),
            (["inputs", name, ..], _) => {
                let declared = self
                    .spec()
                    .and_then(|spec| spec.get("inputs"))
                    .map(Node::entries)
                    .unwrap_or_default();
                let known: Vec<&str> = declared.iter().map(|entry| entry.key.as_str()).collect();
                if known.contains(name) {
                    None
                } else {
                    unknown(
                        Finding::error(span, format!("the input `{name}` is not declared in `spec.inputs`")),
                        name,
                        &known,
                    )
                }
            }
            (["steps", name, rest @ ..], Visible::InStep { earlier, all }) => {
                let dashed = format!("{name}{}", reference.dash.as_deref().unwrap_or_default());
                if reference.dash.is_some() && all.contains(&dashed.as_str()) {
                    let message = format!("`steps.{dashed}` reads as a subtraction");
                    return Some(Finding::error(span, message).hint(format!("write `steps['{dashed}'].outputs.…`")));
                }
                if !earlier.contains(name) {
                    if all.contains(name) {
                        return Some(
                            Finding::error(span, format!("the step `{name}` has not run yet when this step runs"))
                                .hint("only earlier steps have outputs"),
                        );
                    }
                    return unknown(
                        Finding::error(span, format!("there is no step `{name}` before this one")),
                        name,
                        earlier,
                    );
                }
                match rest {
                    [] | ["outputs", ..] => None,
                    [other, ..] => Some(
                        Finding::error(span, format!("a step has no `{other}`"))
                            .hint(format!("write `steps{}.outputs.…`", member(name))),
                    ),
                }
            }
            ([name, ..], _) => unknown(
                Finding::error(span, format!("there is no `{name}` in expressions")),
                name,
                &["task", "steps", "agent", "inputs"],
            ),
            ([], _) => None,
        }
    }
}
