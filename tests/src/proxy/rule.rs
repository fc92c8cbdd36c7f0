//! Rules of a proxy: which request, and what is done with it instead of passing it on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use bytes::Bytes;
use tokio::sync::watch;

use super::classify::Asked;

/// How long [`Handle::reached`] waits.
const REACHED_WITHIN: Duration = Duration::from_secs(60);

/// Which requests a rule is for. By default the first that fits, once.
#[derive(Debug, Clone)]
pub struct Matcher {
    service: String,
    operation: String,
    body_contains: Option<String>,
    target_contains: Option<String>,
    skip: u32,
    times: u32,
}

/// What is done with a request.
#[derive(Debug, Clone)]
pub(super) enum Action {
    /// Not forwarded until released.
    Hold,
    /// Forwarded at once; the reply waits until released.
    WithholdReply,
    /// Answered by the test; the server never sees it.
    Answer(Canned),
    /// Forwarded after this time.
    Delay(Duration),
}

/// An answer of the test's own.
#[derive(Debug, Clone)]
pub struct Canned {
    /// The HTTP status.
    pub status: u16,
    /// Header names and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

#[derive(Debug)]
pub(super) struct Rule {
    matcher: Matcher,
    pub(super) action: Action,
    seen: AtomicU32,
    reached: watch::Sender<u32>,
    fate: watch::Sender<Fate>,
}

/// What becomes of what a rule holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Waiting,
    Released,
    Abandoned,
}

/// The test's end of a rule. Dropping it releases what is held and removes the rule's effect.
#[derive(Debug)]
#[must_use = "dropping the handle releases at once"]
pub struct Handle(pub(super) Arc<Rule>);

impl Matcher {
    /// Requests for one operation, for example `("ecs", "UpdateService")` or `("kubernetes", "apply deployments")`.
    #[must_use]
    pub fn on(service: &str, operation: &str) -> Self {
        Self {
            service: service.into(),
            operation: operation.into(),
            body_contains: None,
            target_contains: None,
            skip: 0,
            times: 1,
        }
    }

    /// Only with this text in the body.
    #[must_use]
    pub fn body_contains(mut self, text: &str) -> Self {
        self.body_contains = Some(text.into());
        self
    }

    /// Only with this text in path or query.
    #[must_use]
    pub fn target_contains(mut self, text: &str) -> Self {
        self.target_contains = Some(text.into());
        self
    }

    /// Not the first `n` that fit.
    #[must_use]
    pub fn after(mut self, n: u32) -> Self {
        self.skip = n;
        self
    }

    /// The next `n` that fit.
    #[must_use]
    pub fn times(mut self, n: u32) -> Self {
        self.times = n;
        self
    }

    /// All that fit.
    #[must_use]
    pub fn always(self) -> Self {
        self.times(u32::MAX)
    }

    fn fits(&self, asked: &Asked, target: &str, body: &[u8]) -> bool {
        let contains = |text: &String| String::from_utf8_lossy(body).contains(text.as_str());
        self.service == asked.service
            && self.operation == asked.operation
            && self.body_contains.as_ref().is_none_or(contains)
            && self
                .target_contains
                .as_ref()
                .is_none_or(|text| target.contains(text.as_str()))
    }
}

impl Canned {
    /// The throttling error of an AWS JSON service, which the SDK retries.
    #[must_use]
    pub fn throttled() -> Self {
        Self::json_error(400, "ThrottlingException", "Rate exceeded")
    }

    /// An answer of an AWS query service.
    #[must_use]
    pub fn xml(status: u16, body: String) -> Self {
        Self {
            status,
            headers: vec![("content-type".into(), "text/xml".into())],
            body: body.into(),
        }
    }

    /// An answer of an AWS JSON service.
    #[must_use]
    pub fn json(body: &serde_json::Value) -> Self {
        Self {
            status: 200,
            headers: vec![("content-type".into(), "application/json".into())],
            body: body.to_string().into(),
        }
    }

    /// An error of an AWS JSON service.
    #[must_use]
    pub fn json_error(status: u16, code: &str, message: &str) -> Self {
        let body = serde_json::json!({ "__type": code, "message": message }).to_string();
        let headers = vec![
            ("content-type".into(), "application/x-amz-json-1.1".into()),
            ("x-amzn-errortype".into(), code.into()),
        ];
        Self {
            status,
            headers,
            body: body.into(),
        }
    }
}

impl Rule {
    pub(super) fn new(matcher: Matcher, action: Action) -> Arc<Self> {
        Arc::new(Self {
            matcher,
            action,
            seen: AtomicU32::new(0),
            reached: watch::Sender::new(0),
            fate: watch::Sender::new(Fate::Waiting),
        })
    }

    /// Whether this request is the rule's; counts it if it fits.
    pub(super) fn takes(&self, asked: &Asked, target: &str, body: &[u8]) -> bool {
        if *self.fate.borrow() != Fate::Waiting || !self.matcher.fits(asked, target, body) {
            return false;
        }
        let number = self.seen.fetch_add(1, Ordering::AcqRel);
        number >= self.matcher.skip && number - self.matcher.skip < self.matcher.times
    }

    pub(super) fn mark_reached(&self) {
        self.reached.send_modify(|count| *count += 1);
    }

    pub(super) async fn decided(&self) -> Fate {
        let mut fate = self.fate.subscribe();
        let decided = fate.wait_for(|fate| *fate != Fate::Waiting).await;
        // The sender lives in self: there is always a decision.
        decided.map_or(Fate::Abandoned, |fate| *fate)
    }
}

impl Handle {
    /// Waits until a request has come to the point of the rule (for a withheld reply: has been answered).
    pub async fn reached(&self) -> Result<()> {
        let mut reached = self.0.reached.subscribe();
        let matcher = &self.0.matcher;
        match tokio::time::timeout(REACHED_WITHIN, reached.wait_for(|count| *count > 0)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => bail!("the proxy is gone"),
            Err(_) => Err(anyhow!(
                "no {} {} came within {REACHED_WITHIN:?} ({} fitted so far)",
                matcher.service,
                matcher.operation,
                self.0.seen.load(Ordering::Acquire)
            )),
        }
    }

    /// How many requests have come to the point of the rule.
    #[must_use]
    pub fn count(&self) -> u32 {
        *self.0.reached.borrow()
    }

    /// Lets everything go on, and does nothing from now on.
    pub fn release(&self) {
        self.decide(Fate::Released);
    }

    /// What is held is never forwarded and its caller gets no answer; nothing more is done from now on.
    pub fn abandon(&self) {
        self.decide(Fate::Abandoned);
    }

    fn decide(&self, decision: Fate) {
        self.0.fate.send_if_modified(|fate| {
            let undecided = *fate == Fate::Waiting;
            if undecided {
                *fate = decision;
            }
            undecided
        });
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.release();
    }
}
