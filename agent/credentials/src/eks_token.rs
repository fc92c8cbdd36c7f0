//! The token with which a caller shows an EKS cluster who it is: a presigned `GetCallerIdentity`.
//! Signed here and sent by the cluster; no call leaves this machine.

use std::time::{Duration, SystemTime};

use aws_config::Region;
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign};
use aws_sigv4::sign::v4;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use deputy_task::outcome::Failure;
use serde::{Deserialize, Serialize};

use crate::identity::TaskIdentity;
use crate::sts_host::public_sts_host;
use crate::timestamp;

/// What EKS allows a presigned URL to say of its own life.
const URL_EXPIRES: Duration = Duration::from_secs(60);
/// EKS accepts a token for 15 minutes; one minute is for the way and for clocks.
const TOKEN_LIFE: Duration = Duration::from_secs(14 * 60);
const TOKEN_PREFIX: &str = "k8s-aws-v1.";
const CLUSTER_HEADER: &str = "x-k8s-aws-id";
/// What kubectl and client libraries of today speak.
pub const EXEC_API_VERSION: &str = "client.authentication.k8s.io/v1beta1";

/// The answer of a credential plugin, as client-go reads it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecCredential {
    /// `client.authentication.k8s.io/v1beta1`.
    pub api_version: String,
    /// `ExecCredential`.
    pub kind: String,
    /// The token.
    pub status: ExecCredentialStatus,
}

/// The token and its end.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecCredentialStatus {
    /// When the caller should ask again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration_timestamp: Option<String>,
    /// `k8s-aws-v1.…`; whoever has it is the caller, for fifteen minutes.
    pub token: String,
}

/// The token could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the token for cluster {cluster} could not be signed: {cause}")]
pub struct EksTokenError {
    /// Which cluster.
    pub cluster: String,
    /// What the signer said.
    pub cause: String,
}

impl ExecCredential {
    /// When the caller should ask again; none if the plugin did not say.
    #[must_use]
    pub fn expires(&self) -> Option<SystemTime> {
        let text = self.status.expiration_timestamp.as_deref()?;
        timestamp::parse(text)
    }
}

/// Shows everything but the token.
impl std::fmt::Debug for ExecCredential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExecCredential")
            .field("expiration_timestamp", &self.status.expiration_timestamp)
            .finish_non_exhaustive()
    }
}

/// The token of `identity` for `cluster` in the identity's region: what `deputy-agent eks-token` prints.
///
/// # Errors
/// If there are no credentials, in AWS's words, or they cannot sign.
pub async fn token_for(identity: &TaskIdentity, cluster: &str) -> Result<ExecCredential, Failure> {
    let credentials = identity.credentials().await.map_err(|error| error.failure())?;
    eks_token(&credentials, cluster, identity.region(), SystemTime::now())
        .map_err(|error| Failure::new("eks.token", error.to_string()))
}

/// The token for `cluster`, signed with `credentials` at `now`.
///
/// # Errors
/// If the region or the cluster's name cannot be part of a URL or header.
pub fn eks_token(
    credentials: &Credentials,
    cluster: &str,
    region: &str,
    now: SystemTime,
) -> Result<ExecCredential, EksTokenError> {
    let failed = |cause: &dyn std::fmt::Display| EksTokenError {
        cluster: cluster.to_owned(),
        cause: cause.to_string(),
    };
    // The cluster's authenticator accepts STS's own public names only, whatever endpoint we use ourselves.
    let host = public_sts_host(region);
    let url = format!("https://{host}/?Action=GetCallerIdentity&Version=2011-06-15");
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(URL_EXPIRES);
    let identity = credentials.clone().into();
    let region = Region::new(region.to_owned());
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region.as_ref())
        .name("sts")
        .time(now)
        .settings(settings)
        .build()
        .map_err(|error| failed(&error))?;
    let headers = [("host", host.as_str()), (CLUSTER_HEADER, cluster)];
    let request = SignableRequest::new("GET", &url, headers.into_iter(), SignableBody::Bytes(&[]))
        .map_err(|error| failed(&error))?;
    let (instructions, _) = sign(request, &params.into())
        .map_err(|error| failed(&error))?
        .into_parts();
    let mut signed = http::Request::builder()
        .method("GET")
        .uri(&url)
        .body(())
        .map_err(|error| failed(&error))?;
    instructions.apply_to_request_http1x(&mut signed);
    // A session that ends takes its token along.
    let end = credentials
        .expiry()
        .map_or(now + TOKEN_LIFE, |session| session.min(now + TOKEN_LIFE));
    let token = format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(signed.uri().to_string()));
    Ok(ExecCredential {
        api_version: EXEC_API_VERSION.into(),
        kind: "ExecCredential".into(),
        status: ExecCredentialStatus {
            expiration_timestamp: Some(timestamp::rfc3339(end)),
            token,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    fn decoded(token: &str) -> String {
        let url = URL_SAFE_NO_PAD
            .decode(token.strip_prefix(TOKEN_PREFIX).expect("prefix"))
            .expect("base64url");
        String::from_utf8(url).expect("text")
    }

    #[test]
    fn the_token_is_a_presigned_get_caller_identity_bound_to_the_cluster() {
        let credentials = Credentials::new("AKID", "SECRET", Some("session/token".into()), None, "test");
        let now = UNIX_EPOCH + Duration::from_secs(1_795_000_000);
        let made = eks_token(&credentials, "prod", "eu-west-1", now).expect("signed");
        let url = decoded(&made.status.token);
        for part in [
            "https://sts.eu-west-1.amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-15&",
            "X-Amz-Expires=60",
            "X-Amz-SignedHeaders=host%3Bx-k8s-aws-id",
            "X-Amz-Security-Token=session%2Ftoken",
            "X-Amz-Signature=",
        ] {
            assert!(url.contains(part), "{part} in {url}");
        }
        assert!(!url.contains("SECRET"));
        assert_eq!(made.expires(), Some(now + TOKEN_LIFE));
        let other = eks_token(&credentials, "test", "eu-west-1", now).expect("signed");
        assert_ne!(decoded(&other.status.token), url, "the cluster's name is signed");
        assert!(!format!("{made:?}").contains("k8s-aws"), "Debug shows no token");
    }

    #[test]
    fn a_token_ends_with_the_session_that_signed_it() {
        let now = UNIX_EPOCH + Duration::from_secs(1_795_000_000);
        let credentials = |life: u64| {
            let end = Some(now + Duration::from_secs(life));
            Credentials::new("AKID", "SECRET", Some("token".into()), end, "test")
        };
        let ends = |life| {
            eks_token(&credentials(life), "prod", "eu-west-1", now)
                .expect("signed")
                .expires()
        };
        assert_eq!(ends(60), Some(now + Duration::from_secs(60)));
        assert_eq!(ends(3_600), Some(now + TOKEN_LIFE));
    }

    #[test]
    fn china_has_its_own_names() {
        let credentials = Credentials::new("AKID", "SECRET", None, None, "test");
        let made = eks_token(&credentials, "prod", "cn-north-1", UNIX_EPOCH).expect("signed");
        assert!(decoded(&made.status.token).starts_with("https://sts.cn-north-1.amazonaws.com.cn/"));
    }
}
