//! What the end of a script means, in words and as a failure. Called by the shell program.

use std::error::Error;
use std::io;
use std::time::Duration;

use deputy_process::{Ended, Exit, SpawnError};
use deputy_task::outcome::{Failure, StopReason};

use crate::context::StepContext;
use crate::failure::{Halt, StepError};

const SIGKILL: i32 = 9;
/// Exit codes above it are how a shell says that a command was killed by a signal.
const SIGNAL_CODES: i32 = 128;

/// Says that the script is being stopped, and answers how long it has to end by itself.
pub(super) fn announce_stop(ctx: &StepContext, halt: &Halt, grace: Duration) -> Duration {
    let why = match halt {
        // The attempt is another agent's: nothing is said, and nothing may go on here.
        Halt::Stale => return Duration::ZERO,
        Halt::LeaseOver => {
            ctx.narrate("killing the script: the connection to the manager was lost for too long, and it will be run again elsewhere");
            return Duration::ZERO;
        }
        Halt::Stopped(reason) => stop_words(reason),
        Halt::Drained => "this agent shuts down".to_owned(),
        Halt::Refused(_) | Halt::Nondeterministic(_) | Halt::Forged(_) | Halt::Denied(_) => halt.to_string(),
    };
    if grace.is_zero() {
        ctx.narrate(format!("killing the script (SIGKILL): {why}"));
    } else {
        ctx.narrate(format!(
            "stopping the script (SIGTERM, and SIGKILL after {} s): {why}",
            grace.as_secs_f32()
        ));
    }
    grace
}

/// The words of a reason to stop.
fn stop_words(reason: &StopReason) -> String {
    match reason {
        StopReason::Cancelled(why) if why.is_empty() => "it was cancelled".to_owned(),
        StopReason::Cancelled(why) => format!("it was cancelled: {why}"),
        StopReason::TaskTimeout => "the task's time is over".to_owned(),
        StopReason::StepTimeout => "the step's time is over".to_owned(),
    }
}

/// Says how it ended.
pub(super) fn narrate(ctx: &StepContext, ended: &Ended<Halt>, took: Duration) {
    if matches!(ended.stopped, Some(Halt::Stale)) {
        return;
    }
    let took = took.as_secs_f32();
    match (ended.exit, ended.killed) {
        (exit, true) => ctx.narrate(format!(
            "the script did not end by itself and was killed; it ended with {exit} after {took:.1} s"
        )),
        (exit, false) => ctx.narrate(format!("the script ended with {exit} after {took:.1} s")),
    }
    match ended.leftovers {
        0 => {}
        1 => ctx.narrate("a process that the script had left behind was killed"),
        n => ctx.narrate(format!("{n} processes that the script had left behind were killed")),
    }
}

/// The failure of a script that ended by itself, unless it succeeded.
pub(super) fn failed(step: &str, ended: &Ended<Halt>, stderr: String) -> Option<StepError> {
    let memory = if ended.out_of_memory {
        ": the kernel killed it because the container ran out of memory"
    } else {
        ""
    };
    let mut failure = match ended.exit {
        Exit::Code(0) => return None,
        Exit::Code(code) if code == SIGNAL_CODES + SIGKILL && ended.out_of_memory => Failure::new(
            "shell.outOfMemory",
            format!("a command in the script of step {step} was killed (exit code {code}){memory}"),
        )
        .hint("give the agent more memory, or let the script use less"),
        Exit::Code(code) => Failure::new(
            "shell.exitCode",
            format!("the script of step {step} ended with exit code {code}{}", meaning(code)),
        )
        .hint("see the last lines of its standard error, and the task's log for everything it wrote"),
        Exit::Signal(SIGKILL) if ended.out_of_memory => Failure::new(
            "shell.outOfMemory",
            format!("the script of step {step} was killed{memory}"),
        )
        .hint("give the agent more memory, or let the script use less"),
        Exit::Signal(_) => Failure::new(
            "shell.signal",
            format!(
                "the script of step {step} was ended by {}, which Deputy did not send",
                ended.exit
            ),
        ),
        Exit::Unknown => {
            let failure = Failure::new(
                "shell.lost",
                format!("the end of the script of step {step} was not seen"),
            );
            return Some(StepError::WorldUnknown(Box::new(failure.hint("look at what it did"))));
        }
    };
    failure.detail = stderr;
    Some(failure.into())
}

/// What everybody knows about some exit codes.
fn meaning(code: i32) -> String {
    match code {
        126 => ": a command in it is not executable".to_owned(),
        127 => ": a command in it was not found".to_owned(),
        code if code > SIGNAL_CODES && code <= SIGNAL_CODES + 64 => {
            format!(": a command in it was ended by {}", Exit::Signal(code - SIGNAL_CODES))
        }
        _ => String::new(),
    }
}

/// Nothing ran.
pub(super) fn not_started(step: &str, error: &SpawnError) -> StepError {
    let hint = match error.source.kind() {
        io::ErrorKind::NotFound => "install the shell on the agent, or choose another with `shell: sh`",
        io::ErrorKind::PermissionDenied => {
            "see that the agent's user may execute it, and that the work folder is not mounted noexec"
        }
        io::ErrorKind::InvalidInput => "an environment variable contains a NUL character",
        _ => "see the agent's limits on processes and memory",
    };
    let failure = Failure::new(
        "shell.notStarted",
        format!("the script of step {step} could not be started"),
    )
    .hint(hint);
    failure.caused_by(error as &(dyn Error + 'static)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(exit: Exit) -> Ended<Halt> {
        Ended {
            exit,
            stopped: None,
            killed: false,
            leftovers: 0,
            out_of_memory: exit == Exit::Code(137),
        }
    }

    #[test]
    fn every_end_has_its_class_and_words() {
        let mut told = String::new();
        for exit in [
            Exit::Code(0),
            Exit::Code(3),
            Exit::Code(127),
            Exit::Code(143),
            Exit::Code(137),
            Exit::Signal(11),
            Exit::Unknown,
        ] {
            let line = match failed("build", &ended(exit), String::new()) {
                None => "fine".to_owned(),
                Some(StepError::Failed(failure) | StepError::WorldUnknown(failure)) => {
                    format!("{}: {}", failure.class, failure.summary)
                }
                Some(other) => format!("{other:?}"),
            };
            told.push_str(&line);
            told.push('\n');
        }
        insta::assert_snapshot!(told.trim_end(), @r"
        fine
        shell.exitCode: the script of step build ended with exit code 3
        shell.exitCode: the script of step build ended with exit code 127: a command in it was not found
        shell.exitCode: the script of step build ended with exit code 143: a command in it was ended by signal 15 (SIGTERM)
        shell.outOfMemory: a command in the script of step build was killed (exit code 137): the kernel killed it because the container ran out of memory
        shell.signal: the script of step build was ended by signal 11 (SIGSEGV), which Deputy did not send
        shell.lost: the end of the script of step build was not seen
        ");
    }
}
