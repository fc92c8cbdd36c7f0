//! Joining by Kubernetes service account: a projected token is verified with the keys of the cluster that the
//! rule names. Called by the Enrollment service. A token names its issuer, and is asked nothing else
//! before its signature is good.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;

use super::key_sets::{KeySets, KeySource};
use super::service_account_rule::KubernetesRule;
use super::unproven::Unproven;
use super::{JoinRule, Proven, RuleProof};
use crate::fetch::Fetcher;
use crate::jose::token::{TokenError, Unverified};

/// How far the clocks of cluster and manager may be apart.
const LEEWAY: Duration = Duration::from_secs(60);

/// Who a token proves its owner to be.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ServiceAccount {
    issuer: String,
    namespace: String,
    name: String,
    /// The pod that the token is bound to; empty if it is bound to none.
    pod: String,
}

/// Verifies service-account tokens.
#[derive(Debug, Default)]
pub struct KubernetesVerifier {
    keys: KeySets,
}

#[derive(Deserialize)]
struct Issuer {
    iss: String,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audience,
    exp: Seconds,
    iat: Seconds,
    #[serde(default)]
    nbf: Option<Seconds>,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Option<Kubernetes>,
}

#[derive(Deserialize)]
struct Kubernetes {
    namespace: String,
    serviceaccount: Named,
    pod: Option<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// Seconds since 1970; whole or, as RFC 7519 allows, with a fraction.
#[derive(Clone, Copy, Deserialize, PartialEq, PartialOrd)]
struct Seconds(f64);

impl KubernetesVerifier {
    /// Asks for key sets by this fetcher.
    #[must_use]
    pub fn by(fetcher: Fetcher) -> Self {
        Self {
            keys: KeySets::by(fetcher),
        }
    }

    /// The rule that lets the token's owner in, by the word of the cluster that the rule names. If several do, it is the
    /// first of them.
    ///
    /// # Errors
    /// Why none does, or why that cannot be said now.
    pub async fn prove(
        &self,
        token: &str,
        trust_domain: &str,
        rules: &[JoinRule],
        now: SystemTime,
    ) -> Result<Proven, Unproven> {
        let unverified = Unverified::parse(token).map_err(refused)?;
        let issuer = unverified.claims_unverified::<Issuer>().map(|claims| claims.iss);
        let issuer = issuer.ok_or_else(|| Unproven::denied("the token names no issuer", ""))?;
        let of_issuer: Vec<(&JoinRule, &KubernetesRule)> = rules
            .iter()
            .filter_map(|rule| match &rule.proof {
                RuleProof::Kubernetes(proof) if proof.issuer == issuer => Some((rule, proof)),
                RuleProof::Kubernetes(_) | RuleProof::AwsIdentity { .. } | RuleProof::Token => None,
            })
            .collect();
        let mut verdict = Unproven::denied(
            format!("no join rule names the token's issuer {:?}", short(&issuer)),
            "add a rule for this cluster, or check that the token is of the cluster that is meant",
        );
        let mut asked: BTreeSet<&KeySource> = BTreeSet::new();
        for source in of_issuer.iter().map(|(_, proof)| &proof.keys) {
            if !asked.insert(source) {
                continue;
            }
            match self.verified(&unverified, source).await {
                Err(refusal) => verdict = refusal,
                Ok(claims) => {
                    let account = account(claims, trust_domain, now)?;
                    let mut by_this = of_issuer.iter().filter(|(_, proof)| proof.keys == *source);
                    match by_this.find(|(_, proof)| account.fits(proof)) {
                        Some((rule, _)) => return Ok(account.proven(rule)),
                        None => verdict = account.unknown(),
                    }
                }
            }
        }
        Err(verdict)
    }

    async fn verified<'a>(&self, token: &'a Unverified<'_>, source: &KeySource) -> Result<&'a [u8], Unproven> {
        let keys = self.keys.get(source, token.kid()).await?;
        token.verify(&keys).map_err(refused)
    }
}

impl ServiceAccount {
    fn fits(&self, rule: &KubernetesRule) -> bool {
        rule.issuer == self.issuer && rule.namespace == self.namespace && rule.service_account == self.name
    }

    fn proven(&self, rule: &JoinRule) -> Proven {
        tracing::info!(rule = %rule.name, account = %self.name, pod = %self.pod, "a service account is proved");
        Proven {
            rule: rule.clone(),
            // Clusters may have the same issuer: the rule says whose keys its tokens are verified with.
            subject: format!(
                "kubernetes:{}:{}:{}/{}",
                rule.name, self.issuer, self.namespace, self.name
            ),
        }
    }

