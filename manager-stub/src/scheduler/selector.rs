//! A task's selector over agent labels: the one place that asks the expression language.

use std::collections::BTreeMap;

use deputy_task::expression::evaluate_selector;

/// A selector that has been read.
#[derive(Debug, Clone, Default)]
pub struct Selector {
    text: String,
}

/// A selector cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the selector {text:?} cannot be read: {reason}")]
pub struct SelectorError {
    /// The selector.
    pub text: String,
    /// Why not.
    pub reason: String,
}

impl Selector {
    /// Reads a selector; the empty one matches every agent.
    ///
    /// # Errors
    /// If it is no expression.
    pub fn read(text: &str) -> Result<Self, SelectorError> {
        let text = text.trim();
        if !text.is_empty() {
            evaluate_selector(text, &BTreeMap::new()).map_err(|error| SelectorError {
                text: text.into(),
                reason: error.to_string(),
            })?;
        }
        Ok(Self { text: text.into() })
    }

    /// Does an agent with these labels match? A label that the agent does not have equals nothing.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.text.is_empty() || evaluate_selector(&self.text, labels).unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_compares_labels() {
        let labels = BTreeMap::from([
            ("env".to_owned(), "prod".to_owned()),
            ("pool".to_owned(), "eu".to_owned()),
        ]);
        for (text, expected) in [
            ("", true),
            ("env == 'prod' && pool == 'eu'", true),
            ("env == 'dev' || pool == 'eu'", true),
            ("env == 'dev'", false),
            ("missing == 'x'", false),
            ("pool in ['us', 'eu']", true),
        ] {
            assert_eq!(Selector::read(text).expect(text).matches(&labels), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        assert!(Selector::read("env == ").is_err());
    }
}
