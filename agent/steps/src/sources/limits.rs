//! How large a source may be. Set by the executor, which has the same limits for bundles.

/// What a source may need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceLimits {
    /// All files together, and what is received for them.
    pub bytes: u64,
    /// Files.
    pub entries: u64,
}
