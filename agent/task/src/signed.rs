//! A signed task: the document as it was written, and what else its signature is over. Whoever
//! signs and whoever verifies makes the same statement from it; the cryptography is elsewhere.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The first line of a statement: it names its version, and is no beginning of anything else that is signed.
const DOMAIN: &str = "deputy.dev/task-signature/v1";

/// Longest text of one line.
const MAX_WORD_BYTES: usize = 256;

/// What a signer vouches for, with the signature. Kept by the manager as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Signed {
    /// The document as it was written.
    pub document: String,
    /// The values of its inputs as they were given, a JSON object.
    pub inputs: String,
    /// SHA-256 of each bundle by the name of its source, lower-case hex.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bundles: BTreeMap<String, String>,
    /// The tenant.
    pub project: String,
    /// The submission.
    pub request: String,
    /// Unix seconds after which nobody is to start from it.
    pub not_after: u64,
    /// Over [`Signed::statement`], as Ed25519 or ECDSA P-256 with SHA-256 (ASN.1) makes it; lower-case hex.
    pub signature: String,
}

/// A task cannot be signed, because a word of it would not stay one word of the statement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} cannot be signed: 1 to {MAX_WORD_BYTES} visible characters without spaces are needed")]
pub struct Unsignable {
    what: &'static str,
    value: String,
}

impl Signed {
    /// The bytes that are signed: one line for each fact, digests for what is long.
    ///
    /// # Errors
    /// A word has spaces or line ends, so that two tasks could have one statement.
    pub fn statement(&self) -> Result<Vec<u8>, Unsignable> {
        let mut text = format!("{DOMAIN}\n");
        let mut line = |what: &'static str, value: &str| {
            let good =
                !value.is_empty() && value.len() <= MAX_WORD_BYTES && value.chars().all(|c| c.is_ascii_graphic());
            if !good {
                let value = value.chars().take(40).collect();
                return Err(Unsignable { what, value });
            }
            let _ = writeln!(text, "{what} {value}");
            Ok(())
        };
        line("document", &digest(&self.document))?;
        line("inputs", &digest(&self.inputs))?;
        line("project", &self.project)?;
        line("request", &self.request)?;
        line("notAfter", &self.not_after.to_string())?;
        for (name, sha256) in &self.bundles {
            line("bundle", name)?;
            line("sha256", sha256)?;
        }
        Ok(text.into_bytes())
    }
}

fn digest(text: &str) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed() -> Signed {
        Signed {
            document: "kind: Task\n".into(),
            inputs: "{}".into(),
            bundles: BTreeMap::from([("app".into(), "00ff".into())]),
            project: "shop".into(),
            request: "r-1".into(),
            not_after: 1_800_000_000,
            signature: String::new(),
        }
    }

    #[test]
    fn a_statement_has_every_fact_and_no_two_tasks_have_the_same() {
        let statement = signed().statement().expect("signable");
        insta::assert_snapshot!(String::from_utf8_lossy(&statement), @r"
        deputy.dev/task-signature/v1
        document sha256:cccbd06e37bd4995c6bef8beb3b13778f46ac1a60faa1d8e1afa03adf0abaa82
        inputs sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a
        project shop
        request r-1
        notAfter 1800000000
        bundle app
        sha256 00ff
        ");
        let changes: [fn(&mut Signed); 6] = [
            |task| task.document.push(' '),
            |task| task.inputs.push(' '),
            |task| task.project.push('x'),
            |task| task.request.push('x'),
            |task| task.not_after += 1,
            |task| drop(task.bundles.insert("app".into(), "ff00".into())),
        ];
        for change in changes {
            let mut other = signed();
            change(&mut other);
            assert_ne!(other.statement().expect("signable"), statement);
        }
        let mut forged = signed();
        forged.request = "r-1\nnotAfter 9".into();
        assert!(forged.statement().is_err());
    }
}
