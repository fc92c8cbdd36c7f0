//! Shows a local run to a person: output and narration on standard output, each line with its step;
//! what steps do, on standard error.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use deputy_task::log_record::LogStream;
use deputy_task::outcome::{Completion, Outcome, World};
use deputy_task::progress::{StepProgress, StepStatus};

/// Longest line that is put together; a longer one is shown in pieces.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Printer {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Lines that have begun, by step and stream.
    begun: BTreeMap<(String, &'static str), Vec<u8>>,
    /// What was last shown of each step.
    shown: BTreeMap<String, (StepStatus, String)>,
}

/// What stands between the step and the line.
const fn mark(stream: LogStream) -> &'static str {
    match stream {
        LogStream::Stdout => "│",
        LogStream::Stderr => "!",
        LogStream::System => "·",
    }
}

impl Printer {
    /// A piece of redacted log, cut anywhere.
    pub(crate) fn log(&self, stream: LogStream, step: &str, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mark = mark(stream);
        let begun = state.begun.entry((step.to_owned(), mark)).or_default();
        let mut stdout = std::io::stdout().lock();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            begun.extend_from_slice(piece);
            if begun.ends_with(b"\n") || begun.len() >= MAX_LINE_BYTES {
                line(&mut stdout, step, mark, begun);
                begun.clear();
            }
        }
    }

    /// What the steps do now; the same twice is shown once.
    pub(crate) fn progress(&self, steps: &[StepProgress]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stderr = std::io::stderr().lock();
        for step in steps {
            let now = (step.status, step.waiting_for.clone());
            if state.shown.insert(step.name.clone(), now.clone()).as_ref() == Some(&now) {
                continue;
            }
            if let Some(text) = status_line(step) {
                let _ = writeln!(stderr, "{text}");
            }
        }
    }

    /// Lines without an end, then the result with its steps.
    pub(crate) fn finish(&self, completion: &Completion) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stdout = std::io::stdout().lock();
        for ((step, mark), bytes) in std::mem::take(&mut state.begun) {
            if !bytes.is_empty() {
                line(&mut stdout, &step, mark, &bytes);
            }
        }
        let _ = stdout.flush();
        let _ = write!(std::io::stderr().lock(), "{}", summary(completion));
    }

    /// The result that was shown is that of an earlier start.
    pub(crate) fn ended_before(&self, at_ms: i64, journal: &str) {
        let _ = write!(std::io::stderr().lock(), "{}", ended_before(at_ms, journal));
    }
}

/// What is said of a run that its journal says has ended.
fn ended_before(at_ms: i64, journal: &str) -> String {
    let at = jiff::Timestamp::from_millisecond(at_ms)
        .ok()
        .filter(|_| at_ms != 0)
        .map_or_else(|| "before".to_owned(), |at| format!("at {at:.0}"));
    format!("this run ended {at}; nothing was run now; remove or rename {journal} to run the task again\n")
}

/// Nobody is left to tell if the reader has gone away.
fn line(out: &mut impl Write, step: &str, mark: &str, bytes: &[u8]) {
    let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let _ = write!(out, "{step} {mark} ")
        .and_then(|()| out.write_all(text))
        .and_then(|()| out.write_all(b"\n"));
}

fn status_line(step: &StepProgress) -> Option<String> {
    // A step that an earlier attempt began has no start here.
    let took = || match step.started_at_ms {
        0 => String::new(),
        started => format!(" {}", elapsed(step.finished_at_ms.saturating_sub(started))),
    };
    Some(match step.status {
        StepStatus::Pending => return None,
        StepStatus::Running if step.waiting_for.is_empty() => format!("▸ {} ({})", step.name, step.kind),
        StepStatus::Running => format!("▸ {} waits for {}", step.name, step.waiting_for),
        StepStatus::Succeeded => format!("✔ {}{}", step.name, took()),
        StepStatus::Failed => format!("✘ {}{}", step.name, took()),
        StepStatus::Skipped => format!("– {} skipped", step.name),
        StepStatus::Undoing => format!("◂ {} is being undone", step.name),
        StepStatus::Undone => format!("◂ {} undone", step.name),
        StepStatus::Interrupted => format!("✘ {} interrupted", step.name),
    })
}

