//! A stream of the manager that goes on after the connection broke, from the cursor of the last
//! item: nothing is missed and nothing comes twice. Bounded: after five minutes without a manager
//! it fails.

use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::Status;

use crate::client::is_transient;

/// How long a manager that is gone is waited for.
const PATIENCE: Duration = Duration::from_secs(300);

const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// A stream that says nothing is believed to have been made again when it has held for so long: one that breaks as
/// soon as it is open is not the manager being back.
const HOLDS: Duration = Duration::from_secs(2);

/// Where such a stream comes from.
pub(crate) trait Resumable {
    /// What it carries.
    type Item;
    /// One connection of it.
    type Answers: Stream<Item = Result<Self::Item, Status>> + Unpin;
    /// Opens it behind a cursor; empty is the beginning.
    async fn open(&self, cursor: String) -> Result<Self::Answers, Status>;
    /// The place behind an item.
    fn cursor(item: &Self::Item) -> &str;
    /// Asked when the stream ended in order: was that its end? What ends a connection in order may be a manager, or a
    /// proxy before it, that is shutting down.
    async fn ended(&mut self) -> Result<Ended, Status>;
}

/// What the end of a connection means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Nothing more comes.
    AllWasSaid,
    /// There may be more, to be asked for at once. Said a bounded number of times.
    AskAgain,
    /// The connection broke.
    Broken,
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
    stream: Option<R::Answers>,
    /// Read already, and told after the news that came with it.
    item: Option<R::Item>,
    down_since: Option<Instant>,
    /// Waited before the next connection is made.
    rest: Option<Duration>,
    next_rest: Duration,
    over: bool,
}

