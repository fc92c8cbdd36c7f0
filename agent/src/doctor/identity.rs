//! Who the agent is for AWS, and which roles it may become.

use std::collections::BTreeMap;

use deputy_credentials::ambient::AmbientKind;
use deputy_credentials::env::Env;
use deputy_credentials::error::CredentialsError;
use deputy_credentials::identity::Caller;
use deputy_credentials::instance_metadata::{self, Metadata};
use deputy_credentials::{Identities, TaskIdentity};
use deputy_task::document::RoleHop;

use super::report::{Finding, Verdict};

const AMBIENT: &str = "AWS identity";
const ROLES: &str = "roles";

/// Roles that can be assumed are tried as ways to those that cannot, so many of them.
const WAYS: usize = 8;

/// So often in all: each try is two calls of STS, and a refused one an event in CloudTrail.
const TRIES: usize = 32;

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

    /// This one and then the roles of `next`.
    fn then(&self, next: &Self) -> Self {
        Self(self.0.iter().chain(&next.0).cloned().collect())
    }

    /// As `--role` takes it.
    fn argument(&self) -> String {
        self.0.join(",")
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
pub(crate) async fn metadata(env: &Env, own: AmbientKind) -> Finding {
    let check = "instance metadata";
    let Some(Metadata { endpoint, role }) = instance_metadata::find(env).await else {
        return Finding::good(AMBIENT, check, "no metadata service answers here");
    };
    let gives = role.map_or_else(
        || "the instance has no role that they could take now".to_owned(),
        |role| format!("they can take the instance's role {role}"),
    );
    let summary = format!("answers at {endpoint}, and it answers steps too: {gives}");
    let finding = Finding::new(AMBIENT, check, Verdict::Warning, summary);
    if own == AmbientKind::Instance {
        return finding.hint(
            "steps share this identity with the agent, and closing the service would take it from both: give the agent an identity of its own (an ECS task role, IRSA or EKS Pod Identity) and close the service then, or accept that every step has this role",
        );
    }
    finding.hint(
        "the agent does not confine the network: close it for this container (HttpPutResponseHopLimit 1 and version 1 off, a network policy, a rule of the firewall for the agent's user), or run the agent where there is no instance",
    )
}

/// Each role: assumable from here or not, and why not. Those of the policy come without the external ids that tasks
/// give, and may be reached through one another.
pub(crate) async fn roles(
    identities: &Identities,
    region: &str,
    (asked, of_policy): (&[Chain], &[Chain]),
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for chain in asked {
        findings.push(who(chain.last(), ROLES, become_last(identities, region, chain)).await);
    }
    for chain in of_policy {
        findings.push(of_the_policy(chain, become_last(identities, region, chain)).await);
    }
    let all = asked.iter().chain(of_policy).zip(&findings);
    let ways = all.filter(|(_, finding)| finding.verdict == Verdict::Good);
    let ways: Vec<Chain> = ways.map(|(chain, _)| chain.clone()).take(WAYS).collect();
    let mut tries = 0;
    for (chain, finding) in of_policy.iter().zip(&mut findings[asked.len()..]) {
        for way in &ways {
            if finding.verdict == Verdict::Good || tries == TRIES {
                break;
            }
            tries += 1;
            let longer = way.then(chain);
            let through = of_the_policy(&longer, become_last(identities, region, &longer)).await;
            // What is not known through a role is more than what is certainly not so without it.
            if through.verdict == Verdict::Good || finding.verdict == Verdict::Bad && through.verdict != Verdict::Bad {
                *finding = through;
            }
        }
        // It may be for other agents, or at the end of a way that only tasks name.
        if finding.verdict == Verdict::Bad && !ways.is_empty() {
            finding.verdict = Verdict::Warning;
            finding.hint = format!(
                "{}; if tasks come to it by other roles: --role ROLE,{}",
                finding.hint,
                chain.last()
            );
        }
    }
    if !of_policy.is_empty() && findings.iter().all(|finding| finding.verdict != Verdict::Good) {
        findings.push(no_role(of_policy.len()));
    }
    if asked.is_empty() && of_policy.is_empty() {
        findings.push(Finding::skipped(
            ROLES,
            "none named",
            "give --role ARN to see whether it can be assumed",
        ));
    }
    findings
}

/// That every role says no may be a mistake, or every one asks for an external id, as roles of other accounts should. A
/// role that certainly cannot be assumed is bad by itself.
fn no_role(of_policy: usize) -> Finding {
    let what = format!("none is known to be assumable, and the policy names {of_policy}");
    Finding::new(ROLES, "of the policy", Verdict::Warning, what)
        .hint("name at least one with the external id that tasks give: deputy-agent doctor --role ARN#EXTERNAL-ID")
}

/// The identity at the end of a chain; of none, the agent's own.
pub(crate) fn identity_of(identities: &Identities, region: &str, chain: Option<&Chain>) -> Asked {
    match chain {
        Some(chain) => become_last(identities, region, chain),
        None => as_own(identities, region),
    }
}

/// An identity, or why the chain to it cannot be tried.
pub(crate) type Asked = Result<TaskIdentity, CredentialsError>;

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

/// Without an external id a role may say no to the examination and yes to a task.
async fn of_the_policy(chain: &Chain, identity: Asked) -> Finding {
    let role = chain.last();
    let caller = match identity {
        Ok(identity) => identity.caller().await,
        Err(error) => Err(error),
    };
    let mut finding = match caller {
        Err(CredentialsError::AssumeRoleDenied(hop)) if hop.may_want_external_id => {
            let what = format!(
                "not tried with an external id, which tasks may give and is not known here; without one: {}",
                hop.cause
            );
            let mut finding = Finding::new(ROLES, role, Verdict::Warning, what).hint(format!(
                "give --role {}#EXTERNAL-ID; if it asks for none: {}",
                chain.argument(),
                hop.hint
            ));
            finding.detail = hop.raw;
            finding
        }
        caller => told(role, ROLES, caller),
    };
    if let [way @ .., _] = chain.0.as_slice()
        && !way.is_empty()
    {
        let way: Vec<&str> = way.iter().map(|arn| arn.split('#').next().unwrap_or(arn)).collect();
        finding.summary = format!("through {}: {}", way.join(", "), finding.summary);
    }
    finding
}

async fn who(check: &str, area: &'static str, identity: Asked) -> Finding {
    let check = check.split('#').next().unwrap_or(check);
    let caller = match identity {
        Ok(identity) => identity.caller().await,
        Err(error) => Err(error),
    };
    told(check, area, caller)
}

fn told(check: &str, area: &'static str, caller: Result<Caller, CredentialsError>) -> Finding {
    match caller {
        Ok(caller) if area == AMBIENT => Finding::good(area, check, caller.arn),
        Ok(caller) => Finding::good(area, check, format!("can be assumed: {}", caller.arn)),
        Err(error) => Finding::failed(area, check, error.failure()),
    }
}
