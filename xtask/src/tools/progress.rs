//! One line per tool: a spinner and the elapsed time on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const FRAMES: [&str; 8] = ["⣾", "⣽", "⣻", "⢿", "⡿", "⣟", "⣯", "⣷"];

/// Says how the work goes on.
pub(crate) trait Progress: Sync {
    /// A tool's work begins.
    fn begin(&self, label: &str, work: &str);
    /// It goes on; called a few times a second.
    fn tick(&self);
    /// It is done.
    fn end(&self, outcome: &str);
}

/// A line for each tool.
pub(crate) struct Line {
    state: Mutex<LineState>,
}

/// Who reads it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Somebody at a terminal: one line that is written again and again.
    Terminal,
    /// Who reads a log: when it begins and when it is done.
    Log,
    /// Who waits beside something else that prints: whole lines only, and one whenever nothing was heard for [`SILENCE`].
    Beside,
}

/// How long somebody who waits for work beside his own hears nothing of it.
const SILENCE: Duration = Duration::from_secs(20);

struct LineState {
    manner: Manner,
    label: String,
    work: String,
    since: Instant,
    told: Instant,
    frame: usize,
}

impl Line {
    /// On standard error, so that a table on standard output stays clean.
    pub(crate) fn new() -> Self {
        Self::of(if std::io::stderr().is_terminal() {
            Manner::Terminal
        } else {
            Manner::Log
        })
    }

    /// The same for work beside something else that prints.
    pub(crate) fn beside() -> Self {
        Self::of(Manner::Beside)
    }

    fn of(manner: Manner) -> Self {
        let now = Instant::now();
        Self {
            state: Mutex::new(LineState {
                manner,
                label: String::new(),
                work: String::new(),
                since: now,
                told: now,
                frame: 0,
            }),
        }
    }
}

impl Progress for Line {
    fn begin(&self, label: &str, work: &str) {
        let mut state = lock(&self.state);
        label.clone_into(&mut state.label);
        work.clone_into(&mut state.work);
        state.since = Instant::now();
        state.told = state.since;
        if state.manner != Manner::Terminal {
            eprintln!("  … {label:<32} {work}");
        }
    }

    fn tick(&self) {
        let mut state = lock(&self.state);
        match state.manner {
            Manner::Terminal => {
                state.frame = (state.frame + 1) % FRAMES.len();
                let frame = FRAMES[state.frame];
                eprint!(
                    "\r\x1b[2K  {frame} {:<32} {} {}",
                    state.label,
                    state.work,
                    elapsed(state.since.elapsed())
                );
                let _ = std::io::stderr().flush();
            }
            Manner::Beside if state.told.elapsed() >= SILENCE => {
                state.told = Instant::now();
                let so_far = elapsed(state.since.elapsed());
                eprintln!("  … {:<32} {}, {so_far}", state.label, state.work);
            }
            Manner::Log | Manner::Beside => {}
        }
    }

    fn end(&self, outcome: &str) {
        let state = lock(&self.state);
        let lead = if state.manner == Manner::Terminal {
            "\r\x1b[2K"
        } else {
            ""
        };
        eprintln!(
            "{lead}  ✓ {:<32} {outcome}, {}",
            state.label,
            elapsed(state.since.elapsed())
        );
    }
}

/// `0.4 s`, `12 s`, `3 min 05 s`.
pub(crate) fn elapsed(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f32()),
        10..60 => format!("{seconds} s"),
        _ => format!("{} min {:02} s", seconds / 60, seconds % 60),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