/// The stream with everything that happens to it. Ends after `End` or `Failed`.
pub(crate) fn resuming<R: Resumable>(from: R) -> impl Stream<Item = Update<R::Item>> {
    let state = State {
        from,
        cursor: String::new(),
        stream: None,
        item: None,
        down_since: None,
        rest: None,
        next_rest: FIRST_WAIT,
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
        if let Some(item) = self.item.take() {
            return Update::Item(item);
        }
        loop {
            let heard = match self.stream.take() {
                Some(stream) => self.listen(stream).await,
                None => self.connect().await,
            };
            match heard {
                Ok(Some(update)) => return update,
                Ok(None) => {}
                Err(status) => {
                    if let Some(update) = self.broke(status) {
                        return update;
                    }
                }
            }
        }
    }

    async fn connect(&mut self) -> Result<Option<Update<R::Item>>, Status> {
        if let Some(rest) = self.rest.take() {
            sleep(rest).await;
        }
        self.stream = Some(self.from.open(self.cursor.clone()).await?);
        Ok(None)
    }

    /// The next thing that a connection says; it is kept if it can say more.
    async fn listen(&mut self, mut stream: R::Answers) -> Result<Option<Update<R::Item>>, Status> {
        let heard = if self.down_since.is_some() {
            match timeout_at(Instant::now() + HOLDS, stream.next()).await {
                Ok(heard) => heard,
                Err(_) => {
                    self.stream = Some(stream);
                    return Ok(self.is_back());
                }
            }
        } else {
            stream.next().await
        };
        match heard.transpose()? {
            Some(item) => {
                R::cursor(&item).clone_into(&mut self.cursor);
                self.stream = Some(stream);
                let back = self.is_back();
                if back.is_none() {
                    return Ok(Some(Update::Item(item)));
                }
                self.item = Some(item);
                Ok(back)
            }
            None => match self.from.ended().await? {
                Ended::AllWasSaid => Ok(Some(Update::End)),
                Ended::AskAgain => Ok(None),
                Ended::Broken => Err(Status::unavailable("the manager ended the stream before its end")),
            },
        }
    }

    /// A connection has proved itself; that is news if there was none.
    fn is_back(&mut self) -> Option<Update<R::Item>> {
        self.next_rest = FIRST_WAIT;
        self.down_since.take().map(|_| Update::Back)
    }

    /// The first break is told, later ones only when patience is over. Rests are longer each time, until a connection
    /// has proved itself: what fails as soon as it is open is not asked in a hurry either.
    fn broke(&mut self, status: Status) -> Option<Update<R::Item>> {
        if !is_transient(&status) {
            return Some(Update::Failed(status));
        }
        self.rest = Some(self.next_rest);
        self.next_rest = (self.next_rest * 2).min(LONGEST_WAIT);
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

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use futures::stream::{self, BoxStream};

    use super::*;

    /// What a connection says; then it ends in order, or holds in silence.
    type Said = (Vec<Result<&'static str, Status>>, Then);

    #[derive(Clone, Copy)]
    enum Then {
        Ends,
        Holds,
    }

    /// Connections by a script; the last one is what every later one is too.
    #[derive(Clone)]
    struct Script {
        connections: Arc<Mutex<VecDeque<Said>>>,
        opened: Arc<Mutex<Vec<(Instant, String)>>>,
        ended: Ended,
    }

    impl Script {
        fn new(ended: Ended, connections: impl IntoIterator<Item = Said>) -> Self {
            Self {
                connections: Arc::new(Mutex::new(connections.into_iter().collect())),
                opened: Arc::default(),
                ended,
            }
        }

        fn cursors(&self) -> Vec<String> {
            let opened = self.opened.lock().expect("not poisoned");
            opened.iter().map(|(_, cursor)| cursor.clone()).collect()
        }
    }

    impl Resumable for Script {
        type Item = String;
        type Answers = BoxStream<'static, Result<String, Status>>;

        async fn open(&self, cursor: String) -> Result<Self::Answers, Status> {
            self.opened.lock().expect("not poisoned").push((Instant::now(), cursor));
            let mut connections = self.connections.lock().expect("not poisoned");
            let (said, then) = match connections.len() {
                1 => connections.front().cloned(),
                _ => connections.pop_front(),
            }
            .expect("a connection");
            let said = stream::iter(said).map(|item| item.map(str::to_owned));
            Ok(match then {
                Then::Ends => said.boxed(),
                Then::Holds => said.chain(stream::pending()).boxed(),
            })
        }

        fn cursor(item: &String) -> &str {
            item
        }

        async fn ended(&mut self) -> Result<Ended, Status> {
            Ok(self.ended)
        }
    }

    fn word(update: Update<String>) -> String {
        match update {
            Update::Item(item) => item,
            Update::Lost => "lost".into(),
            Update::Back => "back".into(),
            Update::End => "end".into(),
            Update::Failed(status) => format!("failed: {}", status.message()),
        }
    }

    async fn heard(script: &Script, updates: usize) -> Vec<String> {
        resuming(script.clone()).take(updates).map(word).collect().await
    }

    fn broken() -> Result<&'static str, Status> {
        Err(Status::unavailable("gone"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_breaks_as_soon_as_it_is_open_is_not_asked_in_a_hurry_and_given_up() {
        let script = Script::new(
            Ended::Broken,
            [(vec![Ok("a"), broken()], Then::Ends), (vec![broken()], Then::Ends)],
        );
        let heard = heard(&script, usize::MAX).await;
        assert_eq!(
            heard,
            ["a", "lost", "failed: gone"],
            "a manager that is not back is not said to be"
        );
        let opened = script.opened.lock().expect("not poisoned").clone();
        let rests: Vec<Duration> = opened.windows(2).map(|two| two[1].0 - two[0].0).collect();
        assert!(rests.iter().all(|rest| *rest >= FIRST_WAIT), "{rests:?}");
        assert_eq!(rests.last().map(Duration::as_secs), Some(5), "and ever less often");
        assert!(rests.len() < 80, "{} connections", rests.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_ends_before_its_end_goes_on_where_it_was() {
        let script = Script::new(
            Ended::Broken,
            [(vec![Ok("a"), Ok("b")], Then::Ends), (vec![Ok("c")], Then::Holds)],
        );
        assert_eq!(heard(&script, 5).await, ["a", "b", "lost", "back", "c"]);
        assert_eq!(script.cursors(), ["", "b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_at_its_end_ends() {
        let script = Script::new(Ended::AllWasSaid, [(vec![Ok("a")], Then::Ends)]);
        assert_eq!(heard(&script, usize::MAX).await, ["a", "end"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_that_holds_is_back() {
        let script = Script::new(Ended::Broken, [(vec![broken()], Then::Ends), (vec![], Then::Holds)]);
        let begun = Instant::now();
        assert_eq!(heard(&script, 2).await, ["lost", "back"]);
        assert_eq!(begun.elapsed(), FIRST_WAIT + HOLDS);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_lost_for_good_is_told_at_once() {
        let script = Script::new(
            Ended::Broken,
            [(vec![Ok("a"), Err(Status::data_loss("short"))], Then::Ends)],
        );
        let begun = Instant::now();
        assert_eq!(heard(&script, usize::MAX).await, ["a", "failed: short"]);
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
