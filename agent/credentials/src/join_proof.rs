//! Proofs of who the agent is, made for one attempt to join a manager: a signed `GetCallerIdentity` that only the
//! manager sends, or the token of the pod's service account. Called by the agent when it joins; a proof
//! is in memory only, and good for one challenge.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use deputy_task::outcome::Failure;

use crate::identity::TaskIdentity;
use crate::sts_host::public_sts_host;
use crate::token_file;

const BODY: &[u8] = b"Action=GetCallerIdentity&Version=2011-06-15";
const CONTENT_TYPE: &str = "application/x-www-form-urlencoded";

/// What a proof is bound to. The manager rebuilds the same from what it knows itself.
#[derive(Debug, Clone, Copy)]
pub struct ProofBinding<'a> {
    /// The manager's challenge.
    pub nonce: &'a [u8],
    /// The trust domain that the agent was configured with, or that the manager named.
    pub trust_domain: &'a str,
    /// SHA-256 of the certificate request.
    pub csr_sha256: [u8; 32],
}

/// The headers of a signed `GetCallerIdentity`: whoever has them can ask AWS, for a few minutes, who signed.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedIdentity {
    /// The STS host that was signed.
    pub host: String,
    /// `Authorization`.
    pub authorization: String,
    /// `X-Amz-Date`.
    pub amz_date: String,
    /// `X-Amz-Security-Token`; empty for long-lived keys.
    pub security_token: String,
}

/// Shows the host and the date only.
impl std::fmt::Debug for SignedIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SignedIdentity")
            .field("host", &self.host)
            .field("amz_date", &self.amz_date)
            .finish_non_exhaustive()
    }
}

/// Signs with `identity`, for the STS host of its region.
///
/// # Errors
/// If there are no credentials, in AWS's words, or they cannot sign.
pub async fn aws_identity(identity: &TaskIdentity, binding: &ProofBinding<'_>) -> Result<SignedIdentity, Failure> {
    let credentials = identity.credentials().await.map_err(|error| error.failure())?;
    signed(&credentials, identity.region(), binding, SystemTime::now()).map_err(|cause| {
        Failure::new(
            "join.sign",
            format!("the agent's identity could not be signed: {cause}"),
        )
    })
}

/// The token of the pod's service account as it is in `file` now.
///
/// # Errors
/// What is wrong with the file.
pub fn service_account_token(file: &Path) -> Result<String, Failure> {
    token_file::read(&PathBuf::from(file)).map_err(|cause| {
        Failure::new(
            "join.tokenFile",
            format!("the service-account token {} {cause}", file.display()),
        )
        .hint("mount a projected serviceAccountToken volume there; it is tried again")
    })
}

/// What a service-account token says of itself that decides whether a manager takes it. Read, not verified.
#[derive(Debug, Default, serde::Deserialize)]
struct TokenClaims {
    #[serde(default)]
    aud: serde_json::Value,
    #[serde(default)]
    exp: u64,
}

/// Why a manager of this trust domain will not take the token, as far as the token itself says.
#[must_use]
pub fn unfit_token(token: &str, trust_domain: &str, now: SystemTime) -> Option<String> {
    let payload = token.split('.').nth(1).unwrap_or_default();
    let decoded = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    let Ok(claims) = serde_json::from_slice::<TokenClaims>(&decoded) else {
        return Some("is no service-account token".into());
    };
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    if claims.exp < now {
        return Some("has expired".into());
    }
    let wanted = format!("deputy/{trust_domain}");
    let is_for_it = match &claims.aud {
        serde_json::Value::String(one) => *one == wanted,
        serde_json::Value::Array(all) => all.iter().any(|one| one.as_str() == Some(&wanted)),
        _ => false,
    };
    (!is_for_it).then(|| format!("is for the audience {}, not for {wanted}", claims.aud))
}