fn elapsed(ms: i64) -> String {
    let ms = ms.max(0);
    if ms < 60_000 {
        format!("{}.{} s", ms / 1000, ms % 1000 / 100)
    } else {
        format!("{} m {} s", ms / 60_000, ms / 1000 % 60)
    }
}

/// The end of a run, for people.
fn summary(completion: &Completion) -> String {
    let mut text = String::from("\n");
    let outcome = match completion.outcome {
        Outcome::Succeeded => "succeeded",
        Outcome::Failed => "failed",
        Outcome::Cancelled => "cancelled",
        Outcome::TimedOut => "timed out",
        Outcome::Expired => "expired",
        Outcome::Rejected => "rejected",
    };
    let world = match completion.world {
        World::Unchanged => "nothing was changed",
        World::Changed => "the world was changed",
        World::RolledBack => "what was changed has been restored",
        World::RollbackFailed => "the rollback did not restore everything",
        World::Unknown => "what was changed is not known",
    };
    text.push_str(&format!("{outcome}: {world}\n"));
    for step in &completion.steps {
        let status = status_line(step).unwrap_or_else(|| format!("– {} not begun", step.name));
        text.push_str(&format!("  {status}\n"));
        for (name, value) in &step.outputs {
            text.push_str(&format!("      {name} = {value}\n"));
        }
    }
    if let Some(failure) = &completion.failure {
        text.push_str(&format!("error: {}\n", failure.summary));
        if !failure.detail.is_empty() {
            text.push_str(&format!("  caused by: {}\n", failure.detail));
        }
        if !failure.hint.is_empty() {
            text.push_str(&format!("hint: {}\n", failure.hint));
        }
    }
    for remains in &completion.remains {
        text.push_str(&format!("remains: {remains}\n"));
    }
    if !completion.repair.is_empty() {
        text.push_str(&format!("repair with: {}\n", completion.repair));
    }
    text
}

#[cfg(test)]
mod tests {
    use deputy_task::outcome::Failure;

    use super::*;

    #[test]
    fn of_a_run_that_had_ended_it_is_said_when_and_that_nothing_was_run() {
        let said = [ended_before(1_790_000_000_999, "'my journal'"), ended_before(0, "j")];
        insta::assert_snapshot!(said.concat(), @r"
        this run ended at 2026-09-21T14:13:20Z; nothing was run now; remove or rename 'my journal' to run the task again
        this run ended before; nothing was run now; remove or rename j to run the task again
        ");
    }

    #[test]
    fn the_summary_says_what_happened_what_remains_and_what_to_do() {
        let step = |name: &str, status, finished_at_ms| StepProgress {
            name: name.into(),
            kind: "shell".into(),
            status,
            waiting_for: String::new(),
            started_at_ms: 1_000,
            finished_at_ms,
            outputs: serde_json::Map::new(),
        };
        let completion = Completion {
            outcome: Outcome::Failed,
            world: World::Changed,
            failure: Some(Failure::new("shell.exitCode", "step test ended with exit code 3").hint("read its output")),
            remains: vec!["the image was pushed".into()],
            repair: String::new(),
            steps: vec![
                step("build", StepStatus::Succeeded, 2_250),
                step("test", StepStatus::Failed, 90_000),
                step("deploy", StepStatus::Pending, 0),
            ],
        };
        insta::assert_snapshot!(summary(&completion), @r"

        failed: the world was changed
          ✔ build 1.2 s
          ✘ test 1 m 29 s
          – deploy not begun
        error: step test ended with exit code 3
        hint: read its output
        remains: the image was pushed
        ");
    }
}
