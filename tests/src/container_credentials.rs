//! The ECS container-credentials endpoint, played by the harness: what the ECS agent would serve to the task
//! that the Deputy agent is. Answers in the documented shape, with credentials by AssumeRole at the emulator.
//!
//! The emulator serves this endpoint too, but with keys that it does not know itself, so that with
//! authorization on they are refused.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use aws_credential_types::Credentials;
use http::{Request, StatusCode};
use hyper::body::Incoming;

use crate::background::Background;
use crate::cloud::{Cloud, HOME};
use crate::http_server::{self, Answer, reply};
use crate::leaks::canary::Canaries;

const TOKEN: &str = "token-of-the-container-credentials-endpoint";
/// What the secrets of a session are called where they are looked for.
pub const SECRET_KEY: &str = "the secret key of the agent's own session";
/// As [`SECRET_KEY`]: without it, this signs nothing.
pub const SESSION_TOKEN: &str = "the token of the agent's own session";
/// Longest session that the emulator gives.
const SESSION_SECONDS: i32 = 3600;

/// The endpoint. It ends when it is dropped.
#[derive(Debug)]
pub struct ContainerCredentials {
    address: SocketAddr,
    shared: Arc<Shared>,
    _server: Background,
}

#[derive(Debug)]
pub(crate) struct Shared {
    sts: aws_sdk_sts::Client,
    role: String,
    /// Answers say that the session ends after this; 0: when it does.
    claimed_seconds: AtomicU32,
    refusing: AtomicBool,
    asked: AtomicU32,
    canaries: Canaries,
}

impl ContainerCredentials {
    /// Serves sessions of `role` of that cloud. `learn` is told each new key and whose it is.
    pub async fn start(cloud: &Cloud, role: &str, learn: impl Fn(&str, &str) + Send + Sync + 'static) -> Result<Self> {
        let shared = Arc::new(Shared {
            sts: aws_sdk_sts::Client::new(&root_config(cloud, HOME)),
            role: role.into(),
            claimed_seconds: AtomicU32::new(0),
            refusing: AtomicBool::new(false),
            asked: AtomicU32::new(0),
            canaries: Canaries::default(),
        });
        shared.canaries.learn("the token of the credential endpoint", TOKEN);
        let (serving, learn): (_, Learn) = (Arc::clone(&shared), Arc::new(learn));
        let (address, server) = http_server::start(move |request| {
            let (shared, learn) = (Arc::clone(&serving), Arc::clone(&learn));
            async move { answer(&request, &shared, &learn).await }
        })
        .await?;
        Ok(Self {
            address,
            shared,
            _server: server,
        })
    }

    /// What ECS puts into the environment of a task.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, String); 2] {
        [
            (
                "AWS_CONTAINER_CREDENTIALS_FULL_URI",
                format!("http://{}/v2/credentials/deputy", self.address),
            ),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN", TOKEN.to_owned()),
        ]
    }

    /// What the agent of EKS Pod Identity puts into the environment of a pod: the token is in a file.
    pub fn pod_identity(&self, folder: &Path) -> Result<Vec<(String, String)>> {
        let file = folder.join("eks-pod-identity-token");
        std::fs::write(&file, TOKEN)?;
        let [(name, uri), _] = self.environment();
        Ok(vec![
            (name.into(), uri),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN".into(), String::new()),
            (
                "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE".into(),
                file.display().to_string(),
            ),
        ])
    }

    /// A session in variables, as people export it, and what hides this endpoint.
    pub async fn exported(&self) -> Result<Vec<(String, String)>> {
        let session = session(&self.shared, &|_, _| {}).await?;
        let value = |field: &str| session[field].as_str().unwrap_or_default().to_owned();
        let [(uri, _), (token, _)] = self.environment();
        let variables = [
            ("AWS_ACCESS_KEY_ID", value("AccessKeyId")),
            ("AWS_SECRET_ACCESS_KEY", value("SecretAccessKey")),
            ("AWS_SESSION_TOKEN", value("Token")),
            (uri, String::new()),
            (token, String::new()),
        ];
        Ok(variables.map(|(name, value)| (name.to_owned(), value)).into())
    }

    /// The sessions that it serves, for another way to serve them.
    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// From now on answers say that the session ends after this time, so that refresh can be seen.
    pub fn claim_to_expire_after(&self, time: Duration) {
        self.shared
            .claimed_seconds
            .store(u32::try_from(time.as_secs()).unwrap_or(u32::MAX), Ordering::Release);
    }

    /// From now on the endpoint answers 500.
    pub fn refuse(&self) {
        self.shared.refusing.store(true, Ordering::Release);
    }

    /// Every secret that it has given out, and the token that it asks for.
    #[must_use]
    pub fn secrets(&self) -> Canaries {
        self.shared.canaries.clone()
    }

    /// How often it was asked.
    #[must_use]
    pub fn asked(&self) -> u32 {
        self.shared.asked.load(Ordering::Acquire)
    }
}

