//! The program of a shell step: one held effect, `run`, and an undo that can only say what ran.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use deputy_logs::LogWriter;
use deputy_logs::redactor::RedactedStream;
use deputy_process::{Child, Ended, Keeper, OutputSink, Stop, StreamKind};
use deputy_task::boot_time::BootTime;
use deputy_task::document::duration;
use deputy_task::document::step::Shell;
use deputy_task::outcome::Failure;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::{OnceCell, watch};
use tokio::time::Instant;

use super::environment;
use super::outputs::{self, Written};
use super::preparation::Prepared;
use super::secret_watch::SecretWatch;
use super::verdict;
use crate::context::{Outputs, StepContext, Undone};
use crate::effect::{Effect, Look, Readers, Recorded, RetrySafe};
use crate::failpoint::{self, Point};
use crate::failure::{Halt, StepError};
use crate::permit::{Permit, now};
use crate::program::{ProgramInfo, StepProgram};

/// What the registry knows about it.
pub const INFO: ProgramInfo = ProgramInfo {
    kind: "shell",
    min_version: 1,
    max_version: 1,
    tools: &[],
};

const RUN: &str = "run";
const DEFAULT_GRACE: Duration = Duration::from_secs(10);

/// The keeper of a script's time hears of new leases at most that often.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// Bytes of standard error that a failure quotes at most.
const TAIL_BYTES: usize = 2 * 1024;
const TAIL_LINES: usize = 20;

/// The program of `shell`.
#[derive(Debug, Clone)]
pub struct ShellProgram {
    shell: Shell,
}

/// The recorded result of the script.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ran {
    exit_code: i32,
    outputs: Map<String, Value>,
    /// Names only: without a pool key, the values never leave the agent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    secret_outputs: Vec<String>,
    /// With their values where the record is sealed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    sealed_outputs: BTreeMap<String, String>,
}

impl ShellProgram {
    /// From an evaluated step.
    #[must_use]
    pub const fn new(shell: Shell) -> Self {
        Self { shell }
    }

    const fn retry_safe(&self) -> RetrySafe {
        if self.shell.retry_safe {
            RetrySafe::Yes
        } else {
            RetrySafe::No
        }
    }

    /// The result of a script that has to do with secrets is for the pool alone, so that secret outputs outlive
    /// their agent.
    fn readers(&self, ctx: &StepContext) -> Readers {
        let has_secrets = !self.shell.secret_outputs.is_empty() || !self.shell.secrets.is_empty();
        if has_secrets && ctx.can_seal() {
            Readers::Pool
        } else {
            Readers::People
        }
    }

    fn grace(&self) -> Result<Duration, Failure> {
        let Some(text) = &self.shell.grace else {
            return Ok(DEFAULT_GRACE);
        };
        duration::parse(text)
            .map_err(|error| Failure::new("shell.badGrace", format!("grace {text:?} is no duration: {error}")))
    }

    /// For people. Secrets are taken out before it is cut: half of one would be found by nobody.
    fn summary(&self, ctx: &StepContext) -> String {
        let masked = ctx.masked(&self.shell);
        let run = masked.get("run").and_then(Value::as_str).unwrap_or_default();
        let run = ctx.host().log().redact(run);
        let first = run
            .lines()
            .map(str::trim)
            .find(|line| !line.is_empty() && !line.starts_with('#'));
        let first: String = first.unwrap_or("an empty script").chars().take(80).collect();
        format!("run {first}")
    }

    /// Nobody can ask the world whether a script ran. The task ends with it; a local run, which can wait for its
    /// person, does not come here: it asks before it begins.
    fn unclear(&self, ctx: &StepContext) -> Failure {
        Failure::new(
            "shell.interrupted",
            format!("the script of step {} was begun and its end was never recorded, so it may have run in part, in whole, or not at all", ctx.step),
        )
        .hint(format!(
            "look at what it did and put it right; `deputy retry {}` then begins again with the first step. A script that may simply be run again can say `retrySafe: true`",
            ctx.attempt.task
        ))
    }

