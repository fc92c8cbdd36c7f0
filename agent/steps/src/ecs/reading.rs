//! Reads that bear with an ECS that does not answer for a moment. Used by the looks of both programs
//! and by the undo, where giving up would help nobody; only the step's end bounds them.

use std::time::Duration;

use deputy_task::outcome::Failure;
use deputy_task::touch::Touch;

use crate::context::StepContext;
use crate::ecs::client::Ecs;
use crate::effect::Look;
use crate::failure::StepError;

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// After that many reads without an answer people are told. The SDK has tried each of them repeatedly.
const TELL_AFTER: u32 = 2;

/// A read that was on its way while somebody set this machine's clock is refused for its signature; the next one is
/// signed by the new clock. A clock that stays wrong is told after so many.
const SIGNED_ANEW: u32 = 3;

/// Repeats `read` while ECS does not answer.
pub(crate) async fn patiently<T, F>(ctx: &StepContext, read: impl Fn() -> F) -> Result<T, StepError>
where
    F: Future<Output = Result<T, Failure>>,
{
    let mut pause = FIRST_PAUSE;
    let mut tries = 1_u32;
    loop {
        // A read may take as long as the API lets it hang; it changes nothing.
        let answer = tokio::select! {
            biased;
            halt = ctx.halted() => return Err(halt.into()),
            answer = read() => answer,
        };
        let failure = match answer {
            Ok(value) => return Ok(value),
            Err(failure) => failure,
        };
        let is_old = tries <= SIGNED_ANEW && is_about_the_clock(&failure);
        if !passes(&failure) && !is_old {
            return Err(failure.into());
        }
        if tries == TELL_AFTER {
            ctx.narrate(format_args!("ECS does not answer; asking again ({})", failure.summary));
        }
        ctx.sleep(pause, "ECS to answer again").await?;
        pause = (pause * 2).min(MAX_PAUSE);
        tries = tries.saturating_add(1);
    }
}

/// An effect's look: bears with an ECS that does not answer, and tells a refusal from an absence.
pub(crate) async fn look_patiently<T, F>(ctx: &StepContext, look: impl Fn() -> F) -> Result<Look<T>, StepError>
where
    F: Future<Output = Result<Look<T>, Failure>>,
{
    match patiently(ctx, look).await {
        Err(StepError::Failed(failure)) => Ok(Look::Unclear(*failure)),
        other => other,
    }
}

/// What a service brings with it that `effect` points at a task definition of which only the journal tells, where
/// the agent's policy will be asked about that effect: what is in it, nobody else can say.
pub(crate) async fn brought(
    ctx: &StepContext,
    ecs: &Ecs,
    effect: &str,
    task_definition: &str,
) -> Result<Vec<Touch>, StepError> {
    if !ctx.will_ask(effect) {
        return Ok(Vec::new());
    }
    patiently(ctx, || ecs.brought(task_definition)).await
}

/// Does it pass by itself? The task's own timeout bounds the wait.
pub(crate) fn passes(failure: &Failure) -> bool {
    matches!(
        failure.class.as_str(),
        "aws.unreachable"
            | "aws.throttled"
            | "aws.assumeRoleFailed"
            | "aws.ambientIdentity"
            | "ecs.server"
            | "ecs.serviceUnavailable"
    )
}

