//! A join rule: who may join by which proof, and which pool it then is in.

use deputy_proto::v1;
use deputy_proto::v1::join_rule::Proof;
use deputy_task::id::Project;
use serde::{Deserialize, Serialize};

use super::key_sets::KeySource;
use super::service_account_rule::KubernetesRule;

/// Longest name of a rule or a pool.
const MAX_NAME_BYTES: usize = 63;
/// Largest key set of an issuer.
const MAX_JWKS_BYTES: usize = 64 * 1024;
/// Longest issuer or URL of a rule.
const MAX_TEXT_BYTES: usize = 512;
/// Projects of a rule.
const MAX_PROJECTS: usize = 256;

/// A join rule, checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JoinRule {
    /// Unique.
    pub name: String,
    /// The pool of the agents that join by it.
    pub pool: String,
    /// Its agents are given tasks of these only; empty means of all.
    #[serde(default)]
    pub projects: Vec<Project>,
    /// What has to be shown.
    pub proof: RuleProof,
    /// Unix milliseconds.
    pub created_at_ms: i64,
    /// Who made it.
    pub created_by: String,
}

/// What has to be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum RuleProof {
    /// A join token of this rule.
    Token,
    /// A signed AWS identity.
    AwsIdentity {
        /// 12 digits.
        account: String,
        /// A role's name without path.
        role: String,
    },
    /// A service-account token.
    Kubernetes(KubernetesRule),
}

/// What is wrong with a rule, for who wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadRule(String);

impl JoinRule {
    /// A rule from the wire or the store.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_wire(rule: v1::JoinRule) -> Result<Self, BadRule> {
        let proof = match rule.proof {
            Some(Proof::Token(v1::TokenRule {})) => RuleProof::Token,
            Some(Proof::AwsIdentity(aws)) => aws_identity(aws)?,
            Some(Proof::Kubernetes(kubernetes)) => service_account(kubernetes)?,
            None => {
                return Err(BadRule(
                    "a join rule needs a proof: token, AWS identity or Kubernetes service account".into(),
                ));
            }
        };
        Ok(Self {
            name: named("rule", rule.name)?,
            pool: named("pool", rule.pool)?,
            projects: projects(&rule.projects)?,
            proof,
            created_at_ms: rule.created_at_ms,
            created_by: rule.created_by,
        })
    }

    /// The same for the wire or the store.
    #[must_use]
    pub fn to_wire(&self) -> v1::JoinRule {
        let proof = match self.proof.clone() {
            RuleProof::Token => Proof::Token(v1::TokenRule {}),
            RuleProof::AwsIdentity { account, role } => Proof::AwsIdentity(v1::AwsIdentityRule { account, role }),
            RuleProof::Kubernetes(rule) => Proof::Kubernetes(kubernetes_to_wire(rule)),
        };
        v1::JoinRule {
            name: self.name.clone(),
            pool: self.pool.clone(),
            projects: self.projects.iter().map(ToString::to_string).collect(),
            proof: Some(proof),
            created_at_ms: self.created_at_ms,
            created_by: self.created_by.clone(),
        }
    }
}

fn aws_identity(rule: v1::AwsIdentityRule) -> Result<RuleProof, BadRule> {
    let v1::AwsIdentityRule { account, role } = rule;
    if account.len() != 12 || !account.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(BadRule(format!("{account:?} is no AWS account: it has 12 digits")));
    }
    let of_role = |byte: u8| byte.is_ascii_alphanumeric() || b"+=,.@_-".contains(&byte);
    if role.is_empty() || role.len() > 64 || !role.bytes().all(of_role) {
        return Err(BadRule(format!(
            "{role:?} is no role name: 1 to 64 letters, digits and +=,.@_-, without a path"
        )));
    }
    Ok(RuleProof::AwsIdentity { account, role })
}

