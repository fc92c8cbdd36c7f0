//! A simulated world, and step programs written as lists of what they do to it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use deputy_steps::context::{Outputs, StepContext, Undone};
use deputy_steps::effect::{Effect, Look, RetrySafe, Secrecy, Settled};
use deputy_steps::failure::StepError;
use deputy_steps::permit::Permit;
use deputy_steps::program::StepProgram;
use deputy_task::outcome::Failure;
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::Instant;

/// What exists, who made it, and every change in order.
#[derive(Default)]
pub(super) struct State {
    pub(super) objects: BTreeMap<String, String>,
    /// Object → the token of the call that wrote it, and when it becomes visible to a look.
    pub(super) writers: BTreeMap<String, (String, Instant)>,
    pub(super) mutations: Vec<String>,
    /// How long a look does not see a change.
    pub(super) lag: Duration,
    /// Stop at the n-th call, before or after it is done.
    pub(super) crash: Option<(usize, Instead)>,
    pub(super) calls: usize,
    pub(super) looks: usize,
    pub(super) children: Vec<&'static str>,
}

/// What happens instead of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Instead {
    NotSent,
    NoReply,
    /// The call answers with a broken connection after it was done.
    Broken,
}

#[derive(Clone, Default)]
pub(super) struct World {
    state: Arc<Mutex<State>>,
    pub(super) reached: Arc<Notify>,
}

impl World {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("world")
    }

    pub(super) fn objects(&self) -> BTreeMap<String, String> {
        self.state().objects.clone()
    }

    async fn put(&self, token: &str, name: &str, value: &str, permit: Permit) -> Result<(), StepError> {
        permit.check()?;
        let crash = {
            let mut state = self.state();
            state.calls += 1;
            let crash = state
                .crash
                .filter(|(call, _)| *call == state.calls)
                .map(|(_, instead)| instead);
            if crash != Some(Instead::NotSent) {
                let visible = Instant::now() + state.lag;
                state.objects.insert(name.into(), value.into());
                state.writers.insert(name.into(), (token.into(), visible));
                state.mutations.push(format!("{token}: {name}={value}"));
            }
            crash
        };
        match crash {
            None => Ok(()),
            Some(Instead::Broken) => Err(StepError::WorldUnknown(Box::new(Failure::new(
                "net",
                "the connection broke",
            )))),
            Some(Instead::NotSent | Instead::NoReply) => {
                self.reached.notify_one();
                std::future::pending().await
            }
        }
    }

    fn look(&self, token: &str, name: &str) -> Look<()> {
        let mut state = self.state();
        state.looks += 1;
        match state.writers.get(name) {
            Some((writer, visible)) if writer == token && Instant::now() >= *visible => Look::Mine(()),
            Some((writer, _)) if writer.starts_with("stranger") => {
                Look::Foreign(Failure::new("foreign", "somebody else changed it"))
            }
            _ => Look::Absent,
        }
    }
}

