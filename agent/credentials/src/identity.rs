//! The agent's identities: one ambient, and per task a role chain on top of it. The executor makes a
//! [`TaskIdentity`] when a step first asks for one; nothing here touches the network before that.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::{AppName, BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_async::rt::sleep::{SharedAsyncSleep, TokioSleep};
use aws_smithy_runtime::client::identity::IdentityCache;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_types::retry::RetryConfig;
use deputy_task::document::{OidcRole, RoleHop};
use deputy_task::outcome::Failure;
use serde_json::Value;

use crate::account::{Account, OwnAccount};
use crate::ambient::{Ambient, AmbientKind};
use crate::backoff::Backoff;
use crate::chain::{Link, LinkProvider, Origin, sts_client};
use crate::container::Container;
use crate::denial::answer_of;
use crate::env::Env;
use crate::error::CredentialsError;
use crate::hop::{Caller as HopCaller, Hop, check_role_arn, session_name_from};
use crate::http_client;
use crate::machine::Machine;
use crate::pace::{Pace, Paced, Tell, timeouts};
use crate::profile;
use crate::rate::Rates;
use crate::refusal::{Refusal, denied, encoded};
use crate::session::account_of;
use crate::web_identity::{TokenMinter, WebIdentity};

/// One per agent. Cheap to clone; builds its HTTP client on first use.
#[derive(Clone)]
pub struct Identities {
    agent: Arc<Agent>,
}

/// The AWS identity of one task: a region and credentials that renew themselves. Cheap to clone;
/// `Debug` shows the chain and no secret.
#[derive(Clone)]
pub struct TaskIdentity {
    agent: Arc<Agent>,
    region: Region,
    link: Arc<Link>,
    role: Option<Arc<str>>,
    pace: Pace,
}

/// Who AWS says the identity is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// For example `arn:aws:sts::222222222222:assumed-role/deployer/deputy-…`.
    pub arn: String,
    /// Twelve digits.
    pub account: String,
}

/// Longest time for having a message decoded, while explaining a denial.
const DECODE_TIMEOUT: Duration = Duration::from_secs(4);

/// Where the chain of one attempt begins instead of with the agent's own identity.
#[derive(Clone)]
pub struct OidcStart {
    /// The role that the token is exchanged for.
    pub role: OidcRole,
    /// Who makes the token.
    pub minter: Arc<dyn TokenMinter>,
    /// The document's own backoff.
    pub backoff: Backoff,
}

struct Agent {
    env: Env,
    ambient: Ambient,
    /// The profile that the operator named.
    profile: Option<String>,
    http: OnceLock<SharedHttpClient>,
    ambient_link: OnceLock<Arc<Link>>,
    /// Links in use, by region and hops from the first on; a link nobody holds any more is dropped.
    links: Mutex<BTreeMap<ChainKey, Weak<Link>>>,
    /// How fast AWS may be called.
    rates: Arc<Rates>,
    account: Arc<OwnAccount>,
}

type ChainKey = (String, Vec<Hop>, Backoff);

impl Identities {
    /// Detects the ambient identity; touches no network. Keys, endpoints and certificates come from `env`; a
    /// container endpoint is read by the AWS SDK from this process's own environment.
    #[must_use]
    pub fn new(env: Env) -> Self {
        let ambient = Ambient::detect(&env, Machine::read());
        Self::of(env, ambient, None)
    }

    /// From a profile of the shared config files, because the operator named it; nothing else is looked for.
    #[must_use]
    pub fn with_profile(env: Env, profile: &str) -> Self {
        Self::of(env, Ambient::profile(profile), Some(profile.to_owned()))
    }

    fn of(env: Env, ambient: Ambient, profile: Option<String>) -> Self {
        let account = Arc::new(OwnAccount::known(&own_account(&env, &ambient)));
        Self {
            agent: Arc::new(Agent {
                account,
                env,
                ambient,
                profile,
                http: OnceLock::new(),
                ambient_link: OnceLock::new(),
                links: Mutex::new(BTreeMap::new()),
                rates: Arc::default(),
            }),
        }
    }

    /// What was found.
    #[must_use]
    pub fn ambient(&self) -> &Ambient {
        &self.agent.ambient
    }

    /// The region of the agent's environment or, without one, `us-east-1`.
    #[must_use]
    pub fn own_region(&self) -> &str {
        self.agent.own_region().unwrap_or("us-east-1")
    }

