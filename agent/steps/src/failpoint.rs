//! Fault points: places where a test kills or stops the agent. With the feature `failpoints` off
//! (the product) [`hit`] is an empty function and the environment is never read.
//!
//! `DEPUTY_FAILPOINT="<point>@<key glob>:<kill|stop>[:<n>]"`: at the n-th (default first) time that
//! `point` is reached for a key that matches the glob (`*` is any text), the process sends itself
//! SIGKILL or SIGSTOP. Several are separated by `;`.

/// Where in the life of an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// The effect is about to write its intent.
    BeforeIntent,
    /// The intent is acknowledged; nothing has been sent.
    AfterIntent,
    /// The reply has arrived at the HTTP layer, and nothing above it has seen it.
    Sent,
    /// The reply is here; the result is not journaled.
    AfterAct,
    /// The result is journaled.
    AfterDone,
}

impl Point {
    /// The name in the environment variable.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BeforeIntent => "before-intent",
            Self::AfterIntent => "after-intent",
            Self::Sent => "sent",
            Self::AfterAct => "after-act",
            Self::AfterDone => "after-done",
        }
    }
}

#[cfg(not(feature = "failpoints"))]
/// Reached `point` for `key` (`step/effect`): nothing, in the product.
#[inline(always)]
pub const fn hit(_point: Point, _key: &str) {}

#[cfg(not(feature = "failpoints"))]
/// Will [`hit`] do something here? Never, in the product.
#[inline(always)]
#[must_use]
pub const fn armed(_point: Point, _key: &str) -> bool {
    false
}

#[cfg(feature = "failpoints")]
pub use armed::{armed, hit};

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    use super::Point;

    struct Trap {
        point: String,
        glob: String,
        signal: Signal,
        countdown: AtomicU32,
    }

    static TRAPS: LazyLock<Vec<Trap>> = LazyLock::new(|| {
        let text = std::env::var("DEPUTY_FAILPOINT").unwrap_or_default();
        text.split(';').filter_map(parse).collect()
    });

    fn parse(text: &str) -> Option<Trap> {
        let (point, rest) = text.trim().split_once('@')?;
        let mut parts = rest.rsplitn(3, ':').collect::<Vec<_>>();
        parts.reverse();
        // The glob may contain ':' (undo keys do), so the action is found from the end.
        let last = parts.pop()?;
        let (signal, countdown, glob) = match (action(last), last.parse::<u32>()) {
            (Some(signal), _) => (signal, 1, parts.join(":")),
            (None, Ok(n)) => (action(parts.pop()?)?, n.max(1), parts.join(":")),
            (None, Err(_)) => return None,
        };
        Some(Trap {
            point: point.to_owned(),
            glob,
            signal,
            countdown: AtomicU32::new(countdown),
        })
    }

    fn action(word: &str) -> Option<Signal> {
        match word {
            "kill" => Some(Signal::KILL),
            "stop" => Some(Signal::STOP),
            _ => None,
        }
    }

    fn matches(glob: &str, text: &str) -> bool {
        let mut parts = glob.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = text.strip_prefix(first) else {
            return false;
        };
        let mut parts = parts.peekable();
        if parts.peek().is_none() {
            return rest.is_empty();
        }
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return rest.ends_with(part);
            }
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
        true
    }

    /// Will [`hit`] do something here (at this or a later time)?
    #[must_use]
    pub fn armed(point: Point, key: &str) -> bool {
        TRAPS.iter().any(|trap| {
            trap.point == point.name() && trap.countdown.load(Ordering::Acquire) > 0 && matches(&trap.glob, key)
        })
    }

    /// Reached `point` for `key` (`step/effect`).
    pub fn hit(point: Point, key: &str) {
        for trap in TRAPS
            .iter()
            .filter(|trap| trap.point == point.name() && matches(&trap.glob, key))
        {
            let before = trap
                .countdown
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(1));
            if before == Ok(1) {
                tracing::warn!(point = point.name(), key, "fault point reached");
                let _sent = kill_process(getpid(), trap.signal);
                // The kernel may hand the signal to another thread first; this one must not go past the point.
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_trap_is_read_from_its_end_so_that_keys_may_hold_colons() {
            let trap = parse("after-act@deploy/undo:update*:stop:2").expect("good");
            assert_eq!(
                (trap.point.as_str(), trap.glob.as_str()),
                ("after-act", "deploy/undo:update*")
            );
            assert_eq!(trap.countdown.load(Ordering::Relaxed), 2);
            let trap = parse("sent@*:kill").expect("good");
            assert_eq!((trap.glob.as_str(), trap.signal), ("*", Signal::KILL));
            assert!(parse("sent@*:explode").is_none());
        }

        #[test]
        fn a_glob_matches_from_end_to_end() {
            for (glob, text, expected) in [
                ("*", "a/b", true),
                ("a/*", "a/b", true),
                ("*/b", "a/b", true),
                ("a*c*e", "abcde", true),
                ("a*c*d", "abcde", false),
                ("a/b", "a/bc", false),
                ("b", "a/b", false),
            ] {
                assert_eq!(matches(glob, text), expected, "{glob} {text}");
            }
        }
    }
}
