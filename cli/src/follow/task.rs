//! Follows a task until it ends: its events, its log, and what a person sees of both. A manager
//! that goes away is waited for, and everything goes on where it was.

use std::pin::pin;
use std::time::Duration;

use deputy_proto::v1::{GetRequest, StepProgress, StepStatus, TailLogsResponse, Task, WatchResponse};
use futures::StreamExt;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::feed::{Events, Log, Reading};
use super::lines::{LogLines, piece_json};
use super::resume::{Update, resuming};
use crate::client::Manager;
use crate::error::{CliError, Exit};
use crate::render::{changes, ended, json, outcome, short_id, since, task as task_tree};
use crate::screen::{JsonForm, Screen, stderr_colour, to_stderr};

/// How often a live tree is drawn again.
const REDRAW: Duration = Duration::from_millis(200);

/// How long the log of an ended task is waited for, since its last piece.
const LOG_IDLE: Duration = Duration::from_secs(15);

/// What is shown while a task is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Show {
    /// Its steps.
    Steps,
    /// Its steps and its log.
    StepsAndLog,
    /// One JSON value per sight of the task and per piece of log.
    JsonStream,
    /// One JSON value per event, of the whole newest run, even if it has ended before.
    JsonEvents,
    /// Nothing until it has ended.
    Nothing,
}

/// Follows a task until its current run has ended and answers it as it ended.
pub(crate) async fn follow(manager: &Manager, screen: &mut Screen, first: Task, show: Show) -> Result<Task, CliError> {
    let mut view = View {
        screen,
        show,
        task: None,
        told: None,
        planned: Vec::new(),
        run: first.run,
        offset_ms: 0,
        lines: LogLines::default(),
    };
    let id = first.task_id.clone();
    view.planned = planned(manager, &id).await;
    // Its events are heard from the beginning; this sight is only for what is drawn until then.
    let first = view.completed(first);
    view.latest(first)?;
    let with_log = matches!(show, Show::StepsAndLog | Show::JsonStream);
    let events = resuming(Events {
        manager: manager.clone(),
        task_id: id.clone(),
    })
    .map(|update| Heard::Event(update.boxed()));
    let log = resuming(Log {
        manager: manager.clone(),
        task_id: id,
        run: view.run,
        reading: Reading::ToTheEnd,
    })
    .map(Heard::Log);
    let log = if with_log {
        log.left_stream()
    } else {
        futures::stream::empty().right_stream()
    };
    let mut events = pin!(events);
    let mut log = pin!(log);
    let mut log_open = with_log;
    let mut redraw = interval(REDRAW);
    redraw.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut log_deadline = Instant::now();
    loop {
        if view.has_ended() && !log_open {
            break;
        }
        let heard = tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => return Err(view.interrupted()),
            // Events first: what a step has begun to do explains what it prints.
            Some(heard) = events.next(), if !view.has_ended() => heard,
            Some(heard) = log.next(), if log_open => heard,
            () = sleep_until(log_deadline), if view.has_ended() => break,
            _ = redraw.tick(), if view.screen.is_live() => { view.draw()?; continue }
        };
        match heard {
            Heard::Event(Update::Item(event)) => {
                let mut event = event;
                if let Some(task) = event.task.take() {
                    view.saw(task, &event)?;
                }
                log_deadline = Instant::now() + LOG_IDLE;
            }
            Heard::Log(Update::Item(piece)) => {
                view.piece(&piece)?;
                log_deadline = Instant::now() + LOG_IDLE;
            }
            Heard::Event(Update::Lost) => view.note("the connection to the manager broke; waiting for it")?,
            Heard::Event(Update::Back) => view.note("the manager is back")?,
            Heard::Log(Update::Lost | Update::Back) => {}
            Heard::Log(Update::End) => log_open = false,
            Heard::Log(Update::Failed(error)) if view.has_ended() => {
                log_open = false;
                view.note(&format!("the rest of the log cannot be read: {}", error.message()))?;
            }
            Heard::Event(Update::Failed(status)) | Heard::Log(Update::Failed(status)) => {
                return Err(manager.failed("follow the task")(status));
            }
            Heard::Event(Update::End) => return Err(no_more_events()),
        }
    }
    view.finish(manager).await
}