    /// The agent's own identity, in its own region.
    ///
    /// # Errors
    /// If `AWS_CA_BUNDLE` cannot be used.
    pub fn own(&self) -> Result<TaskIdentity, CredentialsError> {
        self.for_task(self.own_region(), &[], "deputy-agent")
    }

    /// The identity at the end of `hops`, assumed one after the other; no hops: the agent's own.
    /// Nothing is sent before credentials are asked for.
    ///
    /// # Errors
    /// If a hop breaks a rule of AWS's, or `AWS_CA_BUNDLE` cannot be used.
    pub fn for_task(
        &self,
        region: &str,
        hops: &[RoleHop],
        default_session_name: &str,
    ) -> Result<TaskIdentity, CredentialsError> {
        self.for_task_with(region, hops, default_session_name, Backoff::default())
    }

    /// The same, with the document's own backoff.
    ///
    /// # Errors
    /// As [`for_task`](Self::for_task).
    pub fn for_task_with(
        &self,
        region: &str,
        hops: &[RoleHop],
        default_session_name: &str,
        backoff: Backoff,
    ) -> Result<TaskIdentity, CredentialsError> {
        let agent = &self.agent;
        let mut link = agent.ambient_link();
        let mut taken = Vec::new();
        for (index, hop) in hops.iter().enumerate() {
            let caller = if index > 0 || agent.ambient.is_session {
                HopCaller::Role
            } else {
                HopCaller::Keys
            };
            taken.push(Hop::check(hop, index + 1, hops.len(), caller, default_session_name)?);
            link = agent.link(region, &taken, backoff, link)?;
        }
        let role: Option<Arc<str>> = hops.last().map(|hop| hop.role_arn.as_str().into());
        let account = agent.account_that_calls(&taken);
        Ok(TaskIdentity {
            agent: Arc::clone(agent),
            region: Region::new(region.to_owned()),
            link,
            role,
            pace: Pace::new(backoff, Arc::clone(&agent.rates), account, region.to_owned()),
        })
    }
}

impl Identities {
    /// The identity at the end of `hops`, which begin with the role of `start`: its token is about one attempt, so no
    /// link of this chain is shared with another. Nothing is sent before credentials are asked for.
    ///
    /// # Errors
    /// If a role or a hop breaks a rule of AWS's, or `AWS_CA_BUNDLE` cannot be used.
    pub fn for_oidc_task(
        &self,
        region: &str,
        start: OidcStart,
        hops: &[RoleHop],
        default_session_name: &str,
    ) -> Result<TaskIdentity, CredentialsError> {
        let agent = &self.agent;
        let OidcStart { role, minter, backoff } = start;
        check_role_arn(&role.role_arn).map_err(|problem| CredentialsError::BadHop {
            hop: 0,
            role: role.role_arn.clone(),
            problem,
        })?;
        let begin = WebIdentity::minted(&role, session_name_from(default_session_name), minter);
        let mut last = role.role_arn;
        let calls = |last: &str| agent.paced(backoff, Account::of(account_of(last)), region);
        let origin = Origin::WebIdentity(Box::new(begin), Box::new(calls(&last)?));
        let mut link = Arc::new(Link::new(origin));
        for (index, hop) in hops.iter().enumerate() {
            let hop = Hop::check(hop, index + 1, hops.len(), HopCaller::Role, default_session_name)?;
            let config = calls(&last)?;
            last.clone_from(&hop.role_arn);
            link = Arc::new(Link::new(Origin::Role(link, Box::new(hop), Box::new(config))));
        }
        let account = Account::of(account_of(&last));
        Ok(TaskIdentity {
            agent: Arc::clone(agent),
            region: Region::new(region.to_owned()),
            link,
            role: Some(last.into()),
            pace: Pace::new(backoff, Arc::clone(&agent.rates), account, region.to_owned()),
        })
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identities")
            .field("ambient", &self.agent.ambient.description)
            .finish_non_exhaustive()
    }
}

impl TaskIdentity {
    /// The task's region.
    #[must_use]
    pub fn region(&self) -> &str {
        self.region.as_ref()
    }

    /// What decides where AWS is.
    pub(crate) fn env(&self) -> &Env {
        &self.agent.env
    }

