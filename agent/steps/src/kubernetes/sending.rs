//! Sends one change until its fate is known. Called by the acts of effects. A change whose answer is
//! lost is looked for before it is sent again, and every transmission has a fresh permit.

use std::time::Duration;

use http::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::context::StepContext;
use crate::effect::{Effect, Look};
use crate::failpoint::{self, Point};
use crate::failure::StepError;
use crate::permit::Permit;

use super::api::{Api, ApiError, Change, Reached};
use super::explain::{Doing, explain};
use super::refusal::Refusal;

/// Tries of one change, over about half a minute.
const MAX_TRIES: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(8);

/// One effect on its way to a cluster.
pub(crate) struct Sending<'a> {
    pub(crate) ctx: &'a StepContext,
    pub(crate) api: &'a Api,
    pub(crate) effect: &'a Effect,
    pub(crate) doing: &'a Doing,
}

/// What a failed try means.
enum Next {
    /// It changed nothing: try again.
    Again,
    /// It may have happened: look.
    Look,
    /// It is refused for good.
    Stop,
}

impl Sending<'_> {
    /// The whole effect: its intent, the change under its permit, its result. `build` makes the request
    /// anew for every transmission and is the last look at what it is about to change: what it refuses is
    /// not sent. `look` tells whether a change whose answer was lost happened.
    ///
    /// # Errors
    /// As [`StepContext::effect`].
    pub(crate) async fn journaled<T, B, L>(
        &self,
        look: impl Fn() -> L,
        build: impl Fn() -> B,
        take: impl Fn(serde_json::Value) -> T,
    ) -> Result<T, StepError>
    where
        T: Serialize + DeserializeOwned,
        B: Future<Output = Result<Change, StepError>>,
        L: Future<Output = Result<Look<T>, StepError>>,
    {
        let act = |permit| self.until_settled(permit, &build, &look, &take);
        self.ctx.effect(self.effect.clone(), &look, act).await
    }

    /// Sends what `build` makes, at first with `permit`. `take` reads the answer.
    ///
    /// # Errors
    /// `NotSent` before the first transmission; `Failed` if the cluster refuses, so that nothing
    /// changed; `WorldUnknown` if it cannot be told.
    async fn until_settled<T, B, L>(
        &self,
        permit: Permit,
        build: impl Fn() -> B,
        look: impl Fn() -> L,
        take: impl Fn(serde_json::Value) -> T,
    ) -> Result<T, StepError>
    where
        B: Future<Output = Result<Change, StepError>>,
        L: Future<Output = Result<Look<T>, StepError>>,
    {
        let key = self.ctx.key(&self.effect.name);
        let mut permit = permit;
        let mut pause = FIRST_PAUSE;
        let mut tries = 1;
        loop {
            let change = build().await?;
            let sent = self
                .api
                .change(&change, permit, || failpoint::hit(Point::Sent, key.as_str()))
                .await;
            let error = match sent {
                Ok(answer) => return Ok(take(answer)),
                Err(ApiError::NotSent) => return Err(StepError::NotSent),
                Err(error) => error,
            };
            match next(&change, &error) {
                Next::Stop => return Err(explain(self.api, &error, self.doing).await.into()),
                Next::Again => {}
                Next::Look => match look().await? {
                    Look::Mine(value) => return Ok(value),
                    Look::Absent => {}
                    Look::Foreign(failure) | Look::Unclear(failure) => {
                        return Err(StepError::WorldUnknown(Box::new(failure)));
                    }
                },
            }
            if tries >= MAX_TRIES {
                return Err(explain(self.api, &error, self.doing).await.into());
            }
            // A concurrent write is everyday life with controllers; it is worth a line when it lasts.
            if error.code() != Some(409) || tries > 3 {
                self.ctx
                    .narrate(format!("{}: {error}; trying again", self.effect.summary));
            }
            self.ctx
                .sleep(pause, format!("another try: {}", self.effect.summary))
                .await?;
            permit = self.ctx.host().renew(self.effect).await?;
            pause = (pause * 2).min(MAX_PAUSE);
            tries += 1;
        }
    }
}

/// 401 is retried once with a fresh token (it is forgotten by then) and, as long as it lasts, with
/// all tries: an access entry that was just made takes some seconds to be known. 409 without an owner
/// of fields is another writer in the same moment. 4xx otherwise will be answered the same again.
fn next(change: &Change, error: &ApiError) -> Next {
    match error {
        ApiError::NoAnswer {
            reached: Reached::No, ..
        } => Next::Again,
        ApiError::NoAnswer {
            reached: Reached::Perhaps,
            ..
        }
        | ApiError::Unreadable(_) => Next::Look,
        ApiError::NotSent | ApiError::Bearer(_) => Next::Stop,
        ApiError::Status { code, refusal, status } => match code.as_u16() {
            401 | 429 => Next::Again,
            // What is to be deleted is gone already; by whom, the look tells.
            404 if change.method == Method::DELETE => Next::Look,
            409 => {
                let causes = status
                    .details
                    .as_ref()
                    .and_then(|details| details.causes.as_deref())
                    .unwrap_or_default();
                let owned = causes
                    .iter()
                    .any(|cause| cause.reason.as_deref() == Some("FieldManagerConflict"));
                // AlreadyExists and field conflicts stay; a concurrent write passes.
                if owned || status.reason.as_deref() == Some("AlreadyExists") {
                    Next::Stop
                } else {
                    Next::Again
                }
            }
            // Server-side apply answers 500 to a manifest that its schema does not know.
            500 if *refusal == Refusal::Schema => Next::Stop,
            500..=599 => Next::Look,
            _ => Next::Stop,
        },
    }
}
