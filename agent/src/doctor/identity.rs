//! Who the agent is for AWS, and which roles it may become.

use std::collections::BTreeMap;

use deputy_credentials::ambient::AmbientKind;
use deputy_credentials::env::Env;
use deputy_credentials::instance_metadata::{self, Metadata};
use deputy_credentials::{Identities, TaskIdentity};
use deputy_task::document::RoleHop;

use super::report::{Finding, Verdict};

const AMBIENT: &str = "AWS identity";
const ROLES: &str = "roles";

/// In CloudTrail the examination's sessions have this name.
const SESSION_NAME: &str = "deputy-doctor";

/// A role to look at: the chain that leads to it, as `ARN[,ARN…]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chain(pub(crate) Vec<String>);

impl Chain {
    pub(crate) fn parse(text: &str) -> Self {
        Self(text.split(',').map(|arn| arn.trim().to_owned()).collect())
    }

    /// Do both lead to the same role?
    pub(crate) fn ends_as(&self, other: &Self) -> bool {
        let role = |chain: &Self| chain.last().split('#').next().map(str::to_owned);
        role(self) == role(other)
    }

    fn last(&self) -> &str {
        self.0.last().map_or("", String::as_str)
    }
}

/// Where the agent's own identity comes from, and who AWS says it is.
pub(crate) async fn ambient(identities: &Identities, region: &str) -> Vec<Finding> {
    let found = identities.ambient();
    let source = match found.kind {
        AmbientKind::None => {
            return vec![
                Finding::new(AMBIENT, "source", Verdict::Warning, "none: steps that use AWS will fail").hint(
                    "give the agent an ECS task role, IRSA, EKS Pod Identity or an instance profile (docs/configuration.md, AWS)",
                ),
            ];
        }
        AmbientKind::Unsupported => {
            return vec![Finding::new(AMBIENT, "source", Verdict::Bad, found.warning.clone())];
        }
        AmbientKind::Container
        | AmbientKind::WebIdentity
        | AmbientKind::Instance
        | AmbientKind::Environment
        | AmbientKind::Profile => {
            let verdict = if found.warning.is_empty() {
                Verdict::Good
            } else {
                Verdict::Warning
            };
            let mut finding = Finding::new(AMBIENT, "source", verdict, found.description.clone());
            finding.detail.clone_from(&found.warning);
            finding
        }
    };
    vec![source, who("caller", AMBIENT, as_own(identities, region)).await]
}

/// Whether steps can take an instance's role from its metadata service, whatever identity the agent itself has.
pub(crate) async fn metadata(env: &Env) -> Finding {
    let check = "instance metadata";
    let Some(Metadata { endpoint, role }) = instance_metadata::find(env).await else {
        return Finding::good(AMBIENT, check, "no metadata service answers here");
    };
    let gives = role.map_or_else(
        || "the instance has no role that they could take now".to_owned(),
        |role| format!("they can take the instance's role {role}"),
    );
    let summary = format!("answers at {endpoint}, and it answers steps too: {gives}");
    Finding::new(AMBIENT, check, Verdict::Warning, summary).hint(
        "the agent does not confine the network: close it for this container (HttpPutResponseHopLimit 1 and version 1 off, a network policy, a rule of the firewall for the agent's user), or run the agent where there is no instance",
    )
}

/// Each role: assumable from here or not, and why not.
pub(crate) async fn roles(identities: &Identities, region: &str, chains: &[Chain]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for chain in chains {
        findings.push(who(chain.last(), ROLES, become_last(identities, region, chain)).await);
    }
    if chains.is_empty() {
        findings.push(Finding::skipped(
            ROLES,
            "none named",
            "give --role ARN to see whether it can be assumed",
        ));
    }
    findings
}

/// The identity at the end of a chain; of none, the agent's own.
pub(crate) fn identity_of(identities: &Identities, region: &str, chain: Option<&Chain>) -> Asked {
    match chain {
        Some(chain) => become_last(identities, region, chain),
        None => as_own(identities, region),
    }
}

/// An identity, or why the chain to it cannot be tried.
pub(crate) type Asked = Result<TaskIdentity, deputy_credentials::error::CredentialsError>;

fn as_own(identities: &Identities, region: &str) -> Asked {
    identities.for_task(region, &[], SESSION_NAME)
}

fn become_last(identities: &Identities, region: &str, chain: &Chain) -> Asked {
    let hops: Vec<RoleHop> = chain.0.iter().map(|arn| hop(arn)).collect();
    identities.for_task(region, &hops, SESSION_NAME)
}

fn hop(arn: &str) -> RoleHop {
    // `ARN#EXTERNAL-ID`: neither may contain a hash.
    let (role_arn, external_id) = match arn.split_once('#') {
        Some((role_arn, external_id)) => (role_arn, Some(external_id.to_owned())),
        None => (arn, None),
    };
    RoleHop {
        role_arn: role_arn.to_owned(),
        external_id,
        session_name: None,
        duration: None,
        session_tags: BTreeMap::new(),
        transitive_tag_keys: Vec::new(),
        source_identity: None,
    }
}

async fn who(check: &str, area: &'static str, identity: Asked) -> Finding {
    let check = check.split('#').next().unwrap_or(check);
    let caller = match identity {
        Ok(identity) => identity.caller().await,
        Err(error) => Err(error),
    };
    match caller {
        Ok(caller) if area == AMBIENT => Finding::good(area, check, caller.arn),
        Ok(caller) => Finding::good(area, check, format!("can be assumed: {}", caller.arn)),
        Err(error) => Finding::failed(area, check, error.failure()),
    }
}