    /// The last role of the chain; none for the agent's own identity.
    #[must_use]
    pub fn role_arn(&self) -> Option<&str> {
        self.role.as_deref()
    }

    /// The same identity, telling `tell` when AWS throttles its clients.
    #[must_use]
    pub fn telling(mut self, tell: Tell) -> Self {
        self.link.telling(&tell);
        self.pace = self.pace.telling(tell);
        self
    }

    /// Goes into every client that is made from [`sdk_config`](Self::sdk_config), as an interceptor: the waits of the
    /// document's backoff.
    #[must_use]
    pub fn pace(&self) -> Pace {
        self.pace.clone()
    }

    /// How the agent comes to be this identity: its own identity, and each role that it assumes.
    #[must_use]
    pub fn lineage(&self) -> String {
        self.link.lineage()
    }

    /// `failure`, better explained where AWS gave its reason in a message that only `sts:DecodeAuthorizationMessage`
    /// reads, and this identity may ask for that.
    pub async fn decoded(&self, failure: Failure) -> Failure {
        let Some(message) = encoded(&failure.detail).map(str::to_owned) else {
            return failure;
        };
        let read = tokio::time::timeout(DECODE_TIMEOUT, self.decode(&message)).await;
        match read.unwrap_or_else(|_| Err(format!("no answer within {} s", DECODE_TIMEOUT.as_secs()))) {
            Ok(decoded) => {
                let refusal = Refusal::decoded(&decoded, &Refusal::read(&failure.detail));
                let who = self.role_arn().unwrap_or("the agent's own identity").to_owned();
                let mut better = denied(&refusal, &who, &self.lineage(), ("", "the resource"));
                better.step.clone_from(&failure.step);
                better.detail = format!("{}\ndecoded: {decoded}", failure.detail);
                better
            }
            Err(why) => Failure {
                detail: format!(
                    "{}\nthe encoded message was not decoded ({why}): allow sts:DecodeAuthorizationMessage to be told more",
                    failure.detail
                ),
                ..failure
            },
        }
    }

    async fn decode(&self, message: &str) -> Result<Value, String> {
        let words = |error: CredentialsError| error.to_string();
        let sts = self.sts().await.map_err(words)?;
        let answer = sts.decode_authorization_message().encoded_message(message).send().await;
        let answer = answer.map_err(|error| answer_of(&error).raw())?;
        serde_json::from_str(answer.decoded_message().unwrap_or_default())
            .map_err(|_| "the answer is no JSON".to_owned())
    }

    /// STS as this identity.
    async fn sts(&self) -> Result<aws_sdk_sts::Client, CredentialsError> {
        let config = Paced {
            sdk: self.agent.base_config(&self.pace)?,
            pace: self.pace.clone(),
        };
        Ok(sts_client(&config, self.credentials().await?))
    }

    /// Credentials that are good for at least some seconds more; renewed when it is time.
    ///
    /// # Errors
    /// In AWS's words, explained.
    pub async fn credentials(&self) -> Result<Credentials, CredentialsError> {
        self.link.credentials().await
    }

    /// Asks AWS who this identity is.
    ///
    /// # Errors
    /// If there are no credentials, or STS does not answer.
    pub async fn caller(&self) -> Result<Caller, CredentialsError> {
        let sts = self.sts().await?;
        let who = sts.get_caller_identity().send().await.map_err(|error| {
            let answer = answer_of(&error);
            CredentialsError::CallerUnknown {
                cause: format!("{} {}", answer.code, answer.message).trim().to_owned(),
            }
        })?;
        Ok(Caller {
            arn: who.arn.unwrap_or_default(),
            account: who.account.unwrap_or_default(),
        })
    }

    /// What every AWS client of this task is made from: region, credentials that renew themselves,
    /// the agent's one HTTP client, endpoints of the environment, bounded retries and time-outs. A client also gets
    /// [`pace`](Self::pace).
    ///
    /// # Errors
    /// If `AWS_CA_BUNDLE` cannot be used.
    pub fn sdk_config(&self) -> Result<SdkConfig, CredentialsError> {
        let provider = SharedCredentialsProvider::new(LinkProvider(Arc::clone(&self.link)));
        Ok(self
            .agent
            .base_config(&self.pace)?
            .into_builder()
            .credentials_provider(provider)
            .build())
    }
}

