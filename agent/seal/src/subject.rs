//! What a run is of: every key of a run is derived from it, so that a journal proves something for one task
//! and no other, whatever id the manager hands it out under.

use std::collections::BTreeMap;

use deputy_task::attempt::AttemptRef;

use crate::canonical::Bytes;

/// What the agents of a pool run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A task for which they found a good signature: the statement that was signed. It names the document, the
    /// inputs, the bundles and the time.
    Signed(Vec<u8>),
    /// Any other: what the manager sends.
    Sent {
        /// SHA-256 of the document with its inputs.
        document: String,
        /// SHA-256 of each bundle, by the name of its source.
        bundles: BTreeMap<String, String>,
    },
}

impl Subject {
    /// The bytes that tell a run: neither the attempt nor the agent.
    pub(crate) fn of_run(&self, attempt: &AttemptRef) -> Vec<u8> {
        let run = Bytes::default()
            .text(attempt.project.as_str())
            .text(attempt.task.as_str())
            .number(attempt.run.into());
        match self {
            Self::Signed(statement) => run.text("signed").field(statement),
            Self::Sent { document, bundles } => bundles
                .iter()
                .fold(run.text("sent").text(document), |bytes, (name, sha256)| {
                    bytes.text(name).text(sha256)
                }),
        }
        .done()
    }
}