fn service_account(rule: v1::KubernetesRule) -> Result<RuleProof, BadRule> {
    let v1::KubernetesRule {
        issuer,
        jwks,
        namespace,
        service_account,
        jwks_url,
        jwks_ca_pem,
    } = rule;
    let texts = [
        ("issuer", &issuer, MAX_TEXT_BYTES),
        ("URL of keys", &jwks_url, MAX_TEXT_BYTES),
        ("key set", &jwks, MAX_JWKS_BYTES),
        ("CA file", &jwks_ca_pem, MAX_JWKS_BYTES),
    ];
    for (what, text, most) in texts {
        if text.len() > most {
            return Err(BadRule(format!(
                "the {what} of a Kubernetes rule has at most {most} bytes"
            )));
        }
    }
    let keys = match (jwks.is_empty(), jwks_url.is_empty()) {
        (false, true) => KeySource::Given(jwks),
        (true, false) => KeySource::Url {
            url: jwks_url,
            ca_pem: jwks_ca_pem,
        },
        (true, true) | (false, false) => {
            return Err(BadRule(
                "a Kubernetes rule needs the issuer's keys: a key set, or the URL of one, and not both".into(),
            ));
        }
    };
    let rule = KubernetesRule {
        issuer,
        keys,
        namespace,
        service_account,
    };
    rule.check().map_err(BadRule)?;
    Ok(RuleProof::Kubernetes(rule))
}

fn kubernetes_to_wire(rule: KubernetesRule) -> v1::KubernetesRule {
    let (jwks, jwks_url, jwks_ca_pem) = match rule.keys {
        KeySource::Given(document) => (document, String::new(), String::new()),
        KeySource::Url { url, ca_pem } => (String::new(), url, ca_pem),
    };
    v1::KubernetesRule {
        issuer: rule.issuer,
        jwks,
        namespace: rule.namespace,
        service_account: rule.service_account,
        jwks_url,
        jwks_ca_pem,
    }
}

fn projects(names: &[String]) -> Result<Vec<Project>, BadRule> {
    if names.len() > MAX_PROJECTS {
        return Err(BadRule(format!("a join rule names at most {MAX_PROJECTS} projects")));
    }
    let parsed = names.iter().map(|name| name.parse::<Project>());
    parsed
        .collect::<Result<_, _>>()
        .map_err(|error| BadRule(error.to_string()))
}

/// A name that may stand in a certificate's URI.
fn named(what: &str, name: String) -> Result<String, BadRule> {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(good) {
        return Err(BadRule(format!(
            "{name:?} is no name of a {what}: 1 to {MAX_NAME_BYTES} of a-z, 0-9 and -"
        )));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(proof: Option<Proof>) -> v1::JoinRule {
        v1::JoinRule {
            name: "eu".into(),
            pool: "eu-1".into(),
            projects: vec!["shop".into()],
            proof,
            created_at_ms: 7,
            created_by: "admin".into(),
        }
    }

    #[test]
    fn a_rule_goes_over_the_wire_and_back() {
        let kubernetes = v1::KubernetesRule {
            issuer: "https://oidc.example.com/1".into(),
            jwks: r#"{"keys": [{"kty": "RSA", "kid": "a", "n": "AQAB", "e": "AQAB"}]}"#.into(),
            namespace: "deputy".into(),
            service_account: "agent".into(),
            ..v1::KubernetesRule::default()
        };
        let by_url = v1::KubernetesRule {
            jwks: String::new(),
            jwks_url: "https://oidc.example.com/1/keys".into(),
            ..kubernetes.clone()
        };
        let aws = v1::AwsIdentityRule {
            account: "222222222222".into(),
            role: "deputy-agent".into(),
        };
        for proof in [
            Proof::Token(v1::TokenRule {}),
            Proof::AwsIdentity(aws),
            Proof::Kubernetes(kubernetes),
            Proof::Kubernetes(by_url),
        ] {
            let wire = rule(Some(proof));
            assert_eq!(JoinRule::from_wire(wire.clone()).expect("good").to_wire(), wire);
        }
    }

    #[test]
    fn a_rule_that_could_match_more_than_it_says_is_refused() {
        let aws = |account: &str, role: &str| {
            let (account, role) = (account.into(), role.into());
            JoinRule::from_wire(rule(Some(Proof::AwsIdentity(v1::AwsIdentityRule { account, role }))))
        };
        for (account, role) in [
            ("22222222222", "x"),
            ("22222222222x", "x"),
            ("222222222222", ""),
            ("222222222222", "*"),
            ("222222222222", "path/x"),
        ] {
            assert!(aws(account, role).is_err(), "{account} {role}");
        }
        assert!(JoinRule::from_wire(rule(None)).is_err());
        let mut odd = rule(Some(Proof::Token(v1::TokenRule {})));
        odd.pool = "a/b".into();
        assert!(JoinRule::from_wire(odd).is_err());
    }
}
