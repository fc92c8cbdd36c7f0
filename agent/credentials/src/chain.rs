//! One link of a role chain: credentials, kept until they must be renewed.
//!
//! A renewal is one call however many ask, also one that fails: who waited for it, or comes a moment later, is told the
//! same. While the old credentials are good, nobody waits for a renewal that somebody else does, and a renewal that
//! fails keeps them and warns.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials;
use aws_sdk_sts::error::SdkError;
use aws_sdk_sts::operation::assume_role::AssumeRoleError;
use aws_sdk_sts::operation::get_caller_identity::GetCallerIdentityOutput;
use aws_sdk_sts::types::Tag;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::account::Account;
use crate::container::Container;
use crate::denial::{Answer, answer_of, explain};
use crate::error::{CredentialsError, chain_of};
use crate::hop::Hop;
use crate::pace::{Paced, Tell, waits};
use crate::refresh::{Due, Now, jittered, last_use, refresh_at};
use crate::session::session;
use crate::web_identity::WebIdentity;

/// Longest time for one renewal, without what is waited before and between its tries.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest time for asking who the caller is.
const WHO_TIMEOUT: Duration = Duration::from_secs(4);
/// After a renewal failed and the old credentials are still good.
const RENEWAL_RETRY: Duration = Duration::from_secs(15);

/// Who asks so soon after a failure is told of that one.
const FAILURE_SHARED: Duration = Duration::from_secs(1);
/// Longer than the renewal that is waited for takes at most.
const WAIT_MARGIN: Duration = Duration::from_secs(5);

/// Where a link's credentials come from.
pub(crate) enum Origin {
    /// Keys that do not end, or that nobody can renew.
    Keys(Credentials),
    /// The container credential endpoint.
    Container(Box<Container>),
    /// A service account's token. The config names region and HTTP client.
    WebIdentity(Box<WebIdentity>, Box<Paced>),
    /// A profile of the shared config files, described.
    Profile(Box<ProfileFileCredentialsProvider>, String),
    /// The metadata of the EC2 instance, described.
    Instance(Box<ImdsCredentialsProvider>, String),
    /// AssumeRole with the credentials of another link. The config names region and HTTP client.
    Role(Arc<Link>, Box<Hop>, Box<Paced>),
    /// There is none.
    Nothing(CredentialsError),
    /// What a test answers.
    #[cfg(test)]
    Script(
        Box<dyn Fn() -> Result<Credentials, CredentialsError> + Send + Sync>,
        Duration,
    ),
}

/// Credentials with a memory.
pub(crate) struct Link {
    origin: Origin,
    cached: RwLock<Option<Cached>>,
    /// For the agent's own identity: where it is asked which account it belongs to.
    own: Option<Box<Paced>>,
    /// Who renews holds it. In it is how the last renewal failed, and when, if none has succeeded since.
    renewing: Mutex<Option<(Instant, CredentialsError)>>,
}

#[derive(Clone)]
struct Cached {
    credentials: Credentials,
    /// When they are renewed, and when they are not handed out any more; `None`: they do not end.
    renew: Option<Due>,
    over: Option<Due>,
}

impl Cached {
    fn is_fresh(&self, now: Now) -> bool {
        self.renew.is_none_or(|due| !due.has_come(now))
    }

    fn is_usable(&self, now: Now) -> bool {
        self.over.is_none_or(|due| !due.has_come(now))
    }
}

impl Link {
    pub(crate) fn new(origin: Origin) -> Self {
        Self {
            origin,
            cached: RwLock::new(None),
            own: None,
            renewing: Mutex::new(None),
        }
    }

    /// The agent's own, whose account is learned from its first credentials, or by asking through `config`.
    pub(crate) fn own(origin: Origin, config: Paced) -> Self {
        Self {
            own: Some(Box::new(config)),
            ..Self::new(origin)
        }
    }

