//! A web identity: a token that an issuer made, exchanged for a role's session. It is the token of a Kubernetes service
//! account (IRSA), whose file is read anew for every exchange because the kubelet replaces it before the token
//! ends; or one that the manager makes about an attempt, asked for anew each time.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use aws_credential_types::Credentials;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use deputy_task::document::OidcRole;
use deputy_task::message::MintedToken;
use serde::Deserialize;

use crate::denial::{Answer, answer_of};
use crate::env::Env;
use crate::error::{CredentialsError, RefusedToken};
use crate::pace::Paced;
use crate::refusal::{Policy, Refusal, is_denial};
use crate::session::{account_of, session};
use crate::token_file;

const DEFAULT_SESSION_NAME: &str = "deputy-agent";

/// Makes tokens about one attempt. The manager does; whoever knows the way to it implements this.
#[async_trait]
pub trait TokenMinter: Send + Sync {
    /// A token for `audience`; empty for the issuer's own choice. The error is for people.
    async fn mint(&self, audience: &str) -> Result<MintedToken, String>;
}

/// Where the token comes from and for which role it is exchanged.
#[derive(Clone)]
pub(crate) struct WebIdentity {
    source: TokenSource,
    role_arn: String,
    session_name: String,
}

#[derive(Clone)]
enum TokenSource {
    /// In a file that somebody else renews.
    File(PathBuf),
    /// Made for this audience when it is needed.
    Minted(Arc<dyn TokenMinter>, String),
}

/// What a token says of itself. None of it is secret: a trust policy names the same.
#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
struct Claims {
    #[serde(default)]
    iss: String,
    #[serde(default)]
    sub: String,
    #[serde(default)]
    aud: Audience,
}

#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Default for Audience {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl fmt::Display for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(one) => f.write_str(one),
            Self::Many(many) => f.write_str(&many.join(" and ")),
        }
    }
}