fn signed(
    credentials: &Credentials,
    region: &str,
    binding: &ProofBinding<'_>,
    now: SystemTime,
) -> Result<SignedIdentity, String> {
    let host = public_sts_host(region);
    let identity = credentials.clone().into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("sts")
        .time(now)
        .settings(SigningSettings::default())
        .build()
        .map_err(|error| error.to_string())?;
    let challenge: String = hex::encode(binding.nonce);
    let csr = hex::encode(binding.csr_sha256);
    let headers = [
        ("host", host.as_str()),
        ("content-type", CONTENT_TYPE),
        ("x-deputy-challenge", &challenge),
        ("x-deputy-csr-sha256", &csr),
        ("x-deputy-trust-domain", binding.trust_domain),
    ];
    let url = format!("https://{host}/");
    let request = SignableRequest::new("POST", &url, headers.into_iter(), SignableBody::Bytes(BODY))
        .map_err(|error| error.to_string())?;
    let (instructions, _) = sign(request, &params.into())
        .map_err(|error| error.to_string())?
        .into_parts();
    let added = |wanted: &str| {
        let mut headers = instructions.headers();
        let found = headers.find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| value.to_owned()).unwrap_or_default()
    };
    Ok(SignedIdentity {
        authorization: added("authorization"),
        amz_date: added("x-amz-date"),
        security_token: added("x-amz-security-token"),
        host,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn proof(token: Option<&str>) -> SignedIdentity {
        let keys = Credentials::new("ASIAEXAMPLE", "wJalrXUtn", token.map(str::to_owned), None, "test");
        let binding = ProofBinding {
            nonce: &[1; 32],
            trust_domain: "deputy.example.com",
            csr_sha256: [2; 32],
        };
        let now = UNIX_EPOCH + Duration::from_secs(1_795_701_600);
        signed(&keys, "eu-west-1", &binding, now).expect("signed")
    }

    #[test]
    fn a_token_that_no_manager_takes_is_told_by_what_it_says() {
        let token = |claims: &str| format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
        let now = UNIX_EPOCH + Duration::from_secs(1_000);
        let unfit = |claims: &str| unfit_token(&token(claims), "acme", now);
        assert_eq!(unfit(r#"{"aud": ["deputy/acme"], "exp": 2000}"#), None);
        assert_eq!(unfit(r#"{"aud": "deputy/acme", "exp": 2000}"#), None);
        for (claims, words) in [
            (r#"{"aud": ["deputy/acme"], "exp": 999}"#, "has expired"),
            (r#"{"aud": ["sts.amazonaws.com"], "exp": 2000}"#, "not for deputy/acme"),
            (r#"{"exp": 2000}"#, "not for deputy/acme"),
            ("7", "is no service-account token"),
        ] {
            let why = unfit(claims).unwrap_or_default();
            assert!(why.contains(words), "{claims}: {why}");
        }
    }

    #[test]
    fn what_must_be_signed_is_signed_and_nothing_else() {
        let session = proof(Some("token"));
        let begins = "AWS4-HMAC-SHA256 Credential=ASIAEXAMPLE/20261126/eu-west-1/sts/aws4_request, SignedHeaders=";
        let of_ours = "x-deputy-challenge;x-deputy-csr-sha256;x-deputy-trust-domain, Signature=";
        let with = format!("{begins}content-type;host;x-amz-date;x-amz-security-token;{of_ours}");
        assert!(session.authorization.starts_with(&with), "{}", session.authorization);
        let (with, without) = (session.authorization.clone(), proof(None).authorization);
        let keys_only = format!("{begins}content-type;host;x-amz-date;{of_ours}");
        assert!(without.starts_with(&keys_only), "{without}");
        assert_ne!(with.rsplit_once('='), without.rsplit_once('='));
        assert_eq!(
            (session.host.as_str(), session.amz_date.as_str()),
            ("sts.eu-west-1.amazonaws.com", "20261126T140000Z")
        );
        assert_eq!(session.security_token, "token");
        assert!(!format!("{session:?}").contains("token\""), "{session:?}");
    }

    #[test]
    fn a_token_file_that_is_gone_or_half_written_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token");
        let mut told = Vec::new();
        let shown = |failure: Failure| failure.summary.replace(&folder.path().display().to_string(), "…");
        told.push(shown(service_account_token(&file).expect_err("missing")));
        for text in ["", "eyJhbGciOi"] {
            std::fs::write(&file, text).expect("written");
            told.push(shown(service_account_token(&file).expect_err("no token")));
        }
        std::fs::write(&file, "a.b.c\n").expect("written");
        assert_eq!(service_account_token(&file).expect("whole"), "a.b.c");
        insta::assert_snapshot!(told.join("\n"), @r"
        the service-account token …/token cannot be read: No such file or directory (os error 2)
        the service-account token …/token is empty
        the service-account token …/token holds no token of three parts; it is perhaps written at this moment
        ");
    }
}