#[cfg(test)]
impl TaskIdentity {
    /// With one session that nobody renews.
    pub(crate) fn of_session_that_ends(end: std::time::SystemTime) -> Self {
        let mut identity = Identities::new(Env::default())
            .for_task("eu-west-1", &[], "deputy")
            .unwrap_or_else(|error| panic!("{error}"));
        let keys = Credentials::new("AKID", "secret", Some("token".into()), Some(end), "test");
        identity.link = Arc::new(Link::new(Origin::Keys(keys)));
        identity
    }
}

impl fmt::Debug for TaskIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "TaskIdentity({} in {})",
            format_args!("{:?}", self.link),
            self.region
        )
    }
}

impl Agent {
    fn http(&self) -> Result<SharedHttpClient, CredentialsError> {
        if let Some(http) = self.http.get() {
            return Ok(http.clone());
        }
        // What cannot be used now may be mended: only a client that was made is kept.
        let made = http_client::for_aws(&self.env)?;
        Ok(self.http.get_or_init(|| made).clone())
    }

    fn ambient_link(&self) -> Arc<Link> {
        if let Some(link) = self.ambient_link.get() {
            return Arc::clone(link);
        }
        let region = self.own_region().unwrap_or("us-east-1");
        match self.paced(Backoff::default(), self.account(), region) {
            Ok(config) => {
                let made = Arc::new(Link::own(self.ambient_origin(), config));
                Arc::clone(self.ambient_link.get_or_init(|| made))
            }
            // What cannot be used now may be mended.
            Err(_) => Arc::new(Link::new(self.ambient_origin())),
        }
    }

    fn ambient_origin(&self) -> Origin {
        let value = |name: &str| self.env.get(name).unwrap_or_default().to_owned();
        match self.ambient.kind {
            AmbientKind::Environment => {
                let token = self.env.get("AWS_SESSION_TOKEN").map(str::to_owned);
                Origin::Keys(Credentials::new(
                    value("AWS_ACCESS_KEY_ID"),
                    value("AWS_SECRET_ACCESS_KEY"),
                    token,
                    None,
                    "environment",
                ))
            }
            AmbientKind::Container => {
                let provider = aws_config::ecs::EcsCredentialsProvider::builder()
                    .configure(&metadata_config())
                    .build();
                let description = self.ambient.description.clone();
                Origin::Container(Box::new(Container::new(provider, &self.env, description)))
            }
            AmbientKind::Instance => {
                let provider = ImdsCredentialsProvider::builder().configure(&metadata_config()).build();
                Origin::Instance(Box::new(provider), self.ambient.description.clone())
            }
            AmbientKind::Profile => match self.http() {
                Ok(http) => {
                    let name = self.profile.as_deref().unwrap_or("default");
                    let provider = profile::provider(name, self.own_region(), http);
                    Origin::Profile(Box::new(provider), self.ambient.description.clone())
                }
                Err(error) => Origin::Nothing(error),
            },
            AmbientKind::WebIdentity => self.web_identity(),
            AmbientKind::Unsupported | AmbientKind::None => Origin::Nothing(CredentialsError::NoAmbient {
                found: self.ambient.description.clone(),
            }),
        }
    }

    fn own_region(&self) -> Option<&str> {
        ["AWS_REGION", "AWS_DEFAULT_REGION"]
            .iter()
            .find_map(|name| self.env.get(name))
    }

    fn web_identity(&self) -> Origin {
        let nothing = |found: &str| {
            Origin::Nothing(CredentialsError::NoAmbient {
                found: found.to_owned(),
            })
        };
        let identity = match WebIdentity::of(&self.env) {
            Some(Ok(identity)) => identity,
            Some(Err(half)) => return nothing(half),
            None => return nothing("no web identity"),
        };
        let region = self
            .own_region()
            .unwrap_or_else(|| region_of_partition(identity.role_arn()));
        match self.paced(Backoff::default(), self.account(), region) {
            Ok(config) => Origin::WebIdentity(Box::new(identity), Box::new(config)),
            Err(error) => Origin::Nothing(error),
        }
    }