/// Was a signature too old or too young? AWS's codes, and the words of the one that also means other things.
pub(crate) fn is_about_the_clock(failure: &Failure) -> bool {
    let said = |words: &str| failure.detail.contains(words);
    said("RequestExpired")
        || said("RequestTimeTooSkewed")
        || said("Signature expired")
        || said("Signature not yet current")
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::path::PathBuf;
    use std::sync::Arc;

    use async_trait::async_trait;
    use deputy_credentials::TaskIdentity;
    use deputy_logs::{LogWriter, Logs};
    use deputy_task::attempt::AttemptRef;
    use deputy_task::boot_time::BootTime;
    use deputy_task::outcome::StopReason;
    use deputy_task::record::Direction;
    use serde_json::Value;

    use super::*;
    use crate::context::{Begun, Host};
    use crate::effect::{Effect, Readers, Recorded, RetrySafe};
    use crate::failure::Halt;
    use crate::permit::Permit;

    /// Halts at its time.
    struct Until {
        log: LogWriter,
        halt_at: tokio::time::Instant,
    }

    const FOREVER: Duration = Duration::from_secs(600);

    fn stopped() -> Halt {
        Halt::Stopped(StopReason::TaskTimeout)
    }

    #[async_trait]
    impl Host for Until {
        fn may_touch(&self, _: &[deputy_task::touch::Touch]) -> Result<(), Halt> {
            Ok(())
        }
        async fn begin(&self, effect: &Effect) -> Result<Begun, Halt> {
            Ok(Begun::LookFirst(self.renew(effect).await?))
        }
        async fn renew(&self, _effect: &Effect) -> Result<Permit, Halt> {
            Ok(Permit::until(BootTime::NEVER))
        }
        async fn done(&self, _effect: &Effect, _value: Value) -> Result<(), Halt> {
            Ok(())
        }
        fn recorded_fact(&self, _direction: Direction, _name: &str) -> Option<Value> {
            None
        }
        async fn record_fact(&self, _name: &str, _value: Value, _readers: Readers) -> Result<(), Halt> {
            Ok(())
        }
        fn recorded_effect(&self, _name: &str) -> Recorded<Value> {
            Recorded::Open
        }
        async fn settle_done(&self, _name: &str, _value: Value) -> Result<(), Halt> {
            Ok(())
        }
        async fn halted(&self) -> Halt {
            tokio::time::sleep_until(self.halt_at).await;
            stopped()
        }
        async fn held_halted(&self, _retry_safe: RetrySafe) -> Halt {
            self.halted().await
        }
        fn waiting(&self, _what: String) {}
        async fn workspace(&self) -> Result<PathBuf, StepError> {
            Err(stopped().into())
        }
        async fn aside(&self) -> Result<PathBuf, StepError> {
            Err(stopped().into())
        }
        async fn source(&self, _name: Option<&str>) -> Result<PathBuf, StepError> {
            Err(stopped().into())
        }
        async fn identity(&self) -> Result<TaskIdentity, StepError> {
            Err(stopped().into())
        }
        fn log(&self) -> LogWriter {
            self.log.clone()
        }
        fn add_secret(
            &self,
            _value: &[u8],
            _end: Option<std::time::SystemTime>,
        ) -> Result<(), deputy_logs::SecretRefused> {
            Ok(())
        }
        fn mask(&self, text: &str) -> String {
            text.to_owned()
        }
    }

    fn context(halt_after: Duration) -> StepContext {
        let attempt = AttemptRef {
            project: "p".parse().expect("id"),
            task: "t".parse().expect("id"),
            run: 1,
            epoch: 1,
        };
        let logs = Logs::local(|_, _, _, _| {});
        let host = Until {
            log: logs.open(attempt.clone()).writer("deploy"),
            halt_at: tokio::time::Instant::now() + halt_after,
        };
        StepContext::new(Arc::new(host), "deploy", attempt, Direction::Forward, 1)
    }

    fn throttled() -> Failure {
        Failure::new("aws.throttled", "AWS throttled ecs:DescribeServices")
    }

    /// What the effect comes to whose intent is open, when the looks answer `answers` in turn.
    async fn adopted(halt_after: Duration, look: impl Fn(u32) -> Result<Look<u32>, Failure>) -> Result<u32, StepError> {
        let ctx = context(halt_after);
        let tries = Cell::new(0);
        let answer = || {
            tries.set(tries.get() + 1);
            std::future::ready(look(tries.get()))
        };
        ctx.effect(
            Effect::bounded("updateService/x", "UpdateService x", &Value::Null),
            || look_patiently(&ctx, answer),
            |_| async { Err(Failure::new("test.acted", "it was sent again").into()) },
        )
        .await
    }

    #[tokio::test]
    async fn an_open_intent_outlives_a_short_outage() {
        let found = adopted(
            FOREVER,
            |tries| if tries < 2 { Err(throttled()) } else { Ok(Look::Mine(7)) },
        )
        .await;
        assert_eq!(found.expect("found"), 7);
    }

    #[tokio::test]
    async fn a_look_that_is_denied_leaves_it_unclear_and_sends_nothing_again() {
        let found = adopted(FOREVER, |_| {
            Err(Failure::new("aws.accessDenied", "may not ecs:DescribeServices"))
        })
        .await;
        let Err(StepError::WorldUnknown(failure)) = found else {
            panic!("{found:?}");
        };
        assert_eq!(failure.class, "aws.accessDenied");
    }

    #[tokio::test]
    async fn an_outage_without_an_end_is_ended_by_the_halt() {
        let found = adopted(Duration::from_millis(20), |_| Err(throttled())).await;
        assert!(
            matches!(found, Err(StepError::Halted(Halt::Stopped(StopReason::TaskTimeout)))),
            "{found:?}"
        );
    }
}
