//! Joining by AWS identity: a signed `GetCallerIdentity` is sent to STS, whose answer says who signed it.
//! Called by the Enrollment service with a proof and what it must be bound to. The agent's word is
//! never taken for anything but a signature.

use std::time::SystemTime;

use super::aws_principal::AwsIdentity;
use super::signed_identity::SignedIdentity;
use super::sts_host::StsHosts;
use super::turns::Turns;
use super::unproven::Unproven;
use super::{Binding, JoinRule, Proven, RuleProof};
use crate::fetch::{Answer, Endpoint, Fetcher, Roots};

/// Asks STS who signed.
#[derive(Debug, Clone, Default)]
pub struct AwsVerifier {
    hosts: StsHosts,
    /// Where requests are sent instead of to the host that was signed.
    endpoint: Option<Endpoint>,
    turns: Turns,
    fetcher: Fetcher,
}

impl AwsVerifier {
    /// For signatures for these hosts, sent to `endpoint` instead of to the host itself if there is one.
    #[must_use]
    pub fn new(hosts: StsHosts, endpoint: Option<Endpoint>) -> Self {
        Self {
            hosts,
            endpoint,
            turns: Turns::default(),
            fetcher: Fetcher::default(),
        }
    }

    /// The same, by this fetcher.
    #[must_use]
    pub fn by(self, fetcher: Fetcher) -> Self {
        Self { fetcher, ..self }
    }

    /// The rule that lets in who signed the proof, in AWS's words.
    ///
    /// # Errors
    /// Why none does, or why that cannot be said now.
    pub async fn prove(
        &self,
        proof: &SignedIdentity<'_>,
        binding: &Binding,
        rules: &[JoinRule],
        now: SystemTime,
    ) -> Result<Proven, Unproven> {
        let request = proof.rebuild(binding, &self.hosts, now)?;
        if rules.is_empty() {
            return Err(Unproven::denied(
                "no join rule lets in an AWS identity",
                "add one (deputy fleet join-rule create --aws-account … --aws-role …)",
            ));
        }
        let _turn = self.turns.take(proof.host).await?;
        let endpoint = self.endpoint.clone().unwrap_or_else(|| Endpoint::tls(proof.host));
        let answer = self.fetcher.exchange(&endpoint, &Roots::Native, request).await;
        let answer = answer.map_err(|error| unanswered(proof.host, &error.to_string()))?;
        let identity = read(proof.host, &answer)?;
        let admits = |rule: &&JoinRule| match &rule.proof {
            RuleProof::AwsIdentity { account, role } => identity.is_role(account, role),
            RuleProof::Kubernetes(_) | RuleProof::Token => false,
        };
        let rule = rules.iter().find(admits).ok_or_else(|| {
            Unproven::denied(
                format!("no join rule lets in {identity}"),
                "add a rule for it (deputy fleet join-rule create), or give the agent the role that is meant",
            )
        })?;
        tracing::info!(rule = %rule.name, arn = %identity.arn, "an AWS identity is proved");
        Ok(Proven {
            rule: rule.clone(),
            subject: identity.subject(),
        })
    }
}

fn read(host: &str, answer: &Answer) -> Result<AwsIdentity, Unproven> {
    let text = std::str::from_utf8(&answer.body).unwrap_or_default();
    match answer.status.as_u16() {
        200 => {
            let is_other = || {
                unanswered(
                    host,
                    "its answer is not that of GetCallerIdentity; is there a proxy in between?",
                )
            };
            caller(text).ok_or_else(is_other)?
        }
        status @ (429 | 500..=599) => Err(unanswered(host, &format!("it answered {status}"))),
        status => Err(not_believed(
            host,
            element(text, "Code").map_or_else(|| status.to_string(), |code| code.chars().take(80).collect()),
            element(text, "Message").unwrap_or_default(),
        )),
    }
}

/// Whom the answer names; `None` if it is not that of `GetCallerIdentity`.
pub(crate) fn caller(text: &str) -> Option<Result<AwsIdentity, Unproven>> {
    let result = element(text, "GetCallerIdentityResult")?;
    Some(AwsIdentity::of(element(result, "Account")?, element(result, "Arn")?))
}

fn unanswered(host: &str, why: &str) -> Unproven {
    Unproven::later(
        format!("{host} did not say who signed the identity: {why}"),
        "try again in a moment; if it lasts, check the manager's way to STS, or let the agent sign for another region",
    )
}

fn not_believed(host: &str, code: String, message: &str) -> Unproven {
    let message: String = message.chars().take(200).collect();
    let hint = match code.as_str() {
        "SignatureDoesNotMatch" => {
            "the identity was signed for another challenge, trust domain or certificate request, or with wrong keys: \
             join again with a new challenge"
        }
        "InvalidClientTokenId" | "UnrecognizedClientException" => {
            "the keys do not exist, or not in the partition of this host: check the agent's AWS identity"
        }
        "ExpiredToken" | "ExpiredTokenException" => "the agent's AWS session is over: check what gives it credentials",
        "Throttling" | "ThrottlingException" | "RequestThrottled" => {
            return unanswered(host, "it throttles this caller");
        }
        _ => "check the agent's AWS identity and the clocks",
    };
    Unproven::denied(
        format!("{host} does not accept the signed identity ({code}: {message})"),
        hint,
    )
}

