//! How fast one account's API may be called: a limit that does not exist until AWS throttles, is cut when it does,
//! and rises again by a constant amount. Shared by all tasks of the agent, so that they do not throttle each other.
//!
//! Called by [`super::turn`] before each transmission and by [`super::pace`] after each answer. Reads no clock.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Nobody waits longer for a turn: a permit to change something lasts 20 s.
pub(crate) const LONGEST_TURN: Duration = Duration::from_secs(12);
/// Who finds no place within [`LONGEST_TURN`] goes at some time in the last part of it, and AWS decides.
const CROWDED: f64 = 0.5;
/// Parts of a circle that lie far from each other however many of them there are: the golden ratio.
const NEXT_PART: f64 = 0.618_033_988_749_895;
/// Calls per second below which a limit is never cut.
const FLOOR: f64 = 2.0;
/// Calls per second from which on a limit is none.
const CEILING: f64 = 100.0;
/// What is left of a limit when AWS throttles.
const CUT: f64 = 0.5;
/// Calls per second by which a limit rises each second.
const RISE: f64 = 1.0;
/// Refusals within this time of a cut were sent before it.
const ONE_BURST: Duration = Duration::from_secs(1);
/// Limits kept at a time. An agent has a handful of accounts, regions and services.
const MOST: usize = 256;

/// Which calls share a limit: AWS counts them per account and region, and each service by itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lane {
    /// The account that calls; empty: the agent's own, while its number is not known.
    pub(crate) account: String,
    pub(crate) region: String,
    /// As in IAM actions: `ecs`.
    pub(crate) service: String,
}

/// All limits of an agent.
#[derive(Debug, Default)]
pub(crate) struct Rates(Mutex<BTreeMap<Lane, Rate>>);

/// The limit of one lane.
#[derive(Debug)]
struct Rate {
    /// Calls per second; `None`: AWS has not throttled for long.
    limit: Option<f64>,
    /// When the next call may go.
    next: Instant,
    /// Where in the last part of the longest turn the call before went that found no place; from 0 to 1.
    part: f64,
    /// Until when the rise has been counted.
    risen: Instant,
    cut: Option<Instant>,
    /// Calls in the present second, and how many there were in the one before.
    second: (Instant, u32),
    before: u32,
}

impl Rates {
    /// How long the caller must wait before it sends; its turn is taken.
    pub(crate) fn take(&self, lane: &Lane, now: Instant) -> Duration {
        self.with(lane, now, |rate| rate.take(now)).unwrap_or_default()
    }

    /// AWS throttled a call of this lane.
    pub(crate) fn throttled(&self, lane: &Lane, now: Instant) {
        self.with(lane, now, |rate| rate.throttled(now));
    }

    fn with<T>(&self, lane: &Lane, now: Instant, act: impl FnOnce(&mut Rate) -> T) -> Option<T> {
        let mut rates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !rates.contains_key(lane) {
            if rates.len() >= MOST {
                rates.retain(|_, rate| !rate.is_idle(now));
            }
            if rates.len() >= MOST {
                return None;
            }
            rates.insert(lane.clone(), Rate::new(now));
        }
        rates.get_mut(lane).map(act)
    }
}

impl Rate {
    fn new(now: Instant) -> Self {
        Self {
            limit: None,
            next: now,
            part: 0.0,
            risen: now,
            cut: None,
            second: (now, 0),
            before: 0,
        }
    }