impl WebIdentity {
    /// From the variables that the pod identity webhook of EKS sets; `Err` names what is missing.
    pub(crate) fn of(env: &Env) -> Option<Result<Self, &'static str>> {
        let token_file = env.get("AWS_WEB_IDENTITY_TOKEN_FILE")?;
        let Some(role_arn) = env.get("AWS_ROLE_ARN") else {
            return Some(Err("AWS_WEB_IDENTITY_TOKEN_FILE is set and AWS_ROLE_ARN is not"));
        };
        Some(Ok(Self {
            source: TokenSource::File(token_file.into()),
            role_arn: role_arn.to_owned(),
            session_name: env
                .get("AWS_ROLE_SESSION_NAME")
                .unwrap_or(DEFAULT_SESSION_NAME)
                .to_owned(),
        }))
    }

    /// From tokens about an attempt.
    pub(crate) fn minted(role: &OidcRole, session_name: String, minter: Arc<dyn TokenMinter>) -> Self {
        Self {
            source: TokenSource::Minted(minter, role.audience.clone().unwrap_or_default()),
            role_arn: role.role_arn.clone(),
            session_name,
        }
    }

    /// The role of the session.
    pub(crate) fn role_arn(&self) -> &str {
        &self.role_arn
    }

    /// How the agent came to have the role.
    pub(crate) fn lineage(&self) -> String {
        match &self.source {
            TokenSource::File(_) => format!("its service account's role {}", self.role_arn),
            TokenSource::Minted(..) => format!("{} by the manager's word about the task", self.role_arn),
        }
    }

    /// Exchanges the token as it is in the file now.
    ///
    /// # Errors
    /// With the token's own claims beside what AWS said of them; never with the token.
    pub(crate) async fn assume(&self, config: &Paced) -> Result<Credentials, CredentialsError> {
        let token = self.token().await?;
        let sts = {
            let config = aws_sdk_sts::config::Builder::from(&config.sdk).interceptor(config.pace.clone());
            aws_sdk_sts::Client::from_conf(config.build())
        };
        let answer = sts
            .assume_role_with_web_identity()
            .role_arn(&self.role_arn)
            .role_session_name(&self.session_name)
            .web_identity_token(&token)
            .send()
            .await;
        let answer = answer.map_err(|error| self.refused(&token, &answer_of(&error)))?;
        let Some(got) = answer.credentials else {
            return Err(self.refused(&token, &Answer::of_transport("STS answered without credentials")));
        };
        tracing::info!(role.arn = %self.role_arn, session = %self.session_name, "role assumed with a web identity's token");
        Ok(session(&self.role_arn, got))
    }

    /// No answer of STS's at all.
    pub(crate) fn unreachable(&self, cause: String) -> CredentialsError {
        self.refused("", &Answer::of_transport(cause))
    }

    /// The token as it is in the file now (if it is being replaced, the next renewal reads it, and the present
    /// credentials are still good), or a new one.
    async fn token(&self) -> Result<String, CredentialsError> {
        let (cause, hint) = match &self.source {
            TokenSource::File(file) => match token_file::read(file) {
                Ok(token) => return Ok(token),
                Err(cause) => (
                    format!("the token file {} {cause}", file.display()),
                    "check that the pod's service account has the annotation eks.amazonaws.com/role-arn and that its token volume is mounted; \
                     a subPath mount is never renewed",
                ),
            },
            TokenSource::Minted(minter, audience) => match minter.mint(audience).await {
                Ok(token) => return Ok(token.0),
                Err(cause) => (
                    format!("the manager made no token: {cause}"),
                    "spec.aws.oidc needs a manager that is an OIDC issuer; without it, begin the chain with the agent's own identity",
                ),
            },
        };
        Err(self.failed(cause, hint, String::new()))
    }

    fn failed(&self, cause: String, hint: &str, raw: String) -> CredentialsError {
        CredentialsError::WebIdentity(Box::new(RefusedToken {
            who: match &self.source {
                TokenSource::File(_) => "the agent's service account",
                TokenSource::Minted(..) => "the task (spec.aws.oidc)",
            },
            role: self.role_arn.clone(),
            cause,
            hint: hint.to_owned(),
            raw,
        }))
    }

    fn refused(&self, token: &str, answer: &Answer) -> CredentialsError {
        let Claims { iss, sub, aud } = claims(token);
        let account = account_of(&self.role_arn);
        let provider = iss.trim_start_matches("https://");
        let refusal = Refusal::read(&answer.message);
        let (cause, hint) = match answer.code.as_str() {
            code if is_denial(code) && !matches!(refusal.policy, Policy::Untold | Policy::Trust) => {
                let change = refusal.change(sub.as_str(), "sts:AssumeRoleWithWebIdentity", &self.role_arn);
                (refusal.verdict(), change)
            }
            "AccessDenied" | "AccessDeniedException" => (
                format!("the role's trust policy does not accept the token of {sub}, or the role does not exist"),
                format!(
                    "let the trust policy of {} allow sts:AssumeRoleWithWebIdentity for the federated principal \
                     arn:aws:iam::{account}:oidc-provider/{provider} with {provider}:sub = {sub} and {provider}:aud = {aud}",
                    self.role_arn
                ),
            ),
            "InvalidIdentityToken" | "IDPRejectedClaim" => (
                format!("AWS cannot verify the token of {sub} from {iss}"),
                format!(
                    "make an IAM OIDC provider for {iss} with the audience {aud} in account {account}; {}",
                    match &self.source {
                        TokenSource::File(_) => "check that the token is the one of this cluster".to_owned(),
                        TokenSource::Minted(..) =>
                            format!("check that {iss}/.well-known/openid-configuration can be read from the internet"),
                    }
                ),
            ),
            "ExpiredToken" | "ExpiredTokenException" => (
                match &self.source {
                    TokenSource::File(file) => format!("the token of {sub} in {} is over", file.display()),
                    TokenSource::Minted(..) => format!("the token of {sub} was over when AWS saw it"),
                },
                match &self.source {
                    TokenSource::File(_) => "the kubelet renews it: check that the file is not a copy or a subPath mount, and the clock of the host",
                    TokenSource::Minted(..) => "check the clock of the manager",
                }
                .into(),
            ),
            "IDPCommunicationError" => (
                format!("AWS could not reach {iss} to verify the token"),
                "try again; if it lasts, the issuer's keys must be reachable from AWS".into(),
            ),
            "" => (
                "STS did not answer".into(),
                "check the way from the agent to the STS endpoint of the region (VPC endpoint, proxy, DNS)".into(),
            ),
            _ => (answer.message.clone(), String::new()),
        };
        self.failed(cause, &hint, answer.raw())
    }
}

