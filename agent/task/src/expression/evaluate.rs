//! Evaluates the expressions in strings and trees. Called by the document's reader for what is
//! resolved before queueing, and by the executor when a step begins. A string without `${{` costs
//! a search and nothing else.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use minijinja::value::{Serde, Value as Engine};
use serde_json::Value;

use super::engine::{ExpressionError, MAX_RESULT_BYTES, Undefined, evaluate};
use super::reference::mentions;
use super::scope::Scope;
use super::segment::{OPEN, Segment, split};

/// The tree with every string evaluated. A string that is exactly one expression becomes the
/// expression's value with its type; any other is put together as text.
///
/// # Errors
/// The first expression that cannot be read or has no value.
pub fn evaluate_tree(tree: &Value, scope: &Scope) -> Result<Value, ExpressionError> {
    Names::of(scope).tree(tree)
}

/// The text with its expressions filled in; numbers and booleans are written as in JSON.
///
/// # Errors
/// The first expression that cannot be read or has no value.
pub fn evaluate_text(text: &str, scope: &Scope) -> Result<String, ExpressionError> {
    Names::of(scope).text(text)
}

/// The truth of a `when`: a bare expression, or one in `${{ … }}`, that comes to true or false.
///
/// # Errors
/// If it cannot be read, has no value, or its value is not a boolean.
pub fn evaluate_bool(when: &str, scope: &Scope) -> Result<bool, ExpressionError> {
    let source = bare(when);
    match Names::of(scope).expression(source)? {
        Value::Bool(truth) => Ok(truth),
        other => Err(ExpressionError::new(
            source,
            format!("must come to true or false, and is {other}"),
        )),
    }
}

/// Does an agent with these labels match? A bare expression over label names; a label the agent
/// does not have is empty; `labels['a.b/c']` reads those whose names are no identifiers. An empty
/// selector matches every agent.
///
/// # Errors
/// If it cannot be read or evaluated.
pub fn evaluate_selector(selector: &str, labels: &BTreeMap<String, String>) -> Result<bool, ExpressionError> {
    let source = bare(selector);
    if source.is_empty() {
        return Ok(true);
    }
    let mut names: BTreeMap<&str, Engine> = labels
        .iter()
        .map(|(name, value)| (name.as_str(), Engine::from(value.as_str())))
        .collect();
    names.insert("labels", Engine::from(Serde(labels)));
    Ok(evaluate(source, Engine::from(Serde(&names)), Undefined::Empty)?.is_true())
}

/// The expression of a field that is an expression by itself, with or without its braces.
pub(crate) fn bare(text: &str) -> &str {
    let text = text.trim();
    text.strip_prefix(OPEN)
        .and_then(|rest| rest.strip_suffix("}}"))
        .map_or(text, str::trim)
}

/// A scope, turned into engine values when the first expression asks.
struct Names<'a> {
    scope: &'a Scope,
    root: OnceCell<Engine>,
}

impl<'a> Names<'a> {
    fn of(scope: &'a Scope) -> Self {
        Self {
            scope,
            root: OnceCell::new(),
        }
    }

    fn tree(&self, tree: &Value) -> Result<Value, ExpressionError> {
        Ok(match tree {
            Value::String(text) if text.contains(OPEN) => self.typed(text)?,
            Value::Array(items) => Value::Array(items.iter().map(|item| self.tree(item)).collect::<Result<_, _>>()?),
            Value::Object(entries) => {
                let entries = entries.iter().map(|(key, value)| Ok((key.clone(), self.tree(value)?)));
                Value::Object(entries.collect::<Result<_, ExpressionError>>()?)
            }
            other => other.clone(),
        })
    }

    fn typed(&self, text: &str) -> Result<Value, ExpressionError> {
        match segments(text)?.as_slice() {
            [Segment::Expression { source, .. }] => self.expression(source),
            several => self.joined(several).map(Value::String),
        }
    }

    fn text(&self, text: &str) -> Result<String, ExpressionError> {
        if text.contains(OPEN) {
            self.joined(&segments(text)?)
        } else {
            Ok(text.to_owned())
        }
    }

