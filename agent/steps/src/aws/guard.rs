//! The fence of AWS clients: a request that changes something leaves only with a valid permit, asked
//! for at the moment of transmission, for every try of the SDK's.
//!
//! [`Guard`] sits in each client. An `act` puts a [`Pass`] into its call; the pass also allows a
//! further try only where AWS certainly did not act on the one before.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll};

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeDeserializationInterceptorContextRef, BeforeSerializationInterceptorContextRef,
    BeforeTransmitInterceptorContextMut, FinalizerInterceptorContextRef, InterceptorContext,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpResponse, Metadata};
use aws_smithy_runtime_api::client::retries::classifiers::{ClassifyRetry, RetryAction, RetryClassifierPriority};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::{ConfigBag, Storable, StoreReplace};
use bytes::Bytes;
use deputy_task::record::EffectKey;
use hyper::body::{Body, Frame, SizeHint};

use crate::failpoint::{self, Point};
use crate::permit::Permit;

/// Operations that change nothing, by the beginning of their names.
const READS: [&str; 4] = ["Describe", "List", "Get", "BatchGet"];

/// In every client of this crate: refuses what has no valid pass.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Guard;

/// Lets one call through while its permit lasts.
#[derive(Debug, Clone)]
pub(crate) struct Pass {
    permit: Permit,
    key: EffectKey,
    state: Arc<State>,
}

/// Further tries only where the one before certainly did nothing.
#[derive(Debug, Clone)]
pub(crate) struct OnlyAfterRefusal(Pass);

/// The request was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// The permit's time is over.
    #[error("the permit for this change was over before it could be sent")]
    Expired,
    /// A change without a permit: a mistake of ours.
    #[error("a change without a permit is never sent")]
    NoPermit,
}

#[derive(Debug, Default)]
struct State {
    /// Tries whose body was handed to an open connection.
    transmitted: AtomicU32,
    /// Those of them that certainly did nothing.
    refused: AtomicU32,
    expired: AtomicBool,
}

impl Pass {
    /// A pass for the one call of an effect.
    pub(crate) fn new(permit: Permit, key: EffectKey) -> Self {
        Self {
            permit,
            key,
            state: Arc::default(),
        }
    }

    /// The rule for further tries, to be put into the same call.
    pub(crate) fn retry_rule(&self) -> OnlyAfterRefusal {
        OnlyAfterRefusal(self.clone())
    }

    /// Was a try handed to a connection, of which it is not known that it did nothing?
    pub(crate) fn may_have_acted(&self) -> bool {
        self.state.transmitted.load(Ordering::Acquire) > self.state.refused.load(Ordering::Acquire)
    }

    /// Was a try refused because the permit was over?
    pub(crate) fn has_expired(&self) -> bool {
        self.state.expired.load(Ordering::Acquire)
    }

    fn check(&self) -> Result<(), Refused> {
        self.permit.check().map_err(|_| {
            self.state.expired.store(true, Ordering::Release);
            Refused::Expired
        })
    }

    /// What was transmitted until now did nothing.
    fn was_refused(&self) {
        self.state
            .refused
            .store(self.state.transmitted.load(Ordering::Acquire), Ordering::Release);
    }
}

/// AWS did nothing, and says so.
pub(crate) fn is_refusal(response: &HttpResponse) -> bool {
    (400..500).contains(&response.status().as_u16())
}

impl Storable for Pass {
    type Storer = StoreReplace<Self>;
}

impl Intercept for Pass {
    fn name(&self) -> &'static str {
        "DeputyPass"
    }

    fn read_before_execution(
        &self,
        _context: &BeforeSerializationInterceptorContextRef<'_>,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        cfg.interceptor_state().store_put(self.clone());
        Ok(())
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if context.response().is_some_and(is_refusal) {
            self.was_refused();
        }
        Ok(())
    }

    fn read_after_transmit(
        &self,
        _context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        failpoint::hit(Point::Sent, self.key.as_str());
        Ok(())
    }
}

