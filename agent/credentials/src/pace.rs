//! The pace of one client's calls: how long is waited before a call is made again, and that a throttled one is
//! told. Put into every AWS client as an interceptor, beside the client's HTTP client, which takes turns.
//!
//! The SDK decides whether a call may be made again; the wait is put into its configuration after each try. Its own
//! retry quota, which would end retries of one task because of another's, is not used: the document bounds them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use aws_smithy_runtime::client::retries::{RetryPartition, TokenBucket};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeSerializationInterceptorContextRef, BeforeTransmitInterceptorContextMut, FinalizerInterceptorContextRef,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpResponse, Metadata};
use aws_smithy_runtime_api::client::retries::RequestAttempts;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use aws_types::region::SigningRegion;
use aws_types::{SdkConfig, SigningName};
use tokio::time::Instant;

use crate::account::Account;
use crate::backoff::Backoff;
use crate::rate::{LONGEST_TURN, Lane, Rates};
use crate::throttling::is_throttling;
use crate::turn::TakingTurns;

/// What clients that make sessions are made from.
#[derive(Debug, Clone)]
pub(crate) struct Paced {
    pub(crate) sdk: SdkConfig,
    pub(crate) pace: Pace,
}

/// Words for the people who follow a task.
pub type Tell = Arc<dyn Fn(&str) + Send + Sync>;
/// The same, as long as somebody follows.
type Listener = Weak<dyn Fn(&str) + Send + Sync>;

/// What passes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passing {
    /// Calls come too fast.
    Throttled,
    /// The service is not well, or cannot be reached.
    Away,
}

/// A burst of throttling is told once in this time, for each operation.
const QUIET: Duration = Duration::from_secs(30);
/// Operations of which it is remembered when they were told. A task uses a handful.
const MOST_TOLD: usize = 64;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// One try of one call, without the wait for its turn.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(8);
/// One call with all its tries, without what is waited before and between them.
const CALL_TIMEOUT: Duration = Duration::from_secs(18);

/// The time-outs of every client. None ends a call that only waits for its turn; the permit of a change ends sooner.
pub(crate) fn timeouts(backoff: Backoff) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT + LONGEST_TURN)
        .operation_timeout(CALL_TIMEOUT + waits(backoff))
        .build()
}

/// As long one call waits at most: between its tries, and before each of them for its turn.
pub(crate) fn waits(backoff: Backoff) -> Duration {
    backoff.longest_in_all() + LONGEST_TURN.saturating_mul(backoff.tries())
}

/// Goes into every client of one identity. Cheap to clone.
#[derive(Clone)]
pub struct Pace {
    backoff: Backoff,
    rates: Arc<Rates>,
    account: Account,
    region: String,
    partition: RetryPartition,
    told: Arc<Told>,
    /// Who is told by this one and its clones; keeps it listening.
    tell: Option<Tell>,
}

#[derive(Default)]
struct Told {
    listeners: Mutex<Vec<Listener>>,
    operations: Mutex<BTreeMap<String, Burst>>,
}

struct Burst {
    told: Instant,
    untold: u32,
}

impl Pace {
    pub(crate) fn new(backoff: Backoff, rates: Arc<Rates>, account: Account, region: String) -> Self {
        let partition = RetryPartition::custom("deputy").token_bucket(TokenBucket::unlimited());
        Self {
            backoff,
            rates,
            account,
            region,
            partition: partition.build(),
            told: Arc::default(),
            tell: None,
        }
    }

    /// The same, telling `tell` and nobody else about throttling.
    pub(crate) fn telling(mut self, tell: Tell) -> Self {
        self.told = Arc::default();
        self.told.listen(&tell);
        self.tell = Some(tell);
        self
    }

    /// Tells `tell` too, as long as somebody else keeps it: for calls that several tasks wait for.
    pub(crate) fn telling_too(&self, tell: &Tell) {
        self.told.listen(tell);
    }

