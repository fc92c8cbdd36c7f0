//! Certificates, as the services make and hand them out.

use deputy_proto::v1;
use deputy_task::id::AgentId;
use tonic::Status;

use super::context::{Context, refused};
use crate::registry::BookError;
use crate::trust::authority::{Issued, SigningRequest};

/// The header of a refusal that says: the agent id is another key's; its value is when to ask again, in milliseconds.
const AGENT_ID_IN_USE: &str = "deputy-agent-id-in-use";

impl Context {
    /// Signs a certificate for an agent. It is worth nothing until the registry has it.
    pub(super) fn sign(
        &self,
        signing: &SigningRequest,
        (pool, agent): (&str, &AgentId),
        line: &str,
    ) -> Result<Issued, Status> {
        let path = format!("pool/{pool}/agent/{agent}");
        let issued = self
            .trust
            .authority
            .client(signing, (&path, line), self.trust.certificate_life);
        issued.map_err(|error| Status::internal(format!("the certificate could not be made: {error}")))
    }

    /// A certificate for its agent.
    pub(super) fn wire(&self, issued: Issued, agent: &AgentId, pool: &str, rule: &str) -> v1::IssuedCertificate {
        v1::IssuedCertificate {
            chain: vec![issued.leaf.into(), self.trust.authority.certificate().to_vec().into()],
            not_before_ms: issued.not_before_ms,
            not_after_ms: issued.not_after_ms,
            agent_id: agent.to_string(),
            pool: pool.into(),
            join_rule: rule.into(),
        }
    }
}

/// A change of the registry that was not made, for a caller.
pub(super) fn not_done(error: BookError) -> Status {
    match error {
        BookError::Missing(why) => Status::not_found(why),
        BookError::Exists(why) => Status::already_exists(why),
        BookError::Denied(why) => Status::permission_denied(why),
        BookError::InUse { why, again } => {
            let mut status = Status::permission_denied(why);
            let again = u64::try_from(again.as_millis()).unwrap_or(u64::MAX);
            status
                .metadata_mut()
                .insert(AGENT_ID_IN_USE, tonic::metadata::MetadataValue::from(again));
            status
        }
        BookError::Invalid(why) => Status::invalid_argument(why),
        BookError::Full(why) => Status::resource_exhausted(why),
        BookError::Store(why) => refused(why),
    }
}
