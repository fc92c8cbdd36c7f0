//! Why an agent may join: what whoever knows the environment gives to the session, which only carries it.

use async_trait::async_trait;

/// What a proof must be bound to.
#[derive(Debug, Clone)]
pub struct Challenge {
    /// From the manager.
    pub nonce: Vec<u8>,
    /// The manager's.
    pub trust_domain: String,
    /// Of the certificate signing request.
    pub csr_sha256: [u8; 32],
}

/// Why the agent may join.
#[derive(Clone, PartialEq, Eq)]
pub enum JoinProof {
    /// A join token.
    Token(String),
    /// The headers of a signed GetCallerIdentity request.
    AwsIdentity {
        /// The STS host that was signed.
        host: String,
        /// `Authorization`.
        authorization: String,
        /// `X-Amz-Date`.
        amz_date: String,
        /// `X-Amz-Security-Token`, or empty.
        security_token: String,
    },
    /// A service-account token.
    Kubernetes(String),
}

/// Where proofs come from. Tokens, and an environment that says who the agent is.
#[async_trait]
pub trait ProofSource: Send + Sync {
    /// A proof for this challenge.
    ///
    /// # Errors
    /// Why there is none, for people.
    async fn proof(&self, challenge: &Challenge) -> Result<JoinProof, String>;

    /// Can it be given again and again? A join token is used up by joining.
    fn lasts(&self) -> bool;
}
