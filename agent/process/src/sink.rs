//! Where a child's output goes. Implemented by whoever runs a child.

use std::future::Future;

/// Where a child's bytes came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Receives what a child writes.
pub trait OutputSink: Send {
    /// Takes bytes, cut anywhere. Must not block for long.
    fn write(&mut self, stream: StreamKind, bytes: &[u8]);

    /// Waits until more can be taken: the child is slowed down meanwhile. Must be cancel-safe and
    /// bounded.
    fn ready(&mut self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}
