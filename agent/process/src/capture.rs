//! Asking a program something: run it, bounded in time and output, and keep what it said.

use std::time::Duration;

use crate::child::Stop;
use crate::command::{ChildCommand, SpawnError};
use crate::exit::Exit;
use crate::sink::{OutputSink, StreamKind};

/// Between SIGTERM and SIGKILL when the time is over.
const GRACE: Duration = Duration::from_secs(1);

/// What a program said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// How it ended.
    pub exit: Exit,
    /// Its standard output, up to the limit.
    pub stdout: Vec<u8>,
    /// Its standard error, up to the limit.
    pub stderr: Vec<u8>,
    /// It said more than the limit; the rest was dropped.
    pub truncated: bool,
}

/// A program gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It could not be started.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// It was stopped because its time was over.
    #[error("{program} gave no answer within {} s", timeout.as_secs_f32())]
    TimedOut {
        /// Which program.
        program: String,
        /// How long it had.
        timeout: Duration,
        /// What it had said on standard error.
        stderr: Vec<u8>,
    },
}

struct Capture {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    max_bytes: usize,
    truncated: bool,
}

impl OutputSink for Capture {
    fn write(&mut self, stream: StreamKind, bytes: &[u8]) {
        let kept = match stream {
            StreamKind::Stdout => &mut self.stdout,
            StreamKind::Stderr => &mut self.stderr,
        };
        let room = self.max_bytes.saturating_sub(kept.len());
        self.truncated |= bytes.len() > room;
        kept.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
    }
}

/// Runs a program to its end and keeps at most `max_bytes` of each stream.
///
/// # Errors
/// If it cannot be started or takes longer than `timeout`. An exit code other than 0 is no error.
pub async fn run_captured(command: ChildCommand, timeout: Duration, max_bytes: usize) -> Result<Captured, RunError> {
    let program = command.program().to_string_lossy().into_owned();
    let child = command.spawn()?;
    let mut capture = Capture {
        stdout: Vec::new(),
        stderr: Vec::new(),
        max_bytes,
        truncated: false,
    };
    let over = async {
        tokio::time::sleep(timeout).await;
        Stop {
            reason: (),
            grace: GRACE,
        }
    };
    let ended = child.run(&mut capture, over).await;
    let Capture {
        stdout,
        stderr,
        truncated,
        ..
    } = capture;
    match ended.stopped {
        Some(()) => Err(RunError::TimedOut {
            program,
            timeout,
            stderr,
        }),
        None => Ok(Captured {
            exit: ended.exit,
            stdout,
            stderr,
            truncated,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> ChildCommand {
        ChildCommand::new("/bin/sh")
            .args(["-c", script])
            .env("PATH", "/usr/bin:/bin")
    }

    #[tokio::test]
    async fn an_answer_is_kept_up_to_the_limit() {
        let said = run_captured(sh("echo 1234567890; echo no >&2; exit 5"), Duration::from_secs(20), 4)
            .await
            .expect("ran");
        assert_eq!(
            (said.stdout.as_slice(), said.stderr.as_slice()),
            (b"1234".as_slice(), b"no\n".as_slice())
        );
        assert_eq!((said.exit, said.truncated), (Exit::Code(5), true));
    }

    #[tokio::test]
    async fn a_program_that_does_not_answer_is_stopped() {
        let error = run_captured(sh("echo hm >&2; sleep 100"), Duration::from_millis(200), 100)
            .await
            .expect_err("late");
        assert_eq!(error.to_string(), "/bin/sh gave no answer within 0.2 s");
    }
}