    async fn act(
        &self,
        ctx: &StepContext,
        permit: Permit,
        prepared: &OnceCell<Prepared>,
        secrets: &Mutex<BTreeMap<String, String>>,
    ) -> Result<Ran, StepError> {
        let grace = self.grace()?;
        let prepared = prepared.get_or_try_init(|| prepare(ctx, &self.shell)).await?;
        prepared.clear_outputs()?;
        permit.check()?;
        let child = prepared
            .command(&self.shell)
            .spawn()
            .map_err(|error| verdict::not_started(&ctx.step, &error))?;
        failpoint::hit(Point::Sent, ctx.key(RUN).as_str());
        let log = ctx.host().log();
        let begun = Instant::now();
        let secret_watch = SecretWatch::new(prepared.output_file(), &self.shell.secret_outputs, &log);
        let sink = LogSink {
            log: &log,
            secrets: &secret_watch,
            tail: Tail {
                stream: log.redacted_stream(),
                bytes: Vec::new(),
            },
        };
        let (ended, stderr) = supervise(ctx, child, sink, self.retry_safe(), grace).await;
        let took = begun.elapsed();
        verdict::narrate(ctx, &ended, took);
        if let Some(halt) = ended.stopped {
            return Err(halt.into());
        }
        if let Some(error) = verdict::failed(&ctx.step, &ended, stderr) {
            return Err(error);
        }
        if let Some(unhidden) = secret_watch.into_unhidden() {
            let failure = useless_outputs(ctx, &unhidden.to_string()).hint(unhidden.hint());
            return Err(failure.into());
        }
        let written = prepared
            .outputs(&self.shell, &|text| log.redact(text))
            .map_err(|problem| outputs_failure(ctx, &problem.to_string()))?;
        let ran = self.keep(ctx, &log, written, secrets)?;
        Ok(ran)
    }

    /// Sorts secret outputs from the others; those are made known to the redactor first.
    fn keep(
        &self,
        ctx: &StepContext,
        log: &LogWriter,
        written: Written,
        secrets: &Mutex<BTreeMap<String, String>>,
    ) -> Result<Ran, StepError> {
        let mut ran = Ran {
            exit_code: 0,
            outputs: Map::new(),
            secret_outputs: Vec::new(),
            sealed_outputs: BTreeMap::new(),
        };
        let mut kept = secrets.lock().unwrap_or_else(PoisonError::into_inner);
        let (declared, others): (Vec<_>, Vec<_>) = written
            .into_iter()
            .partition(|(name, _)| self.shell.secret_outputs.contains(name));
        let mut keep_secret = |ran: &mut Ran, what: &str, (name, value): (String, String)| {
            log.add_secret(value.as_bytes())
                .map_err(|refused| outputs_failure(ctx, &format!("{what}: {refused}")))?;
            ran.secret_outputs.push(name.clone());
            kept.insert(name, value);
            Ok::<(), StepError>(())
        };
        for (name, value) in declared {
            keep_secret(&mut ran, &format!("secret output {name}"), (name, value))?;
        }
        for (name, value) in others {
            // What holds a secret is one: recorded it would be another value, and a later attempt would go on with that.
            if log.redact(&value) == value {
                ran.outputs.insert(name, Value::String(value));
                continue;
            }
            ctx.narrate(format!(
                "the output {name} holds a secret and is kept as one; it could be named in secretOutputs"
            ));
            keep_secret(&mut ran, &format!("output {name}, which holds a secret"), (name, value))?;
        }
        // Those of the document are known to whoever wrote it.
        let names = ran.outputs.keys().chain(&ran.secret_outputs);
        let made = names.filter(|name| !self.shell.secret_outputs.contains(name));
        outputs::check_names(made, &|name| log.redact(name))
            .map_err(|problem| outputs_failure(ctx, &problem.to_string()))?;
        outputs::check_size(&ran.outputs).map_err(|problem| outputs_failure(ctx, &problem.to_string()))?;
        if self.readers(ctx) == Readers::Pool {
            ran.sealed_outputs.clone_from(&kept);
        }
        Ok(ran)
    }
}

