//! Reads that bear with a cluster that does not answer for a moment. Used by everything above `api`.

use std::time::Duration;

use serde_json::Value;

use crate::context::StepContext;
use crate::failure::StepError;

use super::api::{Api, ApiError};
use super::explain::{Doing, explain};
use super::object::ObjectRef;

/// How long a read is repeated while the cluster does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Six times in about 30 s: at the beginning of a step, when nothing is changed yet.
    Short,
    /// As long as the step may last: in the middle of it, where giving up would help nobody.
    Endless,
}

const MAX_PAUSE: Duration = Duration::from_secs(10);

/// An object; none if it is not there.
pub(crate) async fn read_object(
    ctx: &StepContext,
    api: &Api,
    object: &ObjectRef,
    patience: Patience,
) -> Result<Option<Value>, StepError> {
    let path = object.path()?;
    let doing = Doing::new("read", object);
    patiently(ctx, api, &doing, patience, || api.get_object(&path)).await
}

/// Repeats `read` while the cluster does not answer.
pub(crate) async fn patiently<T, F>(
    ctx: &StepContext,
    api: &Api,
    doing: &Doing,
    patience: Patience,
    read: impl Fn() -> F,
) -> Result<T, StepError>
where
    F: Future<Output = Result<T, ApiError>>,
{
    let mut pause = Duration::from_millis(500);
    let mut tries = 1_u32;
    loop {
        let error = match read().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let last = patience == Patience::Short && tries >= 6;
        if last || !error.passes() {
            return Err(explain(api, &error, doing).await.into());
        }
        if tries == 3 {
            ctx.narrate(format!(
                "cluster {} does not answer; asking again ({error})",
                api.place().cluster
            ));
        }
        ctx.sleep(pause, format!("cluster {} to answer", api.place().cluster))
            .await?;
        pause = (pause * 2).min(MAX_PAUSE);
        tries += 1;
    }
}