/// What the token says; nothing if it is none.
fn claims(token: &str) -> Claims {
    let payload = token.split('.').nth(1).unwrap_or_default();
    let decoded = URL_SAFE_NO_PAD
        .decode(payload.trim_end_matches('='))
        .unwrap_or_default();
    serde_json::from_slice(&decoded).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLE: &str = "arn:aws:iam::000000000000:role/agent";

    fn identity(token_file: &str) -> WebIdentity {
        let env: Env = [("AWS_WEB_IDENTITY_TOKEN_FILE", token_file), ("AWS_ROLE_ARN", ROLE)]
            .into_iter()
            .collect();
        WebIdentity::of(&env)
            .expect("configured")
            .unwrap_or_else(|half| panic!("{half}"))
    }

    fn token(claims: &serde_json::Value) -> String {
        let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!(
            "{}.{}.c2lnbmF0dXJl",
            part(&serde_json::json!({"alg": "RS256"})),
            part(claims)
        )
    }

    #[tokio::test]
    async fn a_file_that_holds_no_token_is_told_apart_from_one_that_does() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token");
        let identity = identity(file.to_str().expect("UTF-8"));
        let mut told = Vec::new();
        told.push(identity.token().await.expect_err("missing").to_string());
        for text in ["", " \n", "eyJhbGciOi"] {
            std::fs::write(&file, text).expect("written");
            told.push(identity.token().await.expect_err("no token").to_string());
        }
        let told = told.join("\n").replace(&folder.path().display().to_string(), "…");
        insta::assert_snapshot!(told, @r"
        the agent's service account could not become arn:aws:iam::000000000000:role/agent: the token file …/token cannot be read: No such file or directory (os error 2)
        the agent's service account could not become arn:aws:iam::000000000000:role/agent: the token file …/token is empty
        the agent's service account could not become arn:aws:iam::000000000000:role/agent: the token file …/token is empty
        the agent's service account could not become arn:aws:iam::000000000000:role/agent: the token file …/token holds no token of three parts; it is perhaps written at this moment
        ");
        std::fs::write(&file, "a.b.c\n").expect("written");
        assert_eq!(identity.token().await.as_deref(), Ok("a.b.c"));
    }

    /// A manager that makes this token, or says this.
    struct Manager(Result<&'static str, &'static str>);

    #[async_trait]
    impl TokenMinter for Manager {
        async fn mint(&self, audience: &str) -> Result<MintedToken, String> {
            assert_eq!(audience, "vault");
            let made = self.0.map(|token| MintedToken(token.to_owned()));
            made.map_err(str::to_owned)
        }
    }

    #[tokio::test]
    async fn a_token_about_an_attempt_is_asked_for_and_its_absence_explained() {
        let role = OidcRole {
            role_arn: ROLE.into(),
            audience: Some("vault".into()),
        };
        let made = |answer| WebIdentity::minted(&role, "deputy-t1-1".into(), Arc::new(Manager(answer)));
        assert_eq!(made(Ok("a.b.c")).token().await.as_deref(), Ok("a.b.c"));
        let refused = made(Err("this manager is no OIDC issuer"))
            .token()
            .await
            .expect_err("none");
        insta::assert_snapshot!(refused, @"the task (spec.aws.oidc) could not become arn:aws:iam::000000000000:role/agent: the manager made no token: this manager is no OIDC issuer");
        assert_eq!(refused.class(), "aws.webIdentity");
    }

    #[test]
    fn a_refusal_names_the_claims_that_the_trust_policy_must_accept_and_never_the_token() {
        let token = token(&serde_json::json!({
            "iss": "https://oidc.eks.eu-west-1.amazonaws.com/id/ABC", "sub": "system:serviceaccount:deputy:agent", "aud": ["sts.amazonaws.com"]}));
        let mut told = String::new();
        for code in ["AccessDenied", "InvalidIdentityToken", "ExpiredTokenException", ""] {
            let answer = Answer {
                code: code.into(),
                message: "no".into(),
                request_id: String::new(),
            };
            let failure = identity("/var/run/token").refused(&token, &answer).failure();
            told.push_str(&format!(
                "{}\n  {}\n  hint: {}\n",
                failure.class, failure.summary, failure.hint
            ));
            assert!(!format!("{failure:?}").contains(&token), "{failure:?}");
        }
        insta::assert_snapshot!(told, @r"
        aws.webIdentity
          the agent's service account could not become arn:aws:iam::000000000000:role/agent: the role's trust policy does not accept the token of system:serviceaccount:deputy:agent, or the role does not exist
          hint: let the trust policy of arn:aws:iam::000000000000:role/agent allow sts:AssumeRoleWithWebIdentity for the federated principal arn:aws:iam::000000000000:oidc-provider/oidc.eks.eu-west-1.amazonaws.com/id/ABC with oidc.eks.eu-west-1.amazonaws.com/id/ABC:sub = system:serviceaccount:deputy:agent and oidc.eks.eu-west-1.amazonaws.com/id/ABC:aud = sts.amazonaws.com
        aws.webIdentity
          the agent's service account could not become arn:aws:iam::000000000000:role/agent: AWS cannot verify the token of system:serviceaccount:deputy:agent from https://oidc.eks.eu-west-1.amazonaws.com/id/ABC
          hint: make an IAM OIDC provider for https://oidc.eks.eu-west-1.amazonaws.com/id/ABC with the audience sts.amazonaws.com in account 000000000000; check that the token is the one of this cluster
        aws.webIdentity
          the agent's service account could not become arn:aws:iam::000000000000:role/agent: the token of system:serviceaccount:deputy:agent in /var/run/token is over
          hint: the kubelet renews it: check that the file is not a copy or a subPath mount, and the clock of the host
        aws.webIdentity
          the agent's service account could not become arn:aws:iam::000000000000:role/agent: STS did not answer
          hint: check the way from the agent to the STS endpoint of the region (VPC endpoint, proxy, DNS)
        ");
    }

    #[test]
    fn a_policy_that_aws_names_is_told_instead_of_the_trust_policy() {
        let token =
            token(&serde_json::json!({ "iss": "https://issuer.test", "sub": "agent", "aud": "sts.amazonaws.com" }));
        // The wording of the IAM User Guide, "Troubleshoot access denied error messages".
        let answer = Answer {
            code: "AccessDenied".into(),
            message: "User: agent is not authorized to perform: sts:AssumeRoleWithWebIdentity because no VPC endpoint policy \
                      allows the sts:AssumeRoleWithWebIdentity action"
                .into(),
            request_id: String::new(),
        };
        let failure = identity("/var/run/token").refused(&token, &answer).failure();
        assert!(
            failure.summary.ends_with("no VPC endpoint policy allows it"),
            "{failure:?}"
        );
        assert!(
            failure.hint.contains("through which the agent reaches sts"),
            "{failure:?}"
        );
    }

    #[test]
    fn half_a_configuration_is_named() {
        let env: Env = [("AWS_WEB_IDENTITY_TOKEN_FILE", "/x")].into_iter().collect();
        let half = WebIdentity::of(&env).expect("configured").err();
        assert_eq!(
            half.unwrap_or_default(),
            "AWS_WEB_IDENTITY_TOKEN_FILE is set and AWS_ROLE_ARN is not"
        );
        assert!(WebIdentity::of(&Env::default()).is_none());
    }
}