    /// For children: as near as the environment of the AWS SDKs comes to it. They wait with full jitter, whatever
    /// the document says.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, String); 2] {
        [
            ("AWS_RETRY_MODE", "standard".into()),
            ("AWS_MAX_ATTEMPTS", self.backoff.tries().to_string()),
        ]
    }

    pub(crate) const fn backoff(&self) -> Backoff {
        self.backoff
    }

    pub(crate) const fn account(&self) -> &Account {
        &self.account
    }

    pub(crate) fn region(&self) -> &str {
        &self.region
    }

    /// An HTTP client that sends when it is this account's turn.
    pub(crate) fn taking_turns(&self, inner: SharedHttpClient) -> TakingTurns {
        TakingTurns {
            inner,
            rates: Arc::clone(&self.rates),
        }
    }

    /// For a call that no client of the SDK makes: waits until it is this account's turn.
    pub(crate) async fn turn(&self, service: &str) {
        let wait = self.rates.take(&self.lane(service), Instant::now());
        tokio::time::sleep(wait).await;
    }

    /// For a call that no client of the SDK makes: it has been tried so often, and what was answered passes by itself.
    /// How long is waited before it is tried again; none if it is not.
    pub(crate) fn after(&self, (service, operation): (&str, &str), tried: u32, answer: Passing) -> Option<Duration> {
        let wait = self.backoff.wait(tried, rand::random());
        let wait = (tried < self.backoff.tries()).then_some(wait);
        if answer == Passing::Throttled {
            self.throttled(&self.lane(service), operation, tried, wait);
        }
        wait
    }

    fn lane(&self, service: &str) -> Lane {
        Lane {
            account: self.account.number().to_owned(),
            region: self.region.clone(),
            service: service.to_owned(),
        }
    }

    /// Of a client's call: as its signature would say, also where it has none.
    fn lane_of(&self, cfg: &ConfigBag) -> Lane {
        let mut lane = self.lane(cfg.load::<SigningName>().map_or("aws", |name| name.as_ref()));
        if let Some(region) = cfg.load::<SigningRegion>() {
            region.as_ref().clone_into(&mut lane.region);
        }
        lane
    }

    fn throttled(&self, lane: &Lane, operation: &str, tried: u32, wait: Option<Duration>) {
        let now = Instant::now();
        self.rates.throttled(lane, now);
        let action = format!("{}:{operation}", lane.service);
        let wait_ms = wait.map(|wait| wait.as_millis());
        tracing::debug!(%action, account = self.account.number(), tried, wait_ms, "AWS throttles");
        if let Some(wait) = wait {
            let next = (tried + 1, self.backoff.tries());
            self.told.say(&action, wait, next, now);
        }
    }
}

impl Told {
    fn listen(&self, tell: &Tell) {
        let listener = Arc::downgrade(tell);
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|other| other.strong_count() > 0 && !other.ptr_eq(&listener));
        listeners.push(listener);
    }

    fn listening(&self) -> Vec<Tell> {
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.iter().filter_map(Weak::upgrade).collect()
    }

    fn say(&self, action: &str, wait: Duration, (attempt, of): (u32, u32), now: Instant) {
        let listening = self.listening();
        if listening.is_empty() {
            return;
        }
        let untold = {
            let mut operations = self.operations.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(burst) = operations.get_mut(action)
                && now.saturating_duration_since(burst.told) < QUIET
            {
                burst.untold = burst.untold.saturating_add(1);
                return;
            }
            if operations.len() >= MOST_TOLD {
                operations.clear();
            }
            let burst = Burst { told: now, untold: 0 };
            operations.insert(action.to_owned(), burst).map_or(0, |old| old.untold)
        };
        let mut line = format!(
            "AWS throttles {action}; waiting {:.1} s (attempt {attempt} of {of})",
            wait.as_secs_f64()
        );
        if untold > 0 {
            line.push_str(&format!(", {untold} more times since this was last said"));
        }
        for tell in listening {
            tell(&line);
        }
    }
}