    /// Tells `tell` too when a call that makes these credentials is throttled.
    pub(crate) fn telling(&self, tell: &Tell) {
        match &self.origin {
            Origin::WebIdentity(_, config) => config.pace.telling_too(tell),
            Origin::Role(parent, _, config) => {
                config.pace.telling_too(tell);
                parent.telling(tell);
            }
            _ => {}
        }
    }

    /// Credentials that are good for at least some seconds more.
    pub(crate) async fn credentials(&self) -> Result<Credentials, CredentialsError> {
        let now = Now::read();
        let old = self.read();
        if let Some(cached) = &old
            && cached.is_fresh(now)
        {
            return Ok(cached.credentials.clone());
        }
        let still_good = old.filter(|cached| cached.is_usable(now));
        let asked = Instant::now();
        let mut last_failure = match (&still_good, self.renewing.try_lock()) {
            (_, Ok(turn)) => turn,
            (Some(cached), Err(_)) => return Ok(cached.credentials.clone()),
            (None, Err(_)) => self.turn().await?,
        };
        // Somebody may have renewed them while we waited for our turn.
        if let Some(cached) = self.read()
            && cached.is_fresh(Now::read())
        {
            return Ok(cached.credentials);
        }
        if let Some((when, error)) = last_failure.as_ref()
            && still_good.is_none()
            && *when + FAILURE_SHARED > asked
        {
            return Err(error.clone());
        }
        let fetched = self.fetch_in_time().await;
        *last_failure = fetched.as_ref().err().map(|error| (Instant::now(), error.clone()));
        match (fetched, still_good) {
            (Ok(credentials), _) => {
                self.keep(&credentials);
                self.learn_account(&credentials);
                Ok(credentials)
            }
            (Err(error), Some(cached)) => {
                tracing::warn!(error = %error, "AWS credentials could not be renewed; the present ones are still good");
                let now = Now::read();
                let credentials = cached.credentials.clone();
                self.set(Cached {
                    renew: Some(Due::at(now.wall + RENEWAL_RETRY, now)),
                    ..cached
                });
                Ok(credentials)
            }
            (Err(error), None) => Err(error),
        }
    }