impl Intercept for Guard {
    fn name(&self) -> &'static str {
        "DeputyGuard"
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let reads = cfg
            .load::<Metadata>()
            .is_some_and(|call| READS.iter().any(|verb| call.name().starts_with(verb)));
        if reads {
            return Ok(());
        }
        let pass = cfg.load::<Pass>().cloned().ok_or(Refused::NoPermit)?;
        pass.check()?;
        let body = std::mem::replace(context.request_mut().body_mut(), SdkBody::taken());
        *context.request_mut().body_mut() = SdkBody::from_body_1_x(GuardedBody { body, pass });
        Ok(())
    }
}

impl ClassifyRetry for OnlyAfterRefusal {
    fn classify_retry(&self, _context: &InterceptorContext) -> RetryAction {
        if self.0.may_have_acted() {
            RetryAction::RetryForbidden
        } else {
            RetryAction::NoActionIndicated
        }
    }

    fn name(&self) -> &'static str {
        "DeputyOnlyAfterRefusal"
    }

    fn priority(&self) -> RetryClassifierPriority {
        RetryClassifierPriority::run_after(RetryClassifierPriority::transient_error_classifier())
    }
}

/// A request body that asks for the permit before it gives anything out: the connection is open by
/// then, so time spent connecting counts.
struct GuardedBody {
    body: SdkBody,
    pass: Pass,
}

