//! What of a step's arguments comes from secret outputs, and what stands for it in a plan. Made by
//! [`crate::arguments`], applied by [`crate::host`] where a program asks for something to plan with.
//!
//! A plan is digested, and every attempt of a run must come to the same digest. So this must never
//! depend on what the redactor of an attempt happens to know: only on the expressions of the step.

use deputy_task::document::StepKind;
use serde_json::Value;

/// Texts of a step that were made of secret outputs, each with what stands for it.
#[derive(Debug, Default)]
pub(crate) struct Hidden(Vec<(String, String)>);

impl Hidden {
    /// The texts of `real` that are others in `named`, where secret outputs have their names as values.
    pub(crate) fn between(real: &StepKind, named: &StepKind) -> Self {
        let tree = |kind: &StepKind| serde_json::to_value(kind).unwrap_or_default();
        let mut pairs = Vec::new();
        compare(&tree(real), &tree(named), &mut pairs);
        Self::of(pairs)
    }

    /// These texts, each with what stands for it.
    pub(crate) fn of(mut pairs: Vec<(String, String)>) -> Self {
        pairs.retain(|(real, _)| !real.is_empty());
        // A text within another must not spoil it.
        pairs.sort_unstable_by(|(one, _), (other, _)| other.len().cmp(&one.len()).then_with(|| one.cmp(other)));
        pairs.dedup_by(|(one, _), (other, _)| one == other);
        Self(pairs)
    }

    /// `text` with what stands for the secret ones.
    pub(crate) fn mask(&self, text: &str) -> String {
        let pairs = self.0.iter();
        pairs.fold(text.to_owned(), |text, (real, name)| text.replace(real, name))
    }
}

fn compare(real: &Value, named: &Value, pairs: &mut Vec<(String, String)>) {
    match (real, named) {
        (Value::String(real), Value::String(named)) if real != named => pairs.push((real.clone(), named.clone())),
        (Value::Array(real), Value::Array(named)) => {
            let both = real.iter().zip(named);
            both.for_each(|(real, named)| compare(real, named, pairs));
        }
        (Value::Object(real), Value::Object(named)) => {
            let both = real.iter().filter_map(|(key, real)| Some((real, named.get(key)?)));
            both.for_each(|(real, named)| compare(real, named, pairs));
        }
        _ => {}
    }
}