/// An end of the events is a break, and resumed: without them nobody would ever hear of the end of the task.
fn no_more_events() -> CliError {
    CliError::new(
        Exit::Unreachable,
        "the manager says nothing more about the task, which goes on",
    )
}

/// The steps of a task's document, pending; empty if it cannot be read.
async fn planned(manager: &Manager, task_id: &str) -> Vec<StepProgress> {
    let request = GetRequest {
        project: manager.project.clone(),
        task_id: task_id.to_owned(),
        with_journal: false,
        with_document: true,
    };
    let Ok(answer) = manager.tasks().get(Manager::call(request)).await else {
        return Vec::new();
    };
    let Ok(checked) = deputy_task::document::decode_canonical(&answer.into_inner().document) else {
        return Vec::new();
    };
    let pending = |step: deputy_task::document::Step| StepProgress {
        kind: step.kind.name().to_owned(),
        name: step.name,
        status: StepStatus::Pending.into(),
        ..StepProgress::default()
    };
    checked.document.spec.steps.into_iter().map(pending).collect()
}

enum Heard {
    Event(Update<Box<WatchResponse>>),
    Log(Update<TailLogsResponse>),
}

/// What a person sees.
struct View<'a> {
    screen: &'a mut Screen,
    show: Show,
    task: Option<Task>,
    /// The steps of its document: those that nothing is known of yet are pending.
    planned: Vec<StepProgress>,
    /// What has been told of it, line by line.
    told: Option<Task>,
    /// Events of earlier runs are of no interest.
    run: u32,
    /// The store's clock minus ours, as far as it is known.
    offset_ms: i64,
    lines: LogLines,
}

