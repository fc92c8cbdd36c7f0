//! The writing side of an attempt's log: what steps and the executor hold.
//!
//! Every byte passes the attempt's redactor first. An attempt that writes nothing costs nothing:
//! no queue, no file, no message.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use deputy_task::attempt::AttemptRef;
use deputy_task::log_record::LogStream;

use crate::queue::LogQueue;
use crate::redactor::{RedactedStream, Redactor, SecretRefused};
use crate::spool::Spool;

/// Receives one redacted piece: stream, step, Unix milliseconds, bytes. Called from the thread that
/// wrote; it must not block for long.
pub type Tee = dyn Fn(LogStream, &str, i64, &[u8]) + Send + Sync;

/// Where the logs of attempts go. Cheap to clone.
#[derive(Clone)]
pub struct Logs {
    target: Target,
}

#[derive(Clone)]
enum Target {
    Spool(Spool),
    Tee(Arc<Tee>),
}

impl Logs {
    /// Into the spool, for the uploader.
    #[must_use]
    pub fn spooled(spool: Spool) -> Self {
        Self {
            target: Target::Spool(spool),
        }
    }

    /// To a callback, for a run without a manager.
    #[must_use]
    pub fn local(tee: impl Fn(LogStream, &str, i64, &[u8]) + Send + Sync + 'static) -> Self {
        Self {
            target: Target::Tee(Arc::new(tee)),
        }
    }

    /// The log of one attempt. Opens nothing until something is written.
    #[must_use]
    pub fn open(&self, attempt: AttemptRef) -> AttemptLog {
        let sink = match &self.target {
            Target::Spool(spool) => Sink::Spool {
                spool: spool.clone(),
                attempt,
                queue: OnceLock::new(),
            },
            Target::Tee(tee) => Sink::Tee(Arc::clone(tee)),
        };
        AttemptLog {
            inner: Arc::new(Inner {
                sink,
                redactor: Redactor::new(),
                steps: Mutex::new(Vec::new()),
            }),
        }
    }
}

/// The log of one attempt. Cheap to clone.
#[derive(Clone)]
pub struct AttemptLog {
    inner: Arc<Inner>,
}

struct Inner {
    sink: Sink,
    redactor: Redactor,
    steps: Mutex<Vec<Arc<StepStreams>>>,
}

enum Sink {
    Spool {
        spool: Spool,
        attempt: AttemptRef,
        queue: OnceLock<Option<Arc<LogQueue>>>,
    },
    Tee(Arc<Tee>),
}

/// The streams of one step that may have bytes held back.
struct StepStreams {
    step: Box<str>,
    stdout: Mutex<RedactedStream>,
    stderr: Mutex<RedactedStream>,
}

impl AttemptLog {
    /// The log as one step writes it; an empty name is the task itself. The same name gives the
    /// same streams.
    #[must_use]
    pub fn writer(&self, step: &str) -> LogWriter {
        let mut steps = self.inner.steps.lock().unwrap_or_else(PoisonError::into_inner);
        let known = steps.iter().find(|known| &*known.step == step).cloned();
        let streams = known.unwrap_or_else(|| {
            let streams = Arc::new(StepStreams {
                step: step.into(),
                stdout: Mutex::new(self.inner.redactor.stream()),
                stderr: Mutex::new(self.inner.redactor.stream()),
            });
            steps.push(Arc::clone(&streams));
            streams
        });
        LogWriter {
            inner: Arc::clone(&self.inner),
            streams,
        }
    }

    /// Makes a value known before it can be printed. Counts for open streams too.
    ///
    /// # Errors
    /// If the value is too short to be told from ordinary text, or too long.
    pub fn add_secret(&self, value: &[u8]) -> Result<(), SecretRefused> {
        self.inner.redactor.add_secret(value)
    }

    /// The same for what ends, and may be forgotten some time after.
    ///
    /// # Errors
    /// As [`Self::add_secret`], or if there is no more room.
    pub fn add_session(&self, value: &[u8], end: SystemTime) -> Result<(), SecretRefused> {
        self.inner.redactor.add_session(value, end)
    }

    /// A text with every secret replaced: for failures and everything else that leaves the agent.
    #[must_use]
    pub fn redact(&self, text: &str) -> String {
        self.inner.redactor.redact(text)
    }

    /// A text with every secret replaced but what is known to its readers anyway.
    #[must_use]
    pub fn redact_unless(&self, text: &str, is_known: impl Fn(&str) -> bool) -> String {
        self.inner.redactor.redact_unless(text, is_known)
    }