impl Body for GuardedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if let Err(refused) = this.pass.check() {
            return Poll::Ready(Some(Err(refused.into())));
        }
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if matches!(polled, Poll::Ready(Some(Ok(_)))) {
            this.pass.state.transmitted.fetch_add(1, Ordering::AcqRel);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener};
    use std::time::Duration;

    use aws_sdk_ecs::Client;
    use aws_sdk_ecs::config::retry::RetryConfig;
    use aws_sdk_ecs::config::timeout::TimeoutConfig;
    use aws_sdk_ecs::config::{BehaviorVersion, Credentials, Region};
    use aws_sdk_ecs::error::SdkError;
    use deputy_credentials::Identities;
    use deputy_credentials::env::Env;
    use deputy_task::boot_time::BootTime;

    use super::*;
    use crate::aws::explain::Asked;
    use crate::failure::StepError;
    use crate::permit::now;

    /// A socket that counts what reaches it and answers each request with `status` after `delay`.
    fn socket(status: u16, delay: Duration) -> (SocketAddr, Arc<AtomicU32>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("address");
        let requests = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, counter) = (stream.expect("connection"), Arc::clone(&counter));
                std::thread::spawn(move || {
                    let mut buffer = [0_u8; 16 * 1024];
                    while stream.read(&mut buffer).is_ok_and(|read| read > 0) {
                        counter.fetch_add(1, Ordering::SeqCst);
                        std::thread::sleep(delay);
                        let body = r#"{"__type":"ThrottlingException","message":"slow down"}"#;
                        let head = format!(
                            "HTTP/1.1 {status} X\r\ncontent-type: application/x-amz-json-1.1\r\ncontent-length: {}\r\n\r\n",
                            body.len()
                        );
                        let _ = stream.write_all(format!("{head}{body}").as_bytes());
                    }
                });
            }
        });
        (address, requests)
    }

    fn client(address: SocketAddr) -> Client {
        let config = aws_sdk_ecs::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-west-1"))
            .credentials_provider(Credentials::new("a", "b", None, None, "test"))
            .endpoint_url(format!("http://{address}"))
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .interceptor(Guard)
            .build();
        Client::from_conf(config)
    }

    fn pass(time: Duration) -> Pass {
        let nanos = u64::try_from(time.as_nanos()).expect("short");
        let until = BootTime::from_nanos(now().as_nanos() + nanos);
        Pass::new(Permit::until(until), EffectKey::new("deploy", "updateService/x"))
    }

    async fn update(client: &Client, pass: &Pass) -> String {
        let overrides = aws_sdk_ecs::Config::builder()
            .interceptor(pass.clone())
            .retry_classifier(pass.retry_rule());
        let sent = client
            .update_service()
            .service("x")
            .customize()
            .config_override(overrides)
            .send()
            .await;
        let error = sent.expect_err("this socket never says yes");
        deputy_task::outcome::Failure::new("", "").caused_by(&error).detail
    }

    #[tokio::test]
    async fn nothing_is_sent_without_a_permit_or_after_its_time() {
        let (address, requests) = socket(400, Duration::ZERO);
        let client = client(address);
        let bare = client.update_service().service("x").send().await.expect_err("refused");
        let told = deputy_task::outcome::Failure::new("", "").caused_by(&bare).detail;
        assert!(told.contains("a change without a permit is never sent"), "{told}");
        let late = pass(Duration::ZERO);
        let told = update(&client, &late).await;
        assert!(told.contains("the permit for this change was over"), "{told}");
        assert!(late.has_expired() && !late.may_have_acted());
        assert_eq!(requests.load(Ordering::SeqCst), 0);
        let _ = client.describe_services().services("x").send().await;
        assert!(requests.load(Ordering::SeqCst) > 0, "reading needs no permit");
    }

    #[tokio::test]
    async fn a_second_try_after_the_deadline_is_refused() {
        let (address, requests) = socket(400, Duration::from_millis(1_100));
        let short = pass(Duration::from_secs(1));
        let told = update(&client(address), &short).await;
        assert!(told.contains("the permit for this change was over"), "{told}");
        assert_eq!(
            requests.load(Ordering::SeqCst),
            1,
            "throttled once, then not sent again"
        );
        assert!(
            short.has_expired() && !short.may_have_acted(),
            "what was sent was refused"
        );
    }

    #[tokio::test]
    async fn a_change_whose_outcome_is_unknown_is_not_sent_again() {
        let (address, requests) = socket(500, Duration::ZERO);
        let _ = update(&client(address), &pass(Duration::from_secs(20))).await;
        assert_eq!(requests.load(Ordering::SeqCst), 1, "AWS may have acted on it");
        let (address, requests) = socket(400, Duration::ZERO);
        let _ = update(&client(address), &pass(Duration::from_secs(20))).await;
        assert_eq!(requests.load(Ordering::SeqCst), 3, "a throttled call did nothing");
    }

    /// How the call of an effect ends, told as the step tells it.
    async fn ended(client: &Client, pass: &Pass, longest: Duration) -> StepError {
        let timeouts = TimeoutConfig::builder().operation_timeout(longest).build();
        let overrides = aws_sdk_ecs::Config::builder()
            .interceptor(pass.clone())
            .timeout_config(timeouts)
            .retry_config(
                RetryConfig::standard()
                    .with_initial_backoff(Duration::from_secs(20))
                    .with_use_static_exponential_base(true),
            )
            .retry_classifier(pass.retry_rule());
        let call = client.update_service().service("x").customize();
        let sent = call.config_override(overrides).send().await;
        assert!(matches!(sent, Err(SdkError::TimeoutError(_))), "{sent:?}");
        let keys: Env = [("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")]
            .into_iter()
            .collect();
        let identity = Identities::new(keys).for_task("eu-west-1", &[], "deputy-x");
        let asked = Asked {
            action: "ecs:UpdateService",
            on: "the service x",
            identity: &identity.expect("no hops"),
        };
        asked.acted(pass, sent).expect_err("not answered well")
    }

    /// Guards that only a try whose answer is not known makes the world unknown: one that was refused did nothing, however
    /// long the next is waited for.
    #[tokio::test]
    async fn a_change_that_was_refused_did_not_happen_though_its_next_try_never_came() {
        let (second, longest) = (Duration::from_secs(1), Duration::from_secs(3));
        let (address, requests) = socket(400, Duration::ZERO);
        let (refused, refused_pass) = (client(address), pass(20 * second));
        let (address, _) = socket(400, 20 * second);
        let (unanswered, unanswered_pass) = (client(address), pass(20 * second));
        let (of_refused, of_unanswered) = tokio::join!(
            ended(&refused, &refused_pass, longest),
            ended(&unanswered, &unanswered_pass, longest)
        );
        assert!(matches!(of_refused, StepError::Failed(_)), "{of_refused:?}");
        assert_eq!(requests.load(Ordering::SeqCst), 1);
        assert!(matches!(of_unanswered, StepError::WorldUnknown(_)), "{of_unanswered:?}");
    }
}
