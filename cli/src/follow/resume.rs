//! A stream of the manager that goes on after the connection broke, from the cursor of the last
//! item: nothing is missed and nothing comes twice. Bounded: after five minutes without a manager
//! it fails.

use std::time::Duration;

use futures::Stream;
use tokio::time::{Instant, sleep};
use tonic::{Status, Streaming};

use crate::client::is_transient;

/// How long a manager that is gone is waited for.
const PATIENCE: Duration = Duration::from_secs(300);

const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Where such a stream comes from.
pub(crate) trait Resumable {
    /// What it carries.
    type Item;
    /// Opens it behind a cursor; empty is the beginning.
    async fn open(&self, cursor: String) -> Result<Streaming<Self::Item>, Status>;
    /// The place behind an item.
    fn cursor(item: &Self::Item) -> &str;
}

/// What is heard of such a stream.
#[derive(Debug)]
pub(crate) enum Update<T> {
    /// The next item.
    Item(T),
    /// The connection broke; it is being made again.
    Lost,
    /// It has been made again.
    Back,
    /// The manager has ended the stream in order.
    End,
    /// It cannot go on.
    Failed(Status),
}

impl<T> Update<T> {
    /// The same with its item on the heap: items differ much in size.
    pub(crate) fn boxed(self) -> Update<Box<T>> {
        match self {
            Self::Item(item) => Update::Item(Box::new(item)),
            Self::Lost => Update::Lost,
            Self::Back => Update::Back,
            Self::End => Update::End,
            Self::Failed(status) => Update::Failed(status),
        }
    }
}

struct State<R: Resumable> {
    from: R,
    cursor: String,
    stream: Option<Streaming<R::Item>>,
    down_since: Option<Instant>,
    wait: Duration,
    over: bool,
}

/// The stream with everything that happens to it. Ends after `End` or `Failed`.
pub(crate) fn resuming<R: Resumable>(from: R) -> impl Stream<Item = Update<R::Item>> {
    let state = State {
        from,
        cursor: String::new(),
        stream: None,
        down_since: None,
        wait: FIRST_WAIT,
        over: false,
    };
    futures::stream::unfold(state, |mut state| async move {
        if state.over {
            return None;
        }
        let update = state.next().await;
        state.over = matches!(update, Update::End | Update::Failed(_));
        Some((update, state))
    })
}

impl<R: Resumable> State<R> {
    async fn next(&mut self) -> Update<R::Item> {
        loop {
            let Some(stream) = &mut self.stream else {
                match self.from.open(self.cursor.clone()).await {
                    Ok(stream) => {
                        self.stream = Some(stream);
                        if self.down_since.take().is_some() {
                            self.wait = FIRST_WAIT;
                            return Update::Back;
                        }
                    }
                    Err(status) => {
                        if let Some(update) = self.broke(status) {
                            return update;
                        }
                        sleep(self.wait).await;
                        self.wait = (self.wait * 2).min(LONGEST_WAIT);
                    }
                }
                continue;
            };
            match stream.message().await {
                Ok(Some(item)) => {
                    R::cursor(&item).clone_into(&mut self.cursor);
                    return Update::Item(item);
                }
                Ok(None) => return Update::End,
                Err(status) => {
                    self.stream = None;
                    if let Some(update) = self.broke(status) {
                        return update;
                    }
                }
            }
        }
    }

    /// The first break is told, later ones only when patience is over.
    fn broke(&mut self, status: Status) -> Option<Update<R::Item>> {
        if !is_transient(&status) {
            return Some(Update::Failed(status));
        }
        match self.down_since {
            None => {
                self.down_since = Some(Instant::now());
                Some(Update::Lost)
            }
            Some(since) if since.elapsed() > PATIENCE => Some(Update::Failed(status)),
            Some(_) => None,
        }
    }
}
