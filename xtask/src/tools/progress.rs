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

/// For people who wait for it.
pub(crate) struct Line {
    state: Mutex<LineState>,
}

/// For work beside something else that prints: whole lines only, and few of them.
#[derive(Default)]
pub(crate) struct Beside {
    now: Mutex<Option<BesideState>>,
}

struct BesideState {
    label: String,
    work: String,
    since: Instant,
    told: Instant,
}

/// How long somebody who waits for work beside his own hears nothing of it.
const SILENCE: Duration = Duration::from_secs(20);

struct LineState {
    terminal: bool,
    label: String,
    work: String,
    since: Instant,
    frame: usize,
}

impl Line {
    /// On standard error, so that a table on standard output stays clean.
    pub(crate) fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        let now = Instant::now();
        Self {
            state: Mutex::new(LineState {
                terminal,
                label: String::new(),
                work: String::new(),
                since: now,
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
        if !state.terminal {
            eprintln!("  … {label:<32} {work}");
        }
    }

    fn tick(&self) {
        let mut state = lock(&self.state);
        if state.terminal {
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
    }

    fn end(&self, outcome: &str) {
        let state = lock(&self.state);
        let lead = if state.terminal { "\r\x1b[2K" } else { "" };
        eprintln!(
            "{lead}  ✓ {:<32} {outcome}, {}",
            state.label,
            elapsed(state.since.elapsed())
        );
    }
}

impl Progress for Beside {
    fn begin(&self, label: &str, work: &str) {
        eprintln!("  … {label:<32} {work}");
        let now = Instant::now();
        *lock(&self.now) = Some(BesideState {
            label: label.to_owned(),
            work: work.to_owned(),
            since: now,
            told: now,
        });
    }

    fn tick(&self) {
        let mut now = lock(&self.now);
        let Some(state) = now.as_mut().filter(|state| state.told.elapsed() >= SILENCE) else {
            return;
        };
        state.told = Instant::now();
        eprintln!(
            "  … {:<32} {}, {}",
            state.label,
            state.work,
            elapsed(state.since.elapsed())
        );
    }

    fn end(&self, outcome: &str) {
        if let Some(state) = lock(&self.now).take() {
            eprintln!("  ✓ {:<32} {outcome}, {}", state.label, elapsed(state.since.elapsed()));
        }
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