    fn unknown(&self) -> Unproven {
        Unproven::denied(
            format!(
                "no join rule lets in the service account {} of namespace {} of {}",
                self.name, self.namespace, self.issuer
            ),
            "add a rule for it (deputy fleet join-rule create), or run the agent as the account that is meant",
        )
    }
}

fn refused(error: TokenError) -> Unproven {
    let hint = match error {
        TokenError::NoSuchKey(_) => "the cluster may have changed its keys: give the rule the new set",
        TokenError::BadSignature(_) | TokenError::OtherAlgorithm { .. } => {
            "check the rule's key set against the cluster's"
        }
        TokenError::Malformed(_) | TokenError::Algorithm(_) => "join with the pod's projected service-account token",
    };
    Unproven::denied(format!("the service-account token is refused: {error}"), hint)
}

/// What verified claims say, if they say it to this manager and now.
fn account(claims: &[u8], trust_domain: &str, now: SystemTime) -> Result<ServiceAccount, Unproven> {
    let claims: Claims = serde_json::from_slice(claims).map_err(|error| {
        Unproven::denied(
            format!("the token's claims are not those of a bound service-account token: {error}"),
            "use a projected token (TokenRequest); the old kind without an end and an audience is not taken",
        )
    })?;
    let wanted = format!("deputy/{trust_domain}");
    let audiences = match &claims.aud {
        Audience::One(one) => std::slice::from_ref(one),
        Audience::Many(many) => many,
    };
    if audiences != [wanted.clone()] {
        return Err(Unproven::denied(
            format!("the token is for {}, and not for {wanted} alone", listed(audiences)),
            format!("set audience: {wanted} in the projected volume of the agent's pod"),
        ));
    }
    check_times(&claims, now)?;
    let not_bound = || Unproven::denied("the token does not name its service account twice and alike", "");
    let kubernetes = claims.kubernetes.ok_or_else(not_bound)?;
    let (namespace, name) = (kubernetes.namespace, kubernetes.serviceaccount.name);
    if claims.sub != format!("system:serviceaccount:{namespace}:{name}") {
        return Err(not_bound());
    }
    Ok(ServiceAccount {
        issuer: claims.iss,
        namespace,
        name,
        pod: kubernetes.pod.map(|pod| pod.name).unwrap_or_default(),
    })
}

fn check_times(claims: &Claims, now: SystemTime) -> Result<(), Unproven> {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let leeway = LEEWAY.as_secs_f64();
    let clocks = "check the clocks of the cluster and of the manager";
    if claims.exp.0 + leeway <= now {
        return Err(Unproven::denied(
            format!("the token ended {:.0} s ago", now - claims.exp.0),
            "the kubelet renews the file: read it anew, and check that it is not a copy or a subPath mount",
        ));
    }
    let begins = claims.nbf.map_or(claims.iat.0, |nbf| nbf.0.max(claims.iat.0));
    if begins - leeway > now {
        return Err(Unproven::denied(
            format!("the token is good only in {:.0} s", begins - now),
            clocks,
        ));
    }
    // A NaN or an infinity would pass both comparisons.
    if !(claims.exp.0.is_finite() && begins.is_finite() && claims.exp.0 > begins) {
        return Err(Unproven::denied("the token ends before it begins", clocks));
    }
    Ok(())
}

fn listed(audiences: &[String]) -> String {
    if audiences.is_empty() {
        return "nobody".into();
    }
    let shown: Vec<String> = audiences.iter().take(4).map(|audience| short(audience)).collect();
    shown.join(", ")
}

fn short(text: &str) -> String {
    text.chars().take(120).filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;
    const KEYS: &str = r#"{"keys": [{"kty": "RSA", "kid": "a", "n": "AQAB", "e": "AQAB"}]}"#;

    fn claims() -> serde_json::Value {
        serde_json::json!({
            "iss": "https://cluster", "sub": "system:serviceaccount:deputy:agent", "aud": ["deputy/deputy.example.com"],
            "iat": NOW - 600, "nbf": NOW - 600, "exp": NOW + 600,
            "kubernetes.io": {"namespace": "deputy", "serviceaccount": {"name": "agent", "uid": "u"}, "pod": {"name": "agent-0"}},
        })
    }

    fn read(change: impl FnOnce(&mut serde_json::Value)) -> Result<ServiceAccount, Unproven> {
        let mut claims = claims();
        change(&mut claims);
        let now = UNIX_EPOCH + Duration::from_secs(NOW);
        account(claims.to_string().as_bytes(), "deputy.example.com", now)
    }

    fn rule() -> KubernetesRule {
        KubernetesRule {
            issuer: "https://cluster".into(),
            keys: KeySource::Given(KEYS.into()),
            namespace: "deputy".into(),
            service_account: "agent".into(),
        }
    }

    #[test]
    fn a_bound_token_names_its_account_and_pod() {
        let account = read(|_| ()).expect("good");
        assert_eq!((account.name.as_str(), account.pod.as_str()), ("agent", "agent-0"));
        assert!(account.fits(&rule()));
        let other = |change: fn(&mut KubernetesRule)| {
            let mut rule = rule();
            change(&mut rule);
            account.fits(&rule)
        };
        assert!(!other(|rule| rule.issuer.push('/')));
        assert!(!other(|rule| rule.namespace = "default".into()));
        assert!(!other(|rule| rule.service_account = "agent2".into()));
        read(|claims| claims["aud"] = "deputy/deputy.example.com".into()).expect("one audience as text");
        read(|claims| claims["exp"] = (NOW - 59).into()).expect("within the leeway");
        read(|claims| claims["iat"] = (NOW + 59).into()).expect("within the leeway");
    }

    #[test]
    fn each_claim_that_is_wrong_has_its_own_words() {
        let told = [
            read(|claims| claims["aud"] = serde_json::json!(["https://kubernetes.default.svc"])),
            read(|claims| claims["aud"] = serde_json::json!(["deputy/deputy.example.com", "other"])),
            read(|claims| claims["aud"] = serde_json::json!([])),
            read(|claims| claims["exp"] = (NOW - 61).into()),
            read(|claims| claims["nbf"] = (NOW + 61).into()),
            read(|claims| {
                claims["iat"] = (NOW + 20).into();
                claims["exp"] = (NOW + 10).into();
            }),
            read(|claims| claims["sub"] = "system:serviceaccount:deputy:other".into()),
            read(|claims| claims["sub"] = "system:serviceaccount:deputy:agent:x".into()),
            read(|claims| drop(claims.as_object_mut().expect("a map").remove("kubernetes.io"))),
            read(|claims| drop(claims.as_object_mut().expect("a map").remove("exp"))),
        ]
        .map(|read| read.expect_err("refused").to_string());
        insta::assert_snapshot!(told.join("\n"));
    }
}
