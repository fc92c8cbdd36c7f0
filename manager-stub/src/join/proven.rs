//! What a proof must be bound to, and what a good one proves.

use super::rule::JoinRule;

/// What a proof must be bound to, so that it is good for this manager, this moment and this key only.
#[derive(Debug, Clone)]
pub struct Binding {
    /// From a challenge, not used before.
    pub nonce: Vec<u8>,
    /// This manager's.
    pub trust_domain: String,
    /// Of the certificate signing request, DER.
    pub csr_sha256: [u8; 32],
}

/// A proof was good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// The rule that it matched.
    pub rule: JoinRule,
    /// Who the agent is, in the words of the proof: `aws:222222222222:role/deputy`,
    /// `kubernetes:RULE:https://issuer:deputy/agent`, `token:RULE`. An agent id belongs to the subject that took it first.
    /// A rule is in it where only the rule says whose word the proof is: clusters may have the same issuer.
    pub subject: String,
}
