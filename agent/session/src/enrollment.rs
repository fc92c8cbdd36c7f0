//! The calls that make and exchange certificates. The key of a request is made here and never leaves; one that was
//! not answered is used again, after a restart too where it is kept, so that a join whose answer was lost takes no second
//! use of its token. Whoever joins again shows the key that it had: to the manager it is the same process then, with
//! everything that it holds.

use std::fmt;
use std::time::Duration;

use deputy_dial::dialer::{DialError, explain_chain};
use deputy_proto::v1;
use deputy_proto::v1::agent_client::AgentClient;
use deputy_proto::v1::enrollment_client::EnrollmentClient;
use deputy_task::id::AgentId;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, SigningKey};
use sha2::{Digest, Sha256};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use tracing::warn;
use zeroize::Zeroizing;

use crate::channel::{ManagerChannel, OpenError, Route};
use crate::held::{Keeper, WRITTEN_WITHIN};
use crate::identity::{Identity, unix_now};
use crate::join_proof::{Challenge, JoinProof, ProofSource};

/// The header of a refusal whose reason is the certificate.
pub(crate) const CERTIFICATE_REFUSED: &str = "deputy-certificate-refused";

/// The header of a refusal because another key has the agent's id: when to ask again, in milliseconds.
const AGENT_ID_IN_USE: &str = "deputy-agent-id-in-use";

/// The header of a refusal to who only asks whether it would be let in: the manager's own, and nobody's on the way.
const JOIN_REFUSED: &str = "deputy-join-refused";

/// The header of a call that only shows the certificate, and the header of the answer if it is taken.
const ONLY_SHOWN: &str = "deputy-only-shown";
const CERTIFICATE_TAKEN: &str = "deputy-certificate-taken";

/// What a renewal of an expired certificate signs, before trust domain, nonce and digest.
const RENEW_EXPIRED: &[u8] = b"deputy renew-expired v1\0";

/// Clocks may differ by so much. AWS refuses signatures from clocks that differ by more than this, and tokens of
/// Kubernetes clusters do not last much longer.
const MAX_SKEW: Duration = Duration::from_secs(5 * 60);

/// From here on it is told.
const MUCH_SKEW: Duration = Duration::from_secs(60);

/// There is no identity. Everything is tried again: what refuses may be corrected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JoinError {
    #[error("not joined yet")]
    NotYet,
    #[error("the manager's authority cannot be known: {0}")]
    Authority(String),
    #[error(
        "there is no proof to join with: give a join token with --join-token-file, or choose another way with --join"
    )]
    NoProof,
    #[error("cannot connect to join: {0}")]
    Dial(#[from] DialError),
    #[error("the join was not answered: {0}")]
    Call(String),
    #[error("cannot connect: {0}")]
    OtherProtocol(String),
    #[error("no answer within {0:?}")]
    Silent(Duration),
    #[error("the manager refused to let this agent join: {0}")]
    Refused(String),
    #[error("{why}")]
    InUse { why: String, again: Duration },
    #[error("the manager does not take the certificate: {0}")]
    Certificate(String),
    #[error("{0}")]
    Proof(String),
    #[error(
        "what a join token or an ended certificate is exchanged for has to be on disk before it is used, and is not: {0}; make room in the state folder"
    )]
    NotKept(String),
    #[error(
        "this machine's clock is {} {way} the manager's; with more than {} minutes nothing that is signed is believed: \
         set the clock (NTP)", minutes(*.by), MAX_SKEW.as_secs() / 60
    )]
    Clock { by: Duration, way: &'static str },
    #[error("the manager's trust domain is {found}, and this agent was told {expected}: it may be another manager")]
    TrustDomain { found: String, expected: String },
    #[error("what answered is no manager that says so, or an older one ({0})")]
    NotTold(String),
    #[error("the manager's answer makes no sense: {0}")]
    Malformed(String),
}

fn minutes(by: Duration) -> String {
    format!("{}m{:02}s", by.as_secs() / 60, by.as_secs() % 60)
}

impl JoinError {
    /// Did the manager itself say no?
    pub(crate) const fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}

/// What a manager says of itself to anybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// Its trust domain.
    pub trust_domain: String,
    /// How this machine's clock stands to its.
    pub clock: ClockDifference,
}

/// How far this machine's clock is from the manager's, at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockDifference {
    /// So far.
    pub by: Duration,
    /// `behind` or `ahead of`.
    pub way: &'static str,
}