    /// Nothing is written any more: what was held back goes out and the log is complete.
    pub fn finish(&self) {
        let steps = std::mem::take(&mut *self.inner.steps.lock().unwrap_or_else(PoisonError::into_inner));
        for streams in steps {
            self.inner.flush(&streams);
        }
        if let Sink::Spool { queue, .. } = &self.inner.sink
            && let Some(queue) = queue.get_or_init(|| None)
        {
            queue.finish(unix_ms());
        }
    }
}

/// Writes one step's part of one attempt's log. Cheap to clone.
#[derive(Clone)]
pub struct LogWriter {
    inner: Arc<Inner>,
    streams: Arc<StepStreams>,
}

impl LogWriter {
    /// One line of the agent's own narration, redacted like everything else.
    pub fn narrate(&self, line: &str) {
        let mut line = self.inner.redactor.redact(line);
        line.push('\n');
        self.inner.emit(LogStream::System, &self.streams.step, line.as_bytes());
    }

    /// Bytes that a child wrote to its standard output, cut anywhere.
    pub fn stdout(&self, bytes: &[u8]) {
        self.inner
            .write(LogStream::Stdout, &self.streams.step, &self.streams.stdout, bytes);
    }

    /// Bytes that a child wrote to its standard error, cut anywhere.
    pub fn stderr(&self, bytes: &[u8]) {
        self.inner
            .write(LogStream::Stderr, &self.streams.step, &self.streams.stderr, bytes);
    }

    /// The child has ended: what was held back, because a secret might have begun there, goes out.
    pub fn flush(&self) {
        self.inner.flush(&self.streams);
    }

    /// Waits while the spool is filling up and its reader keeps up: a fast child is slowed down
    /// rather than its log cut. Ends at once if nobody reads (the manager is away), so that a
    /// lost connection never stops a task.
    pub async fn room(&self) {
        if let Sink::Spool { queue, .. } = &self.inner.sink
            && let Some(Some(queue)) = queue.get()
        {
            queue.room().await;
        }
    }

    /// Makes a value known before it can be printed.
    ///
    /// # Errors
    /// As [`AttemptLog::add_secret`].
    pub fn add_secret(&self, value: &[u8]) -> Result<(), SecretRefused> {
        self.inner.redactor.add_secret(value)
    }

    /// A text with every secret replaced.
    #[must_use]
    pub fn redact(&self, text: &str) -> String {
        self.inner.redactor.redact(text)
    }

    /// What hides the secrets, for who looks for other values beside them.
    #[must_use]
    pub fn redactor(&self) -> Redactor {
        self.inner.redactor.clone()
    }

    /// A stream that hides the same secrets, for who keeps a part of the output aside.
    #[must_use]
    pub fn redacted_stream(&self) -> RedactedStream {
        self.inner.redactor.stream()
    }

    /// A writer whose output goes nowhere: for tests of code that narrates.
    #[must_use]
    pub fn discard() -> Self {
        let sink = Sink::Tee(Arc::new(|_, _, _, _| ()));
        AttemptLog {
            inner: Arc::new(Inner {
                sink,
                redactor: Redactor::new(),
                steps: Mutex::new(Vec::new()),
            }),
        }
        .writer("")
    }
}

impl Inner {
    fn write(&self, stream: LogStream, step: &str, redacted: &Mutex<RedactedStream>, bytes: &[u8]) {
        // Held while the bytes are handed on, so that two writers cannot swap pieces of one stream.
        let mut redacted = redacted.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = redacted.write(bytes);
        self.emit(stream, step, bytes);
    }

    fn flush(&self, streams: &StepStreams) {
        for (stream, redacted) in [
            (LogStream::Stdout, &streams.stdout),
            (LogStream::Stderr, &streams.stderr),
        ] {
            let mut redacted = redacted.lock().unwrap_or_else(PoisonError::into_inner);
            let bytes = redacted.finish();
            self.emit(stream, &streams.step, bytes);
        }
    }

    fn emit(&self, stream: LogStream, step: &str, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let at_ms = unix_ms();
        match &self.sink {
            Sink::Tee(tee) => tee(stream, step, at_ms, bytes),
            Sink::Spool { spool, attempt, queue } => {
                if let Some(queue) = queue.get_or_init(|| Some(spool.queue(attempt))) {
                    queue.append(stream, step, at_ms, bytes);
                }
            }
        }
    }
}

/// Unix milliseconds now; a stamp for people, never compared.
fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