/// An SDK configuration for the root of an account, straight to the emulator.
#[must_use]
pub fn root_config(cloud: &Cloud, account: &str) -> aws_config::SdkConfig {
    config(cloud, &cloud.scenery().endpoint, keys(account, "test", None))
}

/// Credentials of a test's own.
#[must_use]
pub fn keys(access_key: &str, secret: &str, token: Option<String>) -> Credentials {
    Credentials::new(access_key, secret, token, None, "deputy-tests")
}

/// An SDK configuration for these credentials, to `endpoint`.
#[must_use]
pub fn config(cloud: &Cloud, endpoint: &str, credentials: Credentials) -> aws_config::SdkConfig {
    aws_config::SdkConfig::builder()
        .behavior_version(aws_config::BehaviorVersion::latest())
        .region(aws_config::Region::new(cloud.scenery().region.clone()))
        .endpoint_url(endpoint)
        .credentials_provider(aws_credential_types::provider::SharedCredentialsProvider::new(
            credentials,
        ))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build()
}

type Learn = Arc<dyn Fn(&str, &str) + Send + Sync>;

async fn answer(request: &Request<Incoming>, shared: &Shared, learn: &Learn) -> Answer {
    shared.asked.fetch_add(1, Ordering::AcqRel);
    let authorized = request
        .headers()
        .get("authorization")
        .is_some_and(|value| value == TOKEN);
    if !authorized {
        return reply(
            StatusCode::UNAUTHORIZED,
            r#"{"message":"the authorization token is wrong"}"#.into(),
        );
    }
    if shared.refusing.load(Ordering::Acquire) {
        return reply(
            StatusCode::INTERNAL_SERVER_ERROR,
            r#"{"message":"refused by the test"}"#.into(),
        );
    }
    match session(shared, &**learn).await {
        Ok(body) => reply(StatusCode::OK, body.to_string()),
        Err(error) => {
            let body = serde_json::json!({ "message": format!("{error:#}") });
            reply(StatusCode::INTERNAL_SERVER_ERROR, body.to_string())
        }
    }
}

/// A session of the agent's role, as the endpoint writes it.
pub(crate) async fn session(shared: &Shared, learn: &(dyn Fn(&str, &str) + Send + Sync)) -> Result<serde_json::Value> {
    let answer = shared
        .sts
        .assume_role()
        .role_arn(&shared.role)
        .role_session_name("ecs-task")
        .duration_seconds(SESSION_SECONDS)
        .send()
        .await
        .context("AssumeRole for the agent")?;
    let credentials = answer.credentials().context("credentials")?;
    for (name, secret) in [
        (SECRET_KEY, credentials.secret_access_key()),
        (SESSION_TOKEN, credentials.session_token()),
    ] {
        shared.canaries.learn(name, secret);
    }
    if let Some(user) = answer.assumed_role_user() {
        learn(credentials.access_key_id(), user.arn());
    }
    let claimed = shared.claimed_seconds.load(Ordering::Acquire);
    let expiration = if claimed == 0 {
        *credentials.expiration()
    } else {
        let end = std::time::SystemTime::now() + Duration::from_secs(claimed.into());
        end.into()
    };
    Ok(serde_json::json!({
        "RoleArn": shared.role,
        "AccessKeyId": credentials.access_key_id(),
        "SecretAccessKey": credentials.secret_access_key(),
        "Token": credentials.session_token(),
        "Expiration": expiration.fmt(aws_smithy_types::date_time::Format::DateTime)?,
    }))
}