    /// Waits for the renewal that somebody else does, no longer than that may take.
    async fn turn(&self) -> Result<MutexGuard<'_, Option<(Instant, CredentialsError)>>, CredentialsError> {
        let limit = self.longest_renewal() + WAIT_MARGIN;
        let turn = tokio::time::timeout(limit, self.renewing.lock()).await;
        turn.map_err(|_| {
            self.failed(format!(
                "the call that others wait for too had no answer within {} s",
                limit.as_secs()
            ))
        })
    }

    /// How the agent came to have these credentials: its own identity, and each role assumed from it.
    pub(crate) fn lineage(&self) -> String {
        match &self.origin {
            Origin::Keys(_) => "the agent's own keys".into(),
            #[cfg(test)]
            Origin::Script(..) => "a script".into(),
            Origin::Container(container) => format!("the agent's own identity ({})", container.ambient),
            Origin::Instance(_, ambient) | Origin::Profile(_, ambient) => {
                format!("the agent's own identity ({ambient})")
            }
            Origin::WebIdentity(identity, _) => identity.lineage(),
            Origin::Role(parent, hop, _) => format!(
                "{}, then {} (session {})",
                parent.lineage(),
                hop.role_arn,
                hop.session_name
            ),
            Origin::Nothing(_) => "no identity".into(),
        }
    }

    fn read(&self) -> Option<Cached> {
        self.cached.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep(&self, credentials: &Credentials) {
        let now = Now::read();
        let renew_at = |expires| jittered(refresh_at(now.wall, expires, now.wall), now.wall, rand::random());
        let expires = credentials.expiry();
        self.set(Cached {
            credentials: credentials.clone(),
            renew: expires.map(|expires| Due::at(renew_at(expires), now)),
            over: expires.map(|expires| Due::at(last_use(now.wall, expires), now)),
        });
    }

    fn learn_account(&self, credentials: &Credentials) {
        let Some(config) = &self.own else { return };
        let account = config.pace.account();
        let Account::Own(own) = account else { return };
        if !account.number().is_empty() {
            return;
        }
        let told = credentials.account_id().map(|account| account.as_str());
        let sts = sts_client(config, credentials.clone());
        own.learn(told, async move { who(&sts).await?.account });
    }

    fn set(&self, cached: Cached) {
        *self.cached.write().unwrap_or_else(PoisonError::into_inner) = Some(cached);
    }

    fn longest_renewal(&self) -> Duration {
        let waits = match &self.origin {
            Origin::WebIdentity(_, config) | Origin::Role(_, _, config) => waits(config.pace.backoff()),
            _ => Duration::ZERO,
        };
        RENEWAL_TIMEOUT + waits
    }

    async fn fetch_in_time(&self) -> Result<Credentials, CredentialsError> {
        let limit = self.longest_renewal();
        // Apart from the futures around it, which would all be as large, and nested deeper than the compiler goes.
        tokio::time::timeout(limit, Box::pin(self.fetch()))
            .await
            .unwrap_or_else(|_| Err(self.failed(format!("no answer within {} s", limit.as_secs()))))
    }

    async fn fetch(&self) -> Result<Credentials, CredentialsError> {
        match &self.origin {
            Origin::Nothing(error) => Err(error.clone()),
            Origin::Keys(keys) => Ok(keys.clone()),
            #[cfg(test)]
            Origin::Script(answer, takes) => {
                tokio::task::yield_now().await;
                let answer = answer();
                tokio::time::sleep(*takes).await;
                answer
            }
            Origin::Container(container) => container.credentials().await,
            Origin::Profile(provider, _) => self.provided(provider.as_ref()).await,
            Origin::WebIdentity(identity, config) => identity.assume(config).await,
            Origin::Instance(provider, _) => self.provided(provider.as_ref()).await,
            Origin::Role(parent, hop, config) => assume(parent, hop, config).await,
        }
    }

    /// What a provider of the SDK gives.
    async fn provided(&self, provider: &impl ProvideCredentials) -> Result<Credentials, CredentialsError> {
        let answer = provider.provide_credentials().await;
        answer.map_err(|error| self.failed(chain_of(&error)))
    }

    fn failed(&self, cause: String) -> CredentialsError {
        match &self.origin {
            Origin::Nothing(error) => error.clone(),
            #[cfg(test)]
            Origin::Script(..) => CredentialsError::CallerUnknown { cause },
            Origin::Keys(_) => CredentialsError::Ambient {
                ambient: "environment keys".into(),
                cause,
            },
            Origin::Container(container) => container.failed(cause),
            Origin::Profile(_, profile) => CredentialsError::Profile {
                profile: profile.clone(),
                cause,
            },
            Origin::Instance(_, _) => CredentialsError::Instance { cause },
            Origin::WebIdentity(identity, _) => identity.unreachable(cause),
            Origin::Role(_, hop, _) => explain(hop, ("", ""), &Answer::of_transport(cause)),
        }
    }
}

/// Shows what kind of link it is and nothing of its credentials.
impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Keys(_) => f.write_str("keys"),
            #[cfg(test)]
            Origin::Script(..) => f.write_str("script"),
            Origin::Container(container) => f.write_str(&container.ambient),
            Origin::Instance(_, ambient) | Origin::Profile(_, ambient) => f.write_str(ambient),
            Origin::WebIdentity(identity, _) => write!(f, "web identity -> {}", identity.role_arn()),
            Origin::Role(parent, hop, _) => write!(f, "{parent:?} -> {}", hop.role_arn),
            Origin::Nothing(error) => write!(f, "{error}"),
        }
    }
}

/// A link as the SDK's clients take it.
#[derive(Debug, Clone)]
pub(crate) struct LinkProvider(pub(crate) Arc<Link>);