/// One thing a step does.
#[derive(Debug, Clone)]
pub(super) enum Do {
    /// A bounded effect: the object gets the value; its undo restores what was there before.
    Put(&'static str, &'static str),
    /// A held effect: a child that takes so long and then sets the object.
    Child(&'static str, Duration, RetrySafe),
    /// Waits.
    Wait(Duration),
    /// Ignores every halt.
    Hang,
    /// The service refuses.
    Refused,
    /// The step fails.
    Fail,
    Panic,
    /// Plans with the time, which is no fact.
    Roulette,
    /// Plans with a text that may hold secrets, and sets `p`.
    Plan(&'static str),
    /// A fact too large for a record.
    Boast,
    Output(&'static str, &'static str),
    /// A secret output.
    Secret(&'static str, &'static str),
    /// Says something in the log, in an output and in a failure.
    Tell(&'static str),
    /// The files of the only source become an output.
    Source,
    /// A fact with a map that has this entry.
    Labels(&'static str, &'static str),
    /// A bounded effect whose result is that text; its undo asks for it again.
    Answer(&'static str, &'static str),
    /// Keeps a value that could carry a secret.
    Keep(&'static str, Secrecy),
}

pub(super) type Script = BTreeMap<&'static str, Vec<Do>>;

pub(super) struct Scripted {
    pub(super) world: World,
    pub(super) script: Arc<Script>,
}

const SETTLE: Duration = Duration::from_secs(5);

#[async_trait]
impl StepProgram for Scripted {
    async fn run(&self, ctx: &StepContext) -> Result<Outputs, StepError> {
        let mut outputs = Outputs::default();
        for action in self.script.get(&*ctx.step).into_iter().flatten() {
            self.act(ctx, action, &mut outputs).await?;
        }
        Ok(outputs)
    }

    async fn undo(&self, ctx: &StepContext) -> Result<Undone, StepError> {
        let mut undone = Undone::default();
        for action in self.script.get(&*ctx.step).into_iter().flatten().rev() {
            match action {
                Do::Put(name, _) => undone.restored |= self.restore(ctx, name).await?,
                Do::Answer(name, answer) => undone.restored |= self.withdraw(ctx, name, answer).await?,
                Do::Child(name, ..) => undone.left.push(format!("{name} was set by a child")),
                Do::Refused
                | Do::Wait(_)
                | Do::Hang
                | Do::Fail
                | Do::Panic
                | Do::Roulette
                | Do::Plan(_)
                | Do::Boast
                | Do::Source
                | Do::Keep(..)
                | Do::Labels(..)
                | Do::Tell(_)
                | Do::Secret(..)
                | Do::Output(..) => {}
            }
        }
        Ok(undone)
    }
}

impl Scripted {
    async fn act(&self, ctx: &StepContext, action: &Do, outputs: &mut Outputs) -> Result<(), StepError> {
        match action {
            Do::Put(name, value) => self.put(ctx, name, value).await,
            Do::Child(name, takes, retry_safe) => self.child(ctx, name, *takes, *retry_safe).await,
            Do::Wait(time) => ctx.sleep(*time, "time to pass").await,
            Do::Hang => std::future::pending().await,
            Do::Refused => {
                let effect = Effect::bounded("refused", "Refused", &json!(1));
                let refusal = || async { Err(Failure::new("denied", "the service said no").into()) };
                ctx.effect(effect, || async { Ok(Look::Absent) }, |_| refusal()).await
            }
            Do::Fail => Err(Failure::new("script.fail", "the script says so").into()),
            Do::Panic => panic!("the script says so"),
            Do::Roulette => {
                let calls = self.world.state().calls;
                let effect = Effect::bounded("roulette", "Roulette", &json!(calls));
                ctx.effect(
                    effect,
                    || async { Ok(Look::Absent) },
                    |permit| self.world.put("r", "r", "r", permit),
                )
                .await
            }
            Do::Plan(text) => {
                let effect = Effect::bounded("plan", "Plan", &ctx.masked(&json!(text)));
                ctx.effect(
                    effect,
                    || async { Ok(self.world.look("p", "p")) },
                    |permit| self.world.put("p", "p", "p", permit),
                )
                .await
            }
            Do::Boast => ctx
                .fact("boast", || async { Ok("x".repeat(300 * 1024)) })
                .await
                .map(drop),
            Do::Labels(key, value) => {
                let seen = || async { Ok(json!({ "labels": { *key: value } })) };
                ctx.told_fact("labels", seen).await.map(drop)
            }
            Do::Answer(name, answer) => {
                let effect = Effect::bounded(format!("answer/{name}"), "Answer", &json!(name)).settle(SETTLE);
                let look = || async { Ok(self.answered(name, answer)) };
                let act = |permit| async move {
                    self.world.put("answer", name, "1", permit).await?;
                    Ok((*answer).to_owned())
                };
                let answered: String = ctx.effect(effect, look, act).await?;
                assert_eq!(answered, *answer);
                Ok(())
            }
            Do::Keep(value, secrecy) => {
                let kept: String = ctx
                    .guarded_fact("kept", |_| *secrecy, || async { Ok((*value).to_owned()) })
                    .await?;
                assert_eq!(kept, *value, "every attempt reads what was kept");
                Ok(())
            }
            Do::Secret(name, value) => {
                outputs.secrets.insert((*name).into(), (*value).into());
                Ok(())
            }
            Do::Tell(what) => {
                ctx.narrate(what);
                ctx.sleep(Duration::from_secs(1), what).await?;
                Err(Failure::new("told", *what).into())
            }
            Do::Source => {
                let folder = ctx.source(None).await?;
                let again = ctx.source(Some("bundle")).await?;
                assert_eq!(folder, again);
                let text = std::fs::read_to_string(folder.join("hello.txt")).expect("unpacked");
                outputs.values.insert("text".into(), text.into());
                Ok(())
            }
            Do::Output(name, value) => {
                outputs.values.insert((*name).into(), (*value).into());
                Ok(())
            }
        }
    }

    async fn put(&self, ctx: &StepContext, name: &str, value: &str) -> Result<(), StepError> {
        let before: Option<String> = ctx
            .fact(&format!("before/{name}"), || async {
                Ok(self.world.objects().get(name).cloned())
            })
            .await?;
        let token = format!("{}/put/{name}", ctx.step);
        let effect = Effect::bounded(
            format!("put/{name}"),
            format!("Put {name}"),
            &json!([name, value, before]),
        )
        .settle(SETTLE);
        ctx.effect(
            effect,
            || async { Ok(self.world.look(&token, name)) },
            |permit| self.world.put(&token, name, value, permit),
        )
        .await
    }

    fn answered(&self, name: &str, answer: &str) -> Look<String> {
        match self.world.look("answer", name) {
            Look::Mine(()) => Look::Mine(answer.to_owned()),
            Look::Absent => Look::Absent,
            Look::Foreign(why) => Look::Foreign(why),
            Look::Unclear(why) => Look::Unclear(why),
        }
    }

    /// Takes back what is called as the effect answered.
    async fn withdraw(&self, ctx: &StepContext, name: &str, answer: &str) -> Result<bool, StepError> {
        let look = || async { Ok(self.answered(name, answer)) };
        let settled: Settled<String> = ctx.settled(&format!("answer/{name}"), SETTLE, look).await?;
        let Settled::Happened(answered) = settled else {
            return Ok(false);
        };
        assert_eq!(answered, answer, "what an undo acts on is what was answered");
        self.world.state().objects.remove(name);
        Ok(true)
    }

    async fn child(
        &self,
        ctx: &StepContext,
        name: &'static str,
        takes: Duration,
        retry_safe: RetrySafe,
    ) -> Result<(), StepError> {
        let effect = Effect::held(
            format!("child/{name}"),
            format!("Child {name}"),
            &json!(name),
            retry_safe,
        );
        let unclear = || async {
            Ok(Look::Unclear(Failure::new(
                "unclear",
                "nobody knows how far the child came",
            )))
        };
        let act = |permit: Permit| async move {
            permit.check()?;
            self.world.state().children.push("started");
            tokio::select! {
                () = tokio::time::sleep(takes) => {}
                halt = ctx.held_halted(retry_safe) => {
                    self.world.state().children.push("killed");
                    return Err(halt.into());
                }
            }
            self.world.state().children.push("ended");
            self.world
                .put(
                    &format!("child/{name}"),
                    name,
                    "child",
                    Permit::until(deputy_task::boot_time::BootTime::NEVER),
                )
                .await
        };
        ctx.effect(effect, unclear, act).await
    }

    async fn restore(&self, ctx: &StepContext, name: &str) -> Result<bool, StepError> {
        let token = format!("{}/put/{name}", ctx.step);
        let settled: Settled<()> = ctx
            .settled(&format!("put/{name}"), SETTLE, || async {
                Ok(self.world.look(&token, name))
            })
            .await?;
        let Settled::Happened(()) = settled else {
            return Ok(false);
        };
        let before: Option<Option<String>> = ctx.recorded_fact(&format!("before/{name}"))?;
        let before = before.flatten().unwrap_or_default();
        let token = format!("{}/restore/{name}", ctx.step);
        let effect = Effect::bounded(
            format!("restore/{name}"),
            format!("Restore {name}"),
            &json!([name, before]),
        )
        .settle(SETTLE);
        ctx.effect(
            effect,
            || async { Ok(self.world.look(&token, name)) },
            |permit| self.world.put(&token, name, &before, permit),
        )
        .await?;
        Ok(true)
    }
}
