//! What the readers of a journal know without it: the document, the inputs, and what steps are evaluated to from them.
//! A secret that is an ordinary word stands there too, and what a program acts on must be recorded as it is. Asked by
//! [`crate::host`] and [`crate::forward`], told by [`crate::arguments`].

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use deputy_steps::secrets::is_word;
use deputy_task::document::{Document, Inputs};
use serde::Serialize;
use serde_json::Value;

/// Texts of one attempt, as JSON.
#[derive(Debug)]
pub(crate) struct Known(Mutex<BTreeSet<String>>);

impl Known {
    /// What the manager has sent.
    pub(crate) fn of(document: &Document, inputs: &Inputs) -> Self {
        let known = Self(Mutex::default());
        known.add(document);
        known.add(inputs);
        known
    }

    /// More of it: made of what is known, and of no secret.
    pub(crate) fn add(&self, value: &impl Serialize) {
        if let Ok(text) = serde_json::to_string(value) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(text);
        }
    }

    /// Does it stand there?
    pub(crate) fn stands(&self, text: &str) -> bool {
        let quoted = Value::from(text).to_string();
        let bare = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
        let texts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        !bare.is_empty() && texts.iter().any(|text| text.contains(bare))
    }

    /// Does whoever reads it learn nothing?
    pub(crate) fn has(&self, text: &str) -> bool {
        is_word(text) || self.stands(text)
    }
}
