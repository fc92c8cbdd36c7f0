//! The pipes a child writes to: large, read without blocking into one buffer. Called by the child.

use std::io;
use std::process::Stdio;

use tokio::net::unix::pipe::Receiver;

use crate::sink::{OutputSink, StreamKind};

/// What the kernel gives without privileges; a fast child then switches rarely.
const PIPE_BYTES: usize = 1024 * 1024;

/// Read at once at most.
const READ_BYTES: usize = 256 * 1024;

/// Our ends of stdout and stderr.
pub(crate) struct OutputPipes {
    stdout: Option<Receiver>,
    stderr: Option<Receiver>,
    /// Grows to [`READ_BYTES`] only for a child that writes much.
    buffer: Vec<u8>,
}

impl OutputPipes {
    /// Ours, and what the child gets as stdout and stderr.
    pub(crate) fn new() -> io::Result<(Self, Stdio, Stdio)> {
        let (stdout, child_stdout) = pipe()?;
        let (stderr, child_stderr) = pipe()?;
        let ours = Self {
            stdout: Some(stdout),
            stderr: Some(stderr),
            buffer: vec![0; 8 * 1024],
        };
        Ok((ours, child_stdout, child_stderr))
    }

    /// Is one of them still open?
    pub(crate) const fn is_open(&self) -> bool {
        self.stdout.is_some() || self.stderr.is_some()
    }

    /// Waits for output and hands one piece to the sink. Cancel-safe: what was read has been
    /// handed on before the next await.
    pub(crate) async fn pump(&mut self, sink: &mut impl OutputSink) {
        let kind = tokio::select! {
            () = readable(self.stdout.as_ref()) => StreamKind::Stdout,
            () = readable(self.stderr.as_ref()) => StreamKind::Stderr,
        };
        let pipe = match kind {
            StreamKind::Stdout => &mut self.stdout,
            StreamKind::Stderr => &mut self.stderr,
        };
        let Some(open) = pipe else { return };
        match open.try_read(&mut self.buffer) {
            Ok(0) => *pipe = None,
            Ok(len) => {
                sink.write(kind, self.buffer.get(..len).unwrap_or_default());
                if len == self.buffer.len() && len < READ_BYTES {
                    self.buffer.resize((len * 4).min(READ_BYTES), 0);
                }
                sink.ready().await;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                tracing::debug!(%error, "a child's output cannot be read any more");
                *pipe = None;
            }
        }
    }
}

/// Ends when there is something to read; never for a closed pipe.
async fn readable(pipe: Option<&Receiver>) {
    match pipe {
        // An error shows when reading.
        Some(pipe) => {
            let _ = pipe.readable().await;
        }
        None => std::future::pending().await,
    }
}

fn pipe() -> io::Result<(Receiver, Stdio)> {
    let (ours, theirs) = io::pipe()?;
    // Only faster if it works; the kernel may refuse when a user has many large pipes.
    let _ = rustix::pipe::fcntl_setpipe_size(&ours, PIPE_BYTES);
    Ok((Receiver::from_owned_fd(ours.into())?, theirs.into()))
}