impl View<'_> {
    fn task_id(&self) -> String {
        self.task.as_ref().map(|task| task.task_id.clone()).unwrap_or_default()
    }

    fn has_ended(&self) -> bool {
        let seen = match self.show {
            // Its end is an event too, and has not been told before.
            Show::JsonEvents => &self.told,
            Show::Steps | Show::StepsAndLog | Show::JsonStream | Show::Nothing => &self.task,
        };
        seen.as_ref().is_some_and(ended)
    }

    fn now_ms(&self) -> i64 {
        now_ms() + self.offset_ms
    }

    fn saw(&mut self, task: Task, event: &WatchResponse) -> Result<(), CliError> {
        if task.run < self.run {
            return Ok(());
        }
        let task = self.completed(task);
        if task.server_time_ms > 0 {
            self.offset_ms = task.server_time_ms - now_ms();
        }
        let at_ms = event.at_ms;
        match self.show {
            Show::JsonEvents => self.screen.json(&json::event(event, Some(&task)), JsonForm::Stream)?,
            Show::JsonStream => self.screen.json(
                &serde_json::json!({ "type": "task", "atMs": at_ms, "task": json::task(&task) }),
                JsonForm::Stream,
            )?,
            Show::Nothing => {}
            Show::Steps | Show::StepsAndLog if !self.screen.is_live() => {
                let at = if at_ms > 0 { at_ms } else { task.server_time_ms };
                let lines = self.stamped(&task, at);
                self.screen.say(&lines)?;
            }
            Show::Steps | Show::StepsAndLog => {}
        }
        self.told = Some(task.clone());
        self.latest(task)
    }

    /// What has changed since it was last told, with the time since the task was submitted.
    fn stamped(&self, task: &Task, at_ms: i64) -> Vec<String> {
        let colour = self.screen.colour;
        let stamp = colour.faint(&format!("{:>7}", format!("+{}", since(at_ms - task.submitted_at_ms))));
        changes(self.told.as_ref(), task, colour)
            .into_iter()
            .map(|line| format!("{stamp}  {line}"))
            .collect()
    }

    /// The task with every step of its document. What steps do is told best effort: a manager that
    /// was restarted may not know yet what it had said before about the same attempt.
    fn completed(&self, mut task: Task) -> Task {
        let same_attempt = self
            .told
            .as_ref()
            .filter(|before| before.run == task.run && before.epoch == task.epoch);
        let heard = |name: &str, steps: &[StepProgress]| {
            steps
                .iter()
                .find(|step| step.name == name && step.status() != StepStatus::Pending)
                .cloned()
        };
        let best = |step: &StepProgress| {
            let before = || same_attempt.and_then(|before| heard(&step.name, &before.steps));
            heard(&step.name, &task.steps)
                .or_else(before)
                .unwrap_or_else(|| step.clone())
        };
        if !self.planned.is_empty() {
            task.steps = self.planned.iter().map(best).collect();
        }
        task
    }

    fn latest(&mut self, task: Task) -> Result<(), CliError> {
        if task.server_time_ms > 0 {
            self.offset_ms = task.server_time_ms - now_ms();
        }
        self.lines.names(task.steps.iter().map(|step| step.name.as_str()));
        self.task = Some(task);
        self.draw()
    }

    fn draw(&mut self) -> Result<(), CliError> {
        if !matches!(self.show, Show::Steps | Show::StepsAndLog) || !self.screen.is_live() {
            return Ok(());
        }
        let Some(task) = &self.task else { return Ok(()) };
        let lines = task_tree(task, self.now_ms(), self.screen.colour);
        self.screen.live(lines)
    }

    fn piece(&mut self, piece: &TailLogsResponse) -> Result<(), CliError> {
        match self.show {
            Show::JsonStream => self.screen.json(&piece_json(piece), JsonForm::Stream),
            Show::StepsAndLog => {
                let lines = self.lines.push(piece, self.screen.colour);
                self.screen.say(&lines)
            }
            Show::Steps | Show::JsonEvents | Show::Nothing => Ok(()),
        }
    }

    /// About the connection, not about the task: beside the output, or one of its values. Whoever waits for the
    /// result alone is told nothing else.
    fn note(&mut self, text: &str) -> Result<(), CliError> {
        match self.show {
            Show::Steps | Show::StepsAndLog if self.screen.is_live() => {
                let line = self.screen.colour.careful(&format!("— {text}"));
                self.screen.say(&[line])
            }
            Show::Steps | Show::StepsAndLog => {
                to_stderr(&format!("{}\n", stderr_colour().careful(&format!("— {text}"))));
                Ok(())
            }
            Show::JsonStream | Show::JsonEvents => self.screen.json(&json::connection(text), JsonForm::Stream),
            Show::Nothing => Ok(()),
        }
    }

    fn interrupted(&mut self) -> CliError {
        let id = self.task_id();
        let id = short_id(&id);
        CliError::new(Exit::Interrupted, "interrupted; the task goes on")
            .hint(format!("deputy watch {id}   or, to stop it:   deputy cancel {id}"))
    }

    /// The last sight of the task, with everything that arrived after its end.
    async fn finish(mut self, manager: &Manager) -> Result<Task, CliError> {
        if self.show == Show::StepsAndLog {
            let rest = self.lines.flush(self.screen.colour);
            self.screen.say(&rest)?;
        }
        let Some(mut task) = self.task.take() else {
            return Err(CliError::new(
                Exit::Unreachable,
                "the manager said nothing about the task",
            ));
        };
        if let Ok(Some(newest)) = manager.task(&task.task_id).await
            && newest.run == task.run
        {
            task = self.completed(newest);
        }
        if matches!(self.show, Show::Steps | Show::StepsAndLog) {
            let colour = self.screen.colour;
            let mut lines = Vec::new();
            if !self.screen.is_live() {
                // It may have ended before its events were heard.
                let at = if task.finished_at_ms > 0 {
                    task.finished_at_ms
                } else {
                    task.server_time_ms
                };
                lines.extend(self.stamped(&task, at));
            }
            if self.screen.is_live() {
                self.screen.live(Vec::new())?;
                lines.extend(task_tree(&task, task.finished_at_ms, colour));
            }
            lines.push(String::new());
            lines.extend(outcome(&task, colour));
            self.screen.say(&lines)?;
        }
        Ok(task)
    }
}

/// Wall clock, Unix milliseconds: only compared with other clocks' stamps to show ages.
fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
