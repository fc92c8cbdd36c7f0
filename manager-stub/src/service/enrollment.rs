//! The `Enrollment` service: a proof and a signing request in, a certificate out. The only service without credentials;
//! everything in a request is hostile until it is proved.

use std::time::SystemTime;

use deputy_proto::v1;
use deputy_proto::v1::enrollment_server::Enrollment;
use deputy_proto::v1::join_request::Proof;
use deputy_task::id::AgentId;
use sha2::{Digest, Sha256};
use tonic::{Code, Request, Response, Status};

use super::context::Context;
use super::trust::not_done;
use crate::auth::gate::{CERTIFICATE_REFUSED, marked};
use crate::join::signed_identity::SignedIdentity;
use crate::join::unproven::{Unproven, UnprovenKind};
use crate::join::{Binding, Proven, RuleProof};
use crate::registry::{Admission, Joining};
use crate::trust::authority::{SigningRequest, millis, unix_now};
use crate::trust::nonces::BadNonce;
use crate::trust::peer::{self, PeerName};

/// The header of a refusal to who only asks: it is this manager's own, and nobody's on the way.
const JOIN_REFUSED: &str = "deputy-join-refused";

/// What a renewal of an expired certificate signs, before trust domain, nonce and digest.
const RENEW_EXPIRED: &[u8] = b"deputy renew-expired v1\0";

/// An expired certificate that may be exchanged.
struct Exchange {
    signing: SigningRequest,
    agent_id: AgentId,
    serial: String,
    line: String,
    admission: Admission,
}

/// See the module.
#[derive(Clone)]
pub struct EnrollmentService {
    context: Context,
}

impl EnrollmentService {
    /// A service over this context.
    #[must_use]
    pub const fn new(context: Context) -> Self {
        Self { context }
    }

    fn check_nonce(&self, nonce: &[u8]) -> Result<(), Status> {
        self.context.trust.nonces.check(nonce, unix_now()).map_err(bad_nonce)
    }

    /// Only a join that is let in uses a nonce up: what is made up by strangers, or by who was let in once, must not fill
    /// their memory.
    fn take_nonce(&self, nonce: &[u8]) -> Result<(), Status> {
        self.context.trust.nonces.take(nonce, unix_now()).map_err(bad_nonce)
    }

    /// Whom the manager would take in, with which key. The challenge stays good.
    async fn proved(&self, request: v1::JoinRequest) -> Result<(SigningRequest, Joining), Status> {
        let v1::JoinRequest {
            csr,
            agent_id,
            nonce,
            proof,
            before,
        } = request;
        self.check_nonce(&nonce)?;
        let agent_id: AgentId = agent_id
            .parse()
            .map_err(|error: deputy_task::id::BadId| Status::invalid_argument(error.to_string()))?;
        let signing = SigningRequest::read(&csr).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let proof = proof.ok_or_else(|| Status::invalid_argument("a join needs a proof"))?;
        let binding = Binding {
            nonce: nonce.to_vec(),
            trust_domain: self.context.trust.authority.trust_domain().into(),
            csr_sha256: Sha256::digest(&csr).into(),
        };
        let (proven, token) = self.prove(proof, &agent_id, &binding).await.map_err(|refusal| {
            tracing::warn!(agent.id = %agent_id, why = %refusal, "a join was refused");
            match refusal.kind {
                UnprovenKind::Denied => Status::permission_denied(refusal.to_string()),
                UnprovenKind::Later => Status::unavailable(refusal.to_string()),
            }
        })?;
        let joining = Joining {
            line: self.line_shown(&before, &agent_id, &signing.key),
            agent_id,
            subject: proven.subject,
            rule: proven.rule,
            token,
        };
        self.context
            .registry
            .may_join(&joining, &signing.key)
            .await
            .map_err(|error| {
                tracing::warn!(agent.id = %joining.agent_id, why = %error, "a join was refused");
                not_done(error)
            })?;
        Ok((signing, joining))
    }

    /// The line of keys that a certificate of ours gives to this key of this agent. Whoever signed the request has the key.
    fn line_shown(&self, leaf: &[u8], agent_id: &AgentId, key: &str) -> Option<String> {
        let authority = &self.context.trust.authority;
        authority.key_of(leaf)?;
        let shown = peer::read(leaf, authority.trust_domain())?;
        let is_its = matches!(&shown.name, PeerName::Agent { agent, .. } if agent == agent_id.as_str());
        (is_its && shown.key == key && !shown.line.is_empty()).then_some(shown.line)
    }

    /// Which rule lets whom in. One arm per kind of proof.
    async fn prove(
        &self,
        proof: Proof,
        agent_id: &AgentId,
        binding: &Binding,
    ) -> Result<(Proven, Option<String>), Unproven> {
        let (proofs, registry) = (&self.context.proofs, &self.context.registry);
        let now = SystemTime::now();
        match proof {
            Proof::Token(v1::TokenProof { token }) => {
                let (rule, id) = registry.join_token(&token).map_err(|why| Unproven::denied(why, ""))?;
                let subject = format!("token:{}", rule.name);
                Ok((Proven { rule, subject }, Some(id)))
            }
            Proof::AwsIdentity(proof) => {
                let proof = SignedIdentity {
                    host: &proof.host,
                    authorization: &proof.authorization,
                    amz_date: &proof.amz_date,
                    security_token: &proof.security_token,
                };
                let rules = registry.rules_for(agent_id, |proof| matches!(proof, RuleProof::AwsIdentity { .. }));
                let proven = proofs.aws.prove(&proof, binding, &rules, now).await?;
                Ok((proven, None))
            }
            Proof::Kubernetes(proof) => {
                let rules = registry.rules_for(agent_id, |proof| matches!(proof, RuleProof::Kubernetes(_)));
                let proven = proofs
                    .kubernetes
                    .prove(&proof.token, &binding.trust_domain, &rules, now);
                Ok((proven.await?, None))
            }
        }
    }