#[async_trait]
impl StepProgram for ShellProgram {
    async fn run(&self, ctx: &StepContext) -> Result<Outputs, StepError> {
        let effect = Effect::held(RUN, self.summary(ctx), &ctx.masked(&self.shell), self.retry_safe())
            .read_by(self.readers(ctx));
        environment::check_step_variables(&self.shell)?;
        let prepared = OnceCell::new();
        // What can fail before anything runs should fail before the intent: then nothing has begun. A plain script
        // has nothing that is likely to fail, and its intent shares the frame of Start.
        let prepares_first = ctx.brings_surroundings || self.shell.cluster.is_some() || !self.shell.secrets.is_empty();
        if prepares_first && matches!(ctx.host().recorded_effect(RUN), Recorded::Never) {
            prepared.get_or_try_init(|| prepare(ctx, &self.shell)).await?;
        }
        let secrets = Mutex::new(BTreeMap::new());
        let look = || async { Ok(Look::Unclear(self.unclear(ctx))) };
        let ran = ctx
            .effect(effect, look, |permit| self.act(ctx, permit, &prepared, &secrets))
            .await;
        if let Some(prepared) = prepared.into_inner() {
            prepared.remove().await;
        }
        let ran = ran?;
        let mut secrets = secrets.into_inner().unwrap_or_else(PoisonError::into_inner);
        for (name, value) in ran.sealed_outputs {
            let hidden = ctx.host().add_secret(value.as_bytes(), None);
            hidden.map_err(|refused| outputs_failure(ctx, &format!("secret output {name}: {refused}")))?;
            secrets.entry(name).or_insert(value);
        }
        let lost: Vec<_> = ran
            .secret_outputs
            .iter()
            .filter(|name| !secrets.contains_key(*name))
            .cloned()
            .collect();
        if !lost.is_empty() {
            ctx.narrate(format!(
                "the secret outputs {} were made by an attempt before this one and never left its agent; a step that needs them will fail",
                lost.join(", ")
            ));
        }
        Ok(Outputs {
            values: ran.outputs,
            secrets,
        })
    }

    async fn undo(&self, ctx: &StepContext) -> Result<Undone, StepError> {
        let say = |what: &str| {
            let summary = self.summary(ctx);
            vec![format!(
                "{what} ({summary}); what a script changed cannot be restored automatically"
            )]
        };
        Ok(match ctx.host().recorded_effect(RUN) {
            Recorded::Never => Undone::default(),
            Recorded::Done(_) => Undone {
                noted: say("the script ran"),
                ..Undone::default()
            },
            Recorded::Refused(_) => Undone {
                noted: say("the script ran and failed"),
                ..Undone::default()
            },
            Recorded::Open => Undone {
                left: say("the script was begun and interrupted"),
                ..Undone::default()
            },
        })
    }
}

async fn prepare(ctx: &StepContext, shell: &Shell) -> Result<Prepared, StepError> {
    tokio::select! {
        halt = ctx.halted() => Err(halt.into()),
        prepared = Prepared::make(ctx, shell) => prepared,
    }
}

/// Runs the child to its end, its output into the log; obeys the executor's halt.
async fn supervise(
    ctx: &StepContext,
    child: Child,
    mut sink: LogSink<'_>,
    retry_safe: RetrySafe,
    grace: Duration,
) -> (Ended<Halt>, String) {
    let stop = async {
        let halt = ctx.held_halted(retry_safe).await;
        let grace = verdict::announce_stop(ctx, &halt, within_lease(ctx, retry_safe, grace));
        Stop { reason: halt, grace }
    };
    let keeper = match (retry_safe, ctx.host().lease()) {
        (RetrySafe::Yes, Some(lease)) => keep_time(&child).map(|keeper| (keeper, lease)),
        (RetrySafe::Yes, None) | (RetrySafe::No, _) => None,
    };
    let secrets = sink.secrets;
    let run = async {
        tokio::select! {
            ended = child.run(&mut sink, stop) => ended,
            never = secrets.keep_looking() => match never {},
        }
    };
    let ended = match keeper {
        None => run.await,
        Some((mut keeper, lease)) => {
            let ended = tokio::select! {
                ended = run => ended,
                never = tell(&mut keeper, lease) => match never {},
            };
            // Frozen and thawed: the script was killed for the end of the lease, and did not fail.
            let by_keeper = ended.stopped.is_none() && !ended.exit.succeeded() && keeper.has_killed().await;
            Ended {
                stopped: ended.stopped.or(by_keeper.then_some(Halt::LeaseOver)),
                ..ended
            }
        }
    };
    // A script that failed may have named secrets too, and what was held back has not gone out yet.
    sink.secrets.look();
    sink.log.flush();
    (ended, sink.tail.into_text())
}

