//! What a bundle may unpack to: it comes from outside. The agent's configuration says the numbers.

/// What a bundle may unpack to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BundleLimits {
    /// All files together.
    pub unpacked_bytes: u64,
    /// Unpacked bytes per packed byte.
    pub ratio: u64,
    /// Files and folders.
    pub entries: u64,
}
