//! Which way a session goes: as a stream of HTTP/2, or by long polls over HTTP/1.1. Decides from what was seen of
//! attempts; does no IO.
//!
//! What proves that HTTP/2 does not pass: an answer in another protocol. What makes it likely: connections that end or
//! fall silent where a manager would have answered. The second looks like an outage too, so the other way is tried
//! in turns with the stream, and only a welcome decides. Whoever polls asks from time to time whether the stream
//! passes again: soon after a decision that an outage could have caused, seldom where it never does.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::Rng;
use tracing::{info, warn};

/// What the operator wishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    /// The stream, and long polls where it does not pass.
    #[default]
    Auto,
    /// Only the stream.
    Stream,
    /// Only long polls.
    Exchange,
}

/// What carries frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// A stream of HTTP/2.
    Stream,
    /// Long polls, as gRPC-Web over HTTP/1.1.
    Exchange,
}

/// What a failure says about HTTP/2. The text is for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finding {
    /// Nothing.
    Clear,
    /// It may be broken on the way.
    Suspect(String),
    /// It is broken on the way.
    Certain(String),
}

/// The first question after a decision that an outage could have caused.
const ASK_SOON: Duration = Duration::from_secs(3);
/// The first question after any other.
const ASK_FIRST: Duration = Duration::from_secs(10);
/// Questions become rarer up to this.
const ASK_LAST: Duration = Duration::from_secs(15 * 60);
/// A stream that lasted so long counts as healed: the next failure is asked about as if it were the first.
const HEALED_AFTER: Duration = Duration::from_secs(10 * 60);
/// Polls that fail so often in a row let the stream have a try.
const POLLS_BEFORE_STREAM: u32 = 2;

/// See the module. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Way {
    choice: Arc<Mutex<Choice>>,
}

#[derive(Debug)]
struct Choice {
    wish: Transport,
    /// What worked last.
    settled: Carrier,
    /// What is tried now, or in use.
    next: Carrier,
    /// Polls that failed since one worked.
    failures: u32,
    /// Why it is not the stream.
    why: Option<Finding>,
    /// Questions asked since the stream was healthy.
    asked: u32,
}

