//! Watch: events from a cursor on, first those in the store, then the new ones as they are
//! committed. What is sent always comes from the store, in order, so that nothing is missed or
//! sent twice; a wake-up is only the hint to look again.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use deputy_proto::v1;
use deputy_task::id::Project;
use prost::Message;
use tokio::sync::watch;
use tonic::Status;

use super::context::{Answers, Context, ending, project_of};
use super::last_word::{Said, streamed};
use super::view;
use crate::auth::caller;
use crate::dispatcher::Board;
use crate::store::clock::StoreTime;
use crate::store::contract::{EventQuery, Reads, StoreError};
use crate::store::event::{Event, Sequence};
use crate::store::task::TaskKey;

/// Events read from the store at a time.
const PAGE: usize = 256;

struct Watcher {
    context: Context,
    project: Project,
    task: Option<TaskKey>,
    generation: u64,
    after: Sequence,
    news: watch::Receiver<u64>,
    answers: Said<v1::WatchResponse>,
    shown: Vec<v1::StepProgress>,
}

/// Serves one watcher.
pub(super) async fn serve(context: &Context, request: v1::WatchRequest) -> Result<Answers<v1::WatchResponse>, Status> {
    let project = project_of(&request.project)?;
    let task = match request.task_id.as_str() {
        "" => None,
        id => Some(context.find(&request.project, id).await?),
    };
    // Subscribed before the first read, so that no event falls between.
    let news = match &task {
        Some(key) => context.dispatcher.hub.task(key),
        None => context.dispatcher.hub.project(&project),
    };
    let (generation, newest) = context
        .read(|reads| Ok((reads.meta()?.generation, reads.newest_event()?)))
        .await?;
    let after = match (request.cursor.as_str(), &task) {
        ("", Some(_)) => 0,
        ("", None) => newest,
        (cursor, _) => read_cursor(cursor, generation)?,
    };
    let serving = context.clone();
    let over = caller::over(context.registry.clone());
    Ok(streamed(
        (&context.tracker, &context.ending),
        over,
        |answers| async move {
            let mut watcher = Watcher {
                context: serving,
                project,
                task,
                generation,
                after,
                news,
                answers,
                shown: Vec::new(),
            };
            watcher.follow().await
        },
    ))
}

impl Watcher {
    /// Ends only with an error or when nobody reads any more.
    async fn follow(&mut self) -> Result<(), Status> {
        loop {
            self.news.mark_unchanged();
            loop {
                let page = self.page().await?;
                let full = page.len() == PAGE;
                for (sequence, answer) in page {
                    self.after = sequence;
                    if self.answers.send(Ok(answer)).await.is_err() {
                        return Ok(());
                    }
                }
                if !full {
                    break;
                }
            }
            self.progress().await?;
            self.news.changed().await.map_err(ending)?;
        }
    }

    async fn page(&self) -> Result<Vec<(Sequence, v1::WatchResponse)>, Status> {
        let task = self.task.as_ref().map(|key| key.task.clone());
        let query = EventQuery {
            project: self.project.clone(),
            task,
            after: self.after,
            limit: PAGE,
        };
        let (generation, board, now) = (
            self.generation,
            self.context.dispatcher.board.clone(),
            self.context.dispatcher.clock.now(),
        );
        self.context
            .read(move |reads| answers(reads, &query, generation, (&board, now)))
            .await
    }

    /// What the steps of the one watched task do, if it is new. Not an event: it has no cursor of its own.
    async fn progress(&mut self) -> Result<(), Status> {
        let Some(key) = self.task.clone() else { return Ok(()) };
        let steps = self.context.dispatcher.board.steps(&key);
        if steps.is_empty() || steps == self.shown {
            return Ok(());
        }
        self.shown.clone_from(&steps);
        let row = self.context.task(&key).await?;
        if row.head.state.is_ended() {
            return Ok(());
        }
        let now = self.context.dispatcher.clock.now();
        let answer = v1::WatchResponse {
            cursor: write_cursor(self.generation, self.after),
            at_ms: now.millis(),
            kind: "progress".into(),
            message: String::new(),
            task: Some(view::task(&row, &[], steps, now)),
            record: None,
        };
        drop(self.answers.send(Ok(answer)).await);
        Ok(())
    }
}

fn answers(
    reads: &dyn Reads,
    query: &EventQuery,
    generation: u64,
    (board, now): (&Board, StoreTime),
) -> Result<Vec<(Sequence, v1::WatchResponse)>, StoreError> {
    let mut tasks: HashMap<TaskKey, (u64, v1::Task)> = HashMap::new();
    let mut page = Vec::new();
    for event in reads.events(query)? {
        if !tasks.contains_key(&event.key) {
            let Some(row) = reads.task(&event.key)? else { continue };
            let streams = reads.log_streams(&event.key)?;
            tasks.insert(
                event.key.clone(),
                (
                    row.head.revision,
                    view::task(&row, &streams, board.steps(&event.key), now),
                ),
            );
        }
        if let Some((newest, task)) = tasks.get(&event.key) {
            let task = view::task_after(&event, *newest, task.clone());
            page.push((event.sequence, answer(event, generation, task)));
        }
    }
    Ok(page)
}

fn answer(event: Event, generation: u64, task: v1::Task) -> v1::WatchResponse {
    v1::WatchResponse {
        cursor: write_cursor(generation, event.sequence),
        at_ms: event.at.millis(),
        task: Some(task),
        record: event.record.and_then(|record| v1::Record::decode(record).ok()),
        kind: event.kind,
        message: event.message,
    }
}

fn write_cursor(generation: u64, sequence: Sequence) -> String {
    URL_SAFE_NO_PAD.encode(format!("{generation}.{sequence}"))
}

fn read_cursor(cursor: &str, generation: u64) -> Result<Sequence, Status> {
    let bad = || Status::invalid_argument("the cursor is none of ours");
    let text = URL_SAFE_NO_PAD
        .decode(cursor)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(bad)?;
    let (of, sequence) = text.split_once('.').ok_or_else(bad)?;
    if of != generation.to_string() {
        return Err(Status::failed_precondition(
            "the cursor belongs to another store: the manager's database was replaced; begin without a cursor",
        ));
    }
    sequence.parse().map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_back_and_not_taken_from_another_store() {
        let cursor = write_cursor(7, 42);
        assert_eq!(read_cursor(&cursor, 7).expect("ours"), 42);
        assert_eq!(
            read_cursor(&cursor, 8).expect_err("another store").code(),
            tonic::Code::FailedPrecondition
        );
        assert_eq!(
            read_cursor("?", 7).expect_err("no cursor").code(),
            tonic::Code::InvalidArgument
        );
    }
}