    fn link(
        &self,
        region: &str,
        hops: &[Hop],
        backoff: Backoff,
        parent: Arc<Link>,
    ) -> Result<Arc<Link>, CredentialsError> {
        let Some((hop, before)) = hops.split_last() else {
            return Ok(parent);
        };
        let config = self.paced(backoff, self.account_that_calls(before), region)?;
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|_, link| link.strong_count() > 0);
        let key = (region.to_owned(), hops.to_vec(), backoff);
        if let Some(link) = links.get(&key).and_then(Weak::upgrade) {
            return Ok(link);
        }
        let link = Arc::new(Link::new(Origin::Role(parent, Box::new(hop.clone()), Box::new(config))));
        links.insert(key, Arc::downgrade(&link));
        Ok(link)
    }

    /// Which account the calls after these hops are counted for.
    fn account_that_calls(&self, hops: &[Hop]) -> Account {
        hops.last()
            .map_or_else(|| self.account(), |hop| Account::of(account_of(&hop.role_arn)))
    }

    fn account(&self) -> Account {
        Account::Own(Arc::clone(&self.account))
    }

    /// For the calls that make a session, which are shared by tasks.
    fn paced(&self, backoff: Backoff, account: Account, region: &str) -> Result<Paced, CredentialsError> {
        let pace = Pace::new(backoff, Arc::clone(&self.rates), account, region.to_owned());
        let sdk = self.base_config(&pace)?;
        Ok(Paced { sdk, pace })
    }

    /// Everything but credentials.
    fn base_config(&self, pace: &Pace) -> Result<SdkConfig, CredentialsError> {
        let backoff = pace.backoff();
        let mut config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(pace.region().to_owned()))
            .http_client(pace.taking_turns(self.http()?))
            .sleep_impl(SharedAsyncSleep::new(TokioSleep::new()))
            .retry_config(RetryConfig::standard().with_max_attempts(backoff.tries()))
            .timeout_config(timeouts(backoff))
            // Our links are the cache: they renew earlier than the SDK's would.
            .identity_cache(IdentityCache::no_cache())
            .service_config(self.env.clone());
        config.set_endpoint_url(self.env.endpoint().map(str::to_owned));
        config.set_app_name(AppName::new("deputy").ok());
        if self.env.is_true("AWS_USE_FIPS_ENDPOINT") {
            config = config.use_fips(true);
        }
        if self.env.is_true("AWS_USE_DUALSTACK_ENDPOINT") {
            config = config.use_dual_stack(true);
        }
        Ok(config.build())
    }
}

/// The account of the agent's own identity as far as the environment tells it: for keys as the AWS SDKs read it,
/// otherwise of the role that a service account's token is exchanged for.
fn own_account(env: &Env, ambient: &Ambient) -> String {
    let value = |name| env.get(name).unwrap_or_default();
    match ambient.kind {
        AmbientKind::Environment => value("AWS_ACCOUNT_ID").to_owned(),
        AmbientKind::WebIdentity => account_of(value("AWS_ROLE_ARN")).to_owned(),
        _ => String::new(),
    }
}

/// For asking a service on the machine itself.
fn metadata_config() -> ProviderConfig {
    ProviderConfig::empty()
        .with_http_client(http_client::for_metadata())
        .with_sleep_impl(TokioSleep::new())
}

/// A region of the role's partition, for an agent that was told none.
fn region_of_partition(role_arn: &str) -> &'static str {
    match role_arn.split(':').nth(1) {
        Some("aws-cn") => "cn-north-1",
        Some("aws-us-gov") => "us-gov-west-1",
        _ => "us-east-1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_that_could_not_be_read_are_read_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let bundle = folder.path().join("ca.pem");
        let named = bundle.display().to_string();
        let env: Env = [
            ("AWS_CA_BUNDLE", named.as_str()),
            ("AWS_ACCESS_KEY_ID", "a"),
            ("AWS_SECRET_ACCESS_KEY", "b"),
            ("AWS_REGION", "eu-west-1"),
        ]
        .into_iter()
        .collect();
        let identities = Identities::new(env);
        let asked = || identities.own().and_then(|own| own.sdk_config()).map(drop);
        for text in [None, Some("half of it")] {
            if let Some(text) = text {
                std::fs::write(&bundle, text).expect("written");
            }
            let refused = asked().expect_err("not usable");
            assert!(matches!(refused, CredentialsError::CaBundle { .. }), "{refused}");
        }
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(vec!["aws.example.com".to_owned()]).expect("a name");
        std::fs::write(&bundle, params.self_signed(&key).expect("made").pem()).expect("written");
        asked().expect("it is whole now");
    }
}