impl Way {
    pub(crate) fn new(wish: Transport) -> Self {
        let carrier = match wish {
            Transport::Auto | Transport::Stream => Carrier::Stream,
            Transport::Exchange => Carrier::Exchange,
        };
        let choice = Choice {
            wish,
            settled: carrier,
            next: carrier,
            failures: 0,
            why: None,
            asked: 0,
        };
        Self {
            choice: Arc::new(Mutex::new(choice)),
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Choice) -> T) -> T {
        act(&mut self.choice.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What a session is tried with now.
    pub(crate) fn next(&self) -> Carrier {
        self.with(|choice| choice.next)
    }

    /// What everything else goes by: what worked last.
    pub(crate) fn settled(&self) -> Carrier {
        self.with(|choice| choice.settled)
    }

    /// Why a session that is tried or used now is not a stream, for people; none if it is, or the operator wished so.
    pub(crate) fn note(&self) -> Option<String> {
        self.with(|choice| match (choice.next, &choice.why) {
            (Carrier::Exchange, Some(Finding::Certain(why) | Finding::Suspect(why))) => Some(format!(
                "HTTP/2 does not pass between this agent and its manager ({why}): it speaks by long polls over HTTP/1.1, \
                 and asks from time to time whether HTTP/2 passes again"
            )),
            _ => None,
        })
    }

    /// Does anybody have to ask whether the stream passes again?
    pub(crate) fn is_asking(&self) -> bool {
        self.with(|choice| choice.wish == Transport::Auto)
    }

    /// What was tried has worked.
    pub(crate) fn welcomed(&self) {
        self.with(|choice| {
            let before = std::mem::replace(&mut choice.settled, choice.next);
            choice.failures = 0;
            if before != choice.settled {
                match (choice.settled, &choice.why) {
                    (Carrier::Stream, _) => info!("HTTP/2 passes again; back on the stream"),
                    (Carrier::Exchange, why) => {
                        warn!(
                            ?why,
                            "HTTP/2 does not pass on the way to the manager; falling back to long polls over HTTP/1.1"
                        );
                    }
                }
            }
            if choice.settled == Carrier::Stream {
                choice.why = None;
            }
        });
    }

    /// What was tried, or in use for so long, has failed. True if the next try goes the other way, and need not wait
    /// as long as a failure usually does.
    pub(crate) fn failed(&self, finding: Finding, lived: Duration) -> bool {
        self.with(|choice| choice.failed(finding, lived))
    }

    /// The stream passes again.
    pub(crate) fn heals(&self) {
        self.with(|choice| choice.next = Carrier::Stream);
    }

    /// How long to wait before the next question whether it does; `jitter` is between 0 and 1.
    pub(crate) fn ask_in(&self, jitter: f64) -> Duration {
        self.with(|choice| {
            let first = match choice.why {
                Some(Finding::Suspect(_)) => ASK_SOON,
                _ => ASK_FIRST,
            };
            let factor = 2u32.checked_pow(choice.asked).unwrap_or(u32::MAX);
            choice.asked = choice.asked.saturating_add(1);
            first.saturating_mul(factor).min(ASK_LAST).mul_f64(0.8 + 0.4 * jitter)
        })
    }

    /// As [`Self::ask_in`], at random.
    pub(crate) fn ask_in_about(&self) -> Duration {
        self.ask_in(rand::rng().random_range(0.0..1.0))
    }
}

impl Choice {
    fn failed(&mut self, finding: Finding, lived: Duration) -> bool {
        if self.wish != Transport::Auto {
            return false;
        }
        let tried = self.next;
        match tried {
            Carrier::Stream => {
                if lived >= HEALED_AFTER {
                    self.asked = 0;
                }
                self.next = match finding {
                    Finding::Clear => self.settled,
                    seen @ (Finding::Suspect(_) | Finding::Certain(_)) => {
                        self.why = Some(seen);
                        Carrier::Exchange
                    }
                };
            }
            Carrier::Exchange if self.settled == Carrier::Exchange => {
                self.failures = self.failures.saturating_add(1);
                if self.failures.is_multiple_of(POLLS_BEFORE_STREAM) {
                    self.next = Carrier::Stream;
                }
            }
            // It was only a try.
            Carrier::Exchange => self.next = Carrier::Stream,
        }
        tried == Carrier::Stream && self.next == Carrier::Exchange
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NO_TIME: Duration = Duration::ZERO;

    fn suspect() -> Finding {
        Finding::Suspect("it fell silent".into())
    }

    #[test]
    fn an_answer_in_another_protocol_sends_the_next_try_the_other_way_and_a_welcome_settles_it() {
        let way = Way::new(Transport::Auto);
        assert!(way.failed(Finding::Certain("HTTP/1.1 400".into()), NO_TIME));
        assert_eq!((way.next(), way.settled()), (Carrier::Exchange, Carrier::Stream));
        way.welcomed();
        assert_eq!(way.settled(), Carrier::Exchange);
        let note = way.note().expect("a note");
        assert!(note.contains("HTTP/1.1 400"), "{note}");
        way.heals();
        assert_eq!((way.next(), way.settled()), (Carrier::Stream, Carrier::Exchange));
        way.welcomed();
        assert_eq!((way.settled(), way.note()), (Carrier::Stream, None));
    }

    #[test]
    fn a_refused_connection_and_a_refusal_of_the_manager_say_nothing() {
        let way = Way::new(Transport::Auto);
        for _ in 0..10 {
            assert!(!way.failed(Finding::Clear, NO_TIME));
            assert_eq!(way.next(), Carrier::Stream);
        }
    }

    #[test]
    fn in_an_outage_both_ways_are_tried_in_turns_and_a_stream_that_comes_first_leaves_no_trace() {
        let way = Way::new(Transport::Auto);
        for _ in 0..5 {
            assert!(way.failed(suspect(), NO_TIME));
            assert_eq!(way.next(), Carrier::Exchange);
            assert!(!way.failed(Finding::Clear, NO_TIME));
            assert_eq!(way.next(), Carrier::Stream);
        }
        way.welcomed();
        assert_eq!((way.settled(), way.note()), (Carrier::Stream, None));
    }

    #[test]
    fn who_fell_back_because_of_an_outage_asks_soon_and_ever_more_seldom_up_to_a_bound() {
        let way = Way::new(Transport::Auto);
        way.failed(suspect(), NO_TIME);
        way.welcomed();
        let first = way.ask_in(0.5);
        assert_eq!(first, ASK_SOON);
        let mut last = first;
        for _ in 0..40 {
            let now = way.ask_in(0.5);
            assert!(now >= last && now <= ASK_LAST);
            last = now;
        }
        assert_eq!(last, ASK_LAST);
        // A stream that breaks again at once does not begin the count anew; one that lasted does.
        way.heals();
        way.welcomed();
        way.failed(suspect(), Duration::from_secs(20));
        assert_eq!(way.ask_in(0.5), ASK_LAST);
        way.welcomed();
        way.heals();
        way.welcomed();
        way.failed(suspect(), HEALED_AFTER);
        assert_eq!(way.ask_in(0.5), ASK_SOON);
    }

    #[test]
    fn polls_that_fail_again_and_again_let_the_stream_have_a_try() {
        let way = Way::new(Transport::Auto);
        way.failed(Finding::Certain("x".into()), NO_TIME);
        way.welcomed();
        let tries: Vec<Carrier> = (0..8)
            .map(|_| {
                way.failed(Finding::Clear, NO_TIME);
                way.next()
            })
            .collect();
        assert!(
            tries.contains(&Carrier::Stream) && tries.contains(&Carrier::Exchange),
            "{tries:?}"
        );
    }

    #[test]
    fn an_operators_word_is_kept() {
        for (wish, carrier) in [
            (Transport::Stream, Carrier::Stream),
            (Transport::Exchange, Carrier::Exchange),
        ] {
            let way = Way::new(wish);
            for finding in [Finding::Clear, suspect(), Finding::Certain("x".into())] {
                assert!(!way.failed(finding, NO_TIME));
                assert_eq!((way.next(), way.settled(), way.note()), (carrier, carrier, None));
            }
            assert!(!way.is_asking());
        }
    }

    /// A network, seeded: is the manager up, and does HTTP/2 pass?
    #[derive(Debug, Clone, Copy)]
    struct Weather {
        up: bool,
        http2: bool,
        certain: bool,
    }

    fn weather() -> impl Strategy<Value = Weather> {
        (prop::bool::weighted(0.7), any::<bool>(), any::<bool>()).prop_map(|(up, http2, certain)| Weather {
            up,
            http2,
            certain,
        })
    }

    /// One try; is it welcomed?
    fn attempt(way: &Way, weather: Weather) -> bool {
        let works = weather.up && (weather.http2 || way.next() == Carrier::Exchange);
        if works {
            way.welcomed();
            return true;
        }
        let finding = match (weather.up, way.next(), weather.certain) {
            (true, Carrier::Stream, true) => Finding::Certain("seen".into()),
            (true, Carrier::Stream, false) => suspect(),
            // What an outage looks like, too.
            (false, Carrier::Stream, true) => suspect(),
            _ => Finding::Clear,
        };
        way.failed(finding, NO_TIME);
        false
    }

    proptest! {
        #[test]
        fn whatever_came_before_a_manager_that_can_be_reached_one_way_is_reached_within_four_tries(
            past in prop::collection::vec(weather(), 0..60), http2: bool, certain: bool,
        ) {
            let way = Way::new(Transport::Auto);
            for weather in past {
                attempt(&way, weather);
            }
            let now = Weather { up: true, http2, certain };
            prop_assert!((0..4).any(|_| attempt(&way, now)));
            prop_assert!(http2 || way.settled() == Carrier::Exchange);
        }
    }
}
