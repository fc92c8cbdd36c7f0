//! What the manager cannot do without: threads and tasks that end only when it does. Each holds a
//! pulse; when one ends, whoever holds the watch is told its name. A manager whose dispatcher is
//! dead would go on to accept connections and answer nobody.

use tokio::sync::mpsc;

/// More than there are vital threads and tasks, so that a death is never lost.
const DEATHS: usize = 16;

/// Gives out pulses. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Vitals {
    deaths: mpsc::Sender<Death>,
}

/// Hears when something vital ends.
#[derive(Debug)]
pub struct VitalWatch {
    deaths: mpsc::Receiver<Death>,
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
        (Self { deaths: sender }, VitalWatch { deaths })
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
    /// Waits until something vital ends, if ever.
    pub async fn death(&mut self) -> Death {
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