/// The text between the only pair of tags of this name, both without attributes. Anything else is no answer of STS's.
fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let (_, rest) = text.split_once(&open)?;
    let (inner, after) = rest.split_once(&close)?;
    let is_only = !rest.contains(&open) && !after.contains(&close);
    (is_only && !inner.contains('&') && !inner.contains("<!")).then(|| inner.trim())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::StatusCode;

    use super::super::aws_principal::AwsPrincipal;
    use super::super::unproven::UnprovenKind;
    use super::*;

    fn answered(status: u16, body: &str) -> Result<AwsIdentity, Unproven> {
        let answer = Answer {
            status: StatusCode::from_u16(status).expect("a status"),
            body: Bytes::copy_from_slice(body.as_bytes()),
        };
        read("sts.eu-west-1.amazonaws.com", &answer)
    }

    fn identity(account: &str, arn: &str) -> String {
        format!(
            r#"<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>
  <Arn>{arn}</Arn><UserId>AROA:x</UserId><Account>{account}</Account></GetCallerIdentityResult>
  <ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></GetCallerIdentityResponse>"#
        )
    }

    fn error(code: &str) -> String {
        format!(
            "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>no</Message></Error></ErrorResponse>"
        )
    }

    #[tokio::test(start_paused = true)]
    async fn sts_is_asked_for_known_rules_and_by_turns_only() {
        let nobody = "http://127.0.0.1:1".parse().expect("a URL");
        let mut verifier = AwsVerifier::new(StsHosts::default(), Some(Endpoint::of_url(&nobody).expect("here")));
        let proof = SignedIdentity {
            host: "sts.eu-west-1.amazonaws.com",
            authorization: &format!(
                "AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/20261126/eu-west-1/sts/aws4_request, \
                 SignedHeaders=content-type;host;x-amz-date;x-deputy-challenge;x-deputy-csr-sha256;x-deputy-trust-domain, \
                 Signature={}",
                "0a".repeat(32)
            ),
            amz_date: "20261126T140000Z",
            security_token: "",
        };
        let binding = Binding {
            nonce: vec![1; 32],
            trust_domain: "test".into(),
            csr_sha256: [2; 32],
        };
        let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_795_701_600);
        let refused = verifier.prove(&proof, &binding, &[], now).await.expect_err("no rule");
        assert!(
            refused.what.contains("no join rule lets in an AWS identity"),
            "{refused}"
        );
        let rule = JoinRule {
            name: "aws".into(),
            pool: "eu".into(),
            projects: Vec::new(),
            proof: RuleProof::AwsIdentity {
                account: "222222222222".into(),
                role: "agent".into(),
            },
            created_at_ms: 0,
            created_by: String::new(),
        };
        verifier.turns = Turns::new(1);
        let turn = verifier.turns.take("sts").await.expect("free");
        let waiting = verifier.prove(&proof, &binding, std::slice::from_ref(&rule), now).await;
        let waiting = waiting.expect_err("not asked");
        assert!(waiting.what.contains("too many who join"), "{waiting}");
        drop(turn);
        let asked = verifier
            .prove(&proof, &binding, &[rule], now)
            .await
            .expect_err("nobody is there");
        assert!(asked.what.contains("did not say who signed"), "{asked}");
    }

    #[test]
    fn account_and_role_are_read_from_stss_answer() {
        let arn = "arn:aws:sts::222222222222:assumed-role/agent/i-0abc";
        let read = answered(200, &identity("222222222222", arn)).expect("an identity");
        assert_eq!(read.principal, AwsPrincipal::Role("agent".into()));
        assert_eq!((read.account.as_str(), read.arn.as_str()), ("222222222222", arn));
    }

    #[test]
    fn an_answer_that_is_not_stss_proves_nobody() {
        let arn = "arn:aws:sts::222222222222:assumed-role/agent/x";
        let twice = identity("222222222222", &format!("{arn}</Arn><Arn>{arn}"));
        for body in [
            "",
            "<html>Sign in</html>",
            "{}",
            &twice,
            &identity("222222222222", "a&amp;b"),
        ] {
            let refused = answered(200, body).expect_err(body);
            assert_eq!(refused.kind, UnprovenKind::Later, "{body}");
        }
        let other = answered(200, &identity("333333333333", arn)).expect_err("another account");
        assert_eq!(other.kind, UnprovenKind::Denied);
    }

    #[test]
    fn what_sts_says_no_to_is_told_with_what_to_do() {
        let mut told = String::new();
        for (status, body) in [
            (403, error("SignatureDoesNotMatch")),
            (403, error("InvalidClientTokenId")),
            (403, error("ExpiredToken")),
            (400, error("Throttling")),
            (418, String::new()),
            (503, String::new()),
        ] {
            let refused = answered(status, &body).expect_err("refused");
            told.push_str(&format!("{:?}: {refused}\n", refused.kind));
        }
        insta::assert_snapshot!(told);
    }
}
