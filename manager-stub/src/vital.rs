//! What the manager cannot do without: threads and tasks that end only when it does. Each holds a
//! pulse; when one ends, whoever holds the watch is told its name. A manager whose dispatcher is
//! dead would go on to accept connections and answer nobody.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::mpsc;

/// More than there are vital threads and tasks, so that a death is never lost.
const DEATHS: usize = 16;

/// A panic is told by then, when something that needs what panicked has ended.
const UNWINDING: Duration = Duration::from_millis(500);

/// Gives out pulses. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Vitals {
    deaths: mpsc::Sender<Death>,
}

/// Hears when something vital ends.
#[derive(Debug)]
pub struct VitalWatch {
    deaths: mpsc::Receiver<Death>,
    /// Heard of while a panic was waited for.
    untold: VecDeque<Death>,
}

/// Held by a vital thread for as long as it runs; its end is told when this is dropped.
#[derive(Debug)]
pub struct Pulse {
    name: &'static str,
    deaths: mpsc::Sender<Death>,
}

/// Something vital has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Death {
    /// A fault of ours; the panic's own message is above.
    #[error("the manager's {0} panicked")]
    Panicked(&'static str),
    /// It returned although the manager was not ending.
    #[error("the manager's {0} ended by itself")]
    Ended(&'static str),
}

impl Vitals {
    /// What gives out pulses, and what hears of their ends.
    #[must_use]
    pub fn watched() -> (Self, VitalWatch) {
        let (sender, deaths) = mpsc::channel(DEATHS);
        let untold = VecDeque::new();
        (Self { deaths: sender }, VitalWatch { deaths, untold })
    }

    /// For a thread or a task of this name.
    #[must_use]
    pub fn pulse(&self, name: &'static str) -> Pulse {
        Pulse {
            name,
            deaths: self.deaths.clone(),
        }
    }
}

impl VitalWatch {
    /// Waits until something vital ends, if ever. What ended by itself may have lost one that panics, and is heard of
    /// first, for unwinding takes a moment: then the panic is what is told.
    pub async fn death(&mut self) -> Death {
        let first = match self.untold.pop_front() {
            Some(death) => return death,
            None => self.next().await,
        };
        if matches!(first, Death::Panicked(_)) {
            return first;
        }
        self.untold.push_back(first);
        let panicked = async {
            loop {
                let other = self.next().await;
                if matches!(other, Death::Panicked(_)) {
                    return other;
                }
                self.untold.push_back(other);
            }
        };
        match tokio::time::timeout(UNWINDING, panicked).await {
            Ok(panicked) => panicked,
            Err(_) => self.untold.pop_front().unwrap_or(first),
        }
    }

    async fn next(&mut self) -> Death {
        match self.deaths.recv().await {
            Some(death) => death,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        let death = if std::thread::panicking() {
            Death::Panicked(self.name)
        } else {
            Death::Ended(self.name)
        };
        if self.deaths.try_send(death).is_err() {
            // In an orderly end nobody listens any more.
            tracing::debug!(name = self.name, "ended");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_told_before_what_ended_because_of_it() {
        let (vitals, mut watch) = Vitals::watched();
        let (cause, effect) = (vitals.pulse("cause"), vitals.pulse("effect"));
        drop(effect);
        let panicking = std::thread::spawn(move || {
            let _pulse = cause;
            std::panic::resume_unwind(Box::new("for a test"));
        });
        assert!(panicking.join().is_err());
        assert_eq!(watch.death().await, Death::Panicked("cause"));
    }

    #[tokio::test]
    async fn a_panic_and_a_return_are_told_apart() {
        let (vitals, mut watch) = Vitals::watched();
        let pulse = vitals.pulse("first");
        let panicking = std::thread::spawn(move || {
            let _pulse = pulse;
            std::panic::resume_unwind(Box::new("for a test"));
        });
        assert!(panicking.join().is_err());
        assert_eq!(watch.death().await, Death::Panicked("first"));
        drop(vitals.pulse("second"));
        assert_eq!(watch.death().await, Death::Ended("second"));
    }
}