impl ProvideCredentials for LinkProvider {
    fn provide_credentials<'a>(&'a self) -> aws_credential_types::provider::future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        aws_credential_types::provider::future::ProvideCredentials::new(async move {
            let credentials = self.0.credentials().await;
            credentials.map_err(aws_credential_types::provider::error::CredentialsError::provider_error)
        })
    }
}

fn assume<'a>(
    parent: &'a Arc<Link>,
    hop: &'a Hop,
    config: &'a Paced,
) -> Pin<Box<dyn Future<Output = Result<Credentials, CredentialsError>> + Send + 'a>> {
    Box::pin(async move {
        let caller = parent.credentials().await?;
        let sts = sts_client(config, caller);
        let tags = hop
            .tags
            .iter()
            .map(|(key, value)| Tag::builder().key(key).value(value).build());
        let tags = tags
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| CredentialsError::BadHop {
                hop: hop.number,
                role: hop.role_arn.clone(),
                problem: error.to_string(),
            })?;
        let answer = sts
            .assume_role()
            .role_arn(&hop.role_arn)
            .role_session_name(&hop.session_name)
            .set_external_id(hop.external_id.clone())
            .duration_seconds(i32::try_from(hop.duration.as_secs()).unwrap_or(3_600))
            .set_tags((!tags.is_empty()).then_some(tags))
            .set_transitive_tag_keys((!hop.transitive_tag_keys.is_empty()).then(|| hop.transitive_tag_keys.clone()))
            .set_source_identity(hop.source_identity.clone())
            .send()
            .await;
        let got = match answer {
            Ok(output) => output.credentials,
            Err(error) => return Err(denied(&sts, hop, &parent.lineage(), &error).await),
        };
        let Some(got) = got else {
            return Err(explain(
                hop,
                ("", ""),
                &Answer::of_transport("STS answered without credentials"),
            ));
        };
        tracing::info!(role.arn = %hop.role_arn, session = %hop.session_name, "role assumed");
        Ok(session(&hop.role_arn, got))
    })
}

async fn denied(
    sts: &aws_sdk_sts::Client,
    hop: &Hop,
    chain: &str,
    error: &SdkError<AssumeRoleError>,
) -> CredentialsError {
    let answer = answer_of(error);
    if !answer.is_denial() {
        return explain(hop, ("", chain), &answer);
    }
    let caller = match answer.caller() {
        Some(arn) => arn.to_owned(),
        None => who(sts)
            .await
            .and_then(|who| who.arn)
            .unwrap_or_else(|| "the caller".into()),
    };
    explain(hop, (&caller, chain), &answer)
}

/// Who calls, if STS says so soon.
async fn who(sts: &aws_sdk_sts::Client) -> Option<GetCallerIdentityOutput> {
    match tokio::time::timeout(WHO_TIMEOUT, sts.get_caller_identity().send()).await {
        Ok(Ok(who)) => Some(who),
        Ok(Err(error)) => {
            tracing::debug!(error = %chain_of(&error), "STS does not say who calls");
            None
        }
        Err(_) => None,
    }
}