    /// What `CheckJoin` answers.
    async fn checked(&self, request: v1::CheckJoinRequest) -> Result<v1::CheckJoinResponse, Status> {
        let (pool, join_rule) = match (request.join, request.renew_expired) {
            (Some(join), _) => {
                let (_, joining) = self.proved(join).await?;
                (joining.rule.pool, joining.rule.name)
            }
            (None, Some(renewal)) => {
                let Admission { pool, rule, .. } = self.exchangeable(renewal)?.admission;
                (pool, rule)
            }
            (None, None) => return Err(Status::invalid_argument("there is no join in it")),
        };
        Ok(v1::CheckJoinResponse { pool, join_rule })
    }

    /// Whose expired certificate may be exchanged, for which key. The challenge stays good.
    fn exchangeable(&self, request: v1::RenewExpiredRequest) -> Result<Exchange, Status> {
        let v1::RenewExpiredRequest {
            csr,
            nonce,
            expired_leaf,
            signature,
        } = request;
        self.check_nonce(&nonce)?;
        let signing = SigningRequest::read(&csr).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let authority = &self.context.trust.authority;
        // The agent then joins by its proof, if it has one.
        let denied = |why: String| marked(Status::permission_denied(why), CERTIFICATE_REFUSED);
        let key = authority
            .key_of(&expired_leaf)
            .ok_or_else(|| denied("the expired certificate is not from this manager's authority".into()))?;
        let mut signed = RENEW_EXPIRED.to_vec();
        signed.extend(authority.trust_domain().as_bytes());
        signed.push(0);
        signed.extend(&nonce);
        signed.extend(Sha256::digest(&csr));
        aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1, key)
            .verify(&signed, &signature)
            .map_err(|_| denied("the signature is not by the key of the expired certificate".into()))?;
        let expired = peer::read(&expired_leaf, authority.trust_domain());
        let Some((serial, PeerName::Agent { agent, .. })) = expired.map(|expired| (expired.serial, expired.name))
        else {
            return Err(denied(
                "the expired certificate names no agent of this trust domain".into(),
            ));
        };
        let (line, admission) = self.context.registry.expired(&agent, &serial).map_err(denied)?;
        let agent_id: AgentId = agent
            .parse()
            .map_err(|_| denied("the expired certificate names no agent id".into()))?;
        Ok(Exchange {
            signing,
            agent_id,
            serial,
            line,
            admission,
        })
    }
}

fn bad_nonce(error: BadNonce) -> Status {
    match error {
        BadNonce::Busy => Status::resource_exhausted(error.to_string()),
        BadNonce::Foreign | BadNonce::Old | BadNonce::Used => Status::failed_precondition(error.to_string()),
    }
}

#[tonic::async_trait]
impl Enrollment for EnrollmentService {
    async fn challenge(&self, _: Request<v1::ChallengeRequest>) -> Result<Response<v1::ChallengeResponse>, Status> {
        let trust = &self.context.trust;
        let now = unix_now();
        Ok(Response::new(v1::ChallengeResponse {
            nonce: trust.nonces.make(now).into(),
            trust_domain: trust.authority.trust_domain().into(),
            server_time_ms: millis(now),
        }))
    }

    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::JoinResponse>, Status> {
        let request = request.into_inner();
        let nonce = request.nonce.clone();
        let (signing, joining) = self.proved(request).await?;
        self.take_nonce(&nonce)?;
        let agent_id = joining.agent_id.clone();
        let line = self.context.registry.line_to_join(&joining, &signing.key);
        let issued = self.context.sign(&signing, (&joining.rule.pool, &agent_id), &line)?;
        let joined = self.context.registry.join(joining.clone(), &issued).await;
        joined.map_err(|error| {
            tracing::warn!(agent.id = %agent_id, why = %error, "a join was refused");
            not_done(error)
        })?;
        tracing::info!(
            agent.id = %agent_id, subject = joining.subject, rule = joining.rule.name, serial = issued.serial,
            "an agent joined"
        );
        let certificate = self
            .context
            .wire(issued, &agent_id, &joining.rule.pool, &joining.rule.name);
        Ok(Response::new(v1::JoinResponse {
            certificate: Some(certificate),
        }))
    }

    async fn check_join(
        &self,
        request: Request<v1::CheckJoinRequest>,
    ) -> Result<Response<v1::CheckJoinResponse>, Status> {
        let checked = self.checked(request.into_inner()).await;
        checked.map(Response::new).map_err(|status| {
            if matches!(status.code(), Code::PermissionDenied | Code::NotFound) {
                marked(status, JOIN_REFUSED)
            } else {
                status
            }
        })
    }

    async fn renew_expired(
        &self,
        request: Request<v1::RenewExpiredRequest>,
    ) -> Result<Response<v1::RenewExpiredResponse>, Status> {
        let request = request.into_inner();
        let nonce = request.nonce.clone();
        let Exchange {
            signing,
            agent_id,
            serial,
            line,
            admission: Admission { rule, pool, .. },
        } = self.exchangeable(request)?;
        self.take_nonce(&nonce)?;
        let issued = self.context.sign(&signing, (&pool, &agent_id), &line)?;
        let renewed = self
            .context
            .registry
            .renew_expired(agent_id.as_str(), &serial, &issued)
            .await;
        renewed.map_err(not_done)?;
        tracing::info!(agent.id = %agent_id, before = serial, serial = issued.serial, "an expired certificate was renewed");
        Ok(Response::new(v1::RenewExpiredResponse {
            certificate: Some(self.context.wire(issued, &agent_id, &pool, &rule)),
        }))
    }
}
