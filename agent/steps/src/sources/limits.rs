//! What a source that the agent fetches itself may need.

/// What a source may need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceLimits {
    /// All files together, and what is received for them.
    pub bytes: u64,
    /// Files.
    pub entries: u64,
}