impl ClockDifference {
    /// Is it more than goes unnoticed?
    #[must_use]
    pub fn is_much(&self) -> bool {
        self.by > MUCH_SKEW
    }
}

impl fmt::Display for ClockDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} the manager's", minutes(self.by), self.way)
    }
}

/// Who wants to join.
pub(crate) struct Who<'a> {
    pub(crate) agent_id: &'a AgentId,
    pub(crate) trust_domain: Option<&'a str>,
    /// For each call.
    pub(crate) within: Duration,
}

/// A key and its signing request, DER.
struct Request {
    key: KeyPair,
    csr: Vec<u8>,
    /// The last certificate of the key, DER; empty if it is new.
    before: Vec<u8>,
}

/// The request that was not answered yet.
pub(crate) struct Enrollment {
    open: Option<Request>,
}

impl Request {
    fn new() -> Result<Self, JoinError> {
        let failed = |error: rcgen::Error| JoinError::Malformed(format!("no key can be made: {error}"));
        Self::of(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?)
    }

    fn with_key_of(before: Option<&Identity>) -> Result<Self, JoinError> {
        match before {
            Some(before) => Ok(Self {
                before: before.chain.first().cloned().unwrap_or_default(),
                ..Self::of(kept_key(before)?)?
            }),
            None => Self::new(),
        }
    }

    fn of(key: KeyPair) -> Result<Self, JoinError> {
        let failed = |error: rcgen::Error| JoinError::Malformed(format!("no request can be made: {error}"));
        let params = CertificateParams::new(Vec::new()).map_err(failed)?;
        let csr = params.serialize_request(&key).map_err(failed)?.der().to_vec();
        Ok(Self {
            key,
            csr,
            before: Vec::new(),
        })
    }

    fn answered(self, certificate: Option<v1::IssuedCertificate>) -> Result<Identity, JoinError> {
        let issued = certificate.ok_or_else(|| JoinError::Malformed("there is no certificate in it".into()))?;
        let key = Zeroizing::new(self.key.serialize_der());
        Ok(Identity::new(issued, key, unix_now()))
    }
}

impl Enrollment {
    /// With the key of a join whose answer was not kept, if there is one.
    pub(crate) fn going_on(key: Option<Zeroizing<Vec<u8>>>) -> Self {
        let open = key.and_then(|key| match key_pair(&key).and_then(Request::of) {
            Ok(request) => Some(request),
            Err(error) => {
                warn!(%error, "the key of a join that was begun before is not used");
                None
            }
        });
        Self { open }
    }

    /// Joins by a proof, with the key of before if there was one. The key is kept before the manager is asked.
    pub(crate) async fn join(
        &mut self,
        route: &Route,
        who: &Who<'_>,
        ((source, before), keeper): ((&dyn ProofSource, Option<&Identity>), Option<&dyn Keeper>),
    ) -> Result<Identity, JoinError> {
        let (mut client, challenge, _) = challenged(route, who).await?;
        let request = match self.open.take() {
            Some(open) => self.open.insert(open),
            None => self.open.insert(Request::with_key_of(before)?),
        };
        if let Some(keeper) = keeper {
            keep_key(keeper, request, source).await?;
        }
        let join = proved(request, challenge, who, source).await?;
        let answer = within(who.within, client.join(join)).await?;
        let answered = self.open.take().map(|request| request.answered(answer.certificate));
        answered.unwrap_or(Err(JoinError::NotYet))
    }

    /// Exchanges an expired certificate.
    pub(crate) async fn renew_expired(
        &mut self,
        route: &Route,
        who: &Who<'_>,
        old: &Identity,
    ) -> Result<Identity, JoinError> {
        let (mut client, challenge, _) = challenged(route, who).await?;
        let request = Request::new()?;
        let renew = exchange(&request, challenge, old)?;
        let answer = within(who.within, client.renew_expired(renew)).await?;
        request.answered(answer.certificate)
    }

    /// Asks whether a join would be let in; takes nothing. Answers the pool and the rule.
    pub(crate) async fn check_join(
        &self,
        route: &Route,
        who: &Who<'_>,
        (source, before): (&dyn ProofSource, Option<&Identity>),
    ) -> Result<(String, String), JoinError> {
        let (client, challenge, _) = challenged(route, who).await?;
        let made;
        let request = match &self.open {
            Some(open) => open,
            None => {
                made = Request::with_key_of(before)?;
                &made
            }
        };
        let asked = v1::CheckJoinRequest {
            join: Some(proved(request, challenge, who, source).await?),
            renew_expired: None,
        };
        checked(client, who, asked).await
    }
}

