//! A settle lag: for a while after a change, reads answer as before it.
//!
//! AWS promises no more: <https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_DescribeServices.html> and its
//! neighbours follow an eventual consistency model. No emulator lags, so the proxy does.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use http::response::Parts;
use tokio::time::Instant;

use super::classify::Asked;

/// The lag of one proxy.
#[derive(Debug, Default)]
pub(super) struct Lag {
    /// Which service lags, and for how long.
    setting: Option<(String, Duration)>,
    changed: Option<Instant>,
    /// What reads have answered, by operation and body.
    before: HashMap<(String, Bytes), (Parts, Bytes)>,
}

impl Lag {
    /// From now on the service lags.
    pub(super) fn set(&mut self, service: &str, window: Duration) {
        self.setting = Some((service.into(), window));
    }

    /// What a read has to answer instead of the truth, if it was asked before the last change, and that is not long ago.
    pub(super) fn stale(&self, asked: &Asked, body: &Bytes) -> Option<(Parts, Bytes)> {
        let (service, window) = self.setting.as_ref()?;
        let recent = self.changed.is_some_and(|changed| changed.elapsed() < *window);
        if *service != asked.service || !recent {
            return None;
        }
        self.before.get(&(asked.operation.clone(), body.clone())).cloned()
    }

    /// Learns from an exchange that the server has answered.
    pub(super) fn observe(&mut self, asked: &Asked, body: &Bytes, change: Change, answer: (&Parts, &Bytes)) {
        if self
            .setting
            .as_ref()
            .is_none_or(|(service, _)| *service != asked.service)
        {
            return;
        }
        match change {
            Change::Made => self.changed = Some(Instant::now()),
            Change::None => {
                let key = (asked.operation.clone(), body.clone());
                self.before.insert(key, (answer.0.clone(), answer.1.clone()));
            }
        }
    }
}

/// Whether an exchange changed the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Made,
    None,
}
