//! The canonical form of a checked task: what the manager stores and the agent reads. Made once,
//! by [`super::read`]; who believes whoever wrote it reads it here, and everybody else in [`super::recheck`].

use serde::{Deserialize, Serialize};

use super::model::{Document, Inputs};
use crate::signed::Signed;

/// A document that has passed every check, with the values of its inputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Checked {
    /// The document. What can be known before queueing is resolved in it: everything outside the steps.
    pub document: Document,
    /// The values of `spec.inputs`, after defaults and checks.
    pub inputs: Inputs,
    /// As it was signed, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<Box<Signed>>,
}

/// Most bytes of a canonical document, inputs and signature included: it goes to an agent in one frame, with the journal.
pub const MAX_CANONICAL_BYTES: usize = 8 * 1024 * 1024;

/// Bytes that should be a canonical document are not.
#[derive(Debug, thiserror::Error)]
#[error("not a canonical task document")]
pub struct NotCanonical(#[source] serde_json::Error);

/// The canonical JSON of a checked task.
///
/// # Errors
/// Never for what [`super::read`] has made; a type whose serialisation fails is reported, not hidden.
pub fn to_canonical(checked: &Checked) -> Result<Vec<u8>, NotCanonical> {
    serde_json::to_vec(checked).map_err(NotCanonical)
}

/// Reads canonical JSON without a check: for what this program wrote itself, or only shows.
///
/// # Errors
/// If the bytes are none: they were made by another version, or not by [`to_canonical`].
pub fn decode_canonical(bytes: &[u8]) -> Result<Checked, NotCanonical> {
    serde_json::from_slice(bytes).map_err(NotCanonical)
}