/// Without its key on disk, an agent that is killed before it has its certificate there would need its token once more.
async fn keep_key(keeper: &dyn Keeper, request: &Request, source: &dyn ProofSource) -> Result<(), JoinError> {
    let key = Zeroizing::new(request.key.serialize_der());
    let kept = tokio::time::timeout(WRITTEN_WITHIN, keeper.keep_key(key)).await;
    let kept = kept.unwrap_or_else(|_| Err(format!("the disk has not answered within {WRITTEN_WITHIN:?}")));
    match kept {
        Err(why) if source.lasts() => {
            warn!(%why, "the key to join with is not on disk; the proof can be given again");
            Ok(())
        }
        kept => kept.map_err(JoinError::NotKept),
    }
}

/// What the manager says of itself, after it was checked.
pub(crate) async fn greet(route: &Route, who: &Who<'_>) -> Result<Greeting, JoinError> {
    let (_, challenge, clock) = challenged(route, who).await?;
    Ok(Greeting {
        trust_domain: challenge.trust_domain,
        clock,
    })
}

/// Asks whether an expired certificate would be exchanged; takes nothing. Answers the pool and the rule.
pub(crate) async fn check_renewal(route: &Route, who: &Who<'_>, old: &Identity) -> Result<(String, String), JoinError> {
    let (client, challenge, _) = challenged(route, who).await?;
    let asked = v1::CheckJoinRequest {
        join: None,
        renew_expired: Some(exchange(&Request::new()?, challenge, old)?),
    };
    checked(client, who, asked).await
}

async fn checked(
    mut client: EnrollmentClient<ManagerChannel>,
    who: &Who<'_>,
    asked: v1::CheckJoinRequest,
) -> Result<(String, String), JoinError> {
    let answer = tokio::time::timeout(who.within, client.check_join(asked)).await;
    match answer.map_err(|_| JoinError::Silent(who.within))? {
        Ok(answer) => {
            let v1::CheckJoinResponse { pool, join_rule } = answer.into_inner();
            Ok((pool, join_rule))
        }
        Err(status) => Err(failed_check(&status)),
    }
}

/// A proxy that refuses says nothing about the join.
fn failed_check(status: &Status) -> JoinError {
    let is_own = status.metadata().contains_key(JOIN_REFUSED);
    match failed(status) {
        JoinError::Refused(_) if !is_own => JoinError::NotTold(crate::status::status_text(status)),
        JoinError::Call(said) if status.code() == Code::Unimplemented => JoinError::NotTold(said),
        error => error,
    }
}

/// Shows a certificate in a call that changes nothing and counts as no use; refused if the manager does not take it.
pub(crate) async fn show(route: &Route, within: Duration) -> Result<(), JoinError> {
    let (channel, _) = route.open(within).await.map_err(not_opened)?;
    let mut client = AgentClient::with_origin(channel, route.origin());
    // To a manager that does not know the header it is a file that no agent has.
    let mut shown = tonic::Request::new(v1::FetchBlobRequest::default());
    shown.metadata_mut().insert(ONLY_SHOWN, MetadataValue::from_static("1"));
    let asked = tokio::time::timeout(within, client.fetch_blob(shown)).await;
    match asked.map_err(|_| JoinError::Silent(within))? {
        Ok(_) => Err(JoinError::NotTold("it sends a file that has no name".into())),
        Err(status) => is_taken(&status),
    }
}

/// Only the manager's own mark says that it takes a certificate.
fn is_taken(status: &Status) -> Result<(), JoinError> {
    if status.metadata().contains_key(CERTIFICATE_TAKEN) {
        return Ok(());
    }
    Err(match failed(status) {
        JoinError::Refused(_) => JoinError::NotTold(crate::status::status_text(status)),
        error => error,
    })
}

/// The exchange of an expired certificate, signed with its key and bound to this challenge.
fn exchange(
    request: &Request,
    challenge: v1::ChallengeResponse,
    old: &Identity,
) -> Result<v1::RenewExpiredRequest, JoinError> {
    let mut signed = RENEW_EXPIRED.to_vec();
    signed.extend(challenge.trust_domain.as_bytes());
    signed.push(0);
    signed.extend(&challenge.nonce);
    signed.extend(Sha256::digest(&request.csr));
    Ok(v1::RenewExpiredRequest {
        csr: request.csr.clone().into(),
        nonce: challenge.nonce,
        expired_leaf: old.chain.first().cloned().unwrap_or_default().into(),
        signature: kept_key(old)?.sign(&signed).map_err(unusable)?.into(),
    })
}