    fn is_idle(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.second.0) > Duration::from_secs(60)
    }

    fn take(&mut self, now: Instant) -> Duration {
        self.count(now);
        self.rise(now);
        let Some(limit) = self.limit else { return Duration::ZERO };
        let turn = self.next.max(now);
        let wait = turn.saturating_duration_since(now);
        if wait > LONGEST_TURN {
            // Not all at one moment: those who wait are many, and AWS would throttle them together.
            self.part = (self.part + NEXT_PART).fract();
            return LONGEST_TURN.mul_f64(1.0 - CROWDED * self.part);
        }
        self.next = turn + Duration::from_secs_f64(1.0 / limit);
        wait
    }

    fn throttled(&mut self, now: Instant) {
        if self
            .cut
            .is_some_and(|cut| now.saturating_duration_since(cut) < ONE_BURST)
        {
            return;
        }
        self.rise(now);
        let present = self.limit.unwrap_or_else(|| self.measured(now));
        self.limit = Some((present * CUT).clamp(FLOOR, CEILING));
        self.cut = Some(now);
        self.risen = now;
    }

    /// What was sent lately, per second.
    fn measured(&self, now: Instant) -> f64 {
        let (begun, sent) = self.second;
        let passed = now.saturating_duration_since(begun).as_secs_f64().max(0.5);
        f64::max(f64::from(sent) / passed, f64::from(self.before))
    }

    fn count(&mut self, now: Instant) {
        let (begun, sent) = self.second;
        let passed = now.saturating_duration_since(begun);
        if passed < Duration::from_secs(1) {
            self.second.1 = sent.saturating_add(1);
            return;
        }
        self.before = if passed < Duration::from_secs(2) { sent } else { 0 };
        self.second = (now, 1);
    }

    fn rise(&mut self, now: Instant) {
        let Some(limit) = self.limit else { return };
        let risen = limit + RISE * now.saturating_duration_since(self.risen).as_secs_f64();
        self.risen = now;
        self.limit = (risen < CEILING).then_some(risen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(account: &str, service: &str) -> Lane {
        Lane {
            account: account.into(),
            region: "eu-west-1".into(),
            service: service.into(),
        }
    }

    /// Sends as one caller that asks every 10 ms and goes when it may; how many went in each second.
    fn sent_per_second(rates: &Rates, lane: &Lane, begun: Instant, seconds: u64) -> Vec<u32> {
        let mut counts = vec![0; usize::try_from(seconds).expect("few")];
        let mut now = begun;
        while now < begun + Duration::from_secs(seconds) {
            let wait = rates.take(lane, now);
            now += wait;
            if let Some(count) = counts.get_mut(usize::try_from((now - begun).as_secs()).expect("few")) {
                *count += 1;
            }
            now += Duration::from_millis(10);
        }
        counts
    }

    #[test]
    fn nobody_waits_before_aws_has_throttled() {
        let (rates, begun) = (Rates::default(), Instant::now());
        assert_eq!(sent_per_second(&rates, &lane("1", "ecs"), begun, 3), [100, 100, 100]);
    }

    #[test]
    fn a_throttled_lane_is_cut_to_half_and_rises_by_a_constant() {
        let (rates, lane, begun) = (Rates::default(), lane("1", "ecs"), Instant::now());
        let before = sent_per_second(&rates, &lane, begun, 2);
        assert_eq!(before, [100, 100]);
        let then = begun + Duration::from_secs(2);
        for _ in 0..30 {
            rates.throttled(&lane, then);
        }
        let after = sent_per_second(&rates, &lane, then, 10);
        assert!((48..=53).contains(&after[0]), "one cut for one burst: {after:?}");
        assert!(after.windows(2).all(|pair| pair[1] >= pair[0]), "{after:?}");
        assert!((55..=64).contains(&after[9]), "about one more each second: {after:?}");
    }

    #[test]
    fn it_is_never_cut_below_the_floor_and_a_turn_is_bounded() {
        let (rates, lane, begun) = (Rates::default(), lane("1", "ecs"), Instant::now());
        for second in 0..20 {
            rates.throttled(&lane, begun + Duration::from_secs(second * 2));
        }
        let now = begun + Duration::from_secs(40);
        let waits: Vec<Duration> = (0..50).map(|_| rates.take(&lane, now)).collect();
        assert!(waits.iter().all(|wait| *wait <= LONGEST_TURN), "{waits:?}");
        assert!(waits[1] <= Duration::from_millis(500), "{waits:?}");
        assert!(waits[49] >= LONGEST_TURN.mul_f64(1.0 - CROWDED), "{waits:?}");
    }

    /// How many of these go within the second after each of them, at most.
    fn most_in_a_second(waits: &[Duration]) -> usize {
        let within = |from: &Duration| {
            let until = *from + Duration::from_secs(1);
            waits.iter().filter(|wait| *from <= **wait && **wait < until).count()
        };
        waits.iter().map(within).max().unwrap_or_default()
    }

    #[test]
    fn who_comes_at_once_goes_one_after_the_other_and_a_crowd_not_at_one_moment() {
        let (rates, lane, now) = (Rates::default(), lane("1", "ecs"), Instant::now());
        rates.throttled(&lane, now);
        let waits: Vec<Duration> = (0..24).map(|_| rates.take(&lane, now)).collect();
        assert!(
            most_in_a_second(&waits) <= 2,
            "the limit holds while there is a place: {waits:?}"
        );
        let crowd: Vec<Duration> = (0..120).map(|_| rates.take(&lane, now)).collect();
        // 120 over six seconds.
        assert!(most_in_a_second(&crowd) <= 24, "{crowd:?}");
        let mut sorted = crowd.clone();
        sorted.sort();
        assert!(sorted.windows(2).all(|pair| pair[1] > pair[0]), "{sorted:?}");
        assert!(crowd.iter().all(|wait| *wait <= LONGEST_TURN));
    }

    #[test]
    fn accounts_and_services_do_not_wait_for_each_other() {
        let (rates, now) = (Rates::default(), Instant::now());
        let (ecs, eks, other) = (lane("1", "ecs"), lane("1", "eks"), lane("2", "ecs"));
        rates.throttled(&ecs, now);
        let waits = |lane: &Lane| (0..4).map(|_| rates.take(lane, now)).max().unwrap_or_default();
        assert!(waits(&ecs) > Duration::ZERO);
        assert_eq!((waits(&eks), waits(&other)), (Duration::ZERO, Duration::ZERO));
    }

    #[test]
    fn a_limit_that_has_risen_far_enough_is_none() {
        let (rates, lane, begun) = (Rates::default(), lane("1", "ecs"), Instant::now());
        rates.throttled(&lane, begun);
        let later = begun + Duration::from_secs(120);
        assert_eq!((0..500).map(|_| rates.take(&lane, later)).max(), Some(Duration::ZERO));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let (rates, now) = (Rates::default(), Instant::now());
        for number in 0..1_000 {
            rates.throttled(&lane(&number.to_string(), "ecs"), now);
        }
        assert_eq!(rates.0.lock().expect("whole").len(), MOST);
        let later = now + Duration::from_secs(61);
        rates.take(&lane("new", "ecs"), later);
        assert_eq!(rates.0.lock().expect("whole").len(), 1, "idle ones make room");
    }
}