impl Intercept for Pace {
    fn name(&self) -> &'static str {
        "DeputyPace"
    }

    fn read_before_execution(
        &self,
        _context: &BeforeSerializationInterceptorContextRef<'_>,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        cfg.interceptor_state().store_put(self.partition.clone());
        Ok(())
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        // A call without a signature names its service nowhere else.
        context.request_mut().add_extension(self.lane_of(cfg));
        Ok(())
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let Some(Err(_)) = context.output_or_error() else {
            return Ok(());
        };
        let tried = cfg.load::<RequestAttempts>().map_or(1, RequestAttempts::attempts);
        let wished = context.response().and_then(wished).unwrap_or_default();
        let wait = self
            .backoff
            .wait(tried, rand::random())
            .max(wished.min(self.backoff.longest()));
        let is_last = tried >= self.backoff.tries();
        if context.response().is_some_and(is_throttling) {
            let operation = cfg.load::<Metadata>().map_or("a call", |call| call.name());
            self.throttled(&self.lane_of(cfg), operation, tried, (!is_last).then_some(wait));
        }
        // Without a die of its own the SDK waits exactly this long.
        cfg.interceptor_state().store_put(
            RetryConfig::standard()
                .with_max_attempts(self.backoff.tries())
                .with_initial_backoff(wait)
                .with_max_backoff(wait)
                .with_use_static_exponential_base(true),
        );
        Ok(())
    }
}

/// How long the service asks to be left alone, in milliseconds.
fn wished(response: &HttpResponse) -> Option<Duration> {
    let millis: u64 = response.headers().get("x-amz-retry-after")?.trim().parse().ok()?;
    Some(Duration::from_millis(millis))
}

impl fmt::Debug for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pace({:?})", self.backoff)
    }
}

#[cfg(test)]
mod tests {
    use aws_credential_types::Credentials;
    use aws_sdk_sts::config::{BehaviorVersion, Region, StalledStreamProtectionConfig};
    use aws_smithy_async::rt::sleep::{AsyncSleep, Sleep};
    use aws_smithy_runtime_api::client::http::{
        HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
    };
    use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
    use aws_smithy_runtime_api::http::StatusCode;
    use aws_smithy_types::body::SdkBody;
    use deputy_task::document::{BackoffSpec, Delays};

    use super::*;

    /// Keeps how long it was asked to sleep, and does not.
    #[derive(Debug, Clone, Default)]
    struct Asleep(Arc<Mutex<Vec<u64>>>);

    impl AsyncSleep for Asleep {
        fn sleep(&self, duration: Duration) -> Sleep {
            // The time-outs of a call are sleeps too, of many seconds.
            if duration < Duration::from_secs(7) {
                let millis = u64::try_from(duration.as_millis()).expect("short");
                self.0.lock().expect("whole").push(millis);
                Sleep::new(std::future::ready(()))
            } else {
                Sleep::new(std::future::pending())
            }
        }
    }

    /// Answers every request alike.
    #[derive(Debug, Clone)]
    struct Always(u16, &'static str, Option<&'static str>);

    impl HttpConnector for Always {
        fn call(&self, _request: HttpRequest) -> HttpConnectorFuture {
            let mut response =
                HttpResponse::new(StatusCode::try_from(self.0).expect("a status"), SdkBody::from(self.1));
            if let Some(wish) = self.2 {
                response.headers_mut().insert("x-amz-retry-after", wish);
            }
            HttpConnectorFuture::ready(Ok(response))
        }
    }

    const THROTTLED: &str =
        "<ErrorResponse><Error><Code>Throttling</Code><Message>Rate exceeded</Message></Error></ErrorResponse>";