/// A join with a proof that is bound to this challenge.
async fn proved(
    request: &Request,
    challenge: v1::ChallengeResponse,
    who: &Who<'_>,
    source: &dyn ProofSource,
) -> Result<v1::JoinRequest, JoinError> {
    let bound = Challenge {
        nonce: challenge.nonce.to_vec(),
        trust_domain: challenge.trust_domain,
        csr_sha256: Sha256::digest(&request.csr).into(),
    };
    let proof = tokio::time::timeout(who.within, source.proof(&bound)).await;
    let proof = proof.map_err(|_| JoinError::Proof(format!("no proof was had within {:?}", who.within)))?;
    Ok(v1::JoinRequest {
        csr: request.csr.clone().into(),
        agent_id: who.agent_id.as_str().to_owned(),
        nonce: challenge.nonce,
        proof: Some(to_wire(proof.map_err(JoinError::Proof)?)),
        before: request.before.clone().into(),
    })
}

/// Exchanges a certificate over a connection that was made with it.
pub(crate) async fn renew(client: &mut AgentClient<ManagerChannel>) -> Result<Identity, JoinError> {
    let request = Request::new()?;
    let renew = v1::RenewCertificateRequest {
        csr: request.csr.clone().into(),
    };
    let answer = client
        .renew_certificate(renew)
        .await
        .map_err(|status| failed(&status))?;
    request.answered(answer.into_inner().certificate)
}

fn unusable(error: rcgen::Error) -> JoinError {
    JoinError::Malformed(format!("the kept key cannot be used: {error}"))
}

fn kept_key(identity: &Identity) -> Result<KeyPair, JoinError> {
    key_pair(&identity.key)
}

fn key_pair(pkcs8: &[u8]) -> Result<KeyPair, JoinError> {
    let key = rustls_key(pkcs8);
    KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256).map_err(unusable)
}

fn rustls_key(pkcs8: &[u8]) -> rustls::pki_types::PrivatePkcs8KeyDer<'_> {
    rustls::pki_types::PrivatePkcs8KeyDer::from(pkcs8)
}

/// A connection as nobody, and the manager's challenge. What the manager says of itself is checked first.
async fn challenged(
    route: &Route,
    who: &Who<'_>,
) -> Result<(EnrollmentClient<ManagerChannel>, v1::ChallengeResponse, ClockDifference), JoinError> {
    let (channel, sight) = route.open(who.within).await.map_err(not_opened)?;
    let mut client = EnrollmentClient::with_origin(channel, route.origin());
    let asked = unix_now();
    let challenge = within(who.within, client.challenge(v1::ChallengeRequest {})).await;
    let challenge = match (challenge, sight.other_protocol()) {
        (Err(JoinError::Call(_) | JoinError::Silent(_)), Some(seen)) => return Err(JoinError::OtherProtocol(seen)),
        (challenge, _) => challenge?,
    };
    let answered = unix_now();
    let clock = check_clock(challenge.server_time_ms, asked, answered)?;
    if let Some(expected) = who.trust_domain
        && expected != challenge.trust_domain
    {
        return Err(JoinError::TrustDomain {
            found: challenge.trust_domain,
            expected: expected.to_owned(),
        });
    }
    Ok((client, challenge, clock))
}

/// The manager's clock was read somewhere between the two readings of ours.
fn check_clock(server_ms: i64, asked: Duration, answered: Duration) -> Result<ClockDifference, JoinError> {
    let server = Duration::from_millis(u64::try_from(server_ms).unwrap_or(0));
    let (by, way) = if server > answered {
        (server - answered, "behind")
    } else {
        (asked.saturating_sub(server), "ahead of")
    };
    if by > MAX_SKEW {
        return Err(JoinError::Clock { by, way });
    }
    let clock = ClockDifference { by, way };
    if clock.is_much() {
        tracing::warn!(by = minutes(by), way, "this machine's clock differs from the manager's");
    }
    Ok(clock)
}

