//! A web identity: the token of a Kubernetes service account (IRSA), exchanged for a role's session. The
//! token file is read anew for every exchange, because the kubelet replaces it before the token ends.

use std::fmt;
use std::path::PathBuf;

use aws_credential_types::Credentials;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use crate::denial::{Answer, answer_of};
use crate::env::Env;
use crate::error::{CredentialsError, RefusedToken};
use crate::pace::Paced;
use crate::session::{account_of, session};

const DEFAULT_SESSION_NAME: &str = "deputy-agent";

/// Longest token that is read. Kubernetes's have about 1 KiB.
const MAX_TOKEN_BYTES: u64 = 64 * 1024;

/// Where the token is and for which role it is exchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WebIdentity {
    token_file: PathBuf,
    role_arn: String,
    session_name: String,
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
            token_file: token_file.into(),
            role_arn: role_arn.to_owned(),
            session_name: env
                .get("AWS_ROLE_SESSION_NAME")
                .unwrap_or(DEFAULT_SESSION_NAME)
                .to_owned(),
        }))
    }

    /// The role of the session.
    pub(crate) fn role_arn(&self) -> &str {
        &self.role_arn
    }

    /// Exchanges the token as it is in the file now.
    ///
    /// # Errors
    /// With the token's own claims beside what AWS said of them; never with the token.
    pub(crate) async fn assume(&self, config: &Paced) -> Result<Credentials, CredentialsError> {
        let token = self.token().map_err(|cause| self.no_token(cause))?;
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
        tracing::info!(role.arn = %self.role_arn, session = %self.session_name, "role assumed with the service account's token");
        Ok(session(&self.role_arn, got))
    }

    /// No answer of STS's at all.
    pub(crate) fn unreachable(&self, cause: String) -> CredentialsError {
        self.refused("", &Answer::of_transport(cause))
    }

    /// The token, whole. A file that is being replaced may be there and empty for a moment: then the next renewal
    /// reads it, and the present credentials are still good.
    fn token(&self) -> Result<String, String> {
        use std::io::Read;
        let mut text = String::new();
        let read = std::fs::File::open(&self.token_file)
            .and_then(|file| file.take(MAX_TOKEN_BYTES + 1).read_to_string(&mut text));
        read.map_err(|error| format!("cannot be read: {error}"))?;
        let token = text.trim();
        if token.is_empty() {
            return Err("is empty".into());
        }
        if text.len() as u64 > MAX_TOKEN_BYTES {
            return Err(format!("is longer than {MAX_TOKEN_BYTES} bytes"));
        }
        if token.split('.').count() != 3 {
            return Err("holds no token of three parts; it is perhaps written at this moment".into());
        }
        Ok(token.to_owned())
    }

    fn no_token(&self, cause: String) -> CredentialsError {
        CredentialsError::WebIdentity(Box::new(RefusedToken {
            role: self.role_arn.clone(),
            cause: format!("the token file {} {cause}", self.token_file.display()),
            hint: "check that the pod's service account has the annotation eks.amazonaws.com/role-arn and that its token volume is mounted; \
                   a subPath mount is never renewed"
                .into(),
            raw: String::new(),
        }))
    }

    fn refused(&self, token: &str, answer: &Answer) -> CredentialsError {
        let Claims { iss, sub, aud } = claims(token);
        let account = account_of(&self.role_arn);
        let provider = iss.trim_start_matches("https://");
        let (cause, hint) = match answer.code.as_str() {
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
                    "make an IAM OIDC provider for {iss} with the audience {aud} in account {account}; \
                     check that the token is the one of this cluster"
                ),
            ),
            "ExpiredToken" | "ExpiredTokenException" => (
                format!("the token of {sub} in {} is over", self.token_file.display()),
                "the kubelet renews it: check that the file is not a copy or a subPath mount, and the clock of the host".into(),
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
        CredentialsError::WebIdentity(Box::new(RefusedToken {
            role: self.role_arn.clone(),
            cause,
            hint,
            raw: answer.raw(),
        }))
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
        WebIdentity::of(&env).expect("configured").expect("complete")
    }

    fn token(claims: &serde_json::Value) -> String {
        let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!(
            "{}.{}.c2lnbmF0dXJl",
            part(&serde_json::json!({"alg": "RS256"})),
            part(claims)
        )
    }

    #[test]
    fn a_file_that_holds_no_token_is_told_apart_from_one_that_does() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token");
        let identity = identity(file.to_str().expect("UTF-8"));
        let mut told = Vec::new();
        told.push(identity.token().expect_err("missing"));
        for text in ["", " \n", "eyJhbGciOi"] {
            std::fs::write(&file, text).expect("written");
            told.push(identity.token().expect_err("no token"));
        }
        insta::assert_snapshot!(told.join("\n"), @r"
        cannot be read: No such file or directory (os error 2)
        is empty
        is empty
        holds no token of three parts; it is perhaps written at this moment
        ");
        std::fs::write(&file, "a.b.c\n").expect("written");
        assert_eq!(identity.token().as_deref(), Ok("a.b.c"));
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
    fn half_a_configuration_is_named() {
        let env: Env = [("AWS_WEB_IDENTITY_TOKEN_FILE", "/x")].into_iter().collect();
        let half = WebIdentity::of(&env).expect("configured").expect_err("half");
        assert_eq!(half, "AWS_WEB_IDENTITY_TOKEN_FILE is set and AWS_ROLE_ARN is not");
        assert_eq!(WebIdentity::of(&Env::default()), None);
    }
}
