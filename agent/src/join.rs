//! How this agent joins: whom it believes, what it shows, where it keeps what it gets. Reads the files that the
//! session may not read.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use deputy_credentials::Identities;
use deputy_credentials::join_proof::{self, ProofBinding};
use deputy_dial::authority::Authority;
use deputy_dial::url::Transport;
use deputy_session::held::Keeping;
use deputy_session::join_proof::{Challenge, JoinProof, ProofSource};
use deputy_session::membership::{AuthoritySource, Joining, Membership};
use deputy_task::id::AgentId;
use deputy_task::outcome::Failure;
use zeroize::Zeroizing;

use crate::config::checked::{Believed, Config, JoinBy};
use crate::config::raw::Mistake;
use crate::exit::StartupError;

/// Largest file of a token or of authorities.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// What the agent is to its manager.
///
/// # Errors
/// If the authority cannot be used.
pub(crate) fn membership(
    config: &Config,
    agent_id: &AgentId,
    keeping: Keeping,
    identities: &Identities,
) -> Result<Membership, StartupError> {
    let joining = match (config.manager.transport(), &config.believed) {
        (Transport::Clear, _) | (Transport::Tls, None) => None,
        (Transport::Tls, Some(believed)) => {
            let authority = authority(believed.clone());
            authority().map_err(|problem| {
                StartupError::Config(vec![Mistake {
                    place: believed.to_string(),
                    problem,
                }])
            })?;
            Some(Joining {
                authority,
                trust_domain: config.trust_domain.clone(),
                proof: proof(&config.join, identities),
                keeping,
            })
        }
    };
    Ok(Membership::new(
        config.manager.clone(),
        agent_id.clone(),
        (config.proxy.clone(), config.connect_timeout, config.transport),
        joining,
    ))
}

/// A file is read before every connection: one that was replaced counts from the next on.
fn authority(believed: Believed) -> AuthoritySource {
    Arc::new(move || match &believed {
        Believed::Pin(pin) => Authority::from_pin(pin).map_err(|error| error.to_string()),
        Believed::File(path) => {
            let pem = read(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
            Authority::from_pem(&pem).map_err(|error| format!("{}: {error}", path.display()))
        }
    })
}

/// What it would show, if it has anything.
pub(crate) fn proof(join: &JoinBy, identities: &Identities) -> Option<Arc<dyn ProofSource>> {
    match join {
        JoinBy::Nothing => None,
        JoinBy::Token(token) => Some(Arc::new(TokenText(token.clone()))),
        JoinBy::TokenFile(path) => Some(Arc::new(TokenFile(path.clone()))),
        JoinBy::Aws => Some(Arc::new(AwsIdentity(identities.clone()))),
        JoinBy::Kubernetes(path) => Some(Arc::new(ServiceAccount(path.clone()))),
    }
}

/// A join token that was given as text.
struct TokenText(Zeroizing<String>);

/// A join token in a file, which may come later than the agent.
struct TokenFile(PathBuf);

#[async_trait]
impl ProofSource for TokenText {
    async fn proof(&self, _: &Challenge) -> Result<JoinProof, String> {
        Ok(JoinProof::Token(self.0.to_string()))
    }

    fn lasts(&self) -> bool {
        false
    }
}

#[async_trait]
impl ProofSource for TokenFile {
    async fn proof(&self, _: &Challenge) -> Result<JoinProof, String> {
        let bad = |why: String| format!("the join token's file {} {why}", self.0.display());
        let bytes = read(&self.0).map_err(|error| bad(format!("cannot be read: {error}")))?;
        let text = String::from_utf8(bytes).map_err(|_| bad("is no text".into()))?;
        match text.trim() {
            "" => Err(bad("is empty".into())),
            token => Ok(JoinProof::Token(token.to_owned())),
        }
    }

    fn lasts(&self) -> bool {
        false
    }
}

/// The agent's own AWS identity, which signs for STS in its region.
struct AwsIdentity(Identities);

#[async_trait]
impl ProofSource for AwsIdentity {
    async fn proof(&self, challenge: &Challenge) -> Result<JoinProof, String> {
        let identity = self.0.own().map_err(|error| told(&error.failure()))?;
        let binding = ProofBinding {
            nonce: &challenge.nonce,
            trust_domain: &challenge.trust_domain,
            csr_sha256: challenge.csr_sha256,
        };
        let signed = join_proof::aws_identity(&identity, &binding).await;
        let signed = signed.map_err(|failure| told(&failure))?;
        Ok(JoinProof::AwsIdentity {
            host: signed.host,
            authorization: signed.authorization,
            amz_date: signed.amz_date,
            security_token: signed.security_token,
        })
    }

    fn lasts(&self) -> bool {
        true
    }
}

/// The token of the pod's service account, which the kubelet renews.
struct ServiceAccount(PathBuf);

#[async_trait]
impl ProofSource for ServiceAccount {
    async fn proof(&self, _: &Challenge) -> Result<JoinProof, String> {
        let token = join_proof::service_account_token(&self.0);
        token.map(JoinProof::Kubernetes).map_err(|failure| told(&failure))
    }

    fn lasts(&self) -> bool {
        true
    }
}

fn told(failure: &Failure) -> String {
    if failure.hint.is_empty() {
        failure.summary.clone()
    } else {
        format!("{}; {}", failure.summary, failure.hint)
    }
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path)?;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, MAX_FILE_BYTES), &mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_token_file_is_read_when_it_is_needed_and_may_come_late() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        let source = TokenFile(path.clone());
        let challenge = Challenge {
            nonce: Vec::new(),
            trust_domain: String::new(),
            csr_sha256: [0; 32],
        };
        let said = |proof: Result<JoinProof, String>| proof.err().unwrap_or_default();
        assert!(said(source.proof(&challenge).await).contains("cannot be read"));
        std::fs::write(&path, "\n").expect("written");
        assert!(said(source.proof(&challenge).await).contains("is empty"));
        std::fs::write(&path, "dpj_1_2\n").expect("written");
        assert!(source.proof(&challenge).await == Ok(JoinProof::Token("dpj_1_2".into())));
    }
}