/// A script that is run again elsewhere must be gone by then: once it is told to stop, only its grace is watched.
fn within_lease(ctx: &StepContext, retry_safe: RetrySafe, grace: Duration) -> Duration {
    match (retry_safe, ctx.host().lease()) {
        (RetrySafe::Yes, Some(lease)) => grace.min(lease.borrow().remaining(now())),
        (RetrySafe::Yes, None) | (RetrySafe::No, _) => grace,
    }
}

/// Who kills the script at the end of the lease when this agent is frozen.
fn keep_time(child: &Child) -> Option<Keeper> {
    child
        .keeper()
        .inspect_err(|error| tracing::warn!(%error, "a script would go on while its agent is frozen"))
        .ok()
}

/// Tells the keeper every new end of the lease.
async fn tell(keeper: &mut Keeper, mut lease: watch::Receiver<BootTime>) -> Infallible {
    loop {
        let until = *lease.borrow_and_update();
        if let Err(error) = keeper.until(Duration::from_nanos(until.as_nanos())) {
            tracing::warn!(%error, "a script would go on while its agent is frozen");
            return std::future::pending().await;
        }
        tokio::time::sleep(TELL_EVERY).await;
        if lease.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Into the log, and the end of standard error aside for a failure.
struct LogSink<'a> {
    log: &'a LogWriter,
    secrets: &'a SecretWatch<'a>,
    tail: Tail,
}

impl OutputSink for LogSink<'_> {
    fn write(&mut self, stream: StreamKind, bytes: &[u8]) {
        if !self.secrets.look() {
            return;
        }
        match stream {
            StreamKind::Stdout => self.log.stdout(bytes),
            StreamKind::Stderr => {
                self.log.stderr(bytes);
                self.tail.push(bytes);
            }
        }
    }

    async fn ready(&mut self) {
        self.log.room().await;
    }
}

/// The redacted end of a stream: cut after the secrets are gone, never through one.
struct Tail {
    stream: RedactedStream,
    bytes: Vec<u8>,
}

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        let redacted = self.stream.write(bytes);
        self.bytes.extend_from_slice(redacted);
        if self.bytes.len() > 2 * TAIL_BYTES {
            self.bytes.drain(..self.bytes.len() - TAIL_BYTES);
        }
    }

    fn into_text(mut self) -> String {
        let rest = self.stream.finish();
        self.bytes.extend_from_slice(rest);
        let from = self.bytes.len().saturating_sub(TAIL_BYTES);
        let text = String::from_utf8_lossy(self.bytes.get(from..).unwrap_or_default());
        let lines: Vec<_> = text.lines().collect();
        let from = lines.len().saturating_sub(TAIL_LINES);
        lines.get(from..).unwrap_or_default().join("\n")
    }
}

fn useless_outputs(ctx: &StepContext, problem: &str) -> Failure {
    Failure::new(
        "shell.outputs",
        format!(
            "the script of step {} ended well, but its outputs cannot be used: {problem}",
            ctx.step
        ),
    )
}

fn outputs_failure(ctx: &StepContext, problem: &str) -> StepError {
    useless_outputs(ctx, problem).hint(
        "write lines `name=value`, or `name<<END`, the value's lines and `END`, to the file that $DEPUTY_OUTPUT names",
    )
    .into()
}

#[cfg(test)]
mod tests;
