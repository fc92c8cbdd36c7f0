//! How many connections there may be, in all and from one source, and how many handshakes of one source at the same
//! time. So whoever fills his own share keeps nobody else out. A source is an IPv4 address, or the /64 of an IPv6 one.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

/// Handshakes of one source at the same time; more of them wait for each other.
const HANDSHAKES_PER_SOURCE: usize = 64;

/// How many connections there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// In all.
    pub total: usize,
    /// From one source.
    pub per_source: usize,
}

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Doors {
    limits: ConnectionLimits,
    inside: Arc<Mutex<Inside>>,
}

#[derive(Debug, Default)]
struct Inside {
    total: usize,
    sources: HashMap<IpAddr, Source>,
}

#[derive(Debug)]
struct Source {
    connections: usize,
    handshakes: Arc<Semaphore>,
}

/// Why a connection is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    /// This source has its share.
    #[error("{0} connections of this source are open, which is its share")]
    Source(usize),
    /// There are too many.
    #[error("{0} connections are open, which is all that there may be")]
    Total(usize),
}

/// The place of one connection, as long as it is kept.
#[derive(Debug)]
pub struct Place {
    source: IpAddr,
    inside: Arc<Mutex<Inside>>,
    handshakes: Arc<Semaphore>,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            total: 16_384,
            per_source: 4_096,
        }
    }
}

impl ConnectionLimits {
    /// The same, or as much of it as so many open files allow. A quarter of them is left for the store; without that,
    /// who has only his share could use up the files of all.
    #[must_use]
    pub fn within(self, open_files: u64) -> Self {
        let allowed = usize::try_from(open_files / 4 * 3).unwrap_or(usize::MAX).max(1);
        if self.total <= allowed {
            return self;
        }
        let share = self.per_source.saturating_mul(allowed) / self.total;
        Self {
            total: allowed,
            per_source: share.clamp(1, allowed),
        }
    }
}

impl Doors {
    /// Nobody is inside.
    #[must_use]
    pub fn new(limits: ConnectionLimits) -> Self {
        Self {
            limits,
            inside: Arc::default(),
        }
    }

    /// A place for a connection from there.
    ///
    /// # Errors
    /// If there is none.
    pub fn enter(&self, from: IpAddr) -> Result<Place, NoPlace> {
        let ConnectionLimits { total, per_source } = self.limits;
        let source = source(from);
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        let have = inside.sources.get(&source).map_or(0, |source| source.connections);
        if have >= per_source {
            return Err(NoPlace::Source(per_source));
        }
        if inside.total >= total {
            return Err(NoPlace::Total(total));
        }
        inside.total += 1;
        let of_source = inside.sources.entry(source).or_insert_with(|| Source {
            connections: 0,
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_PER_SOURCE)),
        });
        of_source.connections += 1;
        Ok(Place {
            source,
            inside: Arc::clone(&self.inside),
            handshakes: Arc::clone(&of_source.handshakes),
        })
    }
}

impl Place {
    /// Whose turn it is to shake hands, among those of the same source.
    #[must_use]
    pub fn handshakes(&self) -> Arc<Semaphore> {
        Arc::clone(&self.handshakes)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        inside.total -= 1;
        if let Some(source) = inside.sources.get_mut(&self.source) {
            source.connections -= 1;
            if source.connections == 0 {
                inside.sources.remove(&self.source);
            }
        }
    }
}

/// Whoever has an IPv6 address commonly has the whole /64.
fn source(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_open_files_make_smaller_shares() {
        let limits = ConnectionLimits::default();
        assert_eq!(limits.within(1 << 20), limits);
        let few = ConnectionLimits {
            total: 768,
            per_source: 192,
        };
        assert_eq!(limits.within(1024), few);
        let none = limits.within(0);
        assert_eq!((none.total, none.per_source), (1, 1));
    }

    #[test]
    fn who_fills_his_share_keeps_nobody_else_out() {
        let limits = ConnectionLimits {
            total: 5,
            per_source: 2,
        };
        let doors = Doors::new(limits);
        let enter = |from: &str| doors.enter(from.parse().expect("an address"));
        let mut first = vec![
            enter("10.0.0.1").expect("free"),
            enter("::ffff:10.0.0.1").expect("free"),
        ];
        assert_eq!(enter("10.0.0.1").expect_err("its share"), NoPlace::Source(2));
        let _others = [
            enter("10.0.0.2").expect("another"),
            enter("2001:db8::1").expect("another"),
            enter("2001:db8::ffff").expect("the same /64"),
        ];
        assert_eq!(enter("2001:db8:0:0:7::").expect_err("the same /64"), NoPlace::Source(2));
        assert_eq!(enter("2001:db8:0:1::1").expect_err("all are taken"), NoPlace::Total(5));
        first.pop();
        enter("10.0.0.1").expect("one has left");
    }
}