fn not_opened(error: OpenError) -> JoinError {
    match error {
        OpenError::Dial(error) => JoinError::Dial(error),
        OpenError::Nobody(error) => JoinError::Authority(error.to_string()),
        OpenError::Http(error) => {
            JoinError::Call(explain_chain(error.as_ref(), "the manager").unwrap_or_else(|| error.to_string()))
        }
    }
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, JoinError> {
    let answered = tokio::time::timeout(limit, call).await;
    let answered = answered.map_err(|_| JoinError::Silent(limit))?;
    answered
        .map(tonic::Response::into_inner)
        .map_err(|status| failed(&status))
}

/// Only what a manager says of a join is a refusal; a proxy can say the rest.
fn failed(status: &Status) -> JoinError {
    match status.code() {
        Code::Unauthenticated if status.metadata().contains_key(CERTIFICATE_REFUSED) => {
            JoinError::Certificate(status.message().to_owned())
        }
        Code::PermissionDenied if status.metadata().contains_key(AGENT_ID_IN_USE) => {
            let again = status.metadata().get(AGENT_ID_IN_USE);
            let again = again.and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0);
            JoinError::InUse {
                why: status.message().to_owned(),
                again: Duration::from_millis(again),
            }
        }
        Code::PermissionDenied | Code::InvalidArgument | Code::FailedPrecondition | Code::NotFound => {
            JoinError::Refused(status.message().to_owned())
        }
        _ => JoinError::Call(crate::status::status_text(status)),
    }
}

fn to_wire(proof: JoinProof) -> v1::join_request::Proof {
    use v1::join_request::Proof;
    match proof {
        JoinProof::Token(token) => Proof::Token(v1::TokenProof { token }),
        JoinProof::AwsIdentity {
            host,
            authorization,
            amz_date,
            security_token,
        } => Proof::AwsIdentity(v1::AwsIdentityProof {
            host,
            authorization,
            amz_date,
            security_token,
        }),
        JoinProof::Kubernetes(token) => Proof::Kubernetes(v1::KubernetesProof { token }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::millis;

    fn answer(code: Code, mark: Option<&'static str>) -> Status {
        let mut status = Status::new(code, "no");
        if let Some(mark) = mark {
            status.metadata_mut().insert(mark, MetadataValue::from_static("1"));
        }
        status
    }

    /// Guards that whoever refuses on the way, or does not answer, is not taken for the manager.
    #[test]
    fn only_a_managers_own_word_lets_in_or_refuses() {
        let own = failed_check(&answer(Code::PermissionDenied, Some(JOIN_REFUSED)));
        assert!(own.is_refusal(), "{own}");
        let in_use = failed_check(&answer(Code::PermissionDenied, Some(AGENT_ID_IN_USE)));
        assert!(matches!(in_use, JoinError::InUse { .. }), "{in_use}");
        for code in [
            Code::PermissionDenied,
            Code::NotFound,
            Code::FailedPrecondition,
            Code::InvalidArgument,
            Code::Unavailable,
            Code::ResourceExhausted,
            Code::Unimplemented,
        ] {
            let error = failed_check(&answer(code, None));
            assert!(!error.is_refusal(), "{error}");
            let error = is_taken(&answer(code, None)).expect_err("nobody said so");
            assert!(matches!(error, JoinError::NotTold(_) | JoinError::Call(_)), "{error}");
        }
        is_taken(&answer(Code::FailedPrecondition, Some(CERTIFICATE_TAKEN))).expect("taken");
        let refused = is_taken(&answer(Code::Unauthenticated, Some(CERTIFICATE_REFUSED))).expect_err("refused");
        assert!(matches!(refused, JoinError::Certificate(_)), "{refused}");
    }

    #[test]
    fn a_clock_that_is_ten_minutes_off_is_named_with_its_way() {
        let now = Duration::from_secs(1_800_000_000);
        let ten = Duration::from_secs(600);
        let said = |server: Duration| check_clock(millis(server), now, now + Duration::from_secs(1));
        assert!(said(now).is_ok());
        let close = said(now + Duration::from_secs(280)).expect("not too much");
        assert!(close.is_much());
        assert_eq!(close.to_string(), "4m39s behind the manager's");
        let behind = said(now + ten + Duration::from_secs(1))
            .expect_err("too much")
            .to_string();
        assert!(behind.contains("clock is 10m00s behind the manager's"), "{behind}");
        let ahead = said(now - ten).expect_err("too much").to_string();
        assert!(ahead.contains("clock is 10m00s ahead of the manager's"), "{ahead}");
    }
}