/// A client with these credentials and no others.
pub(crate) fn sts_client(config: &Paced, credentials: Credentials) -> aws_sdk_sts::Client {
    let config = aws_sdk_sts::config::Builder::from(&config.sdk)
        .interceptor(config.pace.clone())
        .credentials_provider(credentials)
        .build();
    aws_sdk_sts::Client::from_conf(config)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::SystemTime;

    use super::*;

    const AN_HOUR: Duration = Duration::from_secs(3_600);

    fn made(number: u32, life: Duration) -> Credentials {
        let end = SystemTime::now() + life;
        Credentials::new(format!("AKID{number}"), "secret", None, Some(end), "test")
    }

    /// A link whose answers are counted from 1.
    fn link(
        answer: impl Fn(u32) -> Result<Credentials, CredentialsError> + Send + Sync + 'static,
    ) -> (Arc<Link>, Arc<AtomicU32>) {
        slow(Duration::ZERO, answer)
    }

    /// The same, and each answer takes so long.
    fn slow(
        takes: Duration,
        answer: impl Fn(u32) -> Result<Credentials, CredentialsError> + Send + Sync + 'static,
    ) -> (Arc<Link>, Arc<AtomicU32>) {
        let asked = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&asked);
        let script = move || answer(counter.fetch_add(1, Ordering::SeqCst) + 1);
        (Arc::new(Link::new(Origin::Script(Box::new(script), takes))), asked)
    }

    /// The same, to be renewed now.
    fn due(cached: Cached) -> Cached {
        Cached {
            renew: Some(Due::at(SystemTime::UNIX_EPOCH, Now::read())),
            ..cached
        }
    }

    fn unreachable() -> CredentialsError {
        CredentialsError::CallerUnknown {
            cause: "no answer".into(),
        }
    }

    async fn many(link: &Arc<Link>) -> Vec<Result<String, CredentialsError>> {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let link = Arc::clone(link);
            tasks.spawn(async move { link.credentials().await.map(|keys| keys.access_key_id().to_owned()) });
        }
        tasks.join_all().await
    }

    #[tokio::test]
    async fn many_who_ask_at_once_make_one_call() {
        let (link, asked) = link(|number| Ok(made(number, AN_HOUR)));
        assert!(many(&link).await.iter().all(|got| got.as_deref() == Ok("AKID1")));
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    /// Guards that a role which cannot be assumed costs one call for all who wait, and no more time than one call takes.
    #[tokio::test(start_paused = true)]
    async fn a_failure_is_shared_by_all_who_wait_for_it() {
        let (link, asked) = slow(Duration::from_secs(19), |_| Err(unreachable()));
        let begun = Instant::now();
        assert!(many(&link).await.iter().all(Result::is_err));
        assert_eq!(asked.load(Ordering::SeqCst), 1, "one call, and one answer for all");
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        link.credentials().await.expect_err("a moment later");
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        tokio::time::advance(Duration::from_secs(2)).await;
        link.credentials().await.expect_err("asked again");
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_a_renewal_may_take() {
        let (link, asked) = slow(Duration::from_secs(3_600), |number| Ok(made(number, AN_HOUR)));
        let begun = Instant::now();
        assert!(many(&link).await.iter().all(Result::is_err));
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        assert!(
            begun.elapsed() <= RENEWAL_TIMEOUT + WAIT_MARGIN,
            "{:?}",
            begun.elapsed()
        );
        // Somebody who holds his turn and does nothing.
        let _held = link.renewing.lock().await;
        let begun = Instant::now();
        link.credentials().await.expect_err("not for ever");
        assert!(
            begun.elapsed() <= RENEWAL_TIMEOUT + WAIT_MARGIN,
            "{:?}",
            begun.elapsed()
        );
    }

    #[tokio::test]
    async fn a_renewal_that_fails_keeps_what_is_still_good() {
        let (link, asked) = link(|number| {
            if number == 1 {
                Ok(made(1, AN_HOUR))
            } else {
                Err(unreachable())
            }
        });
        link.credentials().await.expect("first");
        link.set(due(link.read().expect("kept")));
        assert!(many(&link).await.iter().all(|got| got.as_deref() == Ok("AKID1")));
        assert_eq!(asked.load(Ordering::SeqCst), 2, "tried once, then not again at once");
    }

    #[tokio::test]
    async fn credentials_that_are_over_are_not_handed_out() {
        let (link, _) = link(|number| {
            if number == 1 {
                Ok(made(1, Duration::ZERO))
            } else {
                Err(unreachable())
            }
        });
        link.keep(&made(0, Duration::ZERO));
        link.set(due(link.read().expect("kept")));
        link.credentials().await.expect("renewed");
        link.set(due(link.read().expect("kept")));
        assert_eq!(link.credentials().await.expect_err("over").class(), "aws.callerUnknown");
    }
}