    /// The waits between the tries of one call that is always answered so, in milliseconds; and what was told.
    async fn waits_of(spec: BackoffSpec, answer: Always) -> (Vec<u64>, Vec<String>) {
        let (asleep, lines) = (Asleep::default(), Arc::new(Mutex::new(Vec::new())));
        let heard = Arc::clone(&lines);
        let backoff = Backoff::of(&spec);
        let pace = Pace::new(backoff, Arc::default(), Account::of(""), "eu-west-1".into()).telling(Arc::new(
            move |line: &str| heard.lock().expect("whole").push(line.to_owned()),
        ));
        let connector = SharedHttpConnector::new(answer);
        let config = aws_sdk_sts::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-west-1"))
            .credentials_provider(Credentials::new("a", "b", None, None, "test"))
            .http_client(http_client_fn(move |_, _| connector.clone()))
            .sleep_impl(asleep.clone())
            // It sleeps too.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .retry_config(RetryConfig::standard().with_max_attempts(backoff.tries()))
            .interceptor(pace);
        let sent = aws_sdk_sts::Client::from_conf(config.build())
            .get_caller_identity()
            .send()
            .await;
        sent.expect_err("never answered well");
        let waits = asleep.0.lock().expect("whole").clone();
        let lines = lines.lock().expect("whole").clone();
        (waits, lines)
    }

    const DELAYS: Delays = Delays {
        base_delay_ms: 100,
        max_delay_ms: 400,
        max_retries: 4,
    };

    #[tokio::test]
    async fn the_sdk_waits_as_the_document_says_and_no_longer() {
        let fixed = || BackoffSpec {
            fixed_delay: Some(DELAYS),
            ..BackoffSpec::default()
        };
        let (waited, told) = waits_of(fixed(), Always(400, THROTTLED, None)).await;
        assert_eq!(waited, [100; 4]);
        assert_eq!(
            told,
            ["AWS throttles sts:GetCallerIdentity; waiting 0.1 s (attempt 2 of 5)"]
        );
        let (waited, told) = waits_of(fixed(), Always(500, "<x/>", None)).await;
        assert_eq!((waited, told.len()), (vec![100; 4], 0), "no answer is no throttling");
        let (waited, _) = waits_of(fixed(), Always(403, "<x/>", None)).await;
        assert_eq!(waited, [0; 0], "a refusal is final");
        let (waited, _) = waits_of(fixed(), Always(400, THROTTLED, Some("250"))).await;
        assert_eq!(waited, [250; 4], "the service asks for more");
        let (waited, _) = waits_of(fixed(), Always(400, THROTTLED, Some("90000"))).await;
        assert_eq!(waited, [400; 4], "and gets no more than the document's longest");
        let equal = BackoffSpec {
            equal_jitter: Some(DELAYS),
            ..BackoffSpec::default()
        };
        let (waited, _) = waits_of(equal, Always(400, THROTTLED, None)).await;
        let within = [(50, 100), (100, 200), (200, 400), (200, 400)];
        assert!(
            waited.len() == 4
                && waited
                    .iter()
                    .zip(within)
                    .all(|(wait, (least, most))| (least..=most).contains(wait)),
            "{waited:?}"
        );
        let full = BackoffSpec {
            full_jitter: Some(DELAYS),
            ..BackoffSpec::default()
        };
        let (waited, _) = waits_of(full, Always(400, THROTTLED, None)).await;
        assert!(
            waited.len() == 4
                && waited
                    .iter()
                    .zip([100, 200, 400, 400])
                    .all(|(wait, most)| *wait <= most),
            "{waited:?}"
        );
    }

    /// An API that answers ten calls per second, each after 50 ms, and throttles the rest.
    #[derive(Debug, Clone)]
    struct TenPerSecond(Arc<Mutex<(f64, Instant)>>, Arc<Mutex<(u32, u32)>>);

    const ANSWERED: &str = "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
        <GetCallerIdentityResult><Account>1</Account></GetCallerIdentityResult></GetCallerIdentityResponse>";

    /// The answer to a call without a signature.
    const ASSUMED: &str = "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
        <AssumeRoleWithWebIdentityResult><Audience>a</Audience></AssumeRoleWithWebIdentityResult>\
        </AssumeRoleWithWebIdentityResponse>";

