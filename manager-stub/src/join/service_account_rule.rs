//! Which service account of which cluster may join. Names are compared exactly: there are no patterns.

use serde::{Deserialize, Serialize};

use super::key_sets::KeySource;

/// Lets in one service account of one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubernetesRule {
    /// As the cluster's API server has it in `--service-account-issuer`; compared exactly.
    pub issuer: String,
    /// Where the issuer's keys are.
    pub keys: KeySource,
    /// The account's namespace.
    pub namespace: String,
    /// The account's name.
    pub service_account: String,
}

impl KubernetesRule {
    /// Is it a rule that could ever let somebody in?
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn check(&self) -> Result<(), String> {
        if !self.issuer.starts_with("https://") {
            return Err(format!("the issuer {:?} does not begin with https://", self.issuer));
        }
        for (what, name) in [
            ("namespace", &self.namespace),
            ("service account", &self.service_account),
        ] {
            let good = !name.is_empty()
                && name.len() <= 253
                && name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.');
            if !good {
                return Err(format!("{name:?} is no name of a {what}; names are compared exactly"));
            }
        }
        self.keys.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: &str = r#"{"keys": [{"kty": "RSA", "kid": "a", "n": "AQAB", "e": "AQAB"}]}"#;

    fn rule() -> KubernetesRule {
        KubernetesRule {
            issuer: "https://cluster".into(),
            keys: KeySource::Given(KEYS.into()),
            namespace: "deputy".into(),
            service_account: "agent".into(),
        }
    }

    #[test]
    fn a_rule_that_could_let_nobody_in_is_refused() {
        let bad = |change: fn(&mut KubernetesRule)| {
            let mut rule = rule();
            change(&mut rule);
            rule.check().expect_err("bad")
        };
        rule().check().expect("good");
        let told = [
            bad(|rule| rule.issuer = "cluster".into()),
            bad(|rule| rule.namespace = "*".into()),
            bad(|rule| rule.service_account = String::new()),
            bad(|rule| rule.keys = KeySource::Given("{}".into())),
            bad(|rule| {
                rule.keys = KeySource::Url {
                    url: "https://cluster/jwks".into(),
                    ca_pem: "no certificate".into(),
                };
            }),
            bad(|rule| {
                rule.keys = KeySource::Url {
                    url: "http://cluster/jwks".into(),
                    ca_pem: String::new(),
                };
            }),
        ];
        insta::assert_snapshot!(told.join("\n"), @r#"
        the issuer "cluster" does not begin with https://
        "*" is no name of a namespace; names are compared exactly
        "" is no name of a service account; names are compared exactly
        the key set cannot be used: it is no JSON Web Key Set: missing field `keys` at line 1 column 2
        the given certificates cannot be used: there are none
        http://cluster/jwks is not https://, which only a loopback address may be
        "#);
    }
}
