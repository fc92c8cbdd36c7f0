//! How a child ended, in words.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// How the first process of a child's group ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself.
    Code(i32),
    /// By a signal.
    Signal(i32),
    /// It could not be killed within the bound (it hangs in the kernel), or its end was not seen.
    Unknown,
}

impl Exit {
    /// Did it end by itself with 0?
    #[must_use]
    pub const fn succeeded(self) -> bool {
        matches!(self, Self::Code(0))
    }
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => Self::Unknown,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal} ({})", signal_name(*signal)),
            Self::Unknown => f.write_str("an unknown end"),
        }
    }
}

/// How a child ended and what it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended<R> {
    /// How the first process ended.
    pub exit: Exit,
    /// Why it was stopped; `None` if it ended by itself.
    pub stopped: Option<R>,
    /// The grace was over, or nothing but SIGKILL helped.
    pub killed: bool,
    /// Processes it left behind that were killed: background jobs and daemons.
    pub leftovers: usize,
    /// The kernel killed something in this container for want of memory while it ran.
    pub out_of_memory: bool,
}

/// The usual name of a signal, or `unknown`.
#[must_use]
pub const fn signal_name(signal: i32) -> &'static str {
    match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        10 => "SIGUSR1",
        11 => "SIGSEGV",
        12 => "SIGUSR2",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        _ => "unknown",
    }
}
