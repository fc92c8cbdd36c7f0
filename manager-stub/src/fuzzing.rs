//! Doors for the fuzz targets of `tests/fuzz`; compiled for them only.

use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use deputy_proto::v1;
use deputy_task::attempt::AttemptRef;
use futures::FutureExt;
use http::Request;
use http_body_util::Full;

use crate::dispatcher;
use crate::join::aws_identity::caller;
use crate::join::kubernetes::KubernetesVerifier;
use crate::join::signed_identity::SignedIdentity;
use crate::join::sts_host::StsHosts;
use crate::join::unproven::Unproven;
use crate::join::{Binding, JoinRule, Proven};
use crate::jose::key_set::KeySet;
use crate::jose::token::Unverified;
use crate::store::op::Write;
use crate::trust::authority::{Authority, SigningRequest};

pub use crate::registry::{Hashed, JoinAttempt, JoinToken};

/// An operation of an agent, as far as the manager's own words.
///
/// # Errors
/// What it is refused for.
pub fn operation(op: v1::WriteOp) -> Result<(AttemptRef, Write), String> {
    dispatcher::read_op(op)
}

/// The request that is sent to STS for this proof.
///
/// # Errors
/// What the proof is refused for.
pub fn rebuilt(
    proof: &SignedIdentity<'_>,
    binding: &Binding,
    hosts: &StsHosts,
    now: SystemTime,
) -> Result<Request<Full<Bytes>>, Unproven> {
    proof.rebuild(binding, hosts, now)
}

/// Is this the answer of STS about a session of this role, and whom does it then name?
#[must_use]
pub fn role_in_answer(body: &[u8], account: &str, role: &str) -> Option<String> {
    let identity = caller(std::str::from_utf8(body).ok()?)?.ok()?;
    identity.is_role(account, role).then(|| identity.subject())
}

/// Who shows this service-account token, by one of the rules, whose keys stand in them.
///
/// # Errors
/// Why no rule lets him in.
///
/// # Panics
/// If a rule does not hold its keys.
pub fn service_account(
    token: &str,
    trust_domain: &str,
    rules: &[JoinRule],
    now: SystemTime,
) -> Result<Proven, Unproven> {
    let verifier = KubernetesVerifier::default();
    let proven = verifier.prove(token, trust_domain, rules, now).now_or_never();
    proven.expect("nothing is waited for where the keys stand in the rules")
}

/// Did a key of this set sign the token? `None` if one of them cannot be read.
#[must_use]
pub fn signed_by(token: &str, key_set: &[u8]) -> Option<bool> {
    let (token, keys) = (Unverified::parse(token).ok()?, KeySet::parse(key_set).ok()?);
    Some(token.verify(&keys).is_ok())
}

/// An authority that signs requests.
pub struct Signer(Authority);

impl Signer {
    /// With its key in this folder.
    ///
    /// # Panics
    /// If the folder cannot be written.
    #[must_use]
    pub fn in_folder(folder: &Path) -> Self {
        Self(Authority::open(folder, Some("deputy.example.com")).expect("a folder of the target's own"))
    }

    /// The certificate (DER) for a signing request.
    ///
    /// # Errors
    /// What the request is refused for.
    ///
    /// # Panics
    /// If a request is accepted for which no certificate can be made.
    pub fn certificate(&self, request: &[u8]) -> Result<Vec<u8>, String> {
        let request = SigningRequest::read(request).map_err(|error| error.to_string())?;
        let issued = self.0.client(&request, ("pool/agent", ""), Duration::from_secs(3600));
        Ok(issued.expect("what is accepted can be signed").leaf)
    }
}
