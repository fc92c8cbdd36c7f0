//! One rule of a policy file as it is shown to people.

use serde::Serialize;

/// A permit or a forbid, where it stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// Its `@id`, or `rule 3` for the third of a file.
    pub id: String,
    /// The line of the file on which it begins.
    pub line: usize,
    /// As written, with its white space folded.
    pub text: String,
    /// What it does when it applies.
    pub effect: RuleEffect,
}

/// What a rule does when it applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum RuleEffect {
    /// It allows, unless something forbids.
    Permit,
    /// It forbids, whatever permits.
    Forbid,
}

/// Longest text of a rule that is shown.
const SHOWN: usize = 600;

/// The text on one line.
pub(crate) fn fold(text: &str) -> String {
    let folded = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if folded.chars().count() <= SHOWN {
        return folded;
    }
    folded.chars().take(SHOWN).chain(['…']).collect()
}

/// The line, from 1, of an offset.
pub(crate) fn line(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().iter().take(offset);
    before.filter(|byte| **byte == b'\n').count() + 1
}