    fn joined(&self, segments: &[Segment<'_>]) -> Result<String, ExpressionError> {
        let mut joined = String::new();
        for segment in segments {
            match segment {
                Segment::Text(text) => joined.push_str(text),
                Segment::Expression { source, .. } => match self.expression(source)? {
                    Value::String(text) => joined.push_str(&text),
                    Value::Null => {}
                    other => joined.push_str(&other.to_string()),
                },
            }
        }
        Ok(joined)
    }

    fn expression(&self, source: &str) -> Result<Value, ExpressionError> {
        let source = source.trim();
        let root = self.root.get_or_init(|| Engine::from(Serde(self.scope))).clone();
        let value = evaluate(source, root, Undefined::Refused).map_err(|error| self.explained(source, error))?;
        if value.is_undefined() {
            return Err(self.explained(source, ExpressionError::new(source, "has no value")));
        }
        let value = serde_json::to_value(&value)
            .map_err(|error| ExpressionError::new(source, format!("has a value that JSON cannot hold: {error}")))?;
        if size(&value) > MAX_RESULT_BYTES {
            return Err(ExpressionError::new(
                source,
                format!("has a value of more than {MAX_RESULT_BYTES} bytes"),
            ));
        }
        Ok(value)
    }

    /// Names the variable that is missing, and what there is instead.
    fn explained(&self, source: &str, error: ExpressionError) -> ExpressionError {
        let Ok(root) = serde_json::to_value(self.scope) else {
            return error;
        };
        for reference in mentions(source).variables {
            let mut place = &root;
            for (depth, name) in reference.path.iter().enumerate() {
                match place.get(name) {
                    Some(next) => place = next,
                    None => {
                        let known: Vec<&str> = place
                            .as_object()
                            .into_iter()
                            .flat_map(|map| map.keys().map(String::as_str))
                            .collect();
                        let parent = reference.path[..depth].join(".");
                        let known = if known.is_empty() {
                            "nothing".to_owned()
                        } else {
                            known.join(", ")
                        };
                        let place = if parent.is_empty() {
                            "there are".to_owned()
                        } else {
                            format!("{parent} has")
                        };
                        return ExpressionError::new(
                            source,
                            format!(
                                "has no value: {} is not defined; {place} {known}",
                                reference.path.join(".")
                            ),
                        );
                    }
                }
            }
        }
        error
    }
}

fn segments(text: &str) -> Result<Vec<Segment<'_>>, ExpressionError> {
    split(text).map_err(|unclosed| ExpressionError::new(&text[unclosed.0 + OPEN.len()..], "has no closing }}"))
}

fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Object(entries) => entries.iter().map(|(key, value)| key.len() + size(value)).sum(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::scope::StepNames;
    use super::*;

    fn scope() -> Scope {
        let mut scope = Scope::default();
        scope.task.name = "checkout".into();
        scope.inputs = json!({ "image": "app:1", "count": 3, "go": true, "tags": ["a", "b"] })
            .as_object()
            .cloned()
            .unwrap_or_default();
        let outputs = json!({ "url": "http://x" }).as_object().cloned().unwrap_or_default();
        scope.steps.insert("stage-1".into(), StepNames { outputs });
        scope
    }

    #[test]
    fn an_expression_that_is_a_whole_string_keeps_its_type() {
        let tree = json!({
            "count": "${{ inputs.count }}", "text": "n=${{ inputs.count }} ${{ inputs.go }}", "list": ["${{ inputs.tags }}"],
            "url": "${{ steps['stage-1'].outputs.url | upper }}", "plain": "${ {{ }}", "no": 1
        });
        assert_eq!(
            evaluate_tree(&tree, &scope()).expect("good"),
            json!({ "count": 3, "text": "n=3 true", "list": [["a", "b"]], "url": "HTTP://X", "plain": "${ {{ }}", "no": 1 })
        );
        assert_eq!(evaluate_text("${{ inputs.count }}", &scope()).expect("good"), "3");
    }

    #[test]
    fn a_missing_value_is_an_error_that_names_what_there_is() {
        let error = evaluate_text("${{ steps['stage-1'].outputs.uri }}", &scope()).expect_err("missing");
        insta::assert_snapshot!(error, @"${{ steps['stage-1'].outputs.uri }} has no value: steps.stage-1.outputs.uri is not defined; steps.stage-1.outputs has url");
        assert_eq!(
            evaluate_text("${{ inputs.nope | default('d') }}", &scope()).expect("default"),
            "d"
        );
    }

    #[test]
    fn when_must_come_to_a_boolean() {
        assert!(evaluate_bool("inputs.go and inputs.count > 2", &scope()).expect("good"));
        assert!(!evaluate_bool("${{ not inputs.go }}", &scope()).expect("good"));
        assert!(evaluate_bool("inputs.image", &scope()).is_err());
    }

    #[test]
    fn selectors_see_labels_and_take_missing_ones_as_empty() {
        let labels = BTreeMap::from([
            ("env".to_owned(), "prod".to_owned()),
            ("a.b/c".to_owned(), "1".to_owned()),
        ]);
        let matches = |selector: &str| evaluate_selector(selector, &labels).expect("good");
        assert!(matches("") && matches("env == 'prod' && pool != '&&'") && matches("!(env == 'x') || false"));
        assert!(matches("labels['a.b/c'] == '1'") && matches("env in ['prod', 'test']"));
        assert!(!matches("pool == 'eu'") && !matches("gpu"));
        assert!(evaluate_selector("env ==", &labels).is_err());
    }
}
