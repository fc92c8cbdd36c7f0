//! Who may join: rules that an administrator writes, and one check per kind of proof. The checks know nothing of
//! certificates; who asks them gives one to whom they let in.

pub mod aws_identity;
pub mod kubernetes;
mod rule;
pub mod service_account_rule;
pub mod signed_identity;
mod aws_principal;
pub mod sts_host;
pub mod key_sets;
pub mod unproven;

pub use rule::{JoinRule, RuleProof};

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
    /// `kubernetes:https://issuer:deputy/agent`, `token:ID`. An agent id belongs to the subject that took it first.
    pub subject: String,
}

/// A proof was not good. The text is for the agent's operator and holds nothing that was not in the proof.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);