    impl HttpConnector for TenPerSecond {
        fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
            let api = self.clone();
            let is_signed = request.headers().get("authorization").is_some();
            HttpConnectorFuture::new(async move {
                tokio::time::sleep(Duration::from_millis(50)).await;
                let mut bucket = api.0.lock().expect("whole");
                let now = Instant::now();
                bucket.0 = (bucket.0 + 10.0 * (now - bucket.1).as_secs_f64()).min(10.0);
                bucket.1 = now;
                let mut counts = api.1.lock().expect("whole");
                let (status, body) = if bucket.0 >= 1.0 {
                    bucket.0 -= 1.0;
                    counts.0 += 1;
                    (200, if is_signed { ANSWERED } else { ASSUMED })
                } else {
                    counts.1 += 1;
                    (400, THROTTLED)
                };
                let status = StatusCode::try_from(status).expect("a status");
                Ok(HttpResponse::new(status, SdkBody::from(body)))
            })
        }
    }

    /// A client with our time-outs, whose calls take turns.
    fn in_turn(pace: Pace, backoff: Backoff, api: impl HttpConnector + 'static) -> aws_sdk_sts::Client {
        let connector = SharedHttpConnector::new(api);
        let http = SharedHttpClient::new(http_client_fn(move |_, _| connector.clone()));
        let config = aws_sdk_sts::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-west-1"))
            .credentials_provider(Credentials::new("a", "b", None, None, "test"))
            .http_client(pace.taking_turns(http))
            .sleep_impl(aws_smithy_async::rt::sleep::TokioSleep::new())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .timeout_config(timeouts(backoff))
            .retry_config(RetryConfig::standard().with_max_attempts(backoff.tries()))
            .interceptor(pace);
        aws_sdk_sts::Client::from_conf(config.build())
    }

    /// Of calls.
    #[derive(Clone, Copy)]
    enum Kind {
        Signed,
        Unsigned,
    }

    /// Sixteen tasks make eight calls each, one after the other, with these limits; how many were throttled, and how
    /// many failed for good.
    async fn sixteen_tasks(kind: Kind, rates: impl Fn() -> Arc<Rates>) -> (u32, usize) {
        let counts = Arc::new(Mutex::new((0, 0)));
        let api = TenPerSecond(Arc::new(Mutex::new((10.0, Instant::now()))), Arc::clone(&counts));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let backoff = Backoff::default();
            let pace = Pace::new(backoff, rates(), Account::of(""), "eu-west-1".into());
            let client = in_turn(pace, backoff, api.clone());
            tasks.spawn(async move {
                let mut failed = 0;
                for _ in 0..8 {
                    let is_refused = match kind {
                        Kind::Signed => client.get_caller_identity().send().await.is_err(),
                        Kind::Unsigned => {
                            let call = client.assume_role_with_web_identity();
                            let call = call.role_arn("arn:aws:iam::1:role/r").role_session_name("s");
                            call.web_identity_token("t").send().await.is_err()
                        }
                    };
                    failed += usize::from(is_refused);
                }
                failed
            });
        }
        let failed = tasks.join_all().await.iter().sum();
        let throttled = counts.lock().expect("whole").1;
        (throttled, failed)
    }

    #[tokio::test(start_paused = true)]
    async fn tasks_that_share_a_limit_throttle_each_other_far_less_than_tasks_that_do_not() {
        for kind in [Kind::Signed, Kind::Unsigned] {
            let shared = Arc::new(Rates::default());
            let (together, failed) = sixteen_tasks(kind, || Arc::clone(&shared)).await;
            let (apart, _) = sixteen_tasks(kind, Arc::default).await;
            assert_eq!(failed, 0);
            // Seen: 47 to 49, nearly all of them in the first second, and 98 to 146.
            assert!(together <= 64, "{together} of 128 calls were throttled");
            assert!(together * 3 < apart * 2, "{together} together, {apart} apart");
        }
    }

    /// Throttles the first call, while others come in such a number that the next turn is far away.
    #[derive(Debug, Clone)]
    struct Crowded(Arc<Rates>, Lane, Arc<Mutex<u32>>);

    impl Crowded {
        fn come(&self) {
            while self.0.take(&self.1, Instant::now()) < LONGEST_TURN.mul_f64(0.94) {}
        }
    }

    impl HttpConnector for Crowded {
        fn call(&self, _request: HttpRequest) -> HttpConnectorFuture {
            let mut calls = self.2.lock().expect("whole");
            *calls += 1;
            let (status, body) = if *calls == 1 {
                self.come();
                (400, THROTTLED)
            } else {
                (200, ANSWERED)
            };
            let status = StatusCode::try_from(status).expect("a status");
            HttpConnectorFuture::ready(Ok(HttpResponse::new(status, SdkBody::from(body))))
        }
    }

    /// Guards that no time-out ends a call that only waits for its turn, however short the document's waits are.
    #[tokio::test(start_paused = true)]
    async fn a_call_that_was_throttled_has_time_for_a_second_turn() {
        let backoff = Backoff::of(&BackoffSpec {
            fixed_delay: Some(Delays {
                base_delay_ms: 100,
                max_delay_ms: 100,
                max_retries: 5,
            }),
            ..BackoffSpec::default()
        });
        let (rates, begun) = (Arc::new(Rates::default()), Instant::now());
        let pace = Pace::new(backoff, Arc::clone(&rates), Account::of(""), "eu-west-1".into());
        let api = Crowded(Arc::clone(&rates), pace.lane("sts"), Arc::default());
        rates.throttled(&api.1, begun);
        api.come();
        let client = in_turn(pace, backoff, api.clone());
        client
            .get_caller_identity()
            .send()
            .await
            .expect("its second turn comes");
        let taken = begun.elapsed();
        assert!(taken > Duration::from_secs(22), "two turns were far away: {taken:?}");
    }

    #[test]
    fn a_burst_is_told_once_and_its_size_with_the_next() {
        let (lines, tell) = listener();
        let told = Told::default();
        told.listen(&tell);
        let begun = Instant::now();
        let wait = Duration::from_millis(1_234);
        for second in [0, 1, 2, 31] {
            told.say(
                "ecs:DescribeServices",
                wait,
                (2, 6),
                begun + Duration::from_secs(second),
            );
        }
        told.say("ecs:UpdateService", wait, (3, 6), begun);
        insta::assert_snapshot!(lines.lock().expect("whole").join("\n"), @r"
        AWS throttles ecs:DescribeServices; waiting 1.2 s (attempt 2 of 6)
        AWS throttles ecs:DescribeServices; waiting 1.2 s (attempt 2 of 6), 2 more times since this was last said
        AWS throttles ecs:UpdateService; waiting 1.2 s (attempt 3 of 6)
        ");
    }

    /// What is told, and who hears it.
    fn listener() -> (Arc<Mutex<Vec<String>>>, Tell) {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&lines);
        let tell: Tell = Arc::new(move |line: &str| heard.lock().expect("whole").push(line.to_owned()));
        (lines, tell)
    }

    #[test]
    fn everybody_who_waits_for_a_shared_call_is_told_once_and_only_while_following() {
        let pace = Pace::new(Backoff::default(), Arc::default(), Account::of(""), "eu-west-1".into());
        let ((one, tell_one), (two, tell_two)) = (listener(), listener());
        for tell in [&tell_one, &tell_two, &tell_one] {
            pace.telling_too(tell);
        }
        pace.after(("sts", "AssumeRole"), 1, Passing::Throttled);
        drop(tell_two);
        pace.after(("sts", "TagSession"), 1, Passing::Throttled);
        assert_eq!(
            (one.lock().expect("whole").len(), two.lock().expect("whole").len()),
            (2, 1)
        );
    }

    #[test]
    fn the_agents_own_calls_share_the_limit_of_roles_in_its_account_once_it_is_known() {
        let rates = Arc::new(Rates::default());
        let own = Arc::new(crate::account::OwnAccount::default());
        let pace = |account| Pace::new(Backoff::default(), Arc::clone(&rates), account, "eu-west-1".into());
        let (agent, role) = (pace(Account::Own(Arc::clone(&own))), pace(Account::of("111111111111")));
        assert_ne!(agent.lane("ecs"), role.lane("ecs"));
        own.learn(Some("111111111111"), std::future::pending());
        assert_eq!(agent.lane("ecs"), role.lane("ecs"));
    }
}
